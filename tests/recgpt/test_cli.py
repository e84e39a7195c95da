import json
import re
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from recgpt.cli import main

FEW = ["--epochs", "2", "--threads", "1"]
FEW_TUNING = ["--tune-epochs", "2", "--threads", "1"]


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A ring of 30 items; users walk 5 to 10 steps."""
    generator = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "ring.txt"
    lines = []
    for user in range(1, 61):
        start, steps = generator.integers(0, 30), generator.integers(5, 11)
        lines.append(" ".join(str(n) for n in (user, *((start + np.arange(steps)) % 30 + 1))))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for result in (
        run("pretrain", data, "--out", folder, "--dim", 16, *FEW),
        run("tune", data, "--from", folder, "--out", folder, *FEW_TUNING),
    ):
        assert result.exit_code == 0, result.output
    return folder


def test_help_does_not_import_torch():
    code = "import sys, recgpt.cli; sys.exit(bool({'torch', 'numpy', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("command", ["pretrain", "tune", "eval", "recommend", "paper"])
def test_every_command_has_an_example_to_paste(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert re.search(f"  recgpt {command} (Beauty.txt|data/)", result.output)


def test_prepare_has_an_example_to_paste():
    assert "  recgpt prepare reviews_Beauty.json.gz --out Beauty.txt" in run("prepare", "--help").output


def test_prepare_offers_the_formats_that_there_are():
    from baselines.reviews import FORMATS

    (choice,) = (option.type for option in main.commands["prepare"].params if option.name == "file_format")
    assert list(choice.choices) == [*FORMATS, "table"]


def test_the_example_commands_parse():
    for command in main.commands.values():
        known = {name for option in command.params for name in option.opts}
        lines = [line for line in command.help.splitlines() if line.strip().startswith("recgpt ")]
        used = {word for line in lines for word in line.split() if word.startswith("--")}
        assert used <= known


def test_a_stage_reports_progress_on_stderr_and_its_result_on_stdout(data, tmp_path):
    result = run("pretrain", data, "--out", tmp_path, "--dim", 16, *FEW)
    assert "recgpt pretrain: epoch 1" in result.stderr
    assert result.stdout.startswith(str(tmp_path / "pretrained.safetensors"))
    assert [path.name for path in tmp_path.iterdir()] == ["pretrained.safetensors"]


def test_eval_of_a_checkpoint_has_a_row_for_each_stage(data, checkpoint):
    result = run("eval", data, "--checkpoint", checkpoint, "--json")
    found = json.loads(result.stdout)
    assert {key: found[key] for key in ("data", "split", "masking")} == {
        "data": "ring",
        "split": "test",
        "masking": "seen",
    }
    assert [row["model"] for row in found["results"]] == ["recgpt:pretrain", "recgpt:tuned", "recgpt"]
    for row in found["results"]:
        assert {"hr@5", "ndcg@5", "hr@10", "ndcg@10", "n_users", "seconds"} <= set(row)
        assert 0 <= row["ndcg@5"] <= row["hr@5"] <= row["hr@10"] <= 1
        assert row["n_users"] == 60


def test_eval_trains_the_models_that_are_named(data):
    result = run("eval", data, "--models", "recgpt,poprec", *FEW, *FEW_TUNING, "--json")
    assert result.exit_code == 0, result.output
    names = [row["model"] for row in json.loads(result.stdout)["results"]]
    assert names == ["recgpt:pretrain", "recgpt:tuned", "recgpt", "poprec"]


def test_a_model_that_is_named_twice_is_measured_once(data):
    found = json.loads(run("eval", data, "--models", "poprec,poprec,", "--json").stdout)
    assert [row["model"] for row in found["results"]] == ["poprec"]


def test_eval_without_json_prints_an_aligned_table(data, checkpoint):
    lines = run(
        "eval", data, "--checkpoint", checkpoint, "--split", "valid", "--recall", "8,2"
    ).stdout.splitlines()
    assert len(lines) == 5
    assert len({len(line) for line in lines[1:]}) == 1
    assert "(8, 2)" in lines[4]


def test_recommend_prints_lists_without_seen_items(data, checkpoint):
    result = run("recommend", data, "--checkpoint", checkpoint, "--users", "3,1", "--k", 4)
    rows = [[int(word) for word in line.split()] for line in result.stdout.splitlines()]
    assert [row[0] for row in rows] == [3, 1]
    histories = {
        int(line.split()[0]): {int(w) for w in line.split()[1:]} for line in data.read_text().splitlines()
    }
    for user, *items in rows:
        assert len(items) == 4
        assert not histories[user] & set(items)
    longer = run("recommend", data, "--checkpoint", checkpoint, "--recall", "5,1").stdout.splitlines()
    assert len(longer) == 60
    assert len(longer[0].split()) == 7


@pytest.fixture
def reviews(data, tmp_path):
    """The ring as ratings of a shop, backwards: user, item, stars, time."""
    rows = [line.split() for line in data.read_text().splitlines()]
    lines = [f"p{user},v{item},4.0,{n}" for user, *items in rows for n, item in enumerate(items)]
    path = tmp_path / "ratings_Ring.csv"
    path.write_text("\n".join([*lines[::-1], "p99,v1,1.0,7"]))
    return path


def test_prepare_writes_sequences_and_prints_table_1(reviews, data, tmp_path):
    out = tmp_path / "ring.txt"
    result = run("prepare", reviews, "--out", out)
    assert result.exit_code == 0, result.output
    assert "100% read ratings_Ring.csv" in result.stderr
    title, names, values = result.stdout.splitlines()
    assert title == f"{out} and ring.ids.csv: 5-core of ratings_Ring.csv"
    assert names.split() == ["users", "items", "actions", "mean", "length", "sparsity", "repeats"]
    n_rows = sum(len(line.split()) - 1 for line in data.read_text().splitlines())
    sparsity = f"{100 - 100 * n_rows / (60 * 30):.2f}"
    assert values.split() == ["60", "30", str(n_rows), f"{n_rows / 60:.1f}", sparsity, "%", "0"]
    everything = run("prepare", reviews, "--out", out, "--core", 1).stdout.splitlines()[2].split()
    assert everything[:3] == ["61", "30", str(n_rows + 1)]
    early = run("prepare", reviews, "--out", out, "--core", 1, "--to", "1970-01-01 00:00:04").stdout
    assert early.splitlines()[2].split()[:3] == ["60", "30", "300"]


@pytest.fixture
def table(data, tmp_path):
    """The ring as a table with names for numbers, in the same order."""
    import pyarrow as pa
    import pyarrow.parquet

    rows = [[int(word) for word in line.split()] for line in data.read_text().splitlines()]
    who, what = zip(*[(f"p{u:02}", f"v{item:02}") for u, *items in rows for item in items], strict=True)
    path = tmp_path / "ring.parquet"
    pyarrow.parquet.write_table(pa.table({"who": who, "what": what, "when": range(len(who))}), path)
    return path


COLUMNS = ("--columns", "user=who,item=what,time=when")


def test_a_table_measures_and_recommends_as_the_sequence_file_does(table, data, checkpoint):
    asked = ("--checkpoint", checkpoint, "--json")
    measured = run("eval", table, *COLUMNS, *asked)
    assert measured.exit_code == 0, measured.output
    scores = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in json.loads(result.stdout)["results"]]
        for result in (measured, run("eval", data, *asked))
    ]
    assert scores[0] == scores[1]
    named = run("recommend", table, *COLUMNS, "--checkpoint", checkpoint, "--users", "p03,p01").stdout
    numbered = run("recommend", data, "--checkpoint", checkpoint, "--users", "3,1").stdout
    assert re.sub("[pv]0?", "", named) == numbered
    assert named.startswith("p03 v")


def test_a_checkpoint_of_another_table_recommends_nothing(table, checkpoint):
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.parquet.read_table(table)[:-1], table)
    result = run("recommend", table, *COLUMNS, "--checkpoint", checkpoint)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "was trained on other data than the table" in result.stderr


def test_paper_writes_tables_and_figures_and_shows_what_is_missing(tmp_path):
    (tmp_path / "Beauty.txt").write_text("1 2 3 4\n")
    out = tmp_path / "out"
    result = run("paper", tmp_path, "--out", out, "--data", "Beauty", "--presets", "best", "--minutes", 0)
    assert result.exit_code == 0, result.output
    assert "cells to run" in result.stderr
    assert result.stderr.rstrip().endswith("cells are missing")
    assert "| SASRec | printed | 0.0398 | 0.0261 | 0.0614 | 0.0331 |" in result.stdout
    assert "| SASRec | best | - | - | - | - | - | 0 |" in result.stdout
    assert {path.name for path in out.iterdir()} == {"paper.md", "paper.json"}


@pytest.fixture
def bad(tmp_path, data, checkpoint):
    """Files that are wrong in one way each."""
    (tmp_path / "letters.txt").write_text("1 2 3 4\n2 5 abc 7\n")
    (tmp_path / "short.txt").write_text("1 2 3\n2 5 4\n")
    (tmp_path / "larger.txt").write_text("1 2 3 99\n")
    (tmp_path / "t.csv").write_text("who,what,when\nu,i,5\n")
    (tmp_path / "raw.json").write_text('{"reviewerID": "u", "asin": "i", "unixReviewTime": 5}\n{}\n')
    (tmp_path / "cut").mkdir()
    whole = (checkpoint / "pretrained.safetensors").read_bytes()
    (tmp_path / "cut" / "pretrained.safetensors").write_bytes(whole[: len(whole) // 2])
    return {"tmp": tmp_path, "data": data, "checkpoint": checkpoint}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("eval {tmp}/letters.txt", "line 2 of .*letters.txt: 'abc' is not an item id"),
        ("eval {tmp}/none.txt", "no file .*none.txt"),
        ("eval {tmp}/short.txt", "no user of .*short.txt has three items"),
        ("eval {data} --k 7", "7 is not in the range 0<=x<=6"),
        ("eval {data} --recall 40,20", r"m \+ n is 60; a list has 1 to 50 items"),
        ("eval {data} --recall 0,0", r"m \+ n is 0"),
        ("eval {data} --recall 9", "'9' is not of the form m,n; for example 9,1"),
        ("eval {data} --models recgtp", "unknown model 'recgtp'; known models: .*Did you mean 'recgpt'"),
        ("eval {data} --models ,", "unknown model ','"),
        ("eval {data} --models poprec --checkpoint {checkpoint}", "--checkpoint and --models are both given"),
        ("eval {data} --epochs 3 --checkpoint {checkpoint}", "--checkpoint and --epochs are both given"),
        ("eval {data} --k 2 --checkpoint {checkpoint}", "--checkpoint and --k are both given"),
        ("eval {tmp}/t.csv --columns user=who,item=who", "two roles to a column .user=who,item=who."),
        ("pretrain {data} --out {tmp}/p --lr inf", "lr is inf; give a finite rate"),
        ("pretrain {data} --out {tmp}/p --threads 100000", "threads is 100000; it must be 1 to 256"),
        ("pretrain {data} --out {tmp}/p --seed 9223372036854775808", "it must be below 2.63"),
        ("pretrain {data} --out {tmp}/p --dim 1000000000000", "cannot be built for 60 users and 30 items"),
        ("paper {tmp} --parts table9", "unknown part 'table9'; known: loss, table2"),
        ("paper {tmp} --data Books", "unknown data set 'Books'; known: Sports, Beauty, Toys, Yelp"),
        ("paper {tmp} --presets good", "unknown preset 'good'; known: best, paper, authors"),
        ("paper {tmp} --minutes nan", "minutes is nan; give 0 .run none. or more"),
        ("eval {data} --checkpoint {tmp}/cut", "pretrained.safetensors is no readable checkpoint"),
        ("eval {data} --checkpoint {tmp}", "no checkpoint at"),
        ("eval {tmp}/larger.txt --checkpoint {checkpoint}", "trained on other data"),
        ("tune {tmp}/larger.txt --from {checkpoint} --out {tmp}", "not the interactions that the model was"),
        ("tune {data} --from {tmp}/cut --out {tmp}", "pretrained.safetensors is no readable checkpoint"),
        ("eval {data} --device gpu", "'gpu' is not one of 'auto', 'cpu', 'cuda'"),
        ("tune {data} --from {tmp}/nowhere --out {tmp}", "no checkpoint at"),
        (
            "recommend {data} --checkpoint {checkpoint} --users 61",
            "user '61' is not in the data; its users are 1 to 60",
        ),
        ("recommend {data} --checkpoint {checkpoint} --users x", "user 'x' is not in the data"),
        (
            "recommend {tmp}/larger.txt --checkpoint {checkpoint}",
            "has item 99, but the checkpoint knows items 1 to 30",
        ),
        ("pretrain {data}", "Missing option '--out'"),
        ("paper {tmp} --out {tmp}/o --data Books", "unknown data set 'Books'; known: Sports, Beauty"),
        ("paper {tmp} --out {tmp}/o --parts table9", "unknown part 'table9'; known: loss, table2"),
        ("paper {tmp}/none --out {tmp}/o --data Toys", "no file .*Toys_and_Games.txt; give the folder"),
        ("eval {data} --preset authors --models sasrec", "unknown preset 'authors' of sasrec; known"),
        (
            "eval {tmp}/t.csv",
            "t.csv is a table with the columns who, what, when; .*--columns user=...,item=...",
        ),
        (
            "eval {tmp}/t.csv --columns user=who",
            "columns has no 'item': say which column of .*; known: who, ",
        ),
        ("eval {tmp}/t.csv --columns user=who,item=x", "t.csv has no column 'x' for item; known: who, what"),
        ("eval {tmp}/t.csv --columns who,what", "'who,what' is not of the form user=...,item=...,time=..."),
        ("eval {tmp}/t.csv --columns user=who,user=what", "is not of the form user=...,item=...,time=..."),
        ("eval {data} --columns user=who,item=what", "is read as sequence text, which has no columns"),
        ("eval {tmp}/t.parquet --columns user=who,item=what", "no file .*t.parquet; expected a .csv or"),
        ("prepare {tmp}/raw.json", "Missing option '--out'"),
        ("prepare {tmp}/raw.json --out {tmp}/out.txt", "line 2 of .*raw.json: no field 'reviewerID'"),
        ("prepare {tmp}/raw.json --out {tmp}/out.txt --core 0", "0 is not in the range x>=1"),
        ("prepare {tmp}/raw.json --out {tmp}/out.txt --format yelp", "'yelp' is not one of 'amazon-json', "),
        (
            "prepare {tmp}/raw.json --out {tmp}/out.txt --from 2019",
            "'2019' is no date of the form YYYY-MM-DD",
        ),
        ("prepare {tmp}/t.csv --out {tmp}/out.txt", "t.csv is a table with the columns who, what, when"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(bad, command, message):
    result = run(*command.format(**bad).split())
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line]
    assert line.startswith("Error: ")
    assert re.search(message, line), line


@pytest.mark.parametrize("place", ["--debug eval {tmp}/none.txt", "eval {tmp}/none.txt --debug"])
def test_debug_shows_where_an_error_came_from(tmp_path, place):
    result = run(*place.format(tmp=tmp_path).split())
    assert isinstance(result.exception, ValueError)

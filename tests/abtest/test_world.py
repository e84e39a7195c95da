"""`abtest world` and the worlds of `abtest run`: what is printed, and bad input in one sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from abtest import world as story
from abtest.cli import main
from abtest.settings import RunSettings, prepare
from simulator.calibration import Score
from warehouse.importers import Dropped

SCORES = [
    Score("play", 0.5, 0.51, 0.05, "pass", "a log", 0.01, 0.02),
    Score("like", 0.02, 0.04, 0.05, "fail", "a log", 0.0, 0.0),
    Score("share CV", 2.0, float("nan"), None, "report", "another", 0.0, float("nan")),
]


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["world", *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--family", "tree"], "unknown family 'tree'; known families: factors, transitions, neighbours"),
        (["--profile", "light"], "unknown profile 'light'; known profiles: default, heavy"),
        (["--users", "1"], "users is 1; it must be 2 or more"),
        (["--days", "0"], "days is 0; it must be 1 or more"),
        (["--log", "no/such/folder"], "no folder no/such/folder"),
        (["--sequences", "no.txt"], "no.txt"),
        (["--log", "a", "--sequences", "b"], "a world is built from one of them"),
        (["--scorecard", "--plot", "no/such/x.png"], "no folder no/such for x.png"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments: list[str], sentence: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_malformed_line_of_a_sequence_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_text("1 2 3 4\n2 3 x 5\n", encoding="utf-8")
    code, _, err = run("--sequences", str(path))
    assert code == 2
    assert "line 2" in err


def test_a_world_tells_what_it_was_fitted_from(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    rows = [" ".join(map(str, [u + 1, *(1 + (u + np.arange(8)) % 30)])) for u in range(40)]
    path.write_text("\n".join(rows), encoding="utf-8")
    code, out, _ = run("--sequences", str(path), "--users", "20", "--family", "transitions", "--quiet")
    assert code == 0
    assert "240 training interactions" in out
    code, _, err = run("--sequences", str(path), "--users", "50")
    assert code == 2
    assert f"users is 50; {path} has 40 users" in err


def test_the_document_lists_figures_and_leaves_out_what_cannot_be_computed() -> None:
    document = json.loads(json.dumps(story.scorecard_document(SCORES), allow_nan=False))
    assert [row["name"] for row in document] == ["play", "like", "share CV"]
    assert {"name", "real", "simulated", "tolerance", "status"} <= document[0].keys()
    assert document[2]["simulated"] is None


def test_tables_stand_by_source_and_count_the_figures() -> None:
    tables = story.scorecard_sections(SCORES)
    assert [t.title for t in tables] == ["a log", "another", "3 figures: 1 pass, 1 fail, 1 report"]
    assert tables[0].rows[1] == ["like", "0.02", "-", "0.04", "-", "+100.0%", "x1.05", "fail"]


def test_the_chart_is_a_png() -> None:
    assert story.scorecard_figure(SCORES).startswith(b"\x89PNG")


def test_a_scorecard_prints_json_and_strict_fails_with_3(tmp_path: Path) -> None:
    """So small a world misses some figures; that is printed, and no error unless asked for."""
    options = ["--scorecard", "--users", "300", "--days", "1", "--quiet"]
    code, out, _ = run(*options, "--json", "--strict")
    rows = json.loads(out)
    assert len(rows) > 100
    assert any(row["status"] == "fail" for row in rows)
    assert code == 3


def test_a_run_refuses_an_unknown_family_before_it_writes() -> None:
    with pytest.raises(LookupError, match="unknown family 'trees'"):
        prepare(RunSettings(family="trees"))


def test_what_a_log_lost_is_printed() -> None:
    counts = Dropped(5_460, 3_568, 239, 17_906)._asdict()
    (section,) = story.left_out_sections(counts)
    assert section.rows[0] == ["repeated impressions", "5,460"]
    assert len(section.rows) == len(counts)
    assert story.left_out_sections({}) == []

"""Cells, their store, and the tables made from them, on a world of sixty users that stands for Beauty."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.data import leave_one_out, read_sequences
from recgpt import paper
from recgpt.cells import Cell, configured, current, run_cell
from recgpt.paper import Wanted, missing, plan, tables
from recgpt.published import DATA_FILES, TABLE_2, TABLE_3
from recgpt.reproduce import Workplace, fill, write
from recgpt.store import Store, pack, unpack
from recgpt.tables import to_markdown

SHORT = (("training.epochs", 3), ("tune_epochs", 2))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A ring of 40 items; users walk 5 to 12 steps, and some come back to where they were."""
    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for user in range(1, 61):
        start, steps = generator.integers(0, 40), generator.integers(5, 13)
        items = (start + np.arange(steps)) % 40 + 1
        if user % 5 == 0:
            items[-1] = items[0]
        lines.append(" ".join(map(str, (user, *items))))
    (folder / DATA_FILES["Beauty"]).write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def split(data):
    return leave_one_out(read_sequences(data / DATA_FILES["Beauty"]))


@pytest.fixture(scope="module")
def tuned(split, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return run_cell(Cell("Beauty", "recgpt", stage="tune", changes=SHORT), split, home)


@given(st.lists(st.integers(0, 255), max_size=300))
def test_packed_ranks_come_back(ranks):
    assert unpack(pack(np.array(ranks, np.int64))).tolist() == ranks


def test_a_cell_keeps_what_can_be_compared_later(tuned):
    seen = tuned["test"]["seen"]
    one_step = unpack(seen["ranks"]["one_step"])
    assert len(one_step) == seen["n_users"] == 60
    assert seen["one_step"]["hr@10"] == np.mean((one_step > 0) & (one_step <= 10))
    for length, (m, n) in tuned["two_steps"].items():
        assert m + n == int(length)
        assert n >= 1
        ranks = unpack(seen["ranks"][f"two_steps@{length}"])
        assert seen["two_steps_metrics"][f"hr@{length}"] == np.mean(ranks > 0)
        row = next(r for r in seen["grid"] if (r["m"], r["n"]) == (m, n))
        before = (one_step > 0) & (one_step <= int(length))
        assert row["gained"] == np.sum((ranks > 0) & ~before)
        assert row["lost"] == np.sum(~(ranks > 0) & before)


def test_both_maskings_are_measured_where_a_target_is_a_repeat(tuned):
    """A masked target that is in its own history cannot be found; unmasked it can."""
    assert set(tuned["test"]) == {"seen", "none"}
    assert tuned["test"]["seen"]["one_step"]["hr@20"] <= 0.8
    assert unpack(tuned["test"]["seen"]["ranks"]["one_step"])[4::5].max() == 0


def test_two_steps_are_chosen_on_validation(tuned):
    grid = {(row["m"], row["n"]): row["hr"] for row in tuned["valid"]["grid"]}
    for length, (m, n) in tuned["two_steps"].items():
        assert grid[m, n] == max(hr for (a, b), hr in grid.items() if a + b == int(length) and b)


def test_tuning_from_a_kept_checkpoint_gives_the_same_cell(tuned, split, tmp_path):
    cell = Cell("Beauty", "recgpt", stage="tune", changes=SHORT)
    pretrained = run_cell(replace(cell, stage="pretrain"), split, tmp_path)
    assert pretrained["test"]["seen"]["one_step"] != tuned["test"]["seen"]["one_step"]
    (checkpoint,) = tmp_path.glob("*.safetensors")
    again = run_cell(cell, split, tmp_path)
    assert list(tmp_path.glob("*.safetensors")) == [checkpoint]
    for part in ("settings", "epochs", "two_steps", "valid", "test"):
        assert again[part] == tuned[part]


def test_changes_reach_settings_training_and_losses():
    changes = (("loss", "bce:3"), ("n_prompts", 2), ("training.lr", 0.5))
    model = configured(Cell("Beauty", "recgpt", stage="tune", changes=changes, seed=7), threads=2)
    assert (model.settings.loss.kind, model.settings.loss.n_negatives) == ("bce", 3)
    assert model.settings.n_prompts == 2
    assert (model.training.lr, model.training.seed, model.training.threads) == (0.5, 7, 2)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (Cell("Beauty", "sasrek"), "unknown model 'sasrek'"),
        (Cell("Beauty", "sasrec", "bests"), "unknown preset 'bests' of sasrec; known presets: "),
        (
            Cell("Beauty", "recgpt", stage="tune", changes=(("depth", 2),)),
            "recgpt has no setting 'depth'; known: ",
        ),
    ],
)
def test_unknown_names_are_refused(cell, message):
    with pytest.raises(LookupError, match=message):
        configured(cell)


def test_a_stage_that_a_model_lacks_is_refused():
    with pytest.raises(ValueError, match="stage 'tune' is none of sasrec"):
        Cell("Beauty", "sasrec", stage="tune")


def test_the_first_test_result_of_a_setting_stays_and_all_are_logged(tuned, tmp_path):
    store = Store(tmp_path / "cells.json")
    cell = Cell("Beauty", "recgpt", stage="tune")
    assert store.cells() == {}
    store.put(cell, tuned)
    better = json.loads(json.dumps(tuned))
    better["test"]["seen"]["one_step"]["hr@10"] = 0.99
    store.put(cell, better)
    assert store.cells()[cell.key]["test"]["seen"]["one_step"] == tuned["test"]["seen"]["one_step"]
    store.put(cell, {**better, "settings_hash": "another"})
    assert store.cells()[cell.key]["test"]["seen"]["one_step"]["hr@10"] == 0.99
    assert [line["counts"] for line in store.log()] == [True, False, True]
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".json"] == ["cells.json"]


def test_a_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "cells.json").write_text("[1, 2")
    with pytest.raises(ValueError, match=r"cells.json is no store of cells .*; name another file"):
        Store(tmp_path / "cells.json").cells()
    (tmp_path / "cells.json").write_text('{"cells": {"x": 5}, "log": []}')
    with pytest.raises(
        ValueError, match=r"cells.json is no store of cells \(not all of its cells are objects"
    ):
        Store(tmp_path / "cells.json").cells()


def test_a_plan_has_each_cell_once_and_further_seeds_where_they_are_asked_for():
    cells = plan(Wanted(n_seeds=5))
    assert len(cells) == len(set(cells)) == len({cell.key for cell in cells})
    seeds = {(c.data, c.model, c.preset, c.stage, c.changes): 0 for c in cells}
    for c in cells:
        seeds[c.data, c.model, c.preset, c.stage, c.changes] += 1
    for (data, model, preset, stage, changes), n in seeds.items():
        repeated = data in paper.SWEEP_DATA and preset == "best" and model in ("recgpt", "sasrec")
        if not repeated:
            assert n == 1
        elif model == "sasrec" or (stage == "tune" and not changes):
            assert n == 5
    assert {("Beauty", K) for K in range(7) if K != 1} <= {
        (c.data, dict(c.changes)["n_prompts"]) for c in cells if "n_prompts" in dict(c.changes)
    }


def test_every_printed_row_is_known():
    assert len(TABLE_2) == 4 * 12
    assert TABLE_2["Beauty", "RecGPT"] == {
        "hr@5": 0.0440,
        "ndcg@5": 0.0289,
        "hr@10": 0.0654,
        "ndcg@10": 0.0357,
    }
    assert TABLE_3["Yelp", "Variant 3"] == {"hr@10": 0.0278, "ndcg@10": 0.0138}
    assert {row for _, row in TABLE_2} <= {*paper.BASELINES, *paper.STAGE_ROWS}


def test_missing_cells_are_shown_as_missing():
    wanted = Wanted(data=("Beauty", "Yelp"), presets=("best",))
    made = tables({}, wanted)
    assert set(made) == set(paper.PARTS)
    for found in made.values():
        for table in found:
            text = to_markdown(table)
            assert "nan" not in text
            assert all(len(row) == len(table.columns) for row in table.rows)
    sasrec = [row for row in made["table2"][0].rows if row[0] == "SASRec"]
    assert sasrec[0][:6] == ("SASRec", "printed", 0.0398, 0.0261, 0.0614, 0.0331)
    assert sasrec[1][:6] == ("SASRec", "best", None, None, None, None)
    assert "| SASRec | best | - | - | - | - |" in to_markdown(made["table2"][0])


def test_missing_cells_are_run_tables_written_and_nothing_is_run_twice(data, tmp_path, monkeypatch):
    wanted = Wanted(("table3", "figure5"), ("Beauty",), ("best",))
    place = Workplace(data, tmp_path / "cells.json", tmp_path / "checkpoints")
    said: list[str] = []
    assert fill(wanted, place, said.append) == []
    assert said[0] == "2 of 2 cells to run"
    assert [line.split(": ")[1].split(",")[0] for line in said[1:]] == ["begun", "done"] * 2
    assert fill(wanted, place, said.append) == []
    assert said[-1] == "0 of 2 cells to run"
    made = write(wanted, place.store, tmp_path / "out")
    assert missing(Store(place.store).cells(), wanted) == []
    assert all(row[1] is not None for row in made["figure5"][0].rows)
    assert (tmp_path / "out" / "figure5.png").read_bytes().startswith(b"\x89PNG")
    assert "Variant 1" in (tmp_path / "out" / "paper.md").read_text()
    document = json.loads((tmp_path / "out" / "paper.json").read_text())
    assert document["table3"][0]["rows"][0][:3] == ["RecGPT", "printed", 0.0654]


def test_a_cell_of_an_earlier_preset_counts_as_missing(tuned):
    ours = Cell("Beauty", "recgpt", stage="tune", changes=SHORT)
    earlier = {**tuned, "settings": {**tuned["settings"], "training": {"epochs": 7}}}
    unknown = {**tuned, "cell": {**tuned["cell"], "preset": "forgotten"}}
    assert current({ours.key: tuned, "earlier": earlier, "unknown": unknown}) == {ours.key: tuned}


def test_no_cell_is_begun_after_the_minutes_given(data, tmp_path):
    wanted = Wanted(("table3",), ("Beauty",), ("best",))
    left = fill(wanted, Workplace(data, tmp_path / "c.json", tmp_path, minutes=0), lambda line: None)
    assert len(left) == 2
    assert not (tmp_path / "c.json").exists()


def test_a_missing_data_file_is_named(data, tmp_path):
    with pytest.raises(ValueError, match=r"no file .*Toys_and_Games.txt; give the folder that holds it"):
        fill(Wanted(data=("Toys",)), Workplace(data, tmp_path / "c.json", tmp_path), lambda line: None)

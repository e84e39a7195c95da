"""Experiments that are analysed before their last day: up to the last full day, by the bound of that day."""

import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest

from abtest.experiment import Arm, Experiment
from abtest.looks import looks_at
from abtest.silence import last_full_day
from abtest.stats.sequential import nominal_levels
from tests.abtest.conftest import Command
from tests.abtest.test_logs import CONFIG, START_MS, checks, document, effect, events, write
from warehouse.events import DAY_MS

PLANNED = 6


def interim(
    abtest: Command,
    folder: Path,
    *options: str,
    until_ms: int = 2 * DAY_MS,
    lift: float = 1.0,
    config: str = "",
) -> Any:
    """The log of three days of an experiment of six, cut after some time."""
    log = events(n_users=1500, lift=lift)
    log = {name: column[log["at"] < START_MS + until_ms] for name, column in log.items()}
    path = write(folder / "log.parquet", log)
    text = (config or CONFIG).replace("days = 3", f"days = {PLANNED}")
    (folder / "experiment.toml").write_text(text, encoding="utf-8")
    return abtest("analyze", path, "--config", str(folder / "experiment.toml"), *options)


def test_only_days_that_are_over_are_analysed(abtest: Command, tmp_path: Path) -> None:
    """A third day of which 10 hours are in the log changes nothing but that it is not over."""
    two, more = tmp_path / "two", tmp_path / "more"
    for folder in (two, more):
        folder.mkdir()
    exact = document(interim(abtest, two, "--json"))
    partial = document(interim(abtest, more, "--json", until_ms=2 * DAY_MS + DAY_MS // 2))
    for found in (exact, partial):
        assert (found["experiment"]["days"], found["experiment"]["planned_days"]) == (2, PLANNED)
        assert {e["window"]["to"] for e in found["effects"]} == {1, 2}
        assert checks(found)["late_data"] == "ok"
        assert found["verdict"]["decision"] == "keep_running"
        assert found["verdict"]["reasons"][0].startswith(
            f"Interim: days 1-2 of {PLANNED} are analysed; no goal"
        )
    exact["experiment"].pop("log"), partial["experiment"].pop("log")
    for key in ("effects", "sequential", "segments", "since_exposure", "exposed", "verdict"):
        assert exact[key] == partial[key]


def test_alpha_is_spent_by_days_and_a_crossed_bound_decides(abtest: Command, tmp_path: Path) -> None:
    result = interim(abtest, tmp_path, "--out", str(tmp_path / "report"), lift=2.0)
    found = document(interim(abtest, tmp_path, "--json", lift=2.0))
    (test,) = [t for t in found["sequential"] if t["metric"] == "revenue"]
    assert test["correlation"] == "estimated"
    looks = test["looks"]
    assert [look["information"] for look in looks] == [1 / PLANNED, 2 / PLANNED]
    first = nominal_levels("obf", test["alpha"], [1 / PLANNED])
    assert looks[0]["level"] == pytest.approx(first[0], rel=1e-6)
    assert (found["verdict"]["decision"], test["biased"]) == ("ship", True)
    assert "a goal has crossed the bound of a look up to day 2" in found["verdict"]["reasons"][0]
    assert "biased away from 0" in " ".join(found["verdict"]["reasons"])
    for text in (result.stdout, (tmp_path / "report/report.md").read_text(encoding="utf-8")):
        flat = " ".join(text.split())
        assert f"SHIP new (interim: days 1-2 of {PLANNED})" in flat
        assert "information and alpha spent are by days" in flat


def test_a_guardrail_that_looks_broken_does_not_end_an_experiment_early(
    abtest: Command, tmp_path: Path
) -> None:
    worse = CONFIG.replace('numerator = "n_view"', 'numerator = "n_buy"\ndirection = "down"').replace(
        "margin = 0.2", "margin = 0.0001"
    )
    found = document(interim(abtest, tmp_path, "--json", config=worse))
    assert found["verdict"]["decision"] == "keep_running"


def test_a_log_in_its_first_day_cannot_be_analysed_yet(abtest: Command, tmp_path: Path) -> None:
    result = interim(abtest, tmp_path, until_ms=DAY_MS // 2)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"ends on day 1 of {PLANNED}" in result.stderr


def test_a_run_that_was_cut_in_its_second_day_is_analysed_up_to_the_first(
    finished_run: Path, abtest: Command, tmp_path: Path
) -> None:
    shutil.copy(finished_run / "events.duckdb", tmp_path / "events.duckdb")
    start = document(abtest("analyze", str(finished_run), "--json"))["experiment"]["start_ts"]
    whole = document(abtest("analyze", str(finished_run), "--json"))
    with duckdb.connect(str(tmp_path / "events.duckdb")) as connection:
        connection.execute(f"DELETE FROM events WHERE ts >= {start + DAY_MS + 9 * 3_600_000}")
        connection.execute(f"DELETE FROM exposures WHERE first_ts >= {start + DAY_MS + 9 * 3_600_000}")
    found = document(abtest("analyze", str(tmp_path), "--json"))
    assert (found["experiment"]["days"], found["experiment"]["planned_days"]) == (1, 2)
    assert "planned_days" not in whole["experiment"]
    plain = ("control_mean", "treatment_mean", "difference", "lift", "p", "n_control", "n_treatment")
    for one in found["effects"]:
        same = effect(whole, one["metric"], 1, 1)
        assert {key: one[key] for key in plain} == {key: same[key] for key in plain}
    assert found["verdict"]["decision"] == "keep_running"
    assert "Interim: days 1-1 of 2" in found["verdict"]["reasons"][0]


def test_a_day_is_over_when_the_silence_before_its_end_is_usual() -> None:
    hour = DAY_MS // 24
    busy = {1: 10_000, 2: 10_000}
    assert last_full_day(busy, 2 * DAY_MS - 5 * hour, 0) == 2
    assert last_full_day(busy, 2 * DAY_MS - 7 * hour, 0) == 1
    assert last_full_day({1: 24}, DAY_MS - 15 * hour, 0) == 1  # an event an hour: 20 hours say nothing
    assert last_full_day({}, None, 0) == 0
    assert last_full_day({1: 9000}, hour, 0) == 0
    assert last_full_day({1: 9000}, hour, 0, fine=False) == 1


def test_the_last_day_seen_is_always_a_look() -> None:
    experiment = Experiment("x", (Arm("a"), Arm("b")), days=28)
    assert looks_at(experiment) == list(range(2, 29, 2))
    assert looks_at(experiment.until(15)) == [2, 4, 6, 8, 10, 12, 14, 15]
    assert looks_at(experiment.until(1)) == [1]

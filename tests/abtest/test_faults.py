"""Faults put into a run, and which health checks notice them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from abtest.experiment import Arm, Experiment
from abtest.faults import FAULTS
from abtest.report.faults import faults_section
from abtest.run_health import check_before_exposure, check_orphans

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def found(finished_run: Path, abtest: Command) -> dict[str, Any]:
    """By fault, of a run of 300 exposed users."""
    before = (finished_run / "events.duckdb").read_bytes()
    result = abtest("faults", str(finished_run), "--json", "--quiet")
    assert result.exit_code == 0, result.output
    assert (finished_run / "events.duckdb").read_bytes() == before
    document = json.loads(result.output)
    assert [fault["fault"] for fault in document["faults"]] == [fault.name for fault in FAULTS]
    return {fault["fault"]: fault for fault in document["faults"]}


@pytest.mark.parametrize(
    ("fault", "check", "status"),
    [
        ("wrong salt", "assignment", "failed"),
        ("two arms", "crossovers", "warning"),
        ("late exposures", "before_exposure", "failed"),
        ("lost events", "orphans", "failed"),
        ("doubled events", "duplicates", "failed"),
        ("clock skew", "before_exposure", "failed"),
    ],
)
def test_the_check_that_is_for_a_fault_notices_it(
    found: dict[str, Any], fault: str, check: str, status: str
) -> None:
    fired = {one["check"]: one["status"] for one in found[fault]["fired"]}
    assert fired[check] == status
    if status == "failed":
        assert found[fault]["decision"] == "invalid"


def test_lifts_move_as_the_fault_says(found: dict[str, Any]) -> None:
    def plays(fault: str) -> tuple[float, float]:
        (lift,) = [lift for lift in found[fault]["lifts"] if lift["metric"] == "plays"]
        return lift["before"], lift["after"]

    before, lost = plays("lost events")
    assert (1 + lost) / (1 + before) == pytest.approx(0.9, abs=0.02)
    before, doubled = plays("doubled events")
    assert (1 + doubled) / (1 + before) == pytest.approx(1.05, abs=0.015)
    before, bots = plays("bots")
    assert bots > before + 0.5
    assert found["bots"]["fired"] == [], "there is no check for bots: cap the metric"


def test_the_table_names_each_fault_and_what_noticed_it(found: dict[str, Any]) -> None:
    section = faults_section({"treatment": "comirec", "faults": list(found.values())})
    rows = {row[0]: row for row in section.rows}
    assert list(rows) == ["none", *found]
    assert "assignment" in rows["wrong salt"][1]
    assert rows["bots"][1] == "nothing"
    assert len({len(row) for row in section.rows} | {len(section.headers)}) == 1


def test_there_is_no_run_to_break(abtest: Command, tmp_path: Path) -> None:
    result = abtest("faults", str(tmp_path))
    assert result.exit_code == 2
    assert "no database at" in result.output


def experiment() -> Experiment:
    return Experiment("e", (Arm("a", "x", 0.5), Arm("b", "y", 0.5)), "a", days=2, salt="s")


def test_early_users_of_both_arms_alike_are_no_fault() -> None:
    even = check_before_exposure(experiment(), {"a": 100, "b": 104}, {"a": 1000, "b": 1010})
    assert even.status == "ok"
    assert "a 100 of 1,000, b 104 of 1,010" in even.detail
    assert check_before_exposure(experiment(), {"b": 60}, {"a": 1000, "b": 1010}).status == "failed"
    assert check_before_exposure(experiment(), {}, {"a": 1000, "b": 1010}).p is None


def test_a_few_orphans_warn_and_one_in_a_hundred_fails() -> None:
    rows = {"a": 10_000, "b": 10_000}
    assert check_orphans(rows, {"a": 0, "b": 0}).status == "ok"
    assert check_orphans(rows, {"a": 0, "b": 20}).status == "warning"
    failed = check_orphans(rows, {"a": 3, "b": 100})
    assert failed.status == "failed"
    assert "most in b: 1.0 %" in failed.detail
    assert check_orphans({}, {}).status == "not_run"

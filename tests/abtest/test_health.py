"""Health checks in counts with known answers; p-values against scipy."""

import numpy as np
import pytest
from scipy import stats

from abtest.checks import Check
from abtest.experiment import Arm, Experiment
from abtest.health import (
    check_days,
    check_duplicates,
    check_pre_period,
    check_recorded_arms,
    check_rows,
    check_slices,
    check_watermark,
    failed_first,
)
from abtest.metrics import Metric
from abtest.stats.moments import Moments

TWO = Experiment("x", (Arm("a"), Arm("b")), days=3)
DAY_MS = 86_400_000
EVEN = {f"day {day}": {"a": 1000, "b": 1000} for day in (1, 2, 3)}


def named(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_mismatch_on_one_day_fails_by_holm_over_days_and_segments() -> None:
    days = {**EVEN, "day 2": {"a": 1150, "b": 1000}}
    segments = {"country FI": {"a": 1500, "b": 1480}, "country SE": {"a": 1650, "b": 1520}}
    found = named(check_slices(TWO, days, segments))
    p = stats.chisquare([1150, 1000], [1075, 1075]).pvalue
    by_day = found["sample_ratio_by_day"]
    assert by_day.p == pytest.approx(5 * p, rel=1e-9)
    assert by_day.status == "ok"  # 5 x .0012 is not below .001
    days["day 2"] = {"a": 1200, "b": 1000}
    found = named(check_slices(TWO, days, segments))
    assert found["sample_ratio_by_day"].status == "failed"
    assert found["sample_ratio_by_day"].detail.startswith("the arms are out of proportion on day 2; ")
    assert found["sample_ratio_by_segment"].status == "ok"
    assert "of one arm's users would have been found with probability 0.8" in by_day.detail


def test_a_mismatch_that_only_a_segment_shows_is_found() -> None:
    segments = {"os ios": {"a": 5000, "b": 4500}, "os android": {"a": 4500, "b": 5000}}
    found = named(check_slices(TWO, EVEN, segments))
    assert found["sample_ratio_by_segment"].status == "failed"
    assert found["sample_ratio_by_day"].status == "ok"


def test_days_and_segments_of_equal_arms_alarm_no_more_often_than_promised() -> None:
    """2,000 experiments of 3 days and 2 segments; more than 10 alarms have probability below 1e-4."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(2000):
        draws = rng.binomial(300, 0.5, 5)
        counts = [{"a": int(n), "b": 300 - int(n)} for n in draws]
        checks = check_slices(TWO, dict(zip(EVEN, counts, strict=False)), {"s": counts[3], "t": counts[4]})
        alarms += any(check.status == "failed" for check in checks)
    assert alarms <= 10


def test_an_empty_arm_of_weight_0_leaves_the_checks_by_day() -> None:
    three = Experiment("x", (Arm("a"), Arm("b"), Arm("c", weight=0)), days=3)
    (by_day, _) = check_slices(three, EVEN, {})
    assert (by_day.status, by_day.p) == ("ok", 1.0)


@pytest.mark.parametrize(("shift", "status"), [(0, "ok"), (3, "failed")])
def test_arms_that_differed_before_the_start_fail(shift: int, status: str) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.poisson(20, 500), rng.poisson(20 + shift, 500)
    before = {"a": Moments.from_arrays(n=x), "b": Moments.from_arrays(n=y)}
    check = check_pre_period(TWO, [before], [Metric("plays", "n")], 14)
    assert check.status == status
    assert check.p == pytest.approx(stats.ttest_ind(y, x, equal_var=False).pvalue, rel=1e-9)
    assert ("differed before the start in plays of b" in check.detail) == (status == "failed")


def test_a_pre_period_without_events_is_not_judged() -> None:
    empty = {"a": Moments.from_arrays(n=[0, 0]), "b": Moments.from_arrays(n=[0, 0])}
    assert check_pre_period(TWO, [empty], [Metric("plays", "n")], 14).status == "not_run"


def test_a_day_without_events_fails() -> None:
    assert (
        check_days(TWO, {1: 5, 3: 7}, 1772409600000).detail == "1 of 3 days hold no event: day 2 (2026-03-03)"
    )
    assert check_days(TWO, {1: 5, 3: 7}, 0).status == "failed"
    assert check_days(TWO, {1: 5, 2: 6, 3: 7}, 0).status == "ok"
    assert check_days(TWO, {}, 0).status == "failed"


@pytest.mark.parametrize(
    ("rows", "last_ts", "status", "words"),
    [
        ({1: 900, 2: 900, 3: 900}, 3 * DAY_MS - 5, "ok", "0 min before the end"),
        ({1: 900, 2: 900, 3: 400}, int(2.5 * DAY_MS), "warning", "12.0 h before the end of the last day"),
        ({1: 900, 2: 900}, 2 * DAY_MS - 5, "failed", "the log ends on day 2 of 3"),
        ({1: 2, 2: 2, 3: 2}, int(2.5 * DAY_MS), "ok", "before the end"),
        ({}, None, "not_run", "no event"),
    ],
)
def test_a_log_that_does_not_reach_the_end_is_told(
    rows: dict[int, int], last_ts: int | None, status: str, words: str
) -> None:
    check = check_watermark(TWO, rows, last_ts, 0)
    assert check.status == status
    assert words in check.detail


def test_events_that_arrive_late_are_told_where_the_log_was_read_too_early() -> None:
    end = 3 * DAY_MS
    rows = {1: 900, 2: 900, 3: 900}
    late = (2700, 300, 7_200_000)
    early = check_watermark(TWO, rows, end - 5, 0, late=late, last_ingest=end + 1)
    waited = check_watermark(TWO, rows, end - 5, 0, late=late, last_ingest=end + 8_000_000)
    assert (early.status, waited.status) == ("warning", "ok")
    assert "11 % of events arrived over an hour late" in early.detail


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ({"a": (1000, 0), "b": (1000, 0)}, "ok"),
        ({"a": (1000, 1), "b": (1000, 0)}, "warning"),
        ({"a": (1000, 10), "b": (1000, 0)}, "failed"),
        (None, "not_run"),
    ],
)
def test_repeated_rows_warn_and_fail_from_1_percent_of_an_arm_on(
    found: dict[str, tuple[int, int]] | None, status: str
) -> None:
    assert check_duplicates(found, by_id=True, limit=10).status == status


def test_rows_that_cannot_be_used_are_told() -> None:
    assert check_rows(1000, 0, 0, {"x": (0, 0, 0)}).status == "ok"
    assert check_rows(1000, 1, 0, {}).status == "warning"
    assert check_rows(1000, 5, 5, {}).status == "failed"
    odd = check_rows(1000, 0, 0, {"x": (7, 2, 3)})
    assert odd.status == "warning"
    assert "x: 7 missing values add nothing; x: 2 values are NaN or infinite" in odd.detail
    assert "x: 3 negative values are counted as they are" in odd.detail


def test_failed_checks_come_first() -> None:
    order = [
        Check(name, status, None, "") for name, status in (("a", "ok"), ("b", "warning"), ("c", "failed"))
    ]  # type: ignore[arg-type]
    assert [check.name for check in failed_first(order)] == ["c", "b", "a"]


def test_arms_other_than_salt_and_user_give_fail() -> None:
    assert check_recorded_arms({"a": 5, "b": 5}, 0).status == "ok"
    assert check_recorded_arms({"a": 5, "b": 5}, 1).status == "failed"
    assert check_recorded_arms({"a": 0, "b": 0}, 0).status == "not_run"

"""From moments to checks, effects, correction and verdict, in small worlds with known answers."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats

from abtest.analysis import Analysis, Effect, Window, analyse, windows
from abtest.experiment import Arm, Experiment
from abtest.metrics import METRICS, Metric
from abtest.stats.moments import Moments

PLAYS = Metric("plays", "n_play", role="goal")
SHARES = Metric("shares", "n_share", role="goal")
HATES = Metric("hates", "n_hate", role="goal", direction="down")
RATE = Metric("watch_s_per_play", "watch_ms", "n_play", 1000)
DAYS_KEPT = Metric("active_days", "active_days", role="guardrail", margin=0.02)

Users = Mapping[str, Sequence[int]]


class Row(NamedTuple):
    """As the warehouse gives it."""

    arm: str
    window: Window
    n: int
    sums: Mapping[str, int]
    products: Mapping[tuple[str, str], int]


def rows(arms: Mapping[str, Users], days: int = 1) -> list[Row]:
    """The users' totals, the same in every window."""
    found = []
    for arm, users in arms.items():
        moments = Moments.from_arrays(**users)
        found += [Row(arm, w, moments.n, moments.sums, moments.products) for w in windows(days)]
    return found


def run(arms: Mapping[str, Users], metrics: Sequence[Metric] = (PLAYS,), **options: Any) -> Analysis:
    """An experiment whose first arm is the control, of equal weights."""
    exposed = {arm: len(next(iter(users.values()))) for arm, users in arms.items()}
    days = options.pop("days", 1)
    settings = Experiment(
        "x", tuple(Arm(arm) for arm in arms), days=days, alpha=options.pop("alpha", 0.05)
    ).settings()
    return analyse(settings, rows(arms, days), metrics=metrics, **{"exposed": exposed, **options})


def around(mean: int, n: int = 100) -> list[int]:
    """Values with this mean and a variance of about 2."""
    return [mean + (i % 5) - 2 for i in range(n)]


def only(analysis: Analysis) -> Effect:
    (effect,) = analysis.effects
    return effect


def test_windows_are_each_day_and_then_all_days_up_to_it() -> None:
    assert windows(1) == [(1, 1)]
    assert windows(3) == [(1, 1), (2, 2), (3, 3), (1, 2), (1, 3)]
    assert windows(3)[-1].last_day == 3


def test_an_effect_is_welch_on_the_users_of_both_arms() -> None:
    control, treatment = around(20), around(22, 80)
    effect = only(run({"a": {"n_play": control}, "b": {"n_play": treatment}}))
    oracle = stats.ttest_ind(treatment, control, equal_var=False)
    assert (effect.control_mean, effect.treatment_mean) == (20, 22)
    assert (effect.difference, effect.lift) == (2, 0.1)
    assert (effect.n_control, effect.n_treatment) == (100, 80)
    assert effect.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert effect.p_adjusted == effect.p
    assert (effect.status, effect.reason, effect.method) == ("ok", None, "welch")
    assert effect.level == pytest.approx(0.95)


def test_a_ratio_is_total_over_total_in_its_unit() -> None:
    users = {"n_play": [1, 2, 3], "watch_ms": [7000, 9000, 14001]}
    effect = only(run({"a": users, "b": users}, [RATE]))
    assert effect.control_mean == 30001 / 6 / 1000
    assert effect.method == "delta"


def test_only_goals_in_the_last_cumulative_window_have_an_adjusted_p() -> None:
    users = {"n_play": around(20), "watch_ms": around(99)}
    analysis = run({"a": users, "b": users}, [PLAYS, RATE], days=3)
    adjusted = {(e.metric, e.window) for e in analysis.effects if e.p_adjusted is not None}
    assert adjusted == {("plays", (1, 3))}
    assert {e.window for e in analysis.effects} == set(windows(3))


def test_goals_of_all_treatments_are_corrected_together_with_matching_levels() -> None:
    users = {name: {"n_play": around(20), "n_share": around(9)} for name in "abc"}
    users["c"] = {"n_play": around(30), "n_share": around(9)}
    analysis = run(users, [PLAYS, SHARES])
    levels = {(e.treatment, e.metric): e.level for e in analysis.effects}
    assert levels["c", "plays"] == pytest.approx(1 - 0.05 / 4)
    assert levels["b", "plays"] == levels["b", "shares"] == pytest.approx(1 - 0.05 / 3)
    assert analysis.verdict.decision == "ship"
    assert analysis.verdict.treatment == "c"


def test_intervals_of_goals_exclude_0_exactly_when_the_adjusted_p_is_below_alpha() -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        users = {
            arm: {"n_play": rng.poisson(mean, 60).tolist(), "n_share": rng.poisson(5, 60).tolist()}
            for arm, mean in (("a", 5), ("b", 6), ("c", 5))
        }
        for effect in run(users, [PLAYS, SHARES]).effects:
            assert effect.lift_ci is not None
            assert effect.p_adjusted is not None
            low, high = effect.lift_ci
            assert (low > 0 or high < 0) == (effect.p_adjusted < 0.05)


def test_the_mde_is_found_in_80_percent_of_experiments_of_its_size() -> None:
    """1,000 experiments; fails by chance with probability below 1e-6."""
    rng = np.random.default_rng(2)
    planned = only(run({arm: {"n_play": rng.poisson(10, 20_000).tolist()} for arm in "ab"}))
    assert planned.mde is not None
    scale = np.sqrt(20_000 / 200)  # the same at 200 users an arm
    found = 0
    for _ in range(1000):
        control = rng.poisson(10, 200)
        treatment = rng.poisson(10 * (1 + planned.mde * scale), 200)
        found += (stats.ttest_ind(treatment, control, equal_var=False).pvalue) < 0.05
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], 1000, 0.8)
    assert low <= found <= high


# what cannot be computed


def test_constant_arms_have_no_p_and_no_place_among_wins() -> None:
    analysis = run({"a": {"n_play": [2] * 50}, "b": {"n_play": [3] * 50}})
    effect = only(analysis)
    assert (effect.status, effect.reason) == ("not_computable", "zero variance in both arms")
    assert (effect.p, effect.p_adjusted, effect.lift_ci, effect.mde) == (None, None, None, None)
    assert effect.lift == 0.5
    assert analysis.verdict.decision == "keep_running"
    assert "zero variance" in " ".join(analysis.verdict.reasons)


def test_a_control_near_0_keeps_its_p_and_has_no_interval_of_the_lift() -> None:
    analysis = run({"a": {"n_play": [0] * 100}, "b": {"n_play": [0, 1] * 50}})
    effect = only(analysis)
    assert effect.p is not None
    assert effect.p < 1e-6
    assert (effect.lift, effect.lift_ci, effect.mde) == (None, None, None)
    assert (effect.status, effect.reason) == ("not_computable", "control mean not distinguishable from 0")
    assert analysis.verdict.decision == "ship"
    assert any("no interval" in reason for reason in analysis.verdict.reasons)


def test_an_arm_without_users_fails_a_check_and_has_no_effect() -> None:
    users = {"n_play": around(20)}
    settings = Experiment("x", (Arm("a"), Arm("b")), days=1).settings()
    analysis = analyse(settings, rows({"a": users}), exposed={"a": 100}, metrics=[PLAYS])
    effect = only(analysis)
    assert (effect.n_treatment, effect.treatment_mean, effect.difference) == (0, None, None)
    assert effect.reason == "fewer than 2 users in an arm"
    assert analysis.verdict.decision == "invalid"
    assert analysis.exposed == {"a": 100, "b": 0}


# verdicts


@pytest.mark.parametrize(
    ("plays", "shares", "decision"),
    [
        (25, 9, "ship"),
        (20, 9, "keep_running"),
        (15, 9, "do_not_ship"),
        (25, 5, "keep_running"),
        (15, 5, "do_not_ship"),
    ],
)
def test_the_verdict_follows_what_won_and_what_lost(plays: int, shares: int, decision: str) -> None:
    users = {
        "a": {"n_play": around(20), "n_share": around(9)},
        "b": {"n_play": around(plays), "n_share": around(shares)},
    }
    assert run(users, [PLAYS, SHARES]).verdict.decision == decision


def test_less_of_what_is_bad_wins() -> None:
    verdict = run({"a": {"n_hate": around(20)}, "b": {"n_hate": around(15)}}, [HATES]).verdict
    assert verdict.decision == "ship"
    assert verdict.reasons[0].startswith("b wins hates: -25.0 %")


@pytest.mark.parametrize(("kept", "decision"), [(100, "ship"), (99, "ship"), (98, "keep_running")])
def test_a_win_is_shipped_only_when_every_guardrail_is_shown_to_hold(kept: int, decision: str) -> None:
    users = {
        "a": {"n_play": around(20), "active_days": around(100)},
        "b": {"n_play": around(25), "active_days": around(kept)},
    }
    verdict = run(users, [PLAYS, DAYS_KEPT], days=200).verdict
    assert verdict.decision == decision
    assert ("guardrail" in " ".join(verdict.reasons)) == (decision != "ship")


def test_a_guardrail_shown_to_be_broken_is_a_loss() -> None:
    users = {
        "a": {"n_play": around(20), "active_days": around(100)},
        "b": {"n_play": around(20), "active_days": around(90)},
    }
    analysis = run(users, [PLAYS, DAYS_KEPT], days=200)
    assert analysis.verdict.decision == "do_not_ship"
    assert "is worse than its margin of 2.0 %" in " ".join(analysis.verdict.reasons)


@pytest.mark.parametrize(
    ("b", "c", "decision", "treatment"),
    [
        (20, 25, "ship", "c"),
        (24, 30, "ship", "c"),
        (15, 20, "keep_running", None),
        (15, 15, "do_not_ship", None),
        (15, 25, "ship", "c"),
    ],
)
def test_the_best_of_several_treatments_decides(b: int, c: int, decision: str, treatment: str | None) -> None:
    users = {arm: {"n_play": around(mean)} for arm, mean in (("a", 20), ("b", b), ("c", c))}
    verdict = run(users).verdict
    assert (verdict.decision, verdict.treatment) == (decision, treatment)


def test_an_open_verdict_says_what_could_have_been_detected() -> None:
    users = {"a": {"n_play": around(20)}, "b": {"n_play": around(20)}}
    analysis = run(users)
    mde = only(analysis).mde
    assert mde is not None
    assert f"plays could have been detected from +{100 * mde:.1f} % on" in " ".join(analysis.verdict.reasons)


# health checks


def checks(analysis: Analysis) -> dict[str, str]:
    return {check.name: check.status for check in analysis.checks}


def test_a_sample_ratio_mismatch_withholds_the_verdict() -> None:
    analysis = run({"a": {"n_play": around(20, 700)}, "b": {"n_play": around(25, 500)}})
    assert checks(analysis)["sample_ratio"] == "failed"
    assert analysis.verdict.decision == "invalid"
    detail = analysis.checks[0].detail
    assert "a 700 (600.0 expected), b 500 (600.0 expected)" in detail
    assert re.search(r"losing \d+ % of one arm's users would have been found", detail)
    assert analysis.effects[0].p is not None


def test_equal_arms_pass_all_checks() -> None:
    users = {
        "n_play": around(20),
        "n_impression": around(40),
        "watch_ms": around(9),
        "active_days": [1] * 100,
    }
    assert set(checks(run({"a": users, "b": users})).values()) == {"ok"}


def test_users_in_an_arm_of_weight_0_fail_a_check() -> None:
    users = {"n_play": around(20)}
    settings = Experiment("x", (Arm("a"), Arm("b"), Arm("c", weight=0)), days=1).settings()
    exposed = {"a": 100, "b": 100, "c": 1}
    analysis = analyse(settings, rows({"a": users, "b": users}), exposed=exposed, metrics=[PLAYS])
    assert checks(analysis)["sample_ratio"] == "failed"
    assert analysis.checks[0].p is None
    exposed["c"] = 0
    analysis = analyse(settings, rows({"a": users, "b": users}), exposed=exposed, metrics=[PLAYS])
    assert checks(analysis)["sample_ratio"] == checks(analysis)["exposed_users"] == "ok"


@pytest.mark.parametrize(("crossovers", "status"), [(0, "ok"), (1, "ok"), (3, "warning")])
def test_crossovers_warn_from_1_percent_on(crossovers: int, status: str) -> None:
    users = {"n_play": around(20)}
    analysis = run({"a": users, "b": users}, crossovers=crossovers)
    assert checks(analysis)["crossovers"] == status
    assert analysis.verdict.decision != "invalid"


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({"n_impression": around(10)}, "failed", "2,000 plays of 1,000 impressions"),
        ({"n_impression": [0] * 100, "n_play": [0] * 100}, "failed", "no impression"),
        ({"active_days": [2] * 100}, "failed", "200 active days of 100 users in 1 days"),
    ],
)
def test_totals_that_contradict_each_other_fail_a_check(
    changed: dict[str, list[int]], status: str, words: str
) -> None:
    users = {
        "n_play": around(20),
        "n_impression": around(40),
        "watch_ms": around(9),
        "active_days": [1] * 100,
    }
    analysis = run({"a": users, "b": {**users, **changed}})
    assert checks(analysis)["event_completeness"] == status
    assert words in analysis.checks[-1].detail


def test_exposed_users_who_are_not_analysed_are_a_warning() -> None:
    users = {"n_play": around(20), "n_impression": around(40)}
    analysis = run({"a": users, "b": users}, exposed={"a": 100, "b": 110})
    assert checks(analysis)["event_completeness"] == "warning"


# bad input


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([], "no moments of days 1 to 1"),
        ([Row("z", Window(1, 1), 0, {}, {})], "unknown arm 'z'"),
        ([Row("a", Window(1, 1), 5, {"n_like": 1}, {})], "'plays' needs column 'n_play'"),
    ],
)
def test_moments_that_do_not_fit_are_refused(found: list[Row], words: str) -> None:
    settings = Experiment("x", (Arm("a"), Arm("b")), days=1).settings()
    with pytest.raises(LookupError, match=words):
        analyse(settings, found, exposed={}, metrics=[PLAYS])


def test_two_metrics_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        run({"a": {"n_play": [1]}, "b": {"n_play": [1]}}, [PLAYS, PLAYS])


# the document


def test_the_document_keeps_its_contract() -> None:
    columns = {column for metric in METRICS for column in metric.columns}
    users = {column: around(20) for column in sorted(columns)}
    document = run({"a": users, "b": users}, METRICS, days=2).document()
    assert set(document) >= {
        *("schema_version", "experiment", "exposed", "checks", "effects", "candidate_overlap", "verdict"),
        *("truth", "versions", "timings"),
    }
    assert set(document["experiment"]) >= {"name", "arms", "days", "seed", "n_users", "salt", "stage"}
    assert [set(arm) for arm in document["experiment"]["arms"]] == [{"name", "model", "weight", "role"}] * 2
    assert set(document["verdict"]) >= {"decision", "reasons"}
    for effect in document["effects"]:
        assert set(effect) == {
            *("metric", "role", "window", "control", "treatment", "method", "control_mean", "treatment_mean"),
            *("difference", "difference_ci", "lift", "lift_ci", "p", "p_adjusted", "level", "mde"),
            *("n_control", "n_treatment", "status", "reason"),
        }
        assert effect["role"] in ("goal", "guardrail", "diagnostic")
        assert effect["status"] in ("ok", "not_computable")
    for check in document["checks"]:
        assert set(check) == {"name", "status", "p", "detail"}
        assert check["status"] in ("ok", "warning", "failed", "not_run")
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_the_order_of_rows_does_not_matter() -> None:
    users = {"a": {"n_play": around(20)}, "b": {"n_play": around(21)}}
    settings = Experiment("x", (Arm("a"), Arm("b")), days=2).settings()
    exposed = {"b": 100, "a": 100}
    one = analyse(settings, rows(users, 2), exposed=exposed, metrics=[PLAYS])
    assert one == analyse(settings, rows(users, 2)[::-1], exposed=exposed, metrics=[PLAYS])

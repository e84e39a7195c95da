"""Daily looks in a report: correlation against re-randomised users, decisions, early stops, settings."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from abtest.analysis import Analysis, analyse, windows
from abtest.experiment import Arm, Experiment
from abtest.goals import goals_tested
from abtest.looks import pairs_of
from abtest.metrics import Metric
from abtest.stats.moments import Moments
from abtest.totals import measure_all, totals_of
from warehouse.events import LATE, PRE

PLAYS = Metric("plays", "n_play", role="goal")
RATE = Metric("play_rate", "n_play", "n_impression", role="goal")
DAYS = 4
Users = dict[str, np.ndarray]


def population(n: int, seed: int) -> Users:
    """Users who arrive over the days and whose days are correlated: (n, days) each, and their first day."""
    rng = np.random.default_rng(seed)
    taste = rng.gamma(2, 5, n)
    first = rng.choice(DAYS, n, p=[0.5, 0.2, 0.2, 0.1])
    there = np.arange(DAYS) >= first[:, None]
    shown = (rng.poisson(2 * taste[:, None], (n, DAYS)) + 1) * there
    return {
        "first": first,
        "n_impression": shown,
        "n_play": rng.binomial(shown, 0.4),
        "past": rng.poisson(taste),
    }


def of_window(users: Users, first: int, last: int) -> Moments:
    here = users["first"] < last
    names = ("n_play", "n_impression")
    columns = {name: users[name][here, first - 1 : last].sum(axis=1) for name in names}
    return Moments.from_arrays(**columns, **{PRE + name: users["past"][here] for name in names[:1]})


def of_pair(users: Users, early: int, late: int) -> Moments:
    here = users["first"] < early
    columns = {
        prefix + name: users[name][here, :last].sum(axis=1)
        for prefix, last in (("", early), (LATE, late))
        for name in ("n_play", "n_impression")
    }
    return Moments.from_arrays(**columns, **{PRE + "n_play": users["past"][here]})


def rows_of(arms: dict[str, Users]) -> tuple[list[Any], list[Any]]:
    rows = [
        SimpleNamespace(arm=arm, window=w, n=m.n, sums=m.sums, products=m.products)
        for arm, users in arms.items()
        for w in windows(DAYS)
        for m in [of_window(users, *w)]
    ]
    pairs = [
        SimpleNamespace(arm=arm, early=e, late=late, n=m.n, sums=m.sums, products=m.products)
        for arm, users in arms.items()
        for late in range(2, DAYS + 1)
        for e in range(1, late)
        for m in [of_pair(users, e, late)]
    ]
    return rows, pairs


def split(users: Users, treated: np.ndarray) -> dict[str, Users]:
    return {
        arm: {name: values[mask] for name, values in users.items()}
        for arm, mask in (("a", ~treated), ("b", treated))
    }


def run(arms: dict[str, Users], **options: Any) -> Analysis:
    rows, pairs = rows_of(arms)
    experiment = Experiment("x", (Arm("a"), Arm("b")), days=DAYS, **options)
    exposed = {arm: len(users["first"]) for arm, users in arms.items()}
    return analyse(experiment.settings(), rows, exposed=exposed, metrics=[PLAYS], pairs=pairs)


def lifted(users: Users, factor: int) -> Users:
    return {**users, "n_play": users["n_play"] * factor}


@pytest.mark.parametrize("metric", [PLAYS, RATE])
def test_the_correlation_of_looks_is_that_of_re_randomised_users(metric: Metric) -> None:
    """2,000 splits of 1,500 users who arrive over the days; a correlation has a standard error of .02."""
    users = population(1500, 1)
    rng = np.random.default_rng(2)
    splits = rng.permuted(np.tile(np.arange(1500) < 750, (2000, 1)), axis=1)
    here = users["first"][:, None] < np.arange(1, DAYS + 1)
    total = {name: np.cumsum(users[name], axis=1).astype(float) for name in ("n_play", "n_impression")}
    below = here.astype(float) if metric.denominator is None else total["n_impression"]
    arms = [(mask @ total["n_play"]) / (mask @ below) for mask in (splits.astype(float), 1.0 - splits)]
    expected = np.corrcoef(arms[0] - arms[1], rowvar=False)

    plain = Metric(metric.name, metric.numerator, metric.denominator, role="goal", covariates=())
    rows, pairs = rows_of(split(users, splits[0]))
    experiment = Experiment("x", (Arm("a"), Arm("b")), days=DAYS)
    totals = totals_of(rows, experiment, [plain])
    measured = measure_all([totals], experiment, [plain])
    (goal,) = goals_tested([{None: (totals, pairs_of(pairs))}], experiment, [plain], measured)
    assert goal.looks is not None
    assert goal.looks.is_estimated
    assert np.array(goal.looks.correlation) == pytest.approx(expected, abs=0.08)
    assert goal.looks.information[-1] == 1


def test_a_large_effect_stops_early_and_the_estimate_is_called_biased() -> None:
    users = population(1200, 3)
    arms = split(users, np.arange(1200) % 2 == 0)
    arms["b"] = lifted(arms["b"], 2)
    document = run(arms).document()
    (test,) = document["sequential"]
    assert test["decided_on"] < DAYS
    assert test["biased"]
    (deciding,) = [e for e in document["effects"] if e["p_adjusted"] is not None]
    assert deciding["window"] == {"from": 1, "to": test["decided_on"]}
    assert deciding["lift_ci"][0] > 0
    assert document["verdict"]["decision"] == "ship"
    assert "biased" in document["verdict"]["reasons"][0]


@pytest.mark.parametrize("sequential", ["obf", "pocock", "always-valid"])
def test_an_interval_excludes_0_exactly_when_the_adjusted_p_is_below_alpha(sequential: str) -> None:
    seen = set()
    for seed in range(6):
        users = population(300, seed)
        arms = split(users, np.arange(300) % 2 == 0)
        arms["b"]["n_play"] = arms["b"]["n_play"] + np.random.default_rng(seed).poisson(seed / 3, (150, DAYS))
        analysis = run(arms, sequential=sequential)
        (effect,) = [e for e in analysis.effects if e.is_deciding]
        assert effect.difference_ci is not None
        assert effect.p_adjusted is not None
        excludes = effect.difference_ci[0] > 0 or effect.difference_ci[1] < 0
        assert excludes == (effect.p_adjusted < 0.05)
        seen.add(excludes)
    assert seen == {True, False}


def test_one_look_at_the_end_is_the_fixed_test() -> None:
    users = population(400, 5)
    arms = split(users, np.arange(400) % 2 == 0)
    for options in ({"looks": "final"}, {"sequential": "none"}):
        analysis = run(arms, **options)
        (effect,) = [e for e in analysis.effects if e.is_deciding]
        assert effect.p_adjusted == effect.p
        assert effect.window == (1, DAYS)
        assert analysis.document()["sequential"] == []


def test_without_pairs_increments_are_taken_as_independent() -> None:
    users = population(400, 6)
    rows, _ = rows_of(split(users, np.arange(400) % 2 == 0))
    settings = Experiment("x", (Arm("a"), Arm("b")), days=DAYS).settings()
    document = analyse(settings, rows, exposed={"a": 200, "b": 200}, metrics=[PLAYS]).document()
    assert document["sequential"][0]["correlation"] == "independent increments"


def test_without_a_past_the_report_says_why_nothing_is_adjusted() -> None:
    moments = Moments.from_arrays(n_play=[1, 2, 3, 4, 6])
    rows = [
        SimpleNamespace(arm=arm, window=(1, 1), n=5, sums=moments.sums, products=moments.products)
        for arm in "ab"
    ]
    settings = Experiment("x", (Arm("a"), Arm("b")), days=1).settings()
    document = analyse(settings, rows, exposed={"a": 5, "b": 5}, metrics=[PLAYS]).document()  # type: ignore[arg-type]
    assert [(row["status"], row["reason"]) for row in document["cuped"]] == [
        ("off", "no pre-period is known")
    ]


@pytest.mark.parametrize("key", ["looks", "sequential", "correction"])
def test_an_unknown_design_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} is 'weekly'; allowed: "):
        Experiment("x", (Arm("a"), Arm("b")), **{key: "weekly"})

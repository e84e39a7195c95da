"""Experiments of several phases, against regression, re-randomised users and Simpson's paradox."""

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import statsmodels.api as sm

from abtest.analysis import Analysis, PhaseRows, analyse_phases
from abtest.experiment import OUTSIDE, Arm, Experiment
from abtest.goals import goals_tested
from abtest.looks import pairs_of
from abtest.metrics import Metric
from abtest.novelty import novelty_of
from abtest.population import Phase
from abtest.segments import segments_of
from abtest.stats.means import Estimate
from abtest.stats.strata import combined
from abtest.totals import measure_all, totals_of
from tests.abtest.conftest import Command
from tests.abtest.test_analysis import around, rows
from tests.abtest.test_looks import DAYS, PLAYS, RATE, population, rows_of, split
from tests.abtest.test_novelty import course
from warehouse.events import DAY_MS

ARMS = (Arm("a"), Arm("b"))
ONE = Metric("plays", "n_play", role="goal", covariates=())
TWO_PHASES = (Phase(0, 0.2, (0.9, 0.1)), Phase(DAY_MS, 1.0, (0.5, 0.5)))


def analysed(phases: list[dict[str, list[int]]], **options: Any) -> Analysis:
    experiment = Experiment("x", ARMS, days=2, phases=TWO_PHASES, looks="final", **options)
    given = [
        PhaseRows(
            rows({arm: {"n_play": values} for arm, values in arms.items()}, 2),
            {arm: len(values) for arm, values in arms.items()},
        )
        for arms in phases
    ]
    return analyse_phases(experiment.settings(), given, metrics=[ONE])


def test_the_effect_is_that_within_phases_where_pooled_users_show_the_opposite() -> None:
    """Simpson's paradox: the treatment adds 1 to everybody, but heavy users came when few were treated."""
    phases = [{"a": around(40, 900), "b": around(41, 100)}, {"a": around(10, 500), "b": around(11, 500)}]
    pooled = {arm: np.concatenate([phase[arm] for phase in phases]) for arm in "ab"}
    assert pooled["b"].mean() - pooled["a"].mean() < -10
    analysis = analysed(phases)
    (effect,) = (e for e in analysis.effects if e.is_deciding)
    assert effect.difference == pytest.approx(1, rel=1e-12)
    assert effect.control_mean == pytest.approx((40 * 1000 + 10 * 1000) / 2000)
    assert (effect.n_control, effect.n_treatment) == (1400, 600)
    assert analysis.verdict.decision == "ship"
    ratio = analysis.checks[0]
    assert (ratio.name, ratio.status, ratio.p) == ("sample_ratio", "ok", 1.0)


def test_value_and_variance_are_those_of_a_regression_with_centred_phases() -> None:
    """Lin's regression on arm, phase and their product, phases centred, with HC2 errors."""
    rng = np.random.default_rng(0)
    sizes = {("a", 0): 270, ("b", 0): 30, ("a", 1): 250, ("b", 1): 260}
    drawn = {key: rng.poisson(20 - 8 * key[1], n).tolist() for key, n in sizes.items()}
    analysis = analysed([{arm: drawn[arm, phase] for arm in "ab"} for phase in (0, 1)])
    (effect,) = (e for e in analysis.effects if e.is_deciding)
    y = np.concatenate([drawn[key] for key in sizes])
    arm = np.repeat([float(key[0] == "b") for key in sizes], list(sizes.values()))
    phase = np.repeat([float(key[1]) for key in sizes], list(sizes.values()))
    centred = phase - phase.mean()
    fit = sm.OLS(y, np.column_stack([np.ones_like(y), arm, centred, arm * centred])).fit(cov_type="HC2")
    assert effect.difference == pytest.approx(fit.params[1], rel=1e-9)
    low, high = effect.difference_ci or (0.0, 0.0)
    assert (high - low) / 2 / fit.bse[1] == pytest.approx(1.98, abs=0.03)  # t at Satterthwaite's 100 or so


def test_degrees_of_freedom_are_those_of_the_phase_that_holds_the_variance() -> None:
    few, many = Estimate(5, 1.0, 1.0), Estimate(10_000, 1.0, 1e-6)
    assert combined([few, many], [0.5, 0.5]).df == pytest.approx(4, rel=1e-3)
    assert combined([few, Estimate(0, None, None)], [0.5, 0.5]).value is None


def test_a_phase_without_users_of_an_arm_withholds_the_effect() -> None:
    analysis = analysed([{"a": around(10, 90), "b": []}, {"a": around(10, 50), "b": around(10, 50)}])
    (effect,) = (e for e in analysis.effects if e.is_deciding)
    assert (effect.p, effect.reason) == (None, "fewer than 2 users in an arm")


def test_the_sample_ratio_is_tested_by_phase() -> None:
    """Pooled counts fit pooled weights; within each phase they do not."""
    phases = [{"a": around(5, 800), "b": around(5, 200)}, {"a": around(5, 600), "b": around(5, 400)}]
    checks = {check.name: check for check in analysed(phases).checks}
    assert checks["sample_ratio"].status == "failed"
    assert "phase 2: the arms do not hold" in checks["sample_ratio"].detail
    assert "(fails below 0.0005)" in checks["sample_ratio"].detail


def test_segments_and_days_since_exposure_are_compared_within_phases() -> None:
    """The same paradox as of all users, in one segment and on each day."""
    phases = [{"a": around(40, 900), "b": around(41, 100)}, {"a": around(10, 500), "b": around(11, 500)}]
    experiment = Experiment("x", ARMS, days=2, phases=TWO_PHASES)
    given = [rows({arm: {"n_play": users} for arm, users in arms.items()}, 2) for arms in phases]
    all_days = [[row for row in found if row.window == (1, 2)] for found in given]
    (segment,) = segments_of([{"country": {"FI": found}} for found in all_days], experiment, [ONE]).effects
    assert segment.effect.difference == pytest.approx(1, rel=1e-12)
    effects = novelty_of([(found, ()) for found in given], experiment, [ONE]).effects
    assert {effect.window for effect in effects} >= {(1, 1), (1, 2)}
    (days,) = (effect for effect in effects if effect.window == (1, 2))
    assert days.difference == pytest.approx(1, rel=1e-12)


def test_a_trend_over_phases_weighs_slopes_and_variances_by_the_shares_of_users() -> None:
    rng = np.random.default_rng(4)
    sizes = {("a", 0): 900, ("b", 0): 100, ("a", 1): 500, ("b", 1): 600}
    drawn = {
        (arm, i): rng.poisson((30 - 20 * i) * (1.0 if arm == "a" else np.array([1.3, 1.2, 1.1])), (n, 3))
        for (arm, i), n in sizes.items()
    }
    phases = [([], [course(drawn[arm, i], arm) for arm in "ab"]) for i in (0, 1)]
    experiment = Experiment("x", ARMS, days=3, phases=TWO_PHASES)
    (trend,) = novelty_of(phases, experiment, [Metric("x", "x", role="goal")]).trends
    shares = [1000 / 2100, 1100 / 2100]
    c, t = (sum(shares[i] * drawn[arm, i].mean(axis=0) for i in (0, 1)) for arm in "ab")
    weights = np.array([-0.5, 0, 0.5])
    assert trend.slope == pytest.approx(weights @ (t / c), rel=1e-9)
    variance = sum(
        shares[i] ** 2 * (drawn[arm, i] @ of_arm).var(ddof=1) / sizes[arm, i]
        for i in (0, 1)
        for arm, of_arm in (("a", weights * t / c**2), ("b", weights / c))
    )
    low, high = trend.slope_ci or (0.0, 0.0)
    assert (high - low) / 2 / variance**0.5 == pytest.approx(1.97, abs=0.02)
    assert (trend.n_control, trend.n_treatment) == (1400, 700)


@pytest.mark.parametrize("metric", [PLAYS, RATE])
def test_looks_over_phases_have_the_errors_and_correlation_of_re_randomised_users(metric: Metric) -> None:
    """1,500 splits of 1,500 users, 80:20 of those of day 1 and 50:50 of later ones."""
    users, n_splits = population(1500, 1), 1500
    rng = np.random.default_rng(2)
    early = users["first"] == 0
    order = rng.permuted(np.tile(np.arange(1500), (n_splits, 1)), axis=1)
    treated = np.empty((n_splits, 1500), dtype=bool)
    for mask, share in ((early, 0.2), (~early, 0.5)):
        ranks = order[:, mask].argsort(axis=1).argsort(axis=1)
        treated[:, mask] = ranks < share * mask.sum()
    total = {name: np.cumsum(users[name], axis=1).astype(float) for name in ("n_play", "n_impression")}
    here = (users["first"][:, None] < np.arange(1, DAYS + 1)).astype(float)
    below = here if metric.denominator is None else total["n_impression"]
    differences = np.zeros((n_splits, DAYS))
    for mask in (early, ~early):
        share = here[mask].sum(axis=0) / here.sum(axis=0)
        means = [
            (side[:, mask] @ total["n_play"][mask]) / np.maximum(side[:, mask] @ below[mask], 1e-9)
            for side in (treated.astype(float), 1.0 - treated)
        ]
        differences += share * (means[0] - means[1])

    plain = Metric(metric.name, metric.numerator, metric.denominator, role="goal", covariates=())
    experiment = Experiment("x", ARMS, days=DAYS, phases=(Phase(), Phase(DAY_MS)))
    sums = []
    for mask in (early, ~early):
        mine = {name: values[mask] for name, values in users.items()}
        found, pairs = rows_of(split(mine, treated[0][mask]))
        sums.append({None: (totals_of(found, experiment, [plain]), pairs_of(pairs))})
    measured = measure_all([of_phase[None][0] for of_phase in sums], experiment, [plain])
    (goal,) = goals_tested(sums, experiment, [plain], measured)
    assert goal.looks is not None
    assert goal.looks.is_estimated
    assert np.array(goal.looks.correlation) == pytest.approx(np.corrcoef(differences, rowvar=False), abs=0.1)
    errors = [
        sum(measured[metric.name, (1, day)].adjusted[arm].variance or 0 for arm in "ab") ** 0.5  # type: ignore[index]
        for day in range(1, DAYS + 1)
    ]
    assert errors == pytest.approx(differences.std(axis=0), rel=0.12)


# Logs and runs

LOG_CONFIG = """
control = "old"
start = 1970-02-01
days = 4
alpha = 0.05

[map]
user = "uid"
ts = "ms"
ts_unit = "ms"
arm = "variant"
event = "kind"

[[metrics]]
name = "views"
numerator = "n_view"
role = "goal"
"""
LOG_PHASES = """
[[phases]]
day = 1
weights = { old = 0.9, new = 0.1 }
[[phases]]
start = 1970-02-02T12:00:00
weights = { old = 0.5, new = 0.5 }
"""
LOG_START = 31 * DAY_MS


@pytest.fixture(scope="module")
def ramp(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A log of users that are heavy when they come in the first 1.5 days (10 % new) and light later (half);
    new ones view one video more. Heavy users had viewed more before the start, too."""
    rng = np.random.default_rng(3)
    n = 3000
    heavy = np.arange(n) < n // 2
    new = rng.random(n) < np.where(heavy, 0.1, 0.5)
    first = LOG_START + np.where(heavy, rng.integers(0, 36, n), rng.integers(36, 72, n)) * 3_600_000
    views = rng.poisson(np.where(heavy, 12, 3)) + 1 + new
    before = rng.poisson(np.where(heavy, 6, 1))
    user = np.repeat(np.arange(n), views)
    rank = np.concatenate([np.arange(k) for k in views])
    past = np.repeat(np.arange(n), before)
    columns = {
        "uid": np.concatenate([user, past]),
        "ms": np.concatenate([first[user] + rank * 600_000, LOG_START - 1 - past * 1000]),
        "variant": np.concatenate([np.where(new[user], "new", "old"), np.where(new[past], "new", "old")]),
        "kind": np.full(len(user) + len(past), "view"),
    }
    folder = tmp_path_factory.mktemp("ramp")
    pq.write_table(pa.table(columns), folder / "log.parquet")
    for name, text in (("phases", LOG_CONFIG + LOG_PHASES), ("pooled", LOG_CONFIG)):
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return {"folder": folder, "heavy": heavy, "new": new, "views": views, "before": before}


def test_a_log_is_compared_within_declared_phases(abtest: Command, ramp: dict[str, Any]) -> None:
    log = str(ramp["folder"] / "log.parquet")
    found = {}
    for name in ("phases", "pooled"):
        result = abtest("analyze", log, "--config", str(ramp["folder"] / f"{name}.toml"), "--json")
        document = json.loads(result.stdout)
        last = {"from": 1, "to": 4}
        (effect,) = (e for e in document["effects"] if e["window"] == last)
        found[name] = result.exit_code, document, effect
    code, document, effect = found["phases"]
    assert code == 0, document["checks"]
    assert effect["lift_ci"][0] > 0
    assert found["pooled"][0] == 3  # without phases neither the counts nor the past fit
    assert found["pooled"][2]["difference"] < 0
    new, heavy, views = (ramp[key] for key in ("new", "heavy", "views"))
    cuped = next(row for row in document["cuped"] if row["window"] == effect["window"])
    by_hand = sum(
        mask.mean() * (views[mask & new].mean() - views[mask & ~new].mean()) for mask in (heavy, ~heavy)
    )
    assert cuped["unadjusted_difference"] == pytest.approx(by_hand, rel=1e-9)
    assert [sum(counts.values()) for counts in document["exposed_by_phase"]] == [1500, 1500]
    checks = {check["name"]: check for check in document["checks"]}
    assert checks["pre_period"]["status"] == checks["sample_ratio_by_day"]["status"] == "ok"
    assert "of 4" in checks["sample_ratio_by_day"]["detail"]  # day 2 is in both phases


def test_views_of_a_log_are_those_of_its_phases(abtest: Command, ramp: dict[str, Any]) -> None:
    """A segment of all users has the effect of all users, and so have all days since exposure."""
    config = str(ramp["folder"] / "phases.toml")
    options = ("--config", config, "--segments", "kind", "--json")
    document = json.loads(abtest("analyze", str(ramp["folder"] / "log.parquet"), *options).stdout)
    (effect,) = (e for e in document["effects"] if e["window"] == {"from": 1, "to": 4})
    (segment,) = document["segments"]
    for key in ("difference", "p", "n_control", "n_treatment"):
        assert segment[key] == effect[key]
    by_window = {(e["window"]["from"], e["window"]["to"]): e for e in document["since_exposure"]["effects"]}
    assert by_window[1, 1]["n_control"] == effect["n_control"]
    assert by_window[1, 1]["difference"] > 0
    (test,) = document["sequential"]
    assert test["correlation"] == "estimated"


def test_an_interim_analysis_may_come_before_the_later_phases(
    abtest: Command, ramp: dict[str, Any], tmp_path: Path
) -> None:
    log = pq.read_table(ramp["folder"] / "log.parquet")
    pq.write_table(log.filter(np.array(log["ms"]) < LOG_START + DAY_MS), tmp_path / "log.parquet")
    options = ("--config", str(ramp["folder"] / "phases.toml"), "--json")
    result = abtest("analyze", str(tmp_path / "log.parquet"), *options)
    document = json.loads(result.stdout)
    assert result.exit_code == 0, document["checks"]
    assert (document["experiment"]["days"], document["experiment"]["planned_days"]) == (1, 4)
    first, later = document["exposed_by_phase"]
    assert sum(first.values()) == sum(document["exposed"].values()) > 900
    assert sum(later.values()) == 0
    assert document["effects"][0]["p"] is not None


def test_a_recorded_run_with_a_layer_a_holdout_and_a_ramp(run_small: Command, tmp_path: Path) -> None:
    config = tmp_path / "design.toml"
    config.write_text(
        'layer = "feed:0-70"\nbeside = "titles:70-100"\nholdout = 10\n'
        '[[phases]]\nday = 1\ncoverage = 40\nsplit = "75,25"\n[[phases]]\nday = 2\nsplit = "50,50"\n'
    )
    folder = tmp_path / "run"
    run_small(folder, "poprec,poprec", "--config", str(config), "--users", "200")
    document = json.loads((folder / "report.json").read_text())
    experiment = Experiment.from_settings(document["experiment"])
    with duckdb.connect(str(folder / "events.duckdb"), read_only=True) as db:
        exposures = db.execute("select user, arm, first_ts from exposures order by user").fetchall()
        active = db.execute(f"select distinct user from events where ts >= {DAY_MS}").fetchnumpy()["user"]
    users = np.array([user for user, _, _ in exposures])
    first = np.array([ts for _, _, ts in exposures]) - DAY_MS
    names = [arm.name for arm in experiment.arms]
    assert [arm for _, arm, _ in exposures] == [names[i] for i in experiment.assign_at(users, first)]
    assert (first < DAY_MS).any()
    assert (first >= DAY_MS).any()
    outside = experiment.assign(active, 1) == OUTSIDE
    assert outside.sum() > 10  # served all the same
    assert set(active[~outside]) >= set(users.tolist())
    assert document["experiment"]["population"] == experiment.population(np.arange(200))
    assert document["exposed"] == {arm: sum(a == arm for _, a, _ in exposures) for arm in names}
    checks = {check["name"]: check["status"] for check in document["checks"]}
    assert checks["assignment"] == checks["sample_ratio"] == checks["sample_ratio_assigned"] == "ok"
    text = (folder / "report.md").read_text()
    assert "could be in an arm by the end" in text
    assert "| 1 | day 1 | 40 % | 75 %, 25 % |" in text

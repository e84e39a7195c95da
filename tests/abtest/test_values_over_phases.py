"""Caps, quantiles and draws over phases, by segment and by days since exposure, against regression, brute
force and a loop over the log."""

import json
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests

from abtest.stats.bootstrap import Sample, Stratum, stratified_bootstrap
from abtest.stats.clustered import Clustered, over_strata
from abtest.stats.means import FEW_USERS
from abtest.stats.permutation import stratified_permutation
from abtest.stats.quantiles import bootstrap_quantile, quantile_estimate
from tests.abtest.conftest import Command, metric_toml
from tests.abtest.ramp import (
    DAYS,
    N,
    Ramp,
    analyse_ramp,
    by_cell,
    effect,
    half,
    lin,
    resampled,
    weighted_mid_quantile,
)


@pytest.fixture(scope="module")
def found(abtest: Command, ramp: Ramp, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return analyse_ramp(abtest, ramp, tmp_path_factory.mktemp("ramp"))


@pytest.mark.parametrize("last", [2, 3])
def test_a_capped_mean_is_lins_regression_on_values_cut_at_the_quantile_of_all_phases(
    found: dict[str, Any], ramp: Ramp, last: int
) -> None:
    spent = ramp.spent(last=last)
    cap = np.quantile(spent, 0.95, method="inverted_cdf")
    difference, error = lin(ramp, np.minimum(spent, cap))
    one = effect(found, "capped", 1, last)
    assert one["method"] == "welch"
    assert one["difference"] == pytest.approx(difference, rel=1e-9)
    if last < DAYS:  # a look at the level of its bound
        return
    assert half(one["difference_ci"]) / error == pytest.approx(2.4, abs=0.4)
    assert (one["n_control"] + one["n_treatment"]) == N
    (used,) = (r for r in found["caps"] if r["metric"] == "capped" and r["window"] == one["window"])
    assert used["caps"] == [{"column": "spent", "value": cap, "n_above": int((spent > cap).sum())}]


def test_a_window_in_which_one_phase_has_users_is_that_phase(found: dict[str, Any], ramp: Ramp) -> None:
    spent = ramp.spent(1, 1)[ramp.early]
    cap = np.quantile(spent, 0.95, method="inverted_cdf")
    cut, new = np.minimum(spent, cap), ramp.new[ramp.early]
    assert effect(found, "capped", 1, 1)["difference"] == pytest.approx(
        cut[new].mean() - cut[~new].mean(), rel=1e-9
    )
    assert effect(found, "p80", 1, 1)["control_mean"] == pytest.approx(
        weighted_mid_quantile(spent[~new], np.ones((~new).sum()), 0.8), rel=1e-9
    )


@pytest.mark.parametrize("metric", ["p80", "median_buy"])
def test_a_quantile_weighs_users_by_phase_and_has_the_error_of_a_brute_force_bootstrap(
    found: dict[str, Any], ramp: Ramp, metric: str
) -> None:
    """150 resamples of the users of each arm and phase."""
    of_users, q = metric == "p80", 0.8 if metric == "p80" else 0.5
    values = ramp.spent() if of_users else ramp.amount.astype(float)
    owner = np.arange(N) if of_users else ramp.buyer

    quantiles, deviation = resampled(ramp, values, owner, q, ramp.early)
    one = effect(found, metric)
    assert [one["control_mean"], one["treatment_mean"]] == pytest.approx(quantiles, rel=1e-9)
    width = half(one["difference_ci"]) / (1.96 if one["level"] == pytest.approx(0.95) else 2.3)
    assert width == pytest.approx(deviation, rel=0.25)


def test_the_bootstrap_of_a_quantile_over_strata_agrees_with_the_delta_method(ramp: Ramp) -> None:
    spent = ramp.spent()
    parts = [Clustered(spent[mask & ~ramp.new]) for mask in (ramp.early, ~ramp.early)]
    arm = over_strata(parts, [0.5, 0.5])
    delta, boot = quantile_estimate(arm, 0.8).estimate, bootstrap_quantile(arm, 0.8, draws=400).estimate
    assert delta.value == boot.value
    assert boot.variance == pytest.approx(delta.variance, rel=0.25)
    assert boot.df == delta.df < arm.n - 1
    lonely = over_strata([parts[0], Clustered(spent[:1])], [0.9, 0.1])
    assert quantile_estimate(lonely, 0.8).reason == FEW_USERS


def test_draws_over_phases_agree_with_the_regression(found: dict[str, Any], ramp: Ramp) -> None:
    difference, error = lin(ramp, ramp.spent())
    for metric in ("boot", "permuted"):
        one = effect(found, metric)
        assert one["method"] == ("bootstrap" if metric == "boot" else "permutation")
        assert one["difference"] == pytest.approx(difference, rel=1e-9)
        assert half(one["difference_ci"]) / error == pytest.approx(1.98, rel=0.12)
        assert (one["p"] < 0.05) == (one["difference_ci"][0] > 0)


def test_all_deals_within_strata_are_listed() -> None:
    rng = np.random.default_rng(2)
    cells = [(rng.normal(5, 1, 3), rng.normal(6, 1, 3)), (rng.normal(1, 1, 4), rng.normal(2, 1, 2))]
    shares = [0.5, 0.5]
    strata = [Stratum(share, *map(Sample, cell)) for share, cell in zip(shares, cells, strict=True)]
    reference = stratified_permutation(strata)
    assert reference is not None
    assert reference.is_exact

    def t(chosen: tuple[tuple[int, ...], ...]) -> float:
        gap = variance = 0.0
        for share, cell, deal in zip(shares, cells, chosen, strict=True):
            both = np.concatenate(cell)
            treated = np.isin(np.arange(len(both)), deal)
            gap += share * (both[treated].mean() - both[~treated].mean())
            variance += share**2 * sum(x.var(ddof=1) / len(x) for x in (both[treated], both[~treated]))
        return abs(gap) / variance**0.5

    sizes = [(len(c) + len(t), len(t)) for c, t in cells]
    deals = [t(chosen) for chosen in product(*(list(combinations(range(n), k)) for n, k in sizes))]
    assert reference.draws == pytest.approx(np.sort(deals)[::-1], rel=1e-9)


def test_a_stratum_with_one_user_of_an_arm_has_no_draws() -> None:
    pair = Sample(np.arange(5)), Sample(np.arange(5))
    lonely = Stratum(0.5, Sample(np.arange(5)), Sample(np.arange(1)))
    for engine in (stratified_bootstrap, stratified_permutation):
        assert engine([Stratum(0.5, *pair), lonely], draws=100) is None


def test_segments_of_metrics_of_values_are_compared_within_phases_and_corrected_with_all(
    found: dict[str, Any], ramp: Ramp
) -> None:
    spent = ramp.spent()
    cut = np.minimum(spent, np.quantile(spent, 0.95, method="inverted_cdf"))
    rows = {(e["metric"], e["segment"]): e for e in found["segments"]}
    assert [key[1] for key in rows][:3] == ["(none)", "FI", "日本"]
    assert len(rows) == 3 * 3  # the goals
    lifts, variances = [], []
    for segment in ("(none)", "FI", "日本"):
        inside = ramp.country == segment.replace("(none)", "")
        one = rows["capped", segment]
        difference, _ = lin(ramp, cut, inside)
        assert one["difference"] == pytest.approx(difference, rel=1e-9)
        assert one["n_control"] == (inside & ~ramp.new).sum()
        weights = [by_cell(ramp.early[inside], ramp.new[inside], arm) for arm in (0, 1)]
        assert rows["p80", segment]["treatment_mean"] == pytest.approx(
            weighted_mid_quantile(spent[inside], weights[1], 0.8), rel=1e-9
        )
        c, t = (w @ cut[inside] for w in weights)
        cells = [
            (mask.sum() / inside.sum()) ** 2 * cut[mine].var(ddof=1) / mine.sum()
            for arm in (False, True)
            for mask in (inside & ramp.early, inside & ~ramp.early)
            for mine in [mask & (ramp.new == arm)]
        ]
        lifts.append(t / c - 1)
        variances.append((sum(cells[2:]) + (t / c) ** 2 * sum(cells[:2])) / c**2)
    tests = {test["metric"]: test for test in found["heterogeneity"]}
    oracle = combine_effects(np.array(lifts), np.array(variances)).test_homogeneity()
    assert tests["capped"]["q"] == pytest.approx(oracle.statistic, rel=1e-8)
    assert (tests["p80"]["df"], tests["p80"]["reason"]) == (2, None)
    adjusted = multipletests([e["p"] for e in found["segments"]], method="holm")[1]
    assert [e["p_adjusted"] for e in found["segments"]] == pytest.approx(adjusted, rel=1e-9)
    assert "Does the lift of p80 differ between segments?" in found["report.md"].replace("\\", "")


@pytest.mark.parametrize(("first", "last"), [(1, 1), (2, 2), (1, 2), (3, 3), (1, 3)])
def test_days_since_exposure_are_those_of_a_loop(
    found: dict[str, Any], ramp: Ramp, first: int, last: int
) -> None:
    can = ramp.early | (last < DAYS)  # those of day 2 can have had two days
    spent = ramp.spent(first, last, since=True)
    cap = np.quantile(spent[can], 0.95, method="inverted_cdf")
    rows = {
        (e["metric"], e["window"]["from"], e["window"]["to"]): e for e in found["since_exposure"]["effects"]
    }
    one = rows["capped", first, last]
    assert one["n_control"] + one["n_treatment"] == can.sum()
    cut = np.minimum(spent, cap)
    if last < DAYS:
        assert one["difference"] == pytest.approx(lin(ramp, cut)[0], rel=1e-9)
    else:
        old, new = cut[ramp.early & ~ramp.new], cut[ramp.early & ramp.new]
        assert one["difference"] == pytest.approx(new.mean() - old.mean(), rel=1e-9)


def test_the_trend_of_a_capped_mean_is_the_slope_of_lifts_with_the_error_of_resampled_users(
    found: dict[str, Any], ramp: Ramp
) -> None:
    """Of those who can have had the days that half of the users can have had: here three."""
    trends = {trend["metric"]: trend for trend in found["since_exposure"]["trends"]}
    days = trends["capped"]["days"]
    assert (days, trends["capped"]["n_control"] + trends["capped"]["n_treatment"]) == (3, ramp.early.sum())
    cut = []
    for k in range(1, days + 1):
        spent = ramp.spent(k, k, since=True)[ramp.early]
        cut.append(np.minimum(spent, np.quantile(spent, 0.95, method="inverted_cdf")))
    users, new = np.array(cut).T, ramp.new[ramp.early]

    def slope(of_old: np.ndarray, of_new: np.ndarray) -> float:
        lifts = of_new.mean(axis=0) / of_old.mean(axis=0) - 1
        return float(np.polyfit(np.arange(days), lifts, 1)[0])

    one = trends["capped"]
    assert one["slope"] == pytest.approx(slope(users[~new], users[new]), rel=1e-9)
    rng = np.random.default_rng(6)
    drawn = [
        slope(*(side[rng.integers(0, len(side), len(side))] for side in (users[~new], users[new])))
        for _ in range(400)
    ]
    z = half(one["slope_ci"]) / np.std(drawn)
    assert z == pytest.approx(-norm.ppf((1 - one["level"]) / 2), rel=0.12)
    assert trends["p80"]["reason"] == "the errors of a quantile on several days are not known together"
    assert trends["spent"]["p"] is not None


def test_a_recorded_run_has_the_same_views(abtest: Command, finished_run: Path, tmp_path: Path) -> None:
    """Of metrics whose cap or quantile changes nothing, they are those of the plain ones."""
    config = tmp_path / "x.toml"
    config.write_text(
        metric_toml("plain", "watch_ms", role="goal")
        + metric_toml("capped", "watch_ms", role="goal", cap_value=1e12),
        encoding="utf-8",
    )
    document = json.loads(abtest("analyze", str(finished_run), "--config", str(config), "--json").stdout)
    for rows in (document["segments"], document["since_exposure"]["effects"]):
        plain, capped = ([row for row in rows if row["metric"] == name] for name in ("plain", "capped"))
        assert len(plain) == len(capped) > 2
        for one, other in zip(plain, capped, strict=True):
            for key in ("difference", "p", "n_control", "method", "lift"):
                assert one[key] == other[key]

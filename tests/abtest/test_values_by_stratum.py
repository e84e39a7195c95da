"""Post-stratified caps, quantiles and draws, over phases, against regression, brute force and repeated
experiments."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abtest.parts import Part, Strata, pieces_of
from abtest.stats.clustered import Clustered, over_strata
from abtest.stats.quantiles import quantile_estimate
from tests.abtest.conftest import USERS, Command, analyse_table, metric_toml
from tests.abtest.ramp import DAYS, Ramp, analyse_ramp, by_cell, effect, half, lin, resampled

N_REPEATED = 150


@pytest.fixture(scope="module")
def countries(ramp: Ramp) -> Ramp:
    """The same users, of whom those in FI spend five times as much."""
    return ramp._replace(amount=ramp.amount * np.where(ramp.country == "FI", 5, 1)[ramp.buyer])


@pytest.fixture(scope="module")
def cells(countries: Ramp) -> np.ndarray:
    """Few of day 1 are new: two countries are pooled there. Those of day 2 have three strata."""
    country = np.unique(countries.country, return_inverse=True)[1]
    return np.where(countries.early, np.where(countries.country == "日本", 3, 4), country)


@pytest.fixture(scope="module")
def found(abtest: Command, countries: Ramp, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return analyse_ramp(abtest, countries, tmp_path_factory.mktemp("strata"), "--stratify", "country")


def test_a_capped_mean_is_lins_regression_within_phase_and_stratum(
    found: dict[str, Any], countries: Ramp, cells: np.ndarray
) -> None:
    spent = countries.spent()
    cut = np.minimum(spent, np.quantile(spent, 0.95, method="inverted_cdf"))
    difference, error = lin(countries, cut, cells=cells)
    one = effect(found, "capped")
    assert one["method"] == "post-stratified"
    assert one["difference"] == pytest.approx(difference, rel=1e-9)
    assert half(one["difference_ci"]) / error == pytest.approx(2.4, abs=0.4)
    assert error < lin(countries, cut)[1]
    assert effect(found, "basket")["method"] == "post-stratified"


@pytest.mark.parametrize("metric", ["p80", "median_buy"])
def test_a_quantile_weighs_users_by_stratum_and_has_the_error_of_a_brute_force_bootstrap(
    found: dict[str, Any], countries: Ramp, cells: np.ndarray, metric: str
) -> None:
    of_users, q = metric == "p80", 0.8 if metric == "p80" else 0.5
    values = countries.spent() if of_users else countries.amount.astype(float)
    owner = np.arange(len(cells)) if of_users else countries.buyer
    (old, new), deviation = resampled(countries, values, owner, q, cells)
    (plain, _), _ = resampled(countries, values, owner, q, countries.early, draws=1)
    one = effect(found, metric)
    assert one["method"] == "post-stratified, quantile"
    assert one["difference"] == pytest.approx(new - old, rel=1e-9)
    assert one["control_mean"] == pytest.approx(plain, rel=1e-9)  # as observed
    width = half(one["difference_ci"]) / (1.96 if one["level"] == pytest.approx(0.95) else 2.3)
    assert width == pytest.approx(deviation, rel=0.25)


def test_draws_within_strata_agree_with_the_regression(
    found: dict[str, Any], countries: Ramp, cells: np.ndarray
) -> None:
    difference, error = lin(countries, countries.spent(), cells=cells)
    for metric, engine in (("boot", "bootstrap"), ("permuted", "permutation")):
        one = effect(found, metric)
        assert one["method"] == f"post-stratified, {engine}"
        assert one["difference"] == pytest.approx(difference, rel=1e-9)
        assert half(one["difference_ci"]) / error == pytest.approx(1.98, rel=0.12)


def test_the_report_says_what_strata_took_out_in_each_phase(found: dict[str, Any]) -> None:
    for metric in ("capped", "p80", "boot"):
        one, other = (
            row
            for row in found["stratification"]
            if row["metric"] == metric and row["window"] == {"from": 1, "to": DAYS}
        )
        assert (one["phase"], one["status"], one["n_strata"], one["pooled"]) == (1, "ok", 2, ["", "FI"])
        assert (other["phase"], other["status"], other["n_strata"], other["pooled"]) == (2, "ok", 3, [])
        assert other["variance_reduction"] > 0.02
    assert "Post-stratified by country" in found["report.md"]


def test_a_quantile_by_stratum_has_the_error_of_repeated_experiments() -> None:
    """150 of 900 users, whose strata say what they spend."""
    rng = np.random.default_rng(3)
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "strata": []}
    for _ in range(N_REPEATED):
        country = rng.choice(3, 900, p=[0.5, 0.3, 0.2])
        spent = rng.gamma(3, 10.0 * np.array([1, 2, 4])[country])
        new = rng.random(900) < 0.4
        sides = {"a": ~new, "b": new}
        part = Part({arm: {"x": spent[side]} for arm, side in sides.items()})
        strata = Strata.of_labels({arm: country.astype(str)[side] for arm, side in sides.items()})
        for name, pieces in (("plain", pieces_of([part])), ("strata", pieces_of([part], [strata]))):
            shares = [piece.share for piece in pieces]
            a, b = (
                quantile_estimate(
                    over_strata([Clustered(piece.part.columns[arm]["x"]) for piece in pieces], shares), 0.7
                ).estimate
                for arm in sides
            )
            gap = (b.value or 0) - (a.value or 0)
            found[name].append((gap, ((a.variance or 0) + (b.variance or 0)) ** 0.5))
    gaps, errors = np.array(found["strata"]).T
    assert errors.mean() == pytest.approx(gaps.std(), rel=0.15)
    assert errors.mean() < 0.9 * np.array(found["plain"])[:, 1].mean()


def test_draws_of_a_ratio_stay_within_phases_and_say_so(abtest: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    n = 400
    rows = {
        "u": np.arange(n), "arm": np.where(np.arange(n) % 2, "b", "a"), "c": rng.choice(["x", "y"], n),
        "y": rng.poisson(9, n), "d": 1 + rng.poisson(3, n),
    }  # fmt: skip
    config = USERS + metric_toml("r", "y", denominator="d", role="goal", method="bootstrap", draws=100)
    document = json.loads(analyse_table(abtest, tmp_path, rows, config, "--stratify", "c", "--json").stdout)
    assert document["effects"][0]["method"] == "bootstrap"
    (row,) = document["stratification"]
    assert (row["status"], row["reason"]) == (
        "off",
        "draws of a ratio would be of ratios within strata, which is another quantity",
    )


def test_weights_of_cells_sum_to_their_shares(countries: Ramp, cells: np.ndarray) -> None:
    """The oracle's own weights: each arm's sum to 1, a cell's to its share."""
    for arm in (0, 1):
        weights = by_cell(cells, countries.new, arm)
        assert weights.sum() == pytest.approx(1)
        assert weights[cells == 4].sum() == pytest.approx((cells == 4).mean())

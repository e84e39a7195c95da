"""Caps, quantiles and draws over phases, by segment and by days since exposure, against regression, brute
force and a loop over the log."""

import json
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import statsmodels.api as sm
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests

from abtest.stats.bootstrap import Sample, Stratum, stratified_bootstrap
from abtest.stats.clustered import Clustered, over_strata
from abtest.stats.means import FEW_USERS
from abtest.stats.permutation import stratified_permutation
from abtest.stats.quantiles import bootstrap_quantile, quantile_estimate
from tests.abtest.conftest import Command
from warehouse.events import DAY_MS

START = 31 * DAY_MS
N, DAYS = 1500, 3
CONFIG = """
control = "old"
start = 1970-02-01
days = 3
pre_days = 0
[map]
user = "uid"
ts = "ms"
ts_unit = "ms"
arm = "variant"
event = "kind"
value = "amount"
segment = "country"
[totals]
spent = { event = "buy", sum = "value" }
[[phases]]
day = 1
weights = { old = 0.9, new = 0.1 }
[[phases]]
day = 2
weights = { old = 0.5, new = 0.5 }
[[metrics]]
name = "capped"
numerator = "spent"
cap = 0.95
role = "goal"
covariates = []
[[metrics]]
name = "basket"
numerator = "spent"
denominator = "n_buy"
cap = 0.95
covariates = []
[[metrics]]
name = "p80"
numerator = "spent"
quantile = 0.8
role = "goal"
[[metrics]]
name = "median_buy"
numerator = "spent"
quantile = 0.5
over = "events"
[[metrics]]
name = "boot"
numerator = "spent"
method = "bootstrap"
draws = 400
[[metrics]]
name = "permuted"
numerator = "spent"
method = "permutation"
draws = 400
[[metrics]]
name = "spent"
numerator = "spent"
role = "goal"
covariates = []
"""


class Ramp(NamedTuple):
    """Users who spend much come on day 1, when few are new; the others on day 2. A row of the log a purchase,
    one of 0 at the first exposure."""

    early: np.ndarray
    new: np.ndarray
    country: np.ndarray
    buyer: np.ndarray
    day: np.ndarray
    amount: np.ndarray

    def spent(self, first: int = 1, last: int = DAYS, *, since: bool = False) -> np.ndarray:
        day = self.day - np.where(self.early, 0, 1)[self.buyer] if since else self.day
        inside = (day >= first) & (day <= last)
        return np.bincount(self.buyer[inside], self.amount[inside], minlength=N)


@pytest.fixture(scope="module")
def ramp() -> Ramp:
    rng = np.random.default_rng(5)
    early = np.arange(N) < N // 2
    new = rng.random(N) < np.where(early, 0.1, 0.5)
    country = np.array(["FI", "日本", ""])[np.arange(N) % 3]
    n_bought = 1 + rng.poisson(np.where(early, 5, 2))
    buyer = np.repeat(np.arange(N), n_bought)
    is_first = np.r_[True, np.diff(buyer) > 0]
    day = np.where(is_first, np.where(early, 1, 2)[buyer], rng.integers(np.where(early, 1, 2)[buyer], 4))
    taste = rng.gamma(3, np.where(early, 30, 8))
    lift = 1 + 0.3 * new * (country == "FI")
    return Ramp(
        early, new, country, buyer, day, np.rint(rng.gamma(2, (taste * lift)[buyer])).astype(np.int64)
    )


@pytest.fixture(scope="module")
def found(abtest: Command, ramp: Ramp, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ramp")
    hour = 3_600_000 * (np.arange(len(ramp.buyer)) % 23)
    hour[np.r_[True, np.diff(ramp.buyer) > 0]] = 0
    country = [name or None for name in ramp.country[ramp.buyer].tolist()]
    columns = {
        "uid": ramp.buyer,
        "ms": START + (ramp.day - 1) * DAY_MS + 3_600_000 + hour,
        "variant": np.where(ramp.new[ramp.buyer], "new", "old"),
        "kind": np.full(len(ramp.buyer), "buy"),
        "amount": ramp.amount,
        "country": country,
    }
    pq.write_table(pa.table(columns), folder / "log.parquet")
    (folder / "x.toml").write_text(CONFIG, encoding="utf-8")
    result = abtest(
        "analyze", str(folder / "log.parquet"), "--config", str(folder / "x.toml"), "--json",
        "--out", str(folder),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    document = dict(json.loads(result.stdout))
    document["report.md"] = (folder / "report.md").read_text(encoding="utf-8")
    return document


def effect(found: dict[str, Any], metric: str, first: int = 1, last: int = DAYS) -> dict[str, Any]:
    (one,) = (
        e for e in found["effects"] if e["metric"] == metric and e["window"] == {"from": first, "to": last}
    )
    return dict(one)


def lin(ramp: Ramp, y: np.ndarray, inside: np.ndarray | None = None) -> tuple[float, float]:
    """The effect and its error in Lin's regression on arm, phase and their product, phases centred (HC2)."""
    mask = np.ones(N, bool) if inside is None else inside
    arm, phase = ramp.new[mask] * 1.0, ramp.early[mask] * 1.0
    centred = phase - phase.mean()
    fit = sm.OLS(y[mask], np.column_stack([np.ones(mask.sum()), arm, centred, arm * centred])).fit(
        cov_type="HC2"
    )
    return float(fit.params[1]), float(fit.bse[1])


def half(interval: tuple[float, float]) -> float:
    return (interval[1] - interval[0]) / 2


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


def weighted_mid_quantile(x: np.ndarray, weights: np.ndarray, q: float) -> float:
    held = weights > 0
    values, place = np.unique(x[held], return_inverse=True)
    mass = np.bincount(place, weights[held]) / weights.sum()
    return float(np.interp(q, np.cumsum(mass) - mass / 2, values))


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


def by_phase(early: np.ndarray, new: np.ndarray, arm: int) -> np.ndarray:
    """What each user of an arm weighs: one over the chance of the arm in the user's phase."""
    weights = np.zeros(len(early))
    for mask in (early, ~early):
        mine = mask & (new == bool(arm))
        weights[mine] = mask.mean() / mine.sum()
    return weights


@pytest.mark.parametrize("metric", ["p80", "median_buy"])
def test_a_quantile_weighs_users_by_phase_and_has_the_error_of_a_brute_force_bootstrap(
    found: dict[str, Any], ramp: Ramp, metric: str
) -> None:
    """150 resamples of the users of each arm and phase."""
    of_users, q = metric == "p80", 0.8 if metric == "p80" else 0.5
    values = ramp.spent() if of_users else ramp.amount.astype(float)
    owner = np.arange(N) if of_users else ramp.buyer

    def quantiles(copies: np.ndarray) -> list[float]:
        return [
            weighted_mid_quantile(values, (copies * by_phase(ramp.early, ramp.new, arm))[owner], q)
            for arm in (0, 1)
        ]

    one = effect(found, metric)
    assert [one["control_mean"], one["treatment_mean"]] == pytest.approx(quantiles(np.ones(N)), rel=1e-9)
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(150):
        copies = np.zeros(N)
        for cell in product((ramp.early, ~ramp.early), (ramp.new, ~ramp.new)):
            mine = np.flatnonzero(cell[0] & cell[1])
            np.add.at(copies, rng.choice(mine, len(mine)), 1.0)
        old, new = quantiles(copies)
        drawn.append(new - old)
    width = half(one["difference_ci"]) / (1.96 if one["level"] == pytest.approx(0.95) else 2.3)
    assert width == pytest.approx(np.std(drawn), rel=0.25)


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
        weights = [by_phase(ramp.early[inside], ramp.new[inside], arm) for arm in (0, 1)]
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
    trends = {trend["metric"]: trend for trend in found["since_exposure"]["trends"]}
    assert trends["capped"]["reason"] == "a trend is tested of means and ratios of whole totals"
    assert trends["spent"]["p"] is not None


def test_a_recorded_run_has_the_same_views(abtest: Command, finished_run: Path, tmp_path: Path) -> None:
    """Of metrics whose cap or quantile changes nothing, they are those of the plain ones."""
    config = tmp_path / "x.toml"
    config.write_text(
        '[[metrics]]\nname = "plain"\nnumerator = "watch_ms"\nrole = "goal"\n'
        '[[metrics]]\nname = "capped"\nnumerator = "watch_ms"\nrole = "goal"\ncap_value = 1e12\n',
        encoding="utf-8",
    )
    document = json.loads(abtest("analyze", str(finished_run), "--config", str(config), "--json").stdout)
    for rows in (document["segments"], document["since_exposure"]["effects"]):
        plain, capped = ([row for row in rows if row["metric"] == name] for name in ("plain", "capped"))
        assert len(plain) == len(capped) > 2
        for one, other in zip(plain, capped, strict=True):
            for key in ("difference", "p", "n_control", "method", "lift"):
                assert one[key] == other[key]

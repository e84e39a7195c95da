"""CUPED against statsmodels' regression and numpy on users, its exactness, and its error rate."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from abtest.stats.cuped import NO_COVARIATE, TOO_FEW, adjust
from abtest.stats.means import compare, mean_estimate, ratio_estimate
from abtest.stats.moments import Moments

Users = dict[str, np.ndarray]


def draw(seed: int, sizes: tuple[int, ...] = (150, 120, 90), scale: float = 10) -> list[Users]:
    """Arms of users whose plays and watch time follow two totals of their past."""
    rng = np.random.default_rng(seed)
    arms = []
    for i, n in enumerate(sizes):
        taste = rng.gamma(2, scale, n)
        plays = rng.poisson(taste + i) + 1
        arms.append(
            {
                "n_play": plays,
                "watch_ms": rng.poisson(30 * plays),
                "pre_n_play": rng.poisson(taste),
                "pre_watch_ms": rng.poisson(25 * taste),
            }
        )
    return arms


def moments_of(arms: list[Users]) -> dict[str, Moments]:
    return {f"arm{i}": Moments.from_arrays(**users) for i, users in enumerate(arms)}


def together(arms: list[Users], name: str) -> np.ndarray:
    return np.concatenate([users[name] for users in arms]).astype(float)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.booleans())
def test_the_difference_of_means_is_that_of_a_regression_on_arm_and_covariates(seed: int, two: bool) -> None:
    arms = draw(seed)
    names = ["pre_n_play", "pre_watch_ms"] if two else ["pre_n_play"]
    found = adjust(moments_of(arms), "n_play", covariates=names)
    which = np.repeat(np.arange(3), [len(users["n_play"]) for users in arms])
    past = np.column_stack([together(arms, name) for name in names])
    design = np.column_stack([which == 0, which == 1, which == 2, past - past.mean(axis=0)]).astype(float)
    oracle = sm.OLS(together(arms, "n_play"), design).fit()
    assert list(found.theta.values()) == pytest.approx(oracle.params[3:].tolist(), rel=1e-9)
    # centred at the mean of all users, the regression's arm means are the adjusted ones
    values = [estimate.value for estimate in found.estimates.values()]
    assert values == pytest.approx(oracle.params[:3].tolist(), rel=1e-9)


def test_p_is_that_of_welch_on_the_adjusted_users() -> None:
    arms = draw(1)
    found = adjust(moments_of(arms), "n_play", covariates=["pre_n_play"], scale=1000)
    theta = found.theta["pre_n_play"]
    centre = together(arms, "pre_n_play").mean()
    adjusted = [u["n_play"] / 1000 - theta * (u["pre_n_play"] - centre) for u in arms]
    oracle = stats.ttest_ind(adjusted[1], adjusted[0], equal_var=False)
    result = compare(found.estimates["arm0"], found.estimates["arm1"])
    assert result.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert result.difference == pytest.approx(adjusted[1].mean() - adjusted[0].mean(), rel=1e-9)
    assert result.lift == pytest.approx(adjusted[1].mean() / adjusted[0].mean() - 1, rel=1e-9)
    low, high = oracle.confidence_interval(0.95)
    assert result.difference_ci == pytest.approx((low, high), rel=1e-9)


def test_a_ratio_is_adjusted_on_its_linearised_values() -> None:
    arms = draw(2)
    names = ["pre_n_play", "pre_watch_ms"]
    found = adjust(moments_of(arms), "watch_ms", "n_play", covariates=names, scale=1000)
    ratios = [u["watch_ms"].sum() / u["n_play"].sum() / 1000 for u in arms]
    linear = [
        (u["watch_ms"] / 1000 - r * u["n_play"]) / u["n_play"].mean()
        for u, r in zip(arms, ratios, strict=True)
    ]
    past = [np.column_stack([u[name] for name in names]).astype(float) for u in arms]
    within = np.concatenate([x - x.mean(axis=0) for x in past])
    theta = np.linalg.lstsq(within, np.concatenate(linear), rcond=None)[0]
    assert list(found.theta.values()) == pytest.approx(theta.tolist(), rel=1e-8)
    centre = np.concatenate(past).mean(axis=0)
    for estimate, ratio, y, x in zip(found.estimates.values(), ratios, linear, past, strict=True):
        assert estimate.value == pytest.approx(ratio - theta @ (x.mean(axis=0) - centre), rel=1e-9)
        assert estimate.variance == pytest.approx((y - x @ theta).var(ddof=1) / len(y), rel=1e-8)


def test_a_past_that_says_everything_leaves_no_variance_and_never_a_negative_one() -> None:
    values = np.arange(100) * 10**6 + 1
    arms = {arm: Moments.from_arrays(y=values, pre_y=3 * values) for arm in "ab"}
    found = adjust(arms, "y", covariates=["pre_y"])
    for estimate in found.estimates.values():
        assert 0 <= (estimate.variance or 0) < 1e-16


@given(st.integers(0, 10**6))
@settings(max_examples=15)
def test_pooled_over_arms_the_variance_never_grows(seed: int) -> None:
    arms = moments_of(draw(seed, (20, 15, 30)))
    found = adjust(arms, "n_play", covariates=["pre_n_play"])
    before, after = (
        sum((m.n - 1) * m.n * (e[arm].variance or 0) for arm, m in arms.items())
        for e in ({arm: mean_estimate(m, "n_play") for arm, m in arms.items()}, found.estimates)
    )
    assert after <= before * (1 + 1e-12)


@pytest.mark.parametrize("factor", [1, 10**6, 10**12])
def test_the_scale_of_a_covariate_does_not_matter(factor: int) -> None:
    arms = draw(3)
    plain = adjust(moments_of(arms), "n_play", covariates=["pre_n_play"])
    scaled = [{**u, "pre_n_play": u["pre_n_play"].astype(object) * factor} for u in arms]
    columns = [{name: np.array(v, dtype=np.int64) for name, v in u.items()} for u in scaled]
    found = adjust(moments_of(columns), "n_play", covariates=["pre_n_play"])
    for one, other in zip(plain.estimates.values(), found.estimates.values(), strict=True):
        assert other == pytest.approx(one, rel=1e-12)


def test_a_covariate_twice_or_one_that_does_not_vary_changes_nothing() -> None:
    arms = [{**u, "again": u["pre_n_play"], "constant": np.full(len(u["n_play"]), 7)} for u in draw(4)]
    plain = adjust(moments_of(arms), "n_play", covariates=["pre_n_play"])
    found = adjust(moments_of(arms), "n_play", covariates=["pre_n_play", "again", "constant"])
    assert list(found.theta) == ["pre_n_play", "again"]
    for one, other in zip(plain.estimates.values(), found.estimates.values(), strict=True):
        assert other == pytest.approx(one, rel=1e-9)


def test_what_cannot_be_adjusted_stays_plain_with_a_reason() -> None:
    constant = {arm: Moments.from_arrays(y=[1, 2, 3, 5], pre_y=[2, 2, 2, 2]) for arm in "ab"}
    found = adjust(constant, "y", covariates=["pre_y"])
    assert (found.reason, found.theta) == (NO_COVARIATE, {})
    assert found.estimates["a"] == mean_estimate(constant["a"], "y")
    few = {arm: Moments.from_arrays(y=[1, 2], pre_y=[2, 3]) for arm in "ab"}
    assert adjust(few, "y", covariates=["pre_y"]).reason == TOO_FEW
    nobody = {**few, "c": Moments(0, {}, {})}
    assert adjust(nobody, "y", covariates=["pre_y"]).estimates["c"].value is None


def test_an_arm_that_cannot_be_estimated_leaves_the_others_alone() -> None:
    arms = moments_of(draw(5))
    empty = Moments.from_arrays(**{name: [0, 0] for name in ("n_play", "watch_ms", "pre_n_play")})
    without = adjust(arms, "watch_ms", "n_play", covariates=["pre_n_play"])
    found = adjust({**arms, "z": empty}, "watch_ms", "n_play", covariates=["pre_n_play"])
    assert found.estimates["z"] == ratio_estimate(empty, "watch_ms", "n_play")
    assert {arm: found.estimates[arm] for arm in arms} == without.estimates


@pytest.mark.parametrize(("numerator", "denominator"), [("n_play", None), ("watch_ms", "n_play")])
def test_equal_arms_reject_at_the_level_and_intervals_shrink(numerator: str, denominator: str | None) -> None:
    """600 re-randomisations of 400 users; fails by chance with probability below 1e-6."""
    (users,) = draw(6, (400,))
    rng = np.random.default_rng(7)
    rejected, shrunk, n = 0, 0, 600
    for _ in range(n):
        first = rng.permutation(400) < 200
        arms = moments_of([{k: v[first] for k, v in users.items()}, {k: v[~first] for k, v in users.items()}])
        found = adjust(arms, numerator, denominator, covariates=["pre_n_play"])
        result = compare(found.estimates["arm0"], found.estimates["arm1"])
        rejected += (result.p or 0) < 0.05
        shrunk += (found.estimates["arm0"].variance or 0) < (
            mean_estimate(arms["arm0"], "n_play").variance or 0
        )
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], n, 0.05)
    assert low <= rejected <= high
    assert denominator or shrunk == n

"""The bootstrap and the permutation test against scipy, brute force and Welch, and the traps of both."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from abtest.stats import bootstrap
from abtest.stats.bootstrap import Sample, bootstrap_reference, weights
from abtest.stats.means import ZERO_VARIANCE, Estimate, compare, mean_estimate, ratio_estimate
from abtest.stats.moments import Moments
from abtest.stats.permutation import permutation_reference
from abtest.stats.reference import Reference, compare_by_draws

ENGINES = [bootstrap_reference, permutation_reference]


def means(*arms: np.ndarray) -> list[Estimate]:
    return [mean_estimate(Moments.from_floats(x=x), "x") for x in arms]


def two_arms(n: int, seed: int, lift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.gamma(2, 5, n), rng.gamma(2, 5 * lift, n + 7)


# The reference


@given(st.integers(1, 60), st.floats(0, 5), st.floats(0.001, 0.999), st.booleans())
def test_p_is_below_alpha_exactly_beyond_the_critical_value(
    n: int, statistic: float, alpha: float, exact: bool
) -> None:
    draws = np.round(np.random.default_rng(n).normal(size=n), 1)  # with ties
    if exact:
        draws[0] = statistic  # what was observed is one of all
    reference = Reference.of(draws, is_exact=exact)
    q = reference.critical(alpha)
    assert (reference.p(statistic) < alpha) == (q is not None and abs(statistic) > q)


def test_p_counts_what_was_observed_and_is_never_0() -> None:
    sampled = Reference.of(np.array([0.5, -2.0, 1.0]))
    assert [sampled.p(t) for t in (9.0, 1.5, -1.0, 0.0)] == [0.25, 0.5, 0.75, 1.0]
    listed = Reference.of(np.array([0.5, -2.0, 1.0, 3.0]), is_exact=True)
    assert [listed.p(t) for t in (3.0, -2.0)] == [0.25, 0.5]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.05, 0.2]), st.sampled_from(ENGINES))
def test_both_intervals_exclude_0_exactly_when_p_is_below_alpha(seed: int, alpha: float, engine) -> None:  # type: ignore[no-untyped-def]
    control, treatment = two_arms(40, seed, 1.3)
    reference = engine(Sample(control), Sample(treatment), draws=199)
    found = compare_by_draws(*means(control, treatment), reference, alpha=alpha)
    assert found.p is not None
    for interval in (found.difference_ci, found.lift_ci):
        assert interval is not None
        assert (interval[0] > 0 or interval[1] < 0) == (found.p < alpha)


def test_a_level_that_needs_more_draws_has_p_but_no_interval_and_says_so() -> None:
    control, treatment = two_arms(40, 1)
    reference = bootstrap_reference(Sample(control), Sample(treatment), draws=199)
    assert reference is not None
    found = compare_by_draws(*means(control, treatment), reference, alpha=1e-4)
    assert found.p is not None
    assert (found.difference_ci, found.lift_ci) == (None, None)
    assert found.reason == "200 draws are too few for an interval at level 99.99 %"


# The permutation test


@pytest.mark.parametrize("seed", range(3))
def test_all_deals_are_listed_for_few_users_as_in_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    control, treatment = rng.poisson(3, 6), rng.poisson(5, 7)  # with ties
    reference = permutation_reference(Sample(control), Sample(treatment))
    assert reference is not None
    assert (reference.is_exact, reference.n) == (True, 1716)

    def welch(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return np.abs(stats.ttest_ind(x, y, axis=axis, equal_var=False).statistic)

    oracle = stats.permutation_test(
        (control, treatment), welch, vectorized=True, n_resamples=np.inf, alternative="greater"
    )
    found = compare_by_draws(*means(control, treatment), reference)
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-12)


def test_all_deals_of_a_ratio_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(4)
    y = rng.integers(1, 9, 9)
    x = rng.binomial(y, 0.5)

    def t(treated: tuple[int, ...]) -> float:
        inside = np.isin(np.arange(9), treated)
        arms = [Moments.from_arrays(x=x[mask], y=y[mask]) for mask in (~inside, inside)]
        c, t = (ratio_estimate(arm, "x", "y") for arm in arms)
        return abs(t.value - c.value) / np.sqrt(c.variance + t.variance)  # type: ignore[operator, no-any-return]

    observed = t((4, 5, 6, 7, 8))
    every = [t(treated) for treated in combinations(range(9), 5)]
    reference = permutation_reference(Sample(x[:4], y[:4]), Sample(x[4:], y[4:]))
    assert reference is not None
    assert reference.p(observed) == np.mean([value >= observed * (1 - 1e-9) for value in every])
    assert reference.draws == pytest.approx(sorted(every, reverse=True), rel=1e-9)


# Both


@pytest.mark.parametrize("engine", ENGINES)
def test_many_users_give_what_welch_gives(engine) -> None:  # type: ignore[no-untyped-def]
    control, treatment = two_arms(2000, 5, 1.05)
    pair = means(control, treatment)
    found, welch = compare_by_draws(*pair, engine(Sample(control), Sample(treatment))), compare(*pair)
    assert welch.p is not None
    error = np.sqrt(welch.p * (1 - welch.p) / 2000)
    assert found.p == pytest.approx(welch.p, abs=5 * error + 0.001)
    assert found.lift_ci == pytest.approx(welch.lift_ci, abs=0.01)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("shift", [0.0, 1e7])
def test_scale_and_place_of_the_values_do_not_matter(engine, scale: float, shift: float) -> None:  # type: ignore[no-untyped-def]
    control, treatment = (np.round(x * 1000) for x in two_arms(30, 6))
    plain = engine(Sample(control), Sample(treatment), draws=199)
    other = engine(Sample((control + shift) * scale), Sample((treatment + shift) * scale), draws=199)
    assert other.draws == pytest.approx(plain.draws, rel=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_user_in_an_arm_or_no_variance_gives_no_p(engine) -> None:  # type: ignore[no-untyped-def]
    assert engine(Sample(np.ones(1)), Sample(np.ones(5))) is None
    assert engine(Sample(np.empty(0)), Sample(np.ones(5))) is None
    constant = np.full(20, 7.0), np.full(20, 8.0)
    found = compare_by_draws(*means(*constant), engine(*map(Sample, constant), draws=99))
    assert (found.p, found.reason) == (None, ZERO_VARIANCE)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_data_give_the_same_digits_whatever_the_blocks(
    engine,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    control, treatment = (np.round(x) for x in two_arms(50, 7))
    whole = engine(Sample(control), Sample(treatment), draws=150).draws
    monkeypatch.setattr(bootstrap, "BLOCK_WEIGHTS", 300)
    monkeypatch.setattr("abtest.stats.permutation.BLOCK", 7)
    assert engine(Sample(control), Sample(treatment), draws=150).draws == pytest.approx(whole, rel=1e-12)
    assert (engine(Sample(control), Sample(treatment), draws=150, seed=1).draws != whole).any()


def test_weights_are_poisson_of_mean_1_and_independent_between_arms() -> None:
    drawn = np.concatenate(list(weights(2000, 200, 3, 0)))
    counts = np.bincount(drawn.astype(int).ravel(), minlength=8)[:8]
    expected = stats.poisson.pmf(range(8), 1) * drawn.size
    assert stats.chisquare(counts[:6], expected[:6] * counts[:6].sum() / expected[:6].sum()).pvalue > 1e-4
    other = np.concatenate(list(weights(2000, 200, 3, 1)))
    assert abs(np.corrcoef(drawn.ravel(), other.ravel())[0, 1]) < 6 / np.sqrt(drawn.size)


def test_the_bootstrap_is_that_of_a_loop_over_replicates() -> None:
    rng = np.random.default_rng(8)
    y = [rng.integers(1, 9, n) for n in (25, 30)]
    x = [rng.binomial(n, 0.5) for n in y]
    blocks = [np.concatenate(list(weights(len(column), 100, 0, arm))) for arm, column in enumerate(x)]

    def ratio(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[float, float]:
        n, r = w.sum(), (w * x).sum() / (w * y).sum()
        return r, n / (n - 1) * (w * (x - r * y) ** 2).sum() / (w * y).sum() ** 2

    observed = [ratio(x[a], y[a], np.ones(len(x[a])))[0] for a in (0, 1)]
    t = []
    for w in zip(*blocks, strict=True):
        (c, var_c), (t_value, var_t) = (ratio(x[a], y[a], w[a]) for a in (0, 1))
        t.append(abs(t_value - c - (observed[1] - observed[0])) / np.sqrt(var_c + var_t))
    found = bootstrap_reference(Sample(x[0], y[0]), Sample(x[1], y[1]), draws=100)
    assert found is not None
    assert found.draws == pytest.approx(sorted(t, reverse=True), rel=1e-9)

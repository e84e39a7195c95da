"""Sequential bounds: published values, an independent recursion, scipy's multivariate normal, error rates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from abtest.stats import sequential
from abtest.stats.sequential import (
    METHODS,
    always_valid_level,
    as_correlation,
    canonical_correlation,
    nominal_levels,
    sequential_p,
    spent,
)

EQUAL = [0.2, 0.4, 0.6, 0.8, 1.0]
CORRELATED = [0.68, 0.85, 0.93, 0.97, 1.0]  # totals of the same users at a day correlation of .6


def bounds(method: str, t: list[float], r: object = None, alpha: float = 0.05) -> list[float]:
    return [float(stats.norm.isf(level / 2)) for level in nominal_levels(method, alpha, t, r)]  # type: ignore[arg-type]


def crossing_by_recursion(b: list[float], t: list[float]) -> list[float]:
    """P(first crossing at each look) for independent increments, by integrating the density of the score
    process on a fine grid (Armitage, McPherson, Rowe): no code in common with the bounds."""
    grid = np.linspace(-8, 8, 4001)
    density = stats.norm.pdf(grid, scale=np.sqrt(t[0]))
    found, step = [], grid[1] - grid[0]
    for k, share in enumerate(t):
        edge = b[k] * np.sqrt(share)
        if k:
            inside = np.abs(grid) <= b[k - 1] * np.sqrt(t[k - 1])
            kernel = stats.norm.pdf(grid[:, None] - grid[None, inside], scale=np.sqrt(share - t[k - 1]))
            density = kernel @ density[inside] * step
        found.append(float(density[np.abs(grid) > edge].sum() * step))
    return found


def test_five_equal_looks_have_the_published_bounds() -> None:
    assert bounds("obf", EQUAL) == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=6e-4)
    assert bounds("pocock", EQUAL) == pytest.approx([2.438, 2.427, 2.410, 2.397, 2.386], abs=6e-4)


@pytest.mark.parametrize("method", ["obf", "pocock"])
def test_each_look_spends_its_part_by_an_independent_recursion(method: str) -> None:
    t = [0.3, 0.5, 0.8, 1.0]
    found = np.cumsum(crossing_by_recursion(bounds(method, t), t))
    assert found == pytest.approx([spent(method, 0.05, share) for share in t], abs=2e-4)
    assert found[-1] == pytest.approx(0.05, abs=2e-4)


def test_looks_of_any_correlation_reject_with_alpha_in_all() -> None:
    """Against the multivariate normal integral of scipy, whose own error is about 1e-5."""
    r = 0.3 + 0.7 * np.array([[1, 0.8, 0.5], [0.8, 1, 0.7], [0.5, 0.7, 1]])
    b = np.array(bounds("obf", [0.5, 0.8, 1.0], r))
    for k in (2, 3):
        law = stats.multivariate_normal(np.zeros(k), r[:k, :k], seed=1)  # type: ignore[call-arg]
        inside = law.cdf(b[:k], lower_limit=-b[:k])
        assert 1 - inside == pytest.approx(spent("obf", 0.05, [0.8, 1.0][k - 2]), abs=2e-4)


def test_correlated_days_leave_little_to_spend_late_and_looser_bounds_than_equal_looks() -> None:
    found, equal = bounds("obf", CORRELATED), bounds("obf", EQUAL)
    assert all(b < e for b, e in zip(found[:-1], equal[:-1], strict=True))
    assert found == sorted(found, reverse=True)


def test_one_look_is_the_fixed_test() -> None:
    assert nominal_levels("obf", 0.05, [1.0]) == pytest.approx([0.05], rel=1e-12)
    assert sequential_p("obf", [0.03], [1.0]) == pytest.approx([0.03], rel=1e-6)


def test_always_valid_has_the_closed_form_of_its_paper() -> None:
    """sqrt(2 (n rho^2 + 1) / (n^2 rho^2) log(sqrt(n rho^2 + 1) / alpha)) in standard errors of 1 / sqrt n."""
    n, rho2 = 400, (-2 * np.log(0.05) + np.log(-2 * np.log(0.05) + 1)) / 1000
    radius = np.sqrt(2 * (n * rho2 + 1) / (n**2 * rho2) * np.log(np.sqrt(n * rho2 + 1) / 0.05))
    assert stats.norm.isf(always_valid_level(0.05, 0.4) / 2) == pytest.approx(radius * np.sqrt(n), rel=1e-9)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.floats(1e-5, 0.9), min_size=4, max_size=4),
    st.sampled_from(METHODS),
    st.floats(0.002, 0.2),
)
def test_the_sequential_p_is_below_alpha_exactly_when_a_look_crossed(
    p: list[float], method: str, alpha: float
) -> None:
    t = [0.4, 0.7, 0.9, 1.0]
    found = sequential_p(method, p, t)
    levels = nominal_levels(method, alpha, t)
    crossed = np.logical_or.accumulate([one <= level for one, level in zip(p, levels, strict=True)])
    for value, yes in zip(found, crossed, strict=True):
        if abs(value / alpha - 1) > 1e-3:
            assert (value < alpha) == yes
    assert found == sorted(found, reverse=True)
    assert all(value <= 1 for value in found)


@pytest.mark.parametrize("method", METHODS)
def test_tiny_p_values_stay_finite_and_above_0(method: str) -> None:
    found = sequential_p(method, [0.5, 1e-30, 1e-200, 0.0], [0.3, 0.6, 0.9, 1.0])
    assert found[1] < 1e-15
    assert found[2] < 1e-100
    assert 0 <= found[3] <= found[2]


@pytest.mark.parametrize("rho", [0.0, 0.6])
@pytest.mark.parametrize("method", METHODS)
def test_daily_looks_at_equal_arms_reject_in_at_most_alpha(method: str, rho: float) -> None:
    """20,000 experiments of five days whose users' days are correlated; fails by chance below 1e-6."""
    days = rho + (1 - rho) * np.eye(5)
    sums = np.tril(np.ones((5, 5)))
    covariance = sums @ days @ sums.T
    per_day = np.sqrt(np.diag(covariance)) / np.arange(1, 6)
    t = (per_day[-1] / per_day) ** 2
    z = np.random.default_rng(1).multivariate_normal(np.zeros(5), covariance, size=20_000)
    z /= np.sqrt(np.diag(covariance))
    levels = nominal_levels(method, 0.05, t.tolist())
    rejected = (2 * stats.norm.sf(np.abs(z)) <= levels).any(axis=1).sum()
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], 20_000, 0.05)
    assert rejected <= high
    assert method == "always-valid" or rejected >= low
    assert (2 * stats.norm.sf(np.abs(z)) <= 0.05).any(axis=1).sum() > high  # plain peeking does not


def test_days_of_one_correlation_have_the_law_of_independent_increments() -> None:
    days = 0.6 + 0.4 * np.eye(5)
    means = np.tril(np.ones((5, 5))) / np.arange(1, 6)[:, None]
    covariance = means @ days @ means.T
    error = np.sqrt(np.diag(covariance))
    t = (error[-1] / error) ** 2
    assert t == pytest.approx(CORRELATED, abs=6e-3)
    assert covariance / np.outer(error, error) == pytest.approx(canonical_correlation(t), rel=1e-9)


def test_a_look_that_adds_no_information_may_not_reject() -> None:
    assert nominal_levels("obf", 0.05, [0.5, 0.5, 1.0])[1] == 0


@pytest.mark.parametrize("t", [[0.5, 0.4], [0.0, 1.0], [0.5, 1.1]])
def test_information_that_makes_no_sense_is_refused(t: list[float]) -> None:
    with pytest.raises(ValueError, match="information is"):
        nominal_levels("obf", 0.05, t)


def test_other_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="1 p-values for 2 looks"):
        sequential_p("obf", [0.1], [0.5, 1.0])
    with pytest.raises(ValueError, match="unknown spending 'haybittle'"):
        spent("haybittle", 0.05, 0.5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 5))
def test_correlations_that_do_not_fit_together_are_brought_to_the_nearest_that_do(seed: int, k: int) -> None:
    """Pairs drawn one by one: the result is a correlation, as near as the eigenvalues cut off are large, and
    bounds come out of it."""
    drawn = np.random.default_rng(seed).uniform(0.3, 1, (k, k)).clip(max=0.98)
    r = np.triu(drawn, 1) + np.triu(drawn, 1).T + np.eye(k)
    found = as_correlation(r)
    assert np.linalg.eigvalsh(found)[0] > -1e-12
    assert np.array_equal(np.diag(found), np.ones(k))
    assert np.allclose(found, found.T, atol=1e-12)
    negative = -np.minimum(np.linalg.eigvalsh(r), 0).sum()
    assert np.abs(found - r).max() <= 2 * negative + 1e-12
    levels = nominal_levels("obf", 0.05, list(np.arange(1, k + 1) / k), found)
    assert all(0 <= level <= 0.05 + 1e-9 for level in levels)


def test_a_correlation_stays_as_it_is_to_the_last_bit() -> None:
    r = canonical_correlation(EQUAL)
    assert as_correlation(r) is r


def test_two_looks_that_seem_the_same_but_for_their_correlation_with_a_third() -> None:
    """What 150 users of three days gave for shares."""
    r = np.array([[1, 1, 0.88005], [1, 1, 0.88644], [0.88005, 0.88644, 1]])
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky(r + 1e-10 * np.eye(3))
    found = as_correlation(r)
    assert np.abs(found - r).max() < 0.004
    assert len(sequential_p("obf", [0.3, 0.3, 0.01], [0.5, 0.5, 1.0], found)) == 3


def test_bounds_of_independent_increments_are_exact() -> None:
    """gsDesign and the tables of Jennison and Turnbull give four digits; the recursion here, and scipy's
    integral of the same law, more."""
    b = bounds("obf", EQUAL)
    assert b == pytest.approx([4.876885, 3.357012, 2.680280, 2.289817, 2.031032], abs=2e-6)
    first = bounds("obf", [0.6, 0.8, 1.0])
    inside = stats.multivariate_normal.cdf(
        first,
        cov=canonical_correlation([0.6, 0.8, 1.0]),
        lower_limit=[-bound for bound in first],
        abseps=1e-8,
        releps=1e-8,
        maxpts=1_000_000,
    )
    assert 1 - inside == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("t", [EQUAL, [0.1, 0.15, 0.7, 0.9, 1.0], [k / 14 for k in range(1, 15)]])
@pytest.mark.parametrize("method", ["obf", "pocock"])
def test_the_integral_for_any_correlation_agrees_with_the_recursion(
    method: str, t: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = bounds(method, t)
    monkeypatch.setattr(sequential, "_bounds_by_recursion", lambda *_: None)
    assert bounds(method, t)[1:] == pytest.approx(exact[1:], abs=3e-4)


def test_looks_too_near_for_the_recursion_still_have_bounds() -> None:
    near = bounds("pocock", [0.5, 0.5 + 1e-9, 1.0])
    assert near[0] == pytest.approx(bounds("pocock", [0.5, 1.0])[0], abs=1e-9)
    assert near[2] == pytest.approx(bounds("pocock", [0.5, 1.0])[1], abs=1e-3)

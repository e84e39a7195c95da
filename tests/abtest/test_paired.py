"""Two lives of the same users: against scipy's paired t-test, a search for Fieller's ends, and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq

from abtest.stats.means import CONTROL_NEAR_ZERO, FEW_USERS
from abtest.stats.paired import NO_DENOMINATOR, SAME_LIVES, Life, compare_lives

ONES = np.ones(300)


def correlated(seed, n=300, shift=0.1):
    rng = np.random.default_rng(seed)
    common = rng.gamma(0.5, 6.0, n)
    return rng.poisson(common).astype(float), rng.poisson(common * (1 + shift)).astype(float)


@given(st.integers(0, 2**32), st.sampled_from([0.01, 0.05, 0.3]))
def test_plain_means_are_the_paired_t_test(seed, alpha):
    x, y = correlated(seed)
    found = compare_lives(Life(x, ONES), Life(y, ONES), alpha=alpha)
    oracle = stats.ttest_rel(y, x)
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-9)
    interval = oracle.confidence_interval(1 - alpha)
    assert found.difference_ci == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert (found.control, found.treatment) == pytest.approx((x.mean(), y.mean()))


@given(st.integers(0, 2**32))
def test_the_ends_of_the_lift_are_where_the_test_of_that_lift_turns(seed):
    x, y = correlated(seed)
    found = compare_lives(Life(x, ONES), Life(y, ONES), alpha=0.05)

    def turns(lift):
        return stats.ttest_rel(y, (1 + lift) * x).pvalue - 0.05

    low, high = found.lift_ci
    assert low == pytest.approx(brentq(turns, low - 0.05, found.lift), abs=1e-9)
    assert high == pytest.approx(brentq(turns, found.lift, high + 0.05), abs=1e-9)


@given(st.integers(0, 2**32), st.floats(-0.02, 0.02))
def test_all_intervals_exclude_0_exactly_where_p_is_below_alpha(seed, shift):
    x, y = correlated(seed, shift=shift)
    found = compare_lives(Life(x, ONES), Life(y, ONES), alpha=0.2)
    if found.reason:
        return
    for low, high in (found.difference_ci, found.lift_ci):
        assert (low > 0 or high < 0) == (found.p < 0.2)


def test_a_ratio_has_the_spread_of_its_bootstrap():
    rng = np.random.default_rng(5)
    shown = rng.poisson(rng.gamma(2, 20, 4000)) + 1.0
    first, second = rng.binomial(shown.astype(int), 0.4), rng.binomial(shown.astype(int), 0.42)
    later = shown + rng.poisson(3, 4000)
    found = compare_lives(Life(first, shown), Life(second, later), alpha=0.05)
    rows = rng.integers(0, 4000, (3000, 4000))
    drawn = second[rows].sum(1) / later[rows].sum(1) - first[rows].sum(1) / shown[rows].sum(1)
    error = (found.difference_ci[1] - found.difference_ci[0]) / 2 / stats.norm.ppf(0.975)
    assert error == pytest.approx(drawn.std(), rel=0.06)


def test_variance_is_less_by_what_the_lives_have_in_common():
    x, y = correlated(3)
    shuffled = np.random.default_rng(0).permutation(y)
    assert compare_lives(Life(x, ONES), Life(y, ONES)).less_variance > 3
    assert compare_lives(Life(x, ONES), Life(shuffled, ONES)).less_variance == pytest.approx(1, abs=0.3)


def test_equal_lives_differ_by_exactly_0_and_need_no_test():
    x, _ = correlated(1)
    found = compare_lives(Life(x, ONES), Life(x.copy(), ONES))
    assert (found.difference, found.lift, found.p, found.reason) == (0.0, 0.0, None, SAME_LIVES)


def test_what_cannot_be_computed_is_absent_with_its_reason():
    one, none = Life(np.ones(1), np.ones(1)), Life(np.ones(3), np.zeros(3))
    assert compare_lives(one, Life(np.zeros(1), np.ones(1))).reason == FEW_USERS
    assert compare_lives(none, Life(np.ones(3), np.ones(3))).reason == NO_DENOMINATOR
    rare = np.zeros(300)
    rare[0] = 1
    found = compare_lives(Life(rare, ONES), Life(correlated(2)[0], ONES))
    assert (found.lift_ci, found.reason) == (None, CONTROL_NEAR_ZERO)
    assert found.p is not None
    zero = compare_lives(Life(np.zeros(300), ONES), Life(correlated(2)[0], ONES))
    assert (zero.lift, zero.lift_ci, zero.reason) == (None, None, CONTROL_NEAR_ZERO)

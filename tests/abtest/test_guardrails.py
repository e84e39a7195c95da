"""Non-inferiority and equivalence against statsmodels and Fieller's interval, and their error rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW, ttost_ind

from abtest.stats.guardrails import equivalence, non_inferiority
from abtest.stats.means import FEW_USERS, ZERO_VARIANCE, Estimate, compare

values = st.floats(1, 100)
variances = st.floats(0.01, 9)


def estimate(x: np.ndarray) -> Estimate:
    return Estimate(len(x), float(x.mean()), float(x.var(ddof=1) / len(x)))


@pytest.mark.parametrize("up", [True, False])
def test_an_absolute_margin_is_the_shifted_test_of_statsmodels(up: bool) -> None:
    rng = np.random.default_rng(1)
    c, t = rng.normal(10, 2, 80), rng.normal(10.2, 3, 60)
    found = non_inferiority(estimate(c), estimate(t), 0.7, relative=False, higher_is_better=up)
    means = CompareMeans(DescrStatsW(t), DescrStatsW(c))
    oracle = means.ttest_ind("larger" if up else "smaller", "unequal", value=-0.7 if up else 0.7)
    assert found.p == pytest.approx(oracle[1], rel=1e-9)
    assert found.p_worse == pytest.approx(1 - oracle[1], rel=1e-9)


def test_equivalence_is_the_two_one_sided_tests_of_statsmodels() -> None:
    rng = np.random.default_rng(2)
    c, t = rng.normal(10, 2, 80), rng.normal(10.2, 3, 60)
    found = equivalence(estimate(c), estimate(t), 1.5, relative=False)
    assert found.p == pytest.approx(ttost_ind(t, c, -1.5, 1.5, usevar="unequal")[0], rel=1e-9)


@given(values, values, variances, variances, st.floats(0.01, 0.5), st.booleans())
def test_p_and_the_interval_of_the_lift_tell_the_same_story(
    c: float, t: float, var_c: float, var_t: float, margin: float, up: bool
) -> None:
    control, treatment = Estimate(300, c, var_c), Estimate(200, t, var_t)
    ci = compare(control, treatment, alpha=0.05).lift_ci
    found = non_inferiority(control, treatment, margin, higher_is_better=up)
    assert found.p is not None
    if ci is not None and abs(found.p - 0.025) > 1e-9:
        assert (found.p < 0.025) == (ci[0] > -margin if up else ci[1] < margin)


def test_at_the_margin_one_of_forty_passes() -> None:
    """4,000 treatments that are worse by the margin; fails by chance with probability below 1e-6."""
    rng = np.random.default_rng(3)
    passed = 0
    for _ in range(4000):
        c, t = rng.normal(100, 10, (2, 100))
        found = non_inferiority(estimate(c), estimate(t * 0.95), 0.05)
        passed += found.p is not None and found.p < 0.025
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], 4000, 0.025)
    assert low <= passed <= high


def test_what_cannot_be_tested_has_a_reason() -> None:
    one = Estimate(5, 1.0, 0.1)
    assert non_inferiority(Estimate(1, 1.0, None), one, 0.1).reason == FEW_USERS
    constant = Estimate(5, 1.0, 0.0)
    assert non_inferiority(constant, constant, 0.1).reason == ZERO_VARIANCE
    assert "above 0, not -1" in str(non_inferiority(Estimate(5, -1.0, 0.1), one, 0.1).reason)
    assert equivalence(constant, constant, 0.1).p is None
    with pytest.raises(ValueError, match="margin is 0"):
        non_inferiority(one, one, 0)

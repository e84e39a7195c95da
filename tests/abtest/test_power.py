"""Detectable effects and numbers of users against statsmodels and by simulation."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower

from abtest.stats.means import Estimate, compare
from abtest.stats.power import detectable_difference, detectable_lift, power_of_lift, users_needed


@pytest.mark.parametrize("n", [20, 50, 2000, 10**6])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_detectable_lift_equals_that_of_statsmodels(n: int, alpha: float) -> None:
    oracle = TTestIndPower().solve_power(nobs1=n, alpha=alpha, power=0.8, ratio=1)
    found = detectable_lift(2.0, 9.0, n, n, alpha=alpha)
    assert found == pytest.approx(oracle * 3 / 2, rel=0.01)


@pytest.mark.parametrize(("lift", "share"), [(0.05, 0.5), (-0.3, 0.5), (0.1, 0.2), (2.0, 0.5)])
def test_the_users_needed_are_those_of_statsmodels(lift: float, share: float) -> None:
    ratio = (1 - share) / share
    oracle = TTestIndPower().solve_power(effect_size=abs(lift) / 1.5, alpha=0.05, power=0.8, ratio=ratio)
    assert users_needed(2.0, 9.0, lift, control_share=share) == pytest.approx(
        oracle * (1 + ratio), rel=0.02, abs=2
    )


def test_one_user_fewer_is_not_enough() -> None:
    n = users_needed(0.1, 0.2, 0.12)
    assert detectable_lift(0.1, 0.2, n // 2, n - n // 2) <= 0.12
    assert detectable_lift(0.1, 0.2, (n - 2) // 2, (n - 2) // 2) > 0.12


def test_the_detectable_difference_is_found_in_80_percent_of_tests() -> None:
    """4,000 simulated tests at 200 users an arm; fails by chance with probability below 1e-6."""
    rng = np.random.default_rng(1)
    true = detectable_difference(np.sqrt(2 / 200), 398)
    arms = rng.normal(size=(4000, 2, 200))
    means, variances = arms.mean(axis=2), arms.var(axis=2, ddof=1) / 200
    found = 0
    for (c, t), (var_c, var_t) in zip(means, variances, strict=True):
        found += (compare(Estimate(200, 5 + c, var_c), Estimate(200, 5 + t + true, var_t)).p or 0) < 0.05
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], 4000, 0.8)
    assert low - 20 < found < high + 20


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: users_needed(1.0, 1.0, 0.0), "lift of 0"),
        (lambda: users_needed(0.0, 1.0, 0.1), "mean is 0.0"),
        (lambda: users_needed(1.0, 1.0, 0.1, control_share=1.0), "control_share is 1.0"),
        (lambda: detectable_lift(1.0, 1.0, 1, 5), "2 or more"),
    ],
)
def test_what_has_no_answer_is_refused(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]


def test_the_power_of_a_very_large_lift_is_one() -> None:
    assert power_of_lift(5.0, 3.0344827586206895, 2.484799524133912**2, 64, 63) == pytest.approx(1.0)

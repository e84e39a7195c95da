"""Detectable effects and numbers of users against statsmodels and by simulation."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower

from abtest.stats.means import Estimate, compare
from abtest.stats.power import detectable_difference, detectable_lift, power_of_lift, users_needed


@pytest.mark.parametrize("n", [2, 3, 5, 20, 50, 2000, 10**6])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_the_detectable_lift_equals_that_of_statsmodels(n: int, alpha: float) -> None:
    found = detectable_lift(2.0, 9.0, n, n, alpha=alpha)
    oracle = TTestIndPower().power(found * 2 / 3, n, alpha / 2, alternative="larger")
    assert oracle == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(("lift", "share"), [(0.05, 0.5), (-0.3, 0.5), (0.1, 0.2), (2.0, 0.5)])
def test_the_users_needed_are_those_of_statsmodels(lift: float, share: float) -> None:
    ratio = (1 - share) / share
    needed = users_needed(2.0, 9.0, lift, control_share=share)
    power, least = (
        TTestIndPower().power(abs(lift) / 1.5, round(n * share), 0.025, ratio=ratio, alternative="larger")
        for n in (needed, needed - 4)
    )
    assert least < 0.8 < power


@pytest.mark.parametrize("df", [2, 7.5, 40, 5000, 10**7])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.99])
def test_the_detectable_difference_has_the_wanted_power(df: float, power: float) -> None:
    """Against SciPy's noncentral t, another implementation than that of the inverse."""
    true = detectable_difference(1.0, df, alpha=0.01, power=power)
    assert stats.nct.sf(stats.t.isf(0.005, df), df, true) == pytest.approx(power, abs=1e-6)


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

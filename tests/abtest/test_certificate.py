"""What splits of two known lives find: levels, coverage and power that theory tells."""

import numpy as np
import pytest
from scipy import stats

from abtest.stats.certificate import REPLICATES, certify
from abtest.stats.paired import Life

N = 3000
ERROR = 4 * (0.25 / REPLICATES) ** 0.5


@pytest.fixture(scope="module")
def lives():
    """Totals of gamma users whose treatment is 6 % better, with luck of its own."""
    rng = np.random.default_rng(4)
    taste = rng.gamma(1.2, 10, N)
    return rng.poisson(taste).astype(float), rng.poisson(1.06 * taste).astype(float)


def test_equal_arms_look_different_once_in_twenty_and_intervals_hold_the_truth(lives):
    x, y = lives
    (found,) = certify([Life(x, np.ones(N))], [Life(y, np.ones(N))], [y.sum() / x.sum() - 1])
    low, high = stats.binom.ppf([0.0005, 0.9995], REPLICATES, 0.05) / REPLICATES
    assert low - 0.003 <= found.false_positives <= high + 0.003
    assert found.coverage > 0.945


def test_power_is_that_of_theory(lives):
    x, y = lives
    (found,) = certify([Life(x, np.ones(N))], [Life(y, np.ones(N))], [y.sum() / x.sum() - 1])
    error = np.sqrt((x.var() + y.var()) / (N / 2))
    t = (y.mean() - x.mean()) / error
    theory = stats.norm.sf(1.96 - t) + stats.norm.cdf(-1.96 - t)
    # the spread of the difference over splits is somewhat less than the error that each test reckons with
    assert found.power == pytest.approx(theory, abs=0.04)


def test_a_ratio_and_those_who_never_came(lives):
    """Users who came in no life change nothing but the number that is split."""
    x, y = lives
    came = np.concatenate([np.ones(N), np.zeros(500)])
    padded = [np.concatenate([values, np.zeros(500)]) for values in (x, y)]
    lift = y.sum() / x.sum() - 1
    (found,) = certify([Life(padded[0], came)], [Life(padded[1], came)], [lift])
    (plain,) = certify([Life(x, np.ones(N))], [Life(y, np.ones(N))], [lift])
    for name in ("false_positives", "coverage", "power"):
        assert getattr(found, name) == pytest.approx(getattr(plain, name), abs=2 * ERROR), name


def test_equal_lives_are_found_as_often_as_equal_arms(lives):
    x, _ = lives
    same = Life(x, np.ones(N))
    (found,) = certify([same], [same], [0.0])
    assert found.power == found.false_positives
    assert (found.wrong_sign, found.exaggeration) == (None, None)
    assert found.coverage == pytest.approx(1 - found.false_positives, abs=1e-12)


def test_what_weak_experiments_find_is_exaggerated_and_sometimes_of_the_wrong_sign(lives):
    """Against the closed form for a normal estimate of known error."""
    x, y = lives
    weak = x + (y - x) / 6  # a sixth of the effect
    (strong,) = certify([Life(x, np.ones(N))], [Life(x * 1.5, np.ones(N))], [0.5])
    assert (strong.power, strong.wrong_sign) == (1.0, 0.0)
    assert strong.exaggeration == pytest.approx(1, abs=0.01)
    (found,) = certify([Life(x, np.ones(N))], [Life(weak, np.ones(N))], [weak.sum() / x.sum() - 1])
    true = weak.mean() - x.mean()
    error = np.sqrt((x.var() + weak.var()) / (N / 2))
    z = np.linspace(-8, 8, 400_001)
    estimate, density = true + error * z, stats.norm.pdf(z)
    beyond = np.abs(estimate) > 1.96 * error
    wrong = density[beyond & (estimate < 0)].sum() / density[beyond].sum()
    larger = (np.abs(estimate) * density)[beyond].sum() / density[beyond].sum() / true
    assert found.wrong_sign == pytest.approx(wrong, abs=0.07)
    assert found.exaggeration == pytest.approx(larger, rel=0.1)
    assert found.exaggeration > 3


def test_metrics_are_dealt_together_as_alone(lives):
    x, y = (Life(values, np.ones(N)) for values in lives)
    shown = Life(lives[0] + 3, lives[1] + 1.0)
    together = certify([x, shown], [y, shown], [0.06, 0.0])
    assert together == certify([x], [y], [0.06]) + certify([shown], [shown], [0.0])

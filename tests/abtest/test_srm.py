"""The sample-ratio test against scipy, and how small a mismatch it can find."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from abtest.stats.srm import sample_ratio, smallest_loss


@given(st.lists(st.tuples(st.integers(20, 10_000), st.floats(0.5, 2)), min_size=2, max_size=5))
def test_p_equals_the_chi_square_test_of_scipy(arms: list[tuple[int, float]]) -> None:
    observed, weights = zip(*arms, strict=True)
    expected = sum(observed) * np.array(weights) / sum(weights)
    found = sample_ratio(observed, weights)
    if expected.min() >= 5:
        assert found.p == pytest.approx(stats.chisquare(observed, expected).pvalue, rel=1e-9)
        assert found.method == "chi-square"


@given(st.integers(0, 12), st.integers(0, 12), st.floats(0.02, 0.4))
def test_few_users_get_the_exact_test(a: int, b: int, weight: float) -> None:
    found = sample_ratio([a, b], [weight, 1 - weight])
    if a + b == 0:
        assert found.p is None
    elif (a + b) * weight < 5:
        assert found.method == "exact multinomial"
        assert found.p == pytest.approx(stats.binomtest(a, a + b, weight).pvalue, rel=1e-6)


@given(st.integers(10_000, 10**7), st.floats(0.1, 4.9), st.integers(0, 40))
def test_a_rare_arm_among_millions_gets_the_exact_test(total: int, expected: float, n: int) -> None:
    """Draws would give 1e-5 at least, and be off by a tenth of a p of .001."""
    share = expected / total
    found = sample_ratio([n, total - n], [share, 1 - share])
    assert found.method == "exact multinomial"
    assert found.p == pytest.approx(stats.binomtest(n, total, share).pvalue, rel=1e-7)


def test_two_large_arms_and_a_rare_one_get_the_exact_test() -> None:
    """Against all splits of the large arms for each count of the rare one, by scipy's distributions."""
    observed, weights = [5_200, 4_800, 3], [0.5, 0.5, 0.0002]
    total, rare = sum(observed), weights[2] / sum(weights)
    seen = stats.binom.logpmf(3, total, rare) + stats.binom.logpmf(5_200, total - 3, 0.5)
    oracle = 0.0
    for k in range(60):
        logs = stats.binom.logpmf(k, total, rare) + stats.binom.logpmf(
            np.arange(total - k + 1), total - k, 0.5
        )
        oracle += np.exp(logs[logs <= seen + 1e-9]).sum()
    found = sample_ratio(observed, weights)
    assert found.method == "exact multinomial"
    assert found.p == pytest.approx(oracle, rel=1e-7)


def test_the_exact_test_of_three_arms_adds_up_the_outcomes_no_more_likely() -> None:
    outcomes = [(i, j, 6 - i - j) for i in range(7) for j in range(7 - i)]
    probabilities = stats.multinomial.pmf(outcomes, 6, [0.5, 0.3, 0.2])
    seen = stats.multinomial.pmf([1, 1, 4], 6, [0.5, 0.3, 0.2])
    oracle = probabilities[probabilities <= seen * (1 + 1e-9)].sum()
    assert sample_ratio([1, 1, 4], [0.5, 0.3, 0.2]).p == pytest.approx(oracle, rel=1e-9)


def test_too_many_outcomes_are_drawn_and_the_same_each_time() -> None:
    observed, weights = [400, 390, 2, 380], [1.0, 1.0, 0.003, 1.0]
    found = sample_ratio(observed, weights)
    assert found.method == "multinomial, 100,000 draws"
    assert found == sample_ratio(observed, weights)
    assert found.p == pytest.approx(0.5, abs=0.4)


def test_an_arm_of_weight_0_without_users_leaves_the_test() -> None:
    """520 and 480 of 1,000 give p = .206; one degree of freedom more would give .449."""
    assert sample_ratio([520, 480, 0], [0.5, 0.5, 0]).p == pytest.approx(0.206, abs=5e-4)
    assert sample_ratio([520, 480, 0], [0.5, 0.5, 0]).p == sample_ratio([520, 480], [0.5, 0.5]).p


def test_users_in_an_arm_of_weight_0_have_no_p() -> None:
    assert sample_ratio([520, 480, 1], [0.5, 0.5, 0]).p is None


def test_weights_need_not_sum_to_1() -> None:
    assert sample_ratio([30, 70], [1, 3]) == sample_ratio([30, 70], [0.25, 0.75])


def test_a_count_without_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="3 counts for 2 weights"):
        sample_ratio([1, 2, 3], [0.5, 0.5])


@pytest.mark.parametrize(
    ("observed", "weights"),
    [([3, -1], [1, 1]), ([3, 1], [0, 0]), ([3, 1], [1, float("nan")]), ([3, 1], [2, -1]), ([], [])],
)
def test_counts_and_weights_that_are_none_are_refused(observed: list[int], weights: list[float]) -> None:
    with pytest.raises(ValueError, match="are 0 or more"):
        sample_ratio(observed, weights)


@given(st.integers(100, 10**7), st.floats(0.05, 0.95))
@settings(max_examples=50)
def test_the_smallest_loss_is_found_with_the_power_asked_for(total: int, weight: float) -> None:
    loss = smallest_loss(total, [weight, 1 - weight])
    if loss is None:
        return
    powers = []
    for w in (weight, 1 - weight):
        left = np.array([w * (1 - loss), 1 - w]) / (1 - w * loss)
        noncentrality = total * ((left - [w, 1 - w]) ** 2 / [w, 1 - w]).sum()
        powers.append(stats.ncx2.sf(stats.chi2.isf(0.001, 1), 1, noncentrality))
    assert min(powers) == pytest.approx(0.8, abs=1e-6)


def test_the_smallest_loss_agrees_with_what_is_known() -> None:
    """A loss of 1 % in one arm is found in 4 % of tests at 100,000 users and in 96 % at a million."""
    assert smallest_loss(100_000, [1, 1], power=0.0445) == pytest.approx(0.01, rel=0.01)
    assert smallest_loss(1_000_000, [1, 1], power=0.96) == pytest.approx(0.01, rel=0.02)
    assert smallest_loss(10, [1, 1]) is None


def test_equal_arms_alarm_once_in_a_thousand() -> None:
    """20,000 experiments; fails by chance with probability below 1e-6."""
    draws = np.random.default_rng(1).binomial(10_000, 0.5, 20_000)
    alarms = sum((sample_ratio([n, 10_000 - n], [1, 1]).p or 0) < 0.001 for n in draws.tolist())
    assert 0 < alarms <= stats.binom.ppf(1 - 1e-6, 20_000, 0.0011)

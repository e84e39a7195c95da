"""The corrections against statsmodels, their matching intervals, and their error rates."""

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from abtest.stats.means import Estimate, compare
from abtest.stats.multiplicity import CORRECTIONS, benjamini_hochberg, hochberg, holm
from abtest.stats.sequential import nominal_levels, sequential_p

p_values = st.lists(st.floats(0, 1) | st.floats(0, 0.06), min_size=1, max_size=12)


@pytest.fixture(scope="module", autouse=True)
def _nothing_older_is_collected() -> Iterator[None]:
    """multipletests collects garbage in each call: a quarter of a second where other tests left much."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@settings(max_examples=25)
@given(p_values)
def test_adjusted_p_and_decisions_equal_those_of_statsmodels(p: list[float]) -> None:
    found = holm(p, 0.05)
    _, adjusted, _, _ = multipletests(p, 0.05, method="holm")
    assert [test.p_adjusted for test in found] == pytest.approx(list(adjusted), rel=1e-12)
    assert [test.rejected for test in found] == [value < 0.05 for value in adjusted]


@pytest.mark.parametrize("wrong", [float("nan"), -0.1, 1.5])
@pytest.mark.parametrize("correct", CORRECTIONS.values())
def test_a_p_that_is_none_is_refused(correct: Any, wrong: float) -> None:
    """NaN first made Holm call all that came after it 1."""
    with pytest.raises(ValueError, match="does not lie between 0 and 1"):
        correct([wrong, 0.01], 0.05)


@given(p_values)
def test_the_level_of_an_interval_matches_the_decision(p: list[float]) -> None:
    for value, test in zip(p, holm(p, 0.05), strict=True):
        if abs(value - test.alpha) > 1e-12:
            assert test.rejected == (value < test.alpha)


def test_naive_rank_levels_would_disagree_with_the_step_down_stop() -> None:
    """With .026 and .03 nothing is rejected, so both get .025; by rank, .03 would get a level of .05."""
    assert [(test.rejected, test.alpha) for test in holm([0.026, 0.03], 0.05)] == [(False, 0.025)] * 2


def test_rejected_tests_get_the_level_of_their_rank_and_others_what_is_left() -> None:
    found = holm([0.2, 0.001, 0.01], 0.06)
    assert [test.rejected for test in found] == [False, True, True]
    assert [test.alpha for test in found] == pytest.approx([0.06, 0.02, 0.03])


def test_a_test_without_p_counts_and_is_not_rejected() -> None:
    found = holm([0.02, None], 0.05)
    assert [test.p_adjusted for test in found] == [0.04, None]
    assert [test.rejected for test in found] == [True, False]
    assert [test.alpha for test in found] == [0.025, 0.05]


def test_no_tests_are_no_answers() -> None:
    assert holm([]) == []


@given(p_values, st.randoms())
def test_the_order_of_tests_does_not_matter(p: list[float], random: object) -> None:
    order = list(range(len(p)))
    random.shuffle(order)  # type: ignore[attr-defined]
    found, shuffled = holm(p), holm([p[i] for i in order])
    assert [found[i].p_adjusted for i in order] == [test.p_adjusted for test in shuffled]


def test_intervals_exclude_0_exactly_when_the_adjusted_p_is_below_alpha() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        arms = [(Estimate(80, 1.0, 0.01), Estimate(90, rng.normal(1.25, 0.2), 0.01)) for _ in range(5)]
        tests = holm([compare(*pair).p for pair in arms])
        for pair, test in zip(arms, tests, strict=True):
            low, high = compare(*pair, alpha=test.alpha).lift_ci or (0, 0)
            assert (low > 0 or high < 0) == (test.p_adjusted is not None and test.p_adjusted < 0.05)


def test_any_false_rejection_happens_in_at_most_5_percent_of_families() -> None:
    """4,000 families of 5 correlated true nulls; fails by chance with probability below 1e-6."""
    rng = np.random.default_rng(2)
    z = rng.normal(size=(4000, 5)) + 0.5 * rng.normal(size=(4000, 1))
    p = 2 * stats.norm.sf(np.abs(z) / np.sqrt(1.25))
    false = sum(any(test.rejected for test in holm(list(row))) for row in p)
    assert false <= stats.binom.ppf(1 - 1e-6, 4000, 0.05)


STATSMODELS = {"holm": "holm", "hochberg": "simes-hochberg", "bh": "fdr_bh"}


@settings(max_examples=25)
@given(p_values, st.sampled_from(sorted(CORRECTIONS)))
def test_every_correction_equals_statsmodels_and_its_levels_match_its_decisions(
    p: list[float], name: str
) -> None:
    found = CORRECTIONS[name](p, 0.05)
    _, adjusted, _, _ = multipletests(p, 0.05, method=STATSMODELS[name])
    assert [test.p_adjusted for test in found] == pytest.approx(list(adjusted), rel=1e-12)
    for value, test in zip(p, found, strict=True):
        if abs(value - test.alpha) > 1e-12:
            assert test.rejected == (value < test.alpha)


@given(p_values)
def test_hochberg_rejects_what_holm_does_and_benjamini_hochberg_what_hochberg_does(p: list[float]) -> None:
    one, two, three = ([test.rejected for test in f(p)] for f in (holm, hochberg, benjamini_hochberg))
    assert all(not a or b for a, b in zip(one, two, strict=True))
    assert all(not a or b for a, b in zip(two, three, strict=True))


def test_a_test_without_p_counts_in_every_correction() -> None:
    for correct in CORRECTIONS.values():
        found = correct([0.02, None], 0.05)
        assert [test.p_adjusted for test in found] == [0.04, None]
        assert [test.rejected for test in found] == [True, False]


def test_on_sequential_p_the_interval_of_the_crossing_look_matches_the_decision() -> None:
    """Goals watched on three days: rejected exactly when a look is beyond the bound of the goal's level."""
    rng = np.random.default_rng(3)
    t = [0.4, 0.7, 1.0]
    for _ in range(15):
        looks = np.minimum(rng.uniform(0, 0.2, (4, 3)) ** 2, 1)
        p = [sequential_p("obf", row.tolist(), t)[-1] for row in looks]
        for correct in CORRECTIONS.values():
            for row, test, value in zip(looks, correct(p, 0.05), p, strict=True):
                if abs(value / test.alpha - 1) > 1e-3:
                    levels = nominal_levels("obf", test.alpha, t)
                    assert test.rejected == bool((row <= levels).any())

"""Exact integer sums: they add in any order and lose no digit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abtest.stats.moments import Moments

values = st.lists(st.tuples(st.integers(0, 10**12), st.integers(-(10**6), 10**6)), max_size=20)


def moments(users: list[tuple[int, int]]) -> Moments:
    return Moments.from_arrays(x=[x for x, _ in users], y=[y for _, y in users])


@given(values, values)
def test_moments_of_parts_add_to_the_moments_of_the_whole_in_any_order(a: list, b: list) -> None:
    assert moments(a) + moments(b) == moments(b + a)


@given(values.filter(lambda users: len(users) > 1))
def test_means_and_covariances_equal_those_of_numpy(users: list) -> None:
    found = moments(users)
    x, y = np.array(users, dtype=np.longdouble).T
    assert found.mean("x") == pytest.approx(float(x.mean()), rel=1e-15)
    expected = ((x - x.mean()) * (y - y.mean())).sum() / (len(x) - 1)
    assert found.covariance("y", "x") == pytest.approx(float(expected), rel=1e-9, abs=1e-3)


def test_the_variance_survives_a_large_mean() -> None:
    """Raw floating-point sums of squares lose it: at mean 1e8 and sd 1 they give about 0 or less."""
    x = 10**8 + np.arange(1000) % 3
    assert Moments.from_arrays(x=x).variance("x") == Moments.from_arrays(x=x - 10**8).variance("x")


def test_sums_beyond_64_bits_are_exact() -> None:
    x = np.array([2**40 + 1] * 3)
    assert Moments.from_arrays(x=x).products["x", "x"] == 3 * (2**40 + 1) ** 2 > 2**63


def test_the_mean_is_the_quotient_that_sql_computes() -> None:
    found = Moments(3, {"watch_ms": 10_000_001}, {})
    assert found.mean("watch_ms") == float(10_000_001) / 3


@pytest.mark.parametrize(
    ("columns", "words"),
    [({"x": [1, 2], "y": [1]}, "differ in length"), ({"x": [0.5]}, "'x' holds float64")],
)
def test_columns_that_cannot_be_summed_are_refused(columns: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Moments.from_arrays(**columns)


def test_moments_of_different_columns_do_not_add() -> None:
    with pytest.raises(ValueError, match="do not add"):
        Moments.from_arrays(x=[1]) + Moments.from_arrays(y=[1])

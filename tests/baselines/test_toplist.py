"""The fast top list against a plain sort."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.toplist import padded_width, top_items


def plain_top(scores, depth):
    ids = np.zeros((len(scores), depth), np.int32)
    for row, out in zip(scores, ids, strict=True):
        order = np.lexsort((np.arange(len(row)), -row))
        order = order[row[order] > -np.inf][:depth]
        out[: len(order)] = order
    return ids


@given(
    st.integers(1, 64),
    st.integers(1, 40),
    st.integers(1, 60),
    st.sampled_from([2, 5, 1000]),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_the_top_list_is_the_sorted_one_with_ties_to_the_smaller_id(
    rows, groups, depth, n_values, masked, seed
):
    generator = np.random.default_rng(seed)
    scores = (generator.integers(0, n_values, (rows, groups * 16)) - n_values // 2).astype(np.float32) / 7
    scores[generator.random(scores.shape) < masked] = -np.inf
    scores[:, 0] = -np.inf
    ids, values = top_items(scores, depth)
    assert np.array_equal(ids, plain_top(scores, depth))
    assert np.array_equal(values, np.where(ids > 0, np.take_along_axis(scores, ids, axis=1), -np.inf))


def test_minus_zero_ties_with_zero():
    scores = np.full((1, 16), -np.inf, np.float32)
    scores[0, [3, 5, 7]] = [-0.0, 0.0, -0.0]
    assert top_items(scores, 3)[0].tolist() == [[3, 5, 7]]


def test_floats_of_every_size_are_ordered():
    scores = np.random.default_rng(0).standard_normal((64, 8000)).astype(np.float32)
    scores *= np.float32(10.0) ** np.random.default_rng(1).integers(-30, 30, scores.shape)
    scores[:, 0] = -np.inf
    assert np.array_equal(top_items(scores, 150)[0], plain_top(scores, 150))


def test_shapes_that_cannot_be_packed_are_refused():
    with pytest.raises(ValueError, match="65 x 16; allowed: 64 rows"):
        top_items(np.zeros((65, 16), np.float32), 3)
    with pytest.raises(ValueError, match="multiple of 16"):
        top_items(np.zeros((1, 17), np.float32), 3)
    assert [padded_width(n) for n in (1, 16, 17)] == [16, 16, 32]

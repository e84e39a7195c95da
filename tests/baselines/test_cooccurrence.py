from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.base import Interactions
from baselines.cooccurrence import SMOOTHING, _information, item_vectors


def two_neighbourhoods(n_users=200, length=6, seed=0):
    """Even users meet items 1 .. 20 only, odd ones 21 .. 40."""
    generator = np.random.default_rng(seed)
    users = np.repeat(np.arange(n_users), length)
    items = generator.integers(1, 21, len(users)) + 20 * (users % 2)
    return Interactions.from_arrays(users, items, n_items=40)


def naive_information(rows, n):
    """Pair by pair, in plain Python."""
    count = np.zeros((n, n))
    for row in rows:
        for a in set(row):
            for b in set(row) - {a}:
                count[a, b] += 1
    frequency = count.sum(axis=1)
    smoothed = frequency**SMOOTHING / ((frequency**SMOOTHING).sum() or 1.0)
    found = np.zeros((n, n))
    for a in range(n):
        for b in range(n):
            if count[a, b]:
                found[a, b] = max(0.0, np.log(count[a, b] / (frequency[a] * smoothed[b])))
    return (found + found.T) / 2


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=8), min_size=1, max_size=12))
def test_the_table_is_what_counting_pair_by_pair_gives(rows):
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    interactions = Interactions.from_arrays(users, np.concatenate(rows), n_items=9)
    table = _information(interactions).toarray()
    np.testing.assert_allclose(table, naive_information(rows, 10), atol=1e-12)


def test_the_vectors_are_the_best_factors_of_the_table():
    interactions = two_neighbourhoods()
    table = _information(interactions).toarray()
    values, vectors = np.linalg.eigh(table)
    largest = np.argsort(-np.abs(values))[:8]
    expected = vectors[:, largest] * np.sqrt(np.abs(values[largest]))
    expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
    found = item_vectors(interactions, 8)
    np.testing.assert_allclose(found[1:] @ found[1:].T, expected[1:] @ expected[1:].T, atol=1e-4)


def test_items_of_one_neighbourhood_are_close_and_others_are_not():
    vectors = item_vectors(two_neighbourhoods(), 2)
    likeness = vectors[1:] @ vectors[1:].T
    assert likeness[:20, :20].min() > 0.9
    assert np.abs(likeness[:20, 20:]).max() < 0.1


def test_vectors_have_length_one_and_padding_and_lonely_items_none():
    interactions = replace(two_neighbourhoods(), n_items=43)
    vectors = item_vectors(interactions, 8)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors[1:41], axis=1), 1, atol=1e-5)
    assert not vectors[0].any()
    assert not vectors[41:].any()


def test_the_same_interactions_give_the_same_vectors():
    one, other = (item_vectors(two_neighbourhoods(), 8) for _ in range(2))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("n_items", [1, 2, 5])
def test_a_small_catalogue_leaves_columns_of_zero(n_items):
    generator = np.random.default_rng(1)
    items = generator.integers(1, n_items + 1, 60)
    vectors = item_vectors(Interactions.from_arrays(np.arange(60) // 3, items, n_items=n_items), 16)
    assert vectors.shape == (n_items + 1, 16)
    assert np.isfinite(vectors).all()
    assert not vectors[:, max(0, n_items - 1) :].any()

"""Interactions, and the array work that models share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines import MODELS, load_model
from baselines.base import Interactions, recent, without

rows = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9), st.integers(0, 20)), max_size=40)


@given(rows)
def test_histories_are_the_last_items_in_time_order(given_rows):
    users, items, times = (
        (list(column) for column in zip(*given_rows, strict=True)) if given_rows else ([], [], [])
    )
    interactions = Interactions.from_arrays(users, items, times, n_users=7, n_items=9)
    histories = interactions.histories(max_length=4)
    for user in range(7):
        by_time = [item for u, item, _ in sorted(given_rows, key=lambda row: row[2]) if u == user]
        assert histories[user][histories[user] > 0].tolist() == by_time[-4:]
        assert interactions.lengths[user] == len(by_time)


def test_unknown_users_have_empty_histories_and_no_limit_keeps_all():
    interactions = Interactions.from_arrays([0, 0, 0, 2], [4, 5, 6, 7])
    assert interactions.histories([2, -1, 5, 0], None).tolist() == [[7, 0, 0], [0] * 3, [0] * 3, [4, 5, 6]]
    assert interactions.histories([1]).shape == (1, 50)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [1], None), "2 users, 1 items and 2 times"),
        (([0, -1], [1, 2], None), "user id -1 is out of range; users are 0 .. 0"),
        (([0, 1], [0, 2], None), "item id 0 is out of range; items are 1 .. 2"),
        (([0, 1], [1, 9], None, 2, 5), "item id 9 is out of range; items are 1 .. 5"),
    ],
)
def test_bad_interactions_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Interactions.from_arrays(*arguments)


def test_interactions_out_of_order_are_refused():
    with pytest.raises(ValueError, match="not ordered by user, then time"):
        Interactions(np.array([1, 0]), np.array([1, 1]), np.array([0, 0]), 2, 1)


def test_the_content_hash_knows_every_column():
    a = Interactions.from_arrays([0, 0, 1], [1, 2, 1], [5, 6, 7])
    assert a.content_hash() == Interactions.from_arrays([1, 0, 0], [1, 2, 1], [7, 6, 5]).content_hash()
    others = [
        Interactions.from_arrays([0, 0, 1], [1, 2, 1], [5, 6, 8]),
        Interactions.from_arrays([0, 0, 1], [1, 2, 2], [5, 6, 7]),
        Interactions.from_arrays([0, 0, 1], [1, 2, 1], [5, 6, 7], n_items=3),
    ]
    assert len({x.content_hash() for x in (a, *others)}) == 4


@given(st.integers(0, 12), st.integers(0, 8), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_without_agrees_with_a_plain_loop(n_items, n_exclude, k, seed):
    generator = np.random.default_rng(seed)
    items = np.argsort(generator.random((4, 12)), axis=1) + 1
    items[np.arange(12) >= generator.integers(0, n_items + 1, 4)[:, None]] = 0
    exclude = generator.integers(0, 13, (4, n_exclude))
    for row, hidden, result in zip(items, exclude, without(items, exclude, k), strict=True):
        plain = [item for item in row if item and item not in hidden][:k]
        assert result.tolist() == plain + [0] * (k - len(plain))


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(1, 14))
def test_recent_keeps_the_end(lengths, max_length):
    histories = np.zeros((len(lengths), 12), np.int64)
    for row, n in zip(histories, lengths, strict=True):
        row[:n] = np.arange(1, n + 1)
    for n, row in zip(lengths, recent(histories, max_length), strict=True):
        assert row[row > 0].tolist() == list(range(1, n + 1))[-max_length:]
        assert len(row) == max_length


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(
        LookupError, match=r"unknown model 'sasrek'; known models: .*poprec.* Did you mean 'sasrec'\?"
    ):
        load_model("sasrek")
    assert all(load_model(name).name == name for name in MODELS)

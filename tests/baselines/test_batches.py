"""Windows and batches: every target once, few pads, reproducible."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.base import Interactions
from baselines.batches import batches, uniform_negatives, windows


def interactions_of(lengths):
    users = np.repeat(np.arange(len(lengths)), lengths)
    return Interactions.from_arrays(users, np.arange(1, len(users) + 1), n_users=len(lengths))


def epoch(data, batch_targets, seed=0, max_length=5, max_targets=None):
    return list(batches(windows(data, max_length), batch_targets, np.random.default_rng(seed), max_targets))


@given(st.lists(st.integers(0, 17), min_size=1, max_size=30), st.integers(1, 40))
def test_every_item_but_a_users_first_is_a_target_once_after_the_item_before_it(lengths, batch_targets):
    data = interactions_of(lengths)
    pairs = []
    for batch in epoch(data, batch_targets):
        assert batch.items.numel() <= batch_targets or len(batch.items) == 1
        assert ((batch.items > 0) == (batch.targets > 0)).all()
        assert (batch.items[:, 0] > 0).all()
        assert torch.equal(torch.from_numpy(data.users)[batch.items[:, 0] - 1], batch.users)
        assert (
            batch.items[:, 1:][batch.targets[:, 1:] > 0] == batch.targets[:, :-1][batch.items[:, 1:] > 0]
        ).all()
        pairs += list(
            zip(batch.items[batch.items > 0].tolist(), batch.targets[batch.targets > 0].tolist(), strict=True)
        )
    expected = [
        (i, i + 1) for i, (u, v) in enumerate(zip(data.users, data.users[1:], strict=False), 1) if u == v
    ]
    assert sorted(pairs) == expected


def test_the_last_window_of_a_user_is_full():
    cut = windows(interactions_of([13]), 5)
    assert cut.lengths.tolist() == [5, 5, 2]
    assert cut.starts.tolist() == [7, 2, 0]


def test_pads_are_few():
    lengths = np.random.default_rng(0).geometric(0.12, 4000) + 4
    found = epoch(interactions_of(lengths), 1536, max_length=50)
    filled = sum(int((b.items > 0).sum()) for b in found) / sum(b.items.numel() for b in found)
    assert filled > 0.92


def test_the_same_stream_gives_the_same_epoch_and_another_another():
    data = interactions_of([7] * 50)
    first, same, other = epoch(data, 40), epoch(data, 40), epoch(data, 40, seed=1)
    assert all(torch.equal(a.items, b.items) for a, b in zip(first, same, strict=True))
    assert not all(torch.equal(a.items, b.items) for a, b in zip(first, other, strict=True))


def test_a_bounded_epoch_draws_about_max_targets():
    data = interactions_of([11] * 100)
    drawn = sum(int((b.targets > 0).sum()) for b in epoch(data, 200, max_length=50, max_targets=305))
    assert drawn == 310


def test_negatives_are_items_and_cover_them_all():
    drawn = uniform_negatives(7, (2000,), torch.Generator().manual_seed(0))
    assert sorted(set(drawn.tolist())) == [1, 2, 3, 4, 5, 6, 7]

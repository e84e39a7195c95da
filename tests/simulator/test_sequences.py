"""Worlds from interactions alone: two circles of users who share no item."""

import numpy as np
import pytest

from simulator import sequences
from simulator.world import World

N_USERS, LENGTH, N_ITEMS = 200, 12, 60


@pytest.fixture(scope="module")
def interactions() -> tuple[np.ndarray, np.ndarray]:
    """Even users have even items, odd users odd ones."""
    rng = np.random.default_rng(4)
    users = np.repeat(np.arange(N_USERS), LENGTH)
    items = 2 * rng.integers(0, N_ITEMS // 2, len(users)) + 2 - users % 2
    items[0] = N_ITEMS
    return users, items


@pytest.fixture(scope="module")
def world(interactions: tuple) -> World:
    return World.from_sequences(*interactions, seed=1)


def test_tastes_know_the_circle_of_a_user(world: World) -> None:
    match = world.user_taste @ world.item_vector[1:].T
    own = (np.arange(N_USERS)[:, None] % 2) == (np.arange(1, N_ITEMS + 1) % 2)
    assert match[own].mean() > 3 * abs(match[~own].mean())
    assert (np.where(own, match, -np.inf).max(1) > np.where(own, -np.inf, match).max(1)).mean() > 0.95


def test_histories_are_the_training_part(world: World, interactions: tuple) -> None:
    users, items = interactions
    for user in (0, 7):
        assert world.history[user][world.history[user] > 0].tolist() == items[users == user][:-2].tolist()


def test_nothing_is_fitted_from_the_held_out_items(world: World, interactions: tuple) -> None:
    users, items = interactions
    changed = items.reshape(N_USERS, LENGTH).copy()
    changed[:, -2:] = 1 + (changed[:, -2:] + 29) % N_ITEMS
    changed[1, -1] = N_ITEMS
    other = World.from_sequences(users, changed.ravel(), seed=1)
    for name in ("item_vector", "user_taste", "item_reach", "history", "user_activity"):
        assert np.array_equal(getattr(world, name), getattr(other, name)), name


@pytest.mark.parametrize("family", ["transitions", "neighbours"])
def test_the_other_families_learn_from_the_training_part_too(family: str, interactions: tuple) -> None:
    users, _ = interactions
    ring = 1 + (users * 7 + np.tile(np.arange(LENGTH), N_USERS)) % N_ITEMS  # everybody goes round one circle
    other = World.from_sequences(users, ring, seed=1, family=family)
    if family == "transitions":
        assert np.array_equal(other.item_successors[1:N_ITEMS, 0], np.arange(2, N_ITEMS + 1))
    else:
        places = other.item_vector[other.history[:, 0]]
        assert np.array_equal(other.user_anchors[:, 0], places)
    assert "training interactions" in other.origin["tastes"]


def test_bad_interactions_are_refused(interactions: tuple) -> None:
    users, items = interactions
    with pytest.raises(ValueError, match="n_users is 900; the sequences have 200 users"):
        World.from_sequences(users, items, n_users=900)
    with pytest.raises(ValueError, match="not sorted by user"):
        World.from_sequences(users[::-1], items)


def test_an_item_that_nobody_has_in_training_still_has_a_place() -> None:
    vector = sequences.item_vectors(np.array([0, 0, 1, 1]), np.array([1, 2, 1, 2]), 9, 2, seed=0)
    assert np.allclose((vector[1:] ** 2).sum(1), 1.0)
    assert not vector[0].any()

"""The three families: what each says about a video, in worlds where the answer is known."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from simulator import affinity, behavior
from simulator.constants import FAMILIES, Constants
from simulator.state import State
from simulator.world import World


@pytest.fixture(scope="module", params=list(FAMILIES))
def world(request: pytest.FixtureRequest) -> World:
    return World.synthetic(120, n_items=300, seed=5, family=request.param)


@pytest.fixture(scope="module")
def lived(world: World) -> State:
    """A state in which everybody has watched some feeds."""
    state, users = State.start(world), np.arange(world.n_users)
    for request in range(4):
        items = 1 + (users[:, None] * 7 + np.arange(6) * 11 + request * 97) % world.n_items
        behavior.absorb(world, state, users, items, behavior.respond(world, state, users, items))
    return state


def test_affinity_does_not_depend_on_who_else_is_in_the_call(world: World, lived: State) -> None:
    users = np.random.default_rng(1).permutation(world.n_users)
    items = 1 + (users[:, None] + np.arange(8) * 17) % world.n_items
    whole = behavior.affinity(world, lived, users, items)
    alone = [behavior.affinity(world, lived, users[i : i + 1], items[i : i + 1]) for i in range(20)]
    assert np.array_equal(whole[:20], np.concatenate(alone))
    assert np.array_equal(whole[:, 2:3], behavior.affinity(world, lived, users, items[:, 2:3]))


def test_a_play_draws_on_to_its_successors_and_less_so_later() -> None:
    world = World.synthetic(20, n_items=60, seed=2, family="transitions")
    following, boost = np.zeros((61, 1), np.int32), np.zeros((61, 1), np.float32)
    following[7], boost[7] = 8, 2.0
    world = replace(world, item_successors=following, item_boost=boost)
    plain = replace(world, item_boost=boost * 0)
    state, users = State.start(world), np.arange(3)
    items = np.tile([8, 9], (3, 1))
    state.plays[0, 0], state.n_plays[0] = 7, 1
    state.plays[1, :2], state.n_plays[1] = (7, 30), 2
    gain = affinity.transitions(world, state, users, items) - affinity.transitions(plain, state, users, items)
    first, second = world.constants.recency[:2]
    assert gain == pytest.approx(np.array([[2.0 * first, 0], [2.0 * second, 0], [0, 0]]))


def test_the_nearest_interest_decides_not_their_sum() -> None:
    """A factor model would put the mean of two opposite interests at 0, and like neither."""
    world = World.synthetic(2, n_items=40, seed=2, family="neighbours")
    dims = world.item_vector.shape[1]
    axis = np.eye(dims, dtype=np.float32)
    vectors = world.item_vector.copy()
    vectors[1:4] = axis[0], -axis[0], axis[1]
    anchors = np.tile(np.stack((axis[0], -axis[0])), (2, 1, 1))
    world = replace(world, item_vector=vectors, user_anchors=anchors)
    state = State.start(world)
    a = affinity.neighbours(world, state, np.array([0]), np.array([[1, 2, 3]]))[0]
    assert a[0] == pytest.approx(world.constants.interest)
    assert a[1] == pytest.approx(a[0])
    assert a[2] < 0.5 * a[0]


def test_the_last_plays_are_interests_too() -> None:
    world = World.synthetic(2, n_items=40, seed=2, family="neighbours")
    state = State.start(world)
    before = affinity.neighbours(world, state, np.array([0, 1]), np.array([[5], [5]]))
    after = copy.deepcopy(state)
    after.plays[0, 0], after.n_plays[0] = 5, 1
    gain = affinity.neighbours(world, after, np.array([0, 1]), np.array([[5], [5]])) - before
    assert gain.ravel() == pytest.approx([world.constants.short_interest, 0.0])


def test_successors_of_a_log_are_its_smoothed_lifts() -> None:
    c = Constants()
    histories = np.array([[1, 2, 0, 0]] * 30 + [[3, 4, 0, 0]] * 30 + [[3, 3, 1, 0]], np.int32)
    found = affinity.counted_successors(c, histories, 4)
    assert found["item_successors"][[1, 2, 3, 4], 0].tolist() == [2, 0, 4, 0]
    expected = 30 * 30 / 61
    lift = np.log((30 + affinity.SMOOTHING) / (expected + affinity.SMOOTHING))
    assert found["item_boost"][1, 0] == pytest.approx(c.successor_log * lift)


def test_most_successors_share_the_tag_as_often_as_the_constants_say() -> None:
    world = World.synthetic(10, n_items=2000, seed=3, family="transitions")
    c = world.constants
    share = np.bincount(world.item_tag[1:], np.diff(world.item_reach), minlength=world.n_tags)
    same = (world.item_tag[world.item_successors[1:]] == world.item_tag[1:, None]).mean()
    chance = share[world.item_tag[1:]].mean()
    assert same == pytest.approx(c.successor_tag + (1 - c.successor_tag) * chance, abs=0.04)


def test_an_unknown_family_is_refused_in_one_sentence() -> None:
    with pytest.raises(LookupError, match="unknown family 'tree'; known families: factors, transitions"):
        World.synthetic(10, family="tree")

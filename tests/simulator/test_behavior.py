"""How people respond: replay, independence, and the effects that real logs show."""

import copy
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import behavior
from simulator.state import SHOWN, State
from simulator.world import World

N_ITEMS = 600


@pytest.fixture(scope="module")
def world() -> World:
    return World.synthetic(400, n_items=N_ITEMS, seed=5)


@pytest.fixture(scope="module")
def lived(world: World) -> State:
    """A state in which everybody has seen some feeds, so that no array is trivial."""
    state = State.start(world)
    users = np.arange(world.n_users)
    behavior.begin_session(world, state, users)
    for request in range(8):
        items = _feed(users, request)
        behavior.absorb(world, state, users, items, behavior.respond(world, state, users, items))
    behavior.overnight(world, state, 0)
    return state


def _feed(users: np.ndarray, request: int) -> np.ndarray:
    return 1 + (users[:, None] * 7 + np.arange(6) * 11 + request * 97) % N_ITEMS


def _same(a: State, b: State) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def test_a_replay_gives_the_same_bytes(world: World) -> None:
    ends = []
    for _ in range(2):
        state = State.start(world)
        users = np.arange(world.n_users)
        for request in range(5):
            items = _feed(users, request)
            response = behavior.respond(world, state, users, items)
            behavior.absorb(world, state, users, items, response)
        behavior.overnight(world, state, 0)
        ends.append((state, response))
    assert _same(ends[0][0], ends[1][0])
    assert all(np.array_equal(a, b) for a, b in zip(ends[0][1], ends[1][1], strict=True))


def test_responding_does_not_change_the_state(world: World, lived: State) -> None:
    before = copy.deepcopy(lived)
    users = np.arange(50)
    behavior.respond(world, lived, users, _feed(users, 3))
    assert _same(before, lived)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 399), max_size=5), seed=st.integers(0, 1000))
def test_no_result_depends_on_who_else_is_in_the_call(
    world: World, lived: State, cuts: list[int], seed: int
) -> None:
    """Rows in another order and in other batches, down to single users: equal bit for bit."""
    order = np.random.default_rng(seed).permutation(world.n_users)
    items = _feed(order, seed)
    whole, parts = copy.deepcopy(lived), copy.deepcopy(lived)
    expected = _answers(world, whole, order, items)
    pieces = [
        _answers(world, parts, order[rows], items[rows])
        for rows in np.split(np.arange(world.n_users), sorted(set(cuts) | {1}))
    ]
    for field, name in enumerate(expected):
        got = np.concatenate([piece[name] for piece in pieces])
        assert np.array_equal(got, expected[name]), (field, name)
    assert _same(whole, parts)


def _answers(world: World, state: State, users: np.ndarray, items: np.ndarray) -> dict[str, np.ndarray]:
    sessions, requests = np.full(len(users), 1003), np.arange(len(users)) * 0 + 2
    out = {
        "affinity": behavior.affinity(world, state, users, items),
        "scores": behavior.reference_scores(world, state, users, items),
        "candidates": behavior.reference_candidates(world, users, sessions, requests),
        "stays": behavior.stays(world, state, users, sessions, requests, requests * 60_000),
        "gaps": behavior.gaps(world, users, sessions, requests),
    }
    response = behavior.respond(world, state, users, items)
    behavior.absorb(world, state, users, items, response)
    behavior.begin_session(world, state, users)
    return out | response._asdict()


def test_a_response_does_not_depend_on_the_slot_or_the_rest_of_the_feed(world: World, lived: State) -> None:
    users = np.arange(100)
    items = _feed(users, 5)
    forward = behavior.respond(world, lived, users, items)
    backward = behavior.respond(world, lived, users, items[:, ::-1])
    alone = behavior.respond(world, lived, users, items[:, 2:3])
    for a, b, c in zip(forward, backward, alone, strict=True):
        assert np.array_equal(a, b[:, ::-1])
        assert np.array_equal(a[:, 2:3], c)


def test_another_life_of_a_user_shares_its_luck(world: World) -> None:
    """The potential outcome: shown in another order, the same video meets the same draw."""
    users = np.arange(200)
    one, other = State.start(world), State.start(world)
    quiet = replace(world.constants, short_term=0.0, transition_sd=0.0, satiation=0.0)
    still = replace(world, constants=quiet, tag_transition=world.tag_transition * 0)
    first, second = _feed(users, 0), _feed(users, 1)
    r1 = behavior.respond(still, one, users, first)
    behavior.absorb(still, other, users, second, behavior.respond(still, other, users, second))
    r2 = behavior.respond(still, other, users, first)
    same_author = (other.n_follows[users] > 0)[:, None]
    assert np.array_equal(np.where(same_author, 0, r1.watch_ms), np.where(same_author, 0, r2.watch_ms))


def test_nothing_happens_at_an_empty_place(world: World) -> None:
    state = State.start(world)
    users = np.arange(30)
    items = _feed(users, 0)
    items[:, 3:] = 0
    response = behavior.respond(world, state, users, items)
    assert not any(field[:, 3:].any() for field in response)
    behavior.absorb(world, state, users, items, response)
    assert (state.n_shown[users] == 3).all()
    assert (state.shown[users, 3:] == 0).all()


def test_a_repeat_is_played_less(world: World) -> None:
    """KuaiRand-Pure: valid play .450 -> .189 when a video comes again; -1.25 logits."""
    state = State.start(world)
    users = np.arange(world.n_users)
    fresh, again = [], []
    for request in range(30):
        items = _feed(users, request)
        before = behavior.respond(world, state, users, items).play
        shown = copy.deepcopy(state)
        shown.shown[:, :6] = items
        after = behavior.respond(world, shown, users, items).play
        fresh.append(before.mean())
        again.append(after.mean())
    odds = [np.mean(p) / (1 - np.mean(p)) for p in (fresh, again)]
    assert np.log(odds[1] / odds[0]) == pytest.approx(-1.25, abs=0.35)


def test_exposures_are_counted_within_the_ring_only(world: World) -> None:
    state = State.start(world)
    users = np.array([3])
    item = np.array([[9]])
    nothing = behavior.respond(world, state, users, np.array([[1]]))
    zeros = behavior.Response(*(np.zeros((1, 1), f.dtype) for f in nothing))
    for _ in range(3):
        behavior.absorb(world, state, users, item, zeros)
    assert behavior.exposures(state, users, item) == 3
    for i in range(SHOWN - 1):
        behavior.absorb(world, state, users, np.array([[10 + i % 50]]), zeros)
    assert behavior.exposures(state, users, item) == 1
    assert behavior.exposures(state, users, np.array([[0]])) == 0
    assert state.recently_shown(users)[0, 0] == 9
    assert state.recently_shown(users)[0, -1] == 10 + (SHOWN - 2) % 50


def test_plays_are_remembered_oldest_first_and_repeats_kept(world: World) -> None:
    state = State.start(world)
    users = np.array([4, 7])
    blank = behavior.respond(world, state, users, _feed(users, 0))
    played = behavior.Response(*(np.zeros((2, 6), f.dtype) for f in blank))._replace(
        play=np.array([[1, 0, 1, 0, 0, 1]] * 2, bool)
    )
    items = np.array([[11, 12, 13, 14, 15, 11]] * 2)
    for _ in range(18):
        behavior.absorb(world, state, users, items, played)
    assert state.n_plays[4] == 54
    assert state.histories(users)[0].tolist() == ([11, 13, 11] * 18)[-50:]
    assert state.histories(np.array([5])).sum() == 0
    assert state.last_tag[7] == world.item_tag[11]


def test_an_author_is_followed_once(world: World) -> None:
    """A certain follow happens once; afterwards the user enjoys the author more."""
    sure = replace(world, user_actions=world.user_actions + 60.0)
    state = State.start(sure)
    users = np.arange(40)
    items = np.full((40, 1), 17)
    first = behavior.respond(sure, state, users, items)
    before = behavior.affinity(sure, state, users, items)
    assert first.follow.all()
    behavior.absorb(sure, state, users, items, first)
    assert not behavior.respond(sure, state, users, items).follow.any()
    change = behavior.affinity(sure, state, users, items) - before
    state.follows[:] = 0
    assert (change > behavior.affinity(sure, state, users, items) - before + 0.49).all()


def test_satiation_grows_with_a_tag_and_fades_in_a_break(world: World) -> None:
    state = State.start(world)
    users = np.arange(20)
    items = np.full((20, 6), 21)
    response = behavior.respond(world, state, users, items)
    behavior.absorb(world, state, users, items, response)
    tired = state.satiation[users, world.item_tag[21]].copy()
    assert (tired > 0.5).all()
    behavior.begin_session(world, state, users)
    assert np.allclose(state.satiation[users, world.item_tag[21]], tired / 2)


def test_watch_time_and_flags_agree(world: World, lived: State) -> None:
    users = np.arange(world.n_users)
    items = _feed(users, 40)
    r = behavior.respond(world, lived, users, items)
    assert np.array_equal(r.play, r.watch_ms > 7000)
    complete = (r.watch_ms >= world.item_duration_ms[items]) & (world.item_duration_ms[items] >= 7000)
    assert np.array_equal(r.long_view, (r.watch_ms >= 18_000) | complete)
    assert (r.watch_ms >= 0).all()
    assert (r.watch_ms <= 8 * world.item_duration_ms[items]).all()
    assert (r.panel_ms[r.comment] > 0).all()


def test_a_left_over_uniform_is_uniform_and_tells_nothing() -> None:
    u = (np.arange(100_000) + 0.5) / 100_000
    yes, rest = behavior._split(u, np.full(100_000, 0.3))
    assert yes.mean() == pytest.approx(0.3, abs=1e-4)
    for side in (yes, ~yes):
        assert np.quantile(rest[side], [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=1e-3)

"""A light run of a world: one slate policy, no platform and no events, enough to measure what users do with
the videos that are there at the start."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator import behavior
from simulator.constants import ACTIONS
from simulator.figures import Impressions
from simulator.randomness import Purpose, uniform
from simulator.state import State

if TYPE_CHECKING:
    from simulator.world import World

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ids = NDArray[np.int64]
Policy = Callable[["World", State, Ids, Ids, Ids], Ids]
SLATE = 6  # videos in a feed, 27K: 5.81 impressions per request
SITTING = 4  # requests of a session of `histories`
SITTINGS = 4


class Sample(NamedTuple):
    """What happened in a light run, one row an impression; `days` one row an active user-day."""

    users: Ids
    items: Ids
    sessions: Ids
    request_ms: Ids  # when the feed was asked for, since the start of the run
    affinity: Floats
    condition: Ids
    p: Floats  # (actions, rows) conditional chances
    response: behavior.Response  # of (rows,)
    days: Ids  # impressions per active user-day
    active: Flags  # (3 + days, n_users) active or not; the first three days came before the sample

    @property
    def n_user_days(self) -> int:
        """User-days of the sample, active or not."""
        return (len(self.active) - 3) * self.active.shape[1]


def reference_slate(world: "World", state: State, users: Ids, sessions: Ids, requests: Ids) -> Ids:
    """(n, 6) best of the reference policy's candidates, without repeats and without what was shown lately."""
    items = np.sort(behavior.reference_candidates(world, users, sessions, requests), axis=1)
    scores = behavior.reference_scores(world, state, users, items)
    again = np.zeros(items.shape, np.bool_)
    again[:, 1:] = items[:, 1:] == items[:, :-1]
    scores[again] = -np.inf
    items, scores = _best(items, scores, 3 * SLATE)  # few of them were shown lately
    scores[behavior.exposures(state, users, items) > 0] = -np.inf
    items, scores = _best(items, scores, SLATE)
    return np.where(scores > -np.inf, items, 0)


def _best(items: Ids, scores: Floats, k: int) -> tuple[Ids, Floats]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)


def random_slate(world: "World", state: State, users: Ids, sessions: Ids, requests: Ids) -> Ids:
    """(n, 6) uniform over the catalogue, repeats allowed."""
    slots = np.arange(SLATE)
    u = uniform(
        world.seed, Purpose.SLOT_ITEM, users[:, None], sessions[:, None], requests[:, None] * 64 + slots
    )
    return 1 + (u * world.n_at_start).astype(np.int64)


def live(world: "World", days: int, policy: Policy = reference_slate, *, skip: int = 0) -> Sample:
    """Let the world live for `skip` + `days` days under one policy; a sample of the last `days`."""
    state = State.start(world)
    rows: list[tuple] = []
    volumes: list[Ids] = []
    active = [*state.active_days[:, ::-1].T.astype(np.bool_)]
    for day in range(skip + days):
        arrived = behavior.arrivals(world, state, day)
        volume = np.zeros(world.n_users, np.int64)
        for piece in _day(world, state, arrived, policy):
            volume += np.bincount(piece[0], minlength=world.n_users)
            if day >= skip:
                rows.append(piece)
        behavior.overnight(world, state, day)
        active.append(state.active_days[:, 0].astype(np.bool_))
        if day >= skip:
            volumes.append(volume[np.unique(arrived.users)])
    return _joined(rows, np.concatenate(volumes), np.stack(active[-days - 3 :]))


def histories(world: "World", n: int, length: int) -> Ids:
    """(n or fewer, length) last plays of an even choice of users, everybody's after equally many feeds.

    Users who have not played so much by then are left out.
    """
    some = min(n, world.n_users)
    users = np.arange(some) * world.n_users // max(some, 1)
    state = State.start(world)
    before = state.n_plays[users]
    for sitting in range(SITTINGS):
        sessions = np.full(some, sitting - SITTINGS)  # before those of any day
        behavior.begin_session(world, state, users)
        for request in range(SITTING):
            items = reference_slate(world, state, users, sessions, np.full(some, request))
            behavior.absorb(world, state, users, items, behavior.respond(world, state, users, items))
    enough = state.n_plays[users] - before >= length
    plays = state.histories(users[enough])
    last = np.minimum(state.n_plays[users[enough]], plays.shape[1])
    return np.take_along_axis(plays, last[:, None] + np.arange(-length, 0), axis=1)


def impressions(world: "World", sample: Sample) -> Impressions:
    """The rows by user and time, actions as their chances, as the figures of a log want them."""
    order = np.argsort(sample.users, kind="stable")
    r, p = sample.response, dict(zip(ACTIONS, sample.p, strict=True))
    flags = (
        r.play,
        r.long_view,
        sample.condition == 3,
        p["like"],
        p["panel"] * p["comment"],
        p["share"],
        p["profile"] * p["follow_in"] + (1 - p["profile"]) * p["follow_out"],
        p["hate"],
        p["panel"],
        p["profile"],
    )
    items = sample.items[order]
    return Impressions(
        sample.users[order],
        items,
        world.item_tag[items].astype(np.int64),
        world.item_duration_ms[items] / 1000.0,
        r.watch_ms[order] / 1000.0,
        np.stack([flag.astype(np.float64)[order] for flag in flags]),
    )


def _day(world: "World", state: State, arrived: behavior.Arrivals, policy: Policy) -> Iterator[tuple]:
    """Everybody's sessions, each user's in order; all users that are not done ask at once."""
    order = np.lexsort((arrived.start_ms, arrived.users))
    sessions, start_ms = arrived.sessions[order], arrived.start_ms[order]
    users, at, n_sessions = np.unique(arrived.users[order], return_index=True, return_counts=True)
    end = at + n_sessions
    requests, elapsed = np.zeros_like(users), np.zeros_like(users)
    behavior.begin_session(world, state, users)
    while len(users):
        luck = behavior.luck(world, users, sessions[at], requests)
        items = policy(world, state, users, sessions[at], requests)
        items, whole = behavior.reached(world, state, users, elapsed, luck, items)
        response, chances = behavior.respond_with_chances(world, state, users, items)
        behavior.absorb(world, state, users, items, response)
        yield _piece(users, items, sessions[at], start_ms[at] + elapsed, response, chances)
        elapsed += response.watch_ms.sum(-1) + luck.gap_ms
        on = behavior.goes_on(world, state, users, elapsed, luck) & whole
        requests, elapsed, at = (
            np.where(on, requests + 1, 0),
            np.where(on, elapsed, 0),
            np.where(on, at, at + 1),
        )
        left = at < end
        behavior.begin_session(world, state, users[left & ~on])
        users, requests, elapsed, at, end = (x[left] for x in (users, requests, elapsed, at, end))


def _piece(
    users: Ids,
    items: Ids,
    sessions: Ids,
    request_ms: Ids,
    response: behavior.Response,
    chances: behavior.Chances,
) -> tuple:
    """The impressions of a round as flat arrays, in the order of Sample's fields."""
    real = items > 0
    who, session, at = (np.broadcast_to(x[:, None], items.shape)[real] for x in (users, sessions, request_ms))
    p = 1 / (1 + np.exp(-chances.logits[:, real].astype(np.float64)))
    drawn = behavior.Response._make(field[real] for field in response)
    return who, items[real], session, at, chances.affinity[real], chances.condition[real], p, drawn


def _joined(rows: list[tuple], days: Ids, active: Flags) -> Sample:
    users, items, sessions, request_ms, affinity, condition = (
        np.concatenate([r[i] for r in rows]) for i in range(6)
    )
    p = np.concatenate([r[6] for r in rows], axis=1)
    fields = zip(*(r[7] for r in rows), strict=True)
    response = behavior.Response._make(np.concatenate(f) for f in fields)
    return Sample(users, items, sessions, request_ms, affinity, condition, p, response, days, active)

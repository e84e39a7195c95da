"""Three families of worlds: what a user enjoys about a video, beyond its quality.

- factors: taste and recent plays times the video's vector, and what the last played tag does to the next.
- transitions: the same, and each video draws its viewers on to certain others (`World.item_successors`).
- neighbours: how close the video lies to the nearest of the user's interests and to the last plays; no sum
  of products, so that no factor model is of the world's own class.

A family is a function with the signature `Affinity`, and draws of its own in `FAMILIES`. All arithmetic is
elementwise or a sum over the last axis, as in `behavior`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.constants import Constants
from simulator.randomness import Purpose, normal, uniform
from simulator.state import PLAYS

if TYPE_CHECKING:
    from simulator.state import State
    from simulator.world import World

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Float32s = NDArray[np.float32]

RECENT = 5
"""Last plays that bear on the next."""

SUCCESSORS = 16
"""Videos that a video draws its viewers on to."""

MOST_BOOST = 2.0
"""A drawn boost is exponential, and at most so many means."""

SMOOTHING = 5.0
"""Pairs that a pair of videos is taken to have been seen more, as expected: a boost needs some evidence."""

_BLOCK = 128  # rows whose pairs are compared at once

Affinity = Callable[["World", "State", Ids, Ids], Floats]
"""(n, k) affinity of users (n,) to videos (n, k): what is special to the pair, without quality and centre."""


def factors(world: "World", state: "State", users: Ids, items: Ids) -> Floats:
    """Inner products, and the tag that was played last."""
    c = world.constants
    direction = state.taste.take(users, 0) + np.float32(c.short_term) * state.short.take(users, 0)
    # sums along d only, no BLAS
    match = np.einsum("nd,nkd->nk", direction, world.item_vector.take(items, 0)).astype(np.float64)
    after = state.last_tag.take(users)[:, None] * world.n_tags + world.item_tag.take(items)
    return match + world.tag_transition.take(after)


def transitions(world: "World", state: "State", users: Ids, items: Ids) -> Floats:
    """Factors, and what the last plays draw on to; an older play counts less."""
    match = factors(world, state, users, items)
    weights = np.array(world.constants.recency)
    for start in range(0, len(users), _BLOCK):
        part = slice(start, start + _BLOCK)
        recent = _recent_plays(state, users[part])
        following = world.item_successors.take(recent, 0)  # (n, RECENT, SUCCESSORS)
        boost = world.item_boost.take(recent, 0) * weights[:, None]
        flat = following.reshape(len(recent), -1)
        row, slot, which = np.nonzero(items[part].astype(np.int32)[:, :, None] == flat[:, None, :])
        np.add.at(match, (start + row, slot), boost.reshape(len(recent), -1)[row, which])
    return match


def neighbours(world: "World", state: "State", users: Ids, items: Ids) -> Floats:
    """Closeness to the nearest interest, and to the nearest of the last plays; an older play counts less."""
    c = world.constants
    vectors = world.item_vector.take(items, 0)
    moved = state.taste.take(users, 0) - world.user_taste.take(users, 0)
    interests = world.user_anchors.take(users, 0) + moved[:, None, :]
    nearest = np.zeros(items.shape)
    for p in range(interests.shape[1]):
        np.maximum(nearest, _closeness(interests[:, p], vectors, c.radius), out=nearest)
    recent = _recent_plays(state, users)
    lately = np.zeros(items.shape)
    for lag, weight in enumerate(c.recency):
        close = _closeness(world.item_vector.take(recent[:, lag], 0), vectors, c.radius)
        np.maximum(lately, np.where(recent[:, lag, None] > 0, weight * close, 0.0), out=lately)
    return c.interest * nearest + c.short_interest * lately


class Family(NamedTuple):
    """How a family answers, and what a synthetic world of it draws beyond `population.draw`."""

    affinity: Affinity
    draw: Callable[[Constants, dict[str, Any]], dict[str, Any]]


def draw_nothing(constants: Constants, drawn: dict[str, Any]) -> dict[str, Any]:
    """Factors need no more than tastes and vectors."""
    return {}


def draw_successors(constants: Constants, drawn: dict[str, Any]) -> dict[str, Any]:
    """Successors by reach, most of the video's own tag, with boosts that fall from the first to the last; of
    videos that are there at the start some are uploaded later."""
    seed, tag, reach = drawn["seed"], drawn["item_tag"], drawn["item_reach"] / drawn["item_reach"][-1]
    ids = np.arange(len(tag))[:, None]
    u = uniform(seed, Purpose.ITEM_SUCCESSOR, ids, np.arange(SUCCESSORS))
    anywhere = np.minimum(np.searchsorted(reach, u), len(tag) - 1)
    same = _same_tag(tag, np.diff(reach, prepend=0.0), u)
    own = (
        uniform(seed, Purpose.ITEM_SUCCESSOR, ids, SUCCESSORS + np.arange(SUCCESSORS))
        < constants.successor_tag
    )
    following = np.where(own, same, anywhere).astype(np.int32)
    following[0] = 0
    luck = uniform(seed, Purpose.ITEM_SUCCESSOR_BOOST, ids, np.arange(SUCCESSORS))
    boost = constants.successor_boost * np.minimum(-np.log(luck), MOST_BOOST)
    boost[following == 0] = 0.0
    return {"item_successors": following, "item_boost": boost.astype(np.float32)}


def seen_in(drawn: dict[str, Any]) -> dict[str, Any]:
    """A world from a log: its family's own fields from the histories, where these tell something."""
    constants, history = drawn["constants"], drawn["history"]
    if drawn["family"] == "transitions":
        return {**drawn, **counted_successors(constants, history, len(drawn["item_tag"]) - 1)}
    if drawn["family"] == "neighbours":
        return {**drawn, **played_interests(constants, drawn)}
    return drawn


def played_interests(constants: Constants, drawn: dict[str, Any]) -> dict[str, Any]:
    """Interests at the places of played videos, spread evenly over the history; without one, as drawn."""
    history = drawn["history"]
    length = (history > 0).sum(1)
    which = (np.arange(constants.interests) * length[:, None]) // constants.interests
    items = np.take_along_axis(history, which, axis=1)
    anchors = np.where((length > 0)[:, None, None], drawn["item_vector"][items], drawn["user_anchors"])
    return {"user_anchors": anchors, "user_taste": anchors.mean(1).astype(np.float32)}


def counted_successors(constants: Constants, sequences: NDArray[np.int32], n_items: int) -> dict[str, Any]:
    """The successors that sequences of plays show: (n, length) items, left-aligned, 0 after the end.

    A boost is the log of (times seen + SMOOTHING) over (times expected + SMOOTHING), where the videos of all
    neighbouring plays are expected to meet at random, times `successor_log`; of each video the 16 highest
    above 0 count.
    """
    before, after = sequences[:, :-1].ravel(), sequences[:, 1:].ravel()
    real = (after > 0) & (before != after)
    before, after = before[real].astype(np.int64), after[real].astype(np.int64)
    pair, seen = np.unique(before * (n_items + 1) + after, return_counts=True)
    first, second = pair // (n_items + 1), pair % (n_items + 1)
    n_before, n_after = (np.bincount(side, minlength=n_items + 1) for side in (before, after))
    expected = n_before[first] * n_after[second] / max(len(after), 1)
    boost = constants.successor_log * np.log((seen + SMOOTHING) / (expected + SMOOTHING))
    order = np.lexsort((second, -boost, first))
    first, second, boost = first[order], second[order], boost[order]
    place = np.arange(len(first)) - np.searchsorted(first, first)
    keep = (place < SUCCESSORS) & (boost > 0)
    following = np.zeros((n_items + 1, SUCCESSORS), np.int32)
    boosts = np.zeros((n_items + 1, SUCCESSORS), np.float32)
    following[first[keep], place[keep]] = second[keep]
    boosts[first[keep], place[keep]] = boost[keep]
    return {"item_successors": following, "item_boost": boosts}


def draw_interests(constants: Constants, drawn: dict[str, Any]) -> dict[str, Any]:
    """Interests are places near tags that the user likes; tastes drift around their mean."""
    seed, n = drawn["seed"], len(drawn["user_source_id"])
    tags_at_start = drawn["item_tag"][1 : drawn["n_at_start"] + 1]
    counts = np.bincount(tags_at_start, minlength=len(drawn["tag_vector"]))
    cumulative = np.cumsum((counts / counts.sum()) ** constants.interest_power)
    people, which = np.arange(n)[:, None], np.arange(constants.interests)
    u = uniform(seed, Purpose.USER_TASTE, people, which) * cumulative[-1]
    tags = np.minimum(np.searchsorted(cumulative, u, side="right"), len(cumulative) - 1)
    noise = normal(seed, Purpose.USER_ANCHOR, people[:, :, None], which[:, None], np.arange(constants.dims))
    anchors = around(constants, drawn["tag_vector"][tags], noise)
    return {
        "user_anchors": anchors.astype(np.float32),
        "user_taste": anchors.mean(1).astype(np.float32),
    }


def around(constants: Constants, tag: NDArray[np.float32], noise: Floats) -> Floats:
    """Directions of length 1 around those of tags (..., dims); noise: standard normal draws."""
    share = constants.item_noise
    found = np.sqrt(1 - share**2) * tag + share * axis_lengths(constants) * noise
    return found / np.sqrt((found**2).sum(-1, keepdims=True))


def axis_lengths(constants: Constants) -> Floats:
    """(dims,) what to multiply standard normal draws by for vectors of length about 1."""
    length = np.arange(1, constants.dims + 1) ** -constants.axis_power
    return length / np.sqrt((length**2).sum())


FAMILIES = {
    "factors": Family(factors, draw_nothing),
    "transitions": Family(transitions, draw_successors),
    "neighbours": Family(neighbours, draw_interests),
}


def _recent_plays(state: "State", users: Ids) -> Ids:
    """(n, RECENT) the last plays, latest first, 0 = none."""
    back = np.arange(1, RECENT + 1)
    count = state.n_plays.take(users)[:, None]
    places = (count - back) % PLAYS
    return np.where(count >= back, state.plays[users[:, None], places], 0).astype(np.int64)


def _closeness(points: Float32s, vectors: Float32s, radius: float) -> Floats:
    """(n, k) from 0 to 1: a Gaussian of the distance of points (n, d) to vectors (n, k, d)."""
    apart = points[:, None, :] - vectors
    return np.exp(np.einsum("nkd,nkd->nk", apart, apart).astype(np.float64) / (-2 * radius**2))


def _same_tag(tag: NDArray[np.int32], share: Floats, u: Floats) -> Ids:
    """(items, m) for each video and draw a video of the same tag, by share."""
    order = np.lexsort((np.arange(len(tag)), tag))
    cumulative = np.cumsum(share[order])
    first = np.searchsorted(tag[order], tag, side="left")
    last = np.searchsorted(tag[order], tag, side="right") - 1
    low = np.where(first > 0, cumulative[np.maximum(first, 1) - 1], 0.0)[:, None]
    at = np.searchsorted(cumulative, low + u * (cumulative[last][:, None] - low))
    return order[np.clip(at, first[:, None], last[:, None])]

"""Feeds filled slot by slot from three sources, with the exact chance of every choice.

At each slot, given what is already taken: with chance `reference` the best-scored video of the reference
policy, with chance `popular` a video drawn by its plays until last midnight, with chance `uniform` any video
that is there.
The reference policy's candidates are a fixed function of (user, session, request), so the chances are those
given that list. Where the list is used up, its share goes to `uniform`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator import behavior
from simulator.feed import FEED_LENGTH, Ids, Rows
from simulator.randomness import Purpose, unit, words
from simulator.state import State
from simulator.world import World
from warehouse.events import DAY_MS

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

BILLION = 1_000_000_000
TRIES = 16  # draws that may hit a taken video before all that is left is enumerated
_SHORTLIST = (
    2  # times the feed length: how many of the best candidates are usually compared with what is taken
)
_BLOCK = 512  # rows that are compared at once, so that they stay in the cache


class Slots(NamedTuple):
    """What has to be known to fill n feeds of k slots."""

    key: tuple[Ids, Ids, Ids]  # user (n, 1), session (n, 1), place in the session (n, k)
    luck: Floats  # (4, n, k) which part fills the slot, then three attempts to draw a video
    taken: NDArray[np.int32]  # (n, S) videos not to show, 0 = none
    best: Ids  # (n, k) the reference policy's list, 0 = no more
    available: Ids  # (n,) the highest id that can be shown
    n_left: Ids  # (n,) videos not taken, and their weight
    weight_left: Ids

    def rows(self, chosen: Flags) -> "Slots":
        """The same for some of the feeds."""
        users, sessions, place = (part[chosen] for part in self.key)
        return Slots(
            (users, sessions, place),
            self.luck[:, chosen],
            self.taken[chosen],
            self.best[chosen],
            self.available[chosen],
            self.n_left[chosen],
            self.weight_left[chosen],
        )


class SlotMixture:
    """A feed of independent slots with exact propensities; no video twice, none that was lately shown."""

    def __init__(self, world: World, *, reference: float, popular: float, uniform: float) -> None:
        if min(reference, popular, uniform) < 0 or abs(reference + popular + uniform - 1) > 1e-12:
            raise ValueError(f"shares {reference}, {popular} and {uniform} must not be negative and sum to 1")
        self.world = world
        self.reference, self.popular, self.uniform = reference, popular, uniform
        self.state: State | None = None
        self.weight = np.bincount(world.history.ravel(), minlength=world.n_items + 1).astype(np.int64) + 1
        self.weight[0] = 0  # plays so far, and one more so that a new video has a chance
        self._cumulative = np.cumsum(self.weight)
        self._nights = 0

    def attach(self, state: State) -> None:
        """The life that is served."""
        self.state = state

    def learn(self, plays: Ids) -> None:
        """Popularity changes at midnight alone."""
        self.weight = self.weight + plays
        self.weight[0] = 0
        self._cumulative = np.cumsum(self.weight)
        self._nights += 1

    def begin(self, users: Ids, histories: Ids, shown: Ids, ts_ms: Ids) -> Rows:
        """Remembers the videos shown, each once; how many they are, and their weight as of last midnight."""
        barred = np.sort(shown.astype(np.int32), axis=1)
        barred[:, 1:][barred[:, 1:] == barred[:, :-1]] = 0
        return barred, (barred > 0).sum(1), self._weight_of(barred), np.full(len(users), self._nights)

    def serve(
        self,
        users: Ids,
        memory: Rows,
        sessions: Ids,
        requests: Ids,
        since: Ids,
        ts_ms: Ids,
        k: int = FEED_LENGTH,
    ) -> tuple[Ids, Ids]:
        """(n, k) videos, 0 where none is left, and the chance of each in parts per billion."""
        place = requests[:, None] * FEED_LENGTH + np.arange(k)
        luck = unit(words(self.world.seed, Purpose.SLOT_POLICY, users[:, None], sessions[:, None], place))
        taken = np.hstack((memory[0], since.astype(np.int32)))
        available = self.world.available(ts_ms // DAY_MS)
        slots = Slots(
            (users[:, None], sessions[:, None], place),
            luck,
            taken,
            self._best(users, sessions, requests, available, taken, k),
            available,
            available - memory[1] - (since > 0).sum(1),
            self._cumulative[available] - self._weight_barred(memory) - self._weight_of(since),
        )
        feed, chance, collides = self._at_once(slots)
        if collides.any():
            feed[collides], chance[collides] = self._one_by_one(slots.rows(collides))
        return feed, np.rint(BILLION * chance).astype(np.int64)

    def _at_once(self, slots: Slots) -> tuple[Ids, Floats, Flags]:
        """The feed as if no slot stood in another's way, and the rows where one does, which are void."""
        listed = slots.luck[0] < self.reference
        nth = np.cumsum(listed, axis=1) - listed
        first = np.take_along_axis(slots.best, nth, 1)
        feed = np.where(listed, first, 0)
        explores = np.nonzero(~listed)
        drawn = self._draw(slots, *explores)
        feed[explores] = drawn
        collides = np.zeros(len(feed), np.bool_)
        collides[explores[0][(slots.best[explores[0]] == drawn[:, None]).any(1)]] = True
        ordered = np.sort(feed, axis=1)
        collides |= (ordered[:, 0] == 0) | (ordered[:, 1:] == ordered[:, :-1]).any(1)
        if self.reference > 0:
            collides |= slots.best[:, -1] == 0
        earlier = np.cumsum(self.weight[feed], axis=1) - self.weight[feed]
        chance = slot_chance(
            feed,
            first,
            (self.reference, self.popular, self.uniform),
            self.weight,
            slots.weight_left[:, None] - earlier,
            slots.n_left[:, None] - np.arange(feed.shape[1]),
        )
        return feed, chance, collides

    def _one_by_one(self, slots: Slots) -> tuple[Ids, Floats]:
        """The same slot by slot: what is served is taken from then on."""
        n, k = slots.best.shape
        best, n_left, weight_left = slots.best.copy(), slots.n_left.copy(), slots.weight_left.copy()
        taken = np.hstack((slots.taken, np.zeros((n, k), np.int32)))
        slots = slots._replace(taken=taken)
        feed, chance = np.zeros((n, k), np.int64), np.zeros((n, k))
        for slot in range(k):
            first = best[np.arange(n), np.argmax(best > 0, axis=1)]
            shares = self.shares(first > 0)
            explores = (slots.luck[0, :, slot] >= shares[0]) & (n_left > 0)
            items = np.where(explores, 0, first)
            rows = np.flatnonzero(explores)
            items[rows] = self._draw(slots, rows, np.full(len(rows), slot))
            chance[:, slot] = slot_chance(items, first, shares, self.weight, weight_left, n_left)
            feed[:, slot] = taken[:, slot - k] = items
            best[best == items[:, None]] = 0
            n_left -= items > 0
            weight_left -= self.weight[items]
        return feed, chance

    def shares(self, has_reference: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(3, n) chances of the three parts at a slot; without a reference video its share is uniform's."""
        reference = np.where(has_reference, self.reference, 0.0)
        return np.stack((reference, np.full(len(reference), self.popular), 1.0 - self.popular - reference))

    def _best(
        self, users: Ids, sessions: Ids, requests: Ids, available: Ids, taken: NDArray[np.int32], k: int
    ) -> Ids:
        """(n, k) the reference policy's videos that are not taken, best first, 0 = no more."""
        if self.reference == 0:
            return np.zeros((len(users), k), np.int64)
        assert self.state is not None, "attach a state before serving"
        items = behavior.reference_candidates(self.world, users, sessions, requests, available)
        scores = behavior.reference_scores(self.world, self.state, users, items)
        shortlist = ranked(items, scores, _SHORTLIST * k)
        best = untaken(shortlist, taken, k)
        short = np.flatnonzero(best[:, -1] == 0)
        if len(short):
            best[short] = untaken(ranked(items[short], scores[short], items.shape[1]), taken[short], k)
        return best

    def _draw(self, slots: Slots, row: Ids, slot: Ids) -> Ids:
        """A video for each of these slots, by plays or uniformly: try again until one is not taken."""
        found = np.zeros(len(row), np.int64)
        popular = slots.luck[0, row, slot] >= 1.0 - self.popular
        lost = np.arange(len(row))
        for attempt in range(TRIES):
            if not len(lost):
                return found
            luck = self._luck(slots, attempt, row[lost], slot[lost])
            last = slots.available[row[lost]]
            by_plays = np.searchsorted(
                self._cumulative, np.floor(luck * self._cumulative[last]), side="right"
            )
            proposed = np.where(popular[lost], by_plays, 1 + (luck * last).astype(np.int64))
            free = ~_contains(slots.taken, row[lost], proposed)
            found[lost[free]] = proposed[free]
            lost = lost[~free]
        for i in lost:  # seldom: nearly everything is taken
            weight = self.weight.copy() if popular[i] else np.minimum(self.weight, 1)
            weight[slots.taken[row[i]]] = 0
            weight[slots.available[row[i]] + 1 :] = 0
            total = np.cumsum(weight)
            luck = self._luck(slots, TRIES, row[i : i + 1], slot[i : i + 1])
            if total[-1] > 0:
                found[i] = np.searchsorted(total, np.floor(luck * total[-1]), side="right")[0]
        return found

    def _luck(self, slots: Slots, attempt: int, row: Ids, slot: Ids) -> Floats:
        """The draw of an attempt: the first three come with the slot."""
        if attempt + 1 < len(slots.luck):
            return slots.luck[attempt + 1, row, slot]
        users, sessions, place = slots.key
        number = place[row, slot] * (TRIES + 1) + attempt
        return unit(words(self.world.seed, Purpose.SLOT_ITEM, users[row, 0], sessions[row, 0], number)[0])

    def _weight_of(self, items: NDArray[np.integer]) -> Ids:
        """(n,) weight of the items of each row together; not needed, so 0, where popularity plays no part."""
        return self.weight[items].sum(1) if self.popular else np.zeros(len(items), np.int64)

    def _weight_barred(self, memory: Rows) -> Ids:
        """(n,) weight of the barred videos, counted again where a midnight lies between."""
        barred, _, weight, night = memory
        stale = night != self._nights
        if stale.any():
            weight[stale] = self._weight_of(barred[stale])
        return weight


def slot_chance(
    items: Ids,
    first: Ids,
    shares: Sequence[float] | Floats,
    weight: Ids,
    weight_left: Ids,
    n_left: Ids,
) -> Floats:
    """The chance of `items` at a slot, 0 where the item is 0.

    first: the reference policy's choice there; shares: of the parts reference, popular, uniform; weight: of
    each video, summing to weight_left over the n_left videos that can be drawn.
    """
    by_plays = weight[items] / np.maximum(weight_left, 1)
    chance = shares[0] * (items == first) + shares[1] * by_plays + shares[2] / np.maximum(n_left, 1)
    return np.where(items > 0, chance, 0.0)


def ranked(items: Ids, scores: NDArray[np.float64], k: int) -> Ids:
    """(n, k) items by falling score; equal scores by item id."""
    k = min(k, items.shape[1])
    if k < items.shape[1]:
        top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        items, scores = np.take_along_axis(items, top, 1), np.take_along_axis(scores, top, 1)
    order = np.lexsort((items, -scores), axis=1)
    return np.take_along_axis(items, order, 1)


def untaken(ranked: Ids, taken: NDArray[np.integer], k: int) -> Ids:
    """(n, k) the first items of each row that are neither taken nor repeated, 0 = no more."""
    gone = ranked == 0
    gone[:, 1:] |= (
        ranked[:, 1:] == ranked[:, :-1]
    )  # the same item has the same score, so its copies are neighbours
    wanted = ranked.astype(taken.dtype)
    for start in range(0, len(ranked), _BLOCK):
        rows = slice(start, start + _BLOCK)
        gone[rows] |= (wanted[rows, :, None] == taken[rows, None, :]).any(-1)
    order = np.argsort(gone, axis=1, kind="stable")[:, :k]
    first = np.where(np.take_along_axis(gone, order, 1), 0, np.take_along_axis(ranked, order, 1))
    return np.pad(first, ((0, 0), (0, k - first.shape[1])))


def _contains(table: NDArray[np.int32], row: Ids, items: Ids) -> Flags:
    """(m,) whether each item is in its row of the table."""
    found = np.empty(len(row), np.bool_)
    wanted = items.astype(np.int32)[:, None]
    for start in range(0, len(row), _BLOCK):
        part = slice(start, start + _BLOCK)
        found[part] = (table[row[part]] == wanted[part]).any(1)
    return found

"""State: what changes in one life of the world. One row a user; a life is one State."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from simulator import rhythm

if TYPE_CHECKING:
    from simulator.world import World

SHOWN = 512  # most recent impressions that are remembered
PLAYS = 50  # most recent plays that models may see
FOLLOWS = 32  # most recent follows that are remembered


@dataclass(frozen=True)
class State:
    """Structure of arrays, changed in place by `behavior.absorb`, `begin_session` and `overnight`.

    The rings `shown`, `plays` and `follows` hold ids, 0 = empty; `n_shown`, `n_plays` and `n_follows` count
    all that was ever written, so the next place is the count modulo the width. `follows` : author ids + 1.
    """

    taste: NDArray[np.float32]  # (n, d)
    short: NDArray[np.float32]  # (n, d) mean vector of recent plays
    satiation: NDArray[np.float32]  # (n, tags)
    last_tag: NDArray[np.int32]  # (n,) tag of the last play, n_tags = none yet
    satisfaction: NDArray[np.float64]  # (n,) moving mean over requests, 0 = as expected
    day_satisfaction: NDArray[np.float64]  # (n,) moving mean over active days
    consumed: NDArray[np.float32]  # (n, d) sum of vectors played today
    n_consumed: NDArray[np.float32]  # (n,)
    active_today: NDArray[np.bool_]
    active_days: NDArray[np.int8]  # (n, 3) yesterday first
    shown: NDArray[np.integer]  # (n, SHOWN), 16 bits where the catalogue allows: they are compared most
    n_shown: NDArray[np.int64]
    plays: NDArray[np.int32]  # (n, PLAYS)
    n_plays: NDArray[np.int64]
    follows: NDArray[np.int32]  # (n, FOLLOWS)
    n_follows: NDArray[np.int64]

    @classmethod
    def blank(cls, world: "World") -> Self:
        """Nothing known of anybody: memory is used for the rows that are written alone."""
        n, d, tags = world.n_users, world.item_vector.shape[1], world.n_tags
        return cls(
            taste=np.zeros((n, d), np.float32),
            short=np.zeros((n, d), np.float32),
            satiation=np.zeros((n, tags), np.float32),
            last_tag=np.zeros(n, np.int32),
            satisfaction=np.zeros(n),
            day_satisfaction=np.zeros(n),
            consumed=np.zeros((n, d), np.float32),
            n_consumed=np.zeros(n, np.float32),
            active_today=np.zeros(n, np.bool_),
            active_days=np.zeros((n, 3), np.int8),
            shown=np.zeros((n, SHOWN), np.uint16 if world.n_items < 65_535 else np.int32),
            n_shown=np.zeros(n, np.int64),
            plays=np.zeros((n, PLAYS), np.int32),
            n_plays=np.zeros(n, np.int64),
            follows=np.zeros((n, FOLLOWS), np.int32),
            n_follows=np.zeros(n, np.int64),
        )

    @classmethod
    def start(cls, world: "World") -> Self:
        """The state at the first midnight: rested, with the history of the world rolled into the plays."""
        state = cls.blank(world)
        state.taste[:] = world.user_taste
        state.last_tag[:] = world.n_tags
        state.active_days[:] = rhythm.past_days(world)
        state._remember(world)
        return state

    def copy(self) -> Self:
        """Another life that has been the same so far."""
        return type(self)(**{field.name: getattr(self, field.name).copy() for field in fields(self)})

    def histories(self, users: NDArray[np.integer]) -> NDArray[np.int64]:
        """(n, PLAYS) last plays, oldest first, left-aligned, 0 after the end."""
        return _unrolled(self.plays, self.n_plays, users)

    def recently_shown(self, users: NDArray[np.integer]) -> NDArray[np.int64]:
        """(n, SHOWN) last videos shown, oldest first, left-aligned, 0 after the end."""
        return _unrolled(self.shown, self.n_shown, users)

    def _remember(self, world: "World") -> None:
        """World.history becomes the last plays, the videos shown and the short-term interest."""
        width = world.history.shape[1]
        lengths = (world.history > 0).sum(1)
        self.plays[:, :width] = world.history
        self.shown[:, :width] = world.history
        self.n_plays[:] = self.n_shown[:] = lengths
        known = np.flatnonzero(lengths)
        last = world.history[known, lengths[known] - 1]
        self.last_tag[known] = world.item_tag[last]


def _unrolled(
    ring: NDArray[np.integer], count: NDArray[np.int64], users: NDArray[np.integer]
) -> NDArray[np.int64]:
    width = ring.shape[1]
    at = np.where(count[users] > width, count[users] % width, 0)  # the oldest entry
    places = (at[:, None] + np.arange(width)) % width
    return ring[users[:, None], places].astype(np.int64)

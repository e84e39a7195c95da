"""What the platform asks of an arm: the Feed protocol. Models stand behind one; `policies` has our own."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from simulator.state import State

Ids = NDArray[np.int64]
Rows = tuple[NDArray[Any], ...]
"""What a feed remembers of some users: arrays with one row a user."""

FEED_LENGTH = 6
"""Videos per request."""

MEMORY_REQUESTS = 16
"""Requests that one `begin` serves. A longer session is begun anew, so that a model never has to look past
100 videos shown since it encoded the user."""


class Feed(Protocol):
    """Rows are users; a user's answer must not depend on the other rows of the call."""

    def begin(self, users: Ids, histories: Ids, shown: Ids, ts_ms: Ids) -> Rows:
        """Get ready for a session: arrays with one row a user, handed back at each of its requests.

        histories: (n, 50) last plays, oldest first, left-aligned. shown: (n, 512) videos not to show again,
        in any order. Both are filled up with 0.
        """
        ...

    def serve(
        self,
        users: Ids,
        memory: Rows,
        sessions: Ids,
        requests: Ids,
        since: Ids,
        ts_ms: Ids,
        k: int = FEED_LENGTH,
    ) -> tuple[Ids, Ids | None]:
        """(n, k) videos in order, 0 = nothing left, and the chance of each in parts per billion if known.

        since: (n, S) videos shown since `begin`, 0 = none; not to be shown again either.
        """
        ...


@runtime_checkable
class InsideFeed(Feed, Protocol):
    """A feed of the simulator's own: unlike a model, it may look into the life that it serves."""

    def attach(self, state: State) -> None:
        """This is the life."""
        ...

    def learn(self, plays: Ids) -> None:
        """A day is over; (n_items + 1,) plays of each video on it. It makes new arrays: a shard learns in a
        shallow copy."""
        ...

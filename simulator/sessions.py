"""Who is in the app right now, and what feeds remember of them: arrays with one row a user."""

import numpy as np
from numpy.typing import NDArray

from simulator.feed import FEED_LENGTH, MEMORY_REQUESTS, Ids, Rows
from simulator.rhythm import Luck, luck
from simulator.world import World


class Sessions:
    """The sessions in flight. A user has one at most; one without may come again from `busy_until` on."""

    def __init__(self, n_users: int) -> None:
        self.session = np.full(n_users, -1, np.int64)  # id of the open session, -1 = not in the app
        self.start_ts = np.zeros(n_users, np.int64)
        self.busy_until = np.zeros(
            n_users, np.int64
        )  # in the app: the next request; else: end of the last session
        self.request = np.zeros(n_users, np.int64)  # number of the next request
        self.served = np.zeros(n_users, np.int64)  # requests answered since the feed's last `begin`
        self.since = np.zeros(
            (n_users, MEMORY_REQUESTS * FEED_LENGTH), np.int64
        )  # shown since then, 0 = none
        self._mood = np.zeros(n_users)
        self._stay = np.zeros((n_users, MEMORY_REQUESTS))  # draws of the requests since then
        self._gap_ms = np.zeros((n_users, MEMORY_REQUESTS), np.int64)

    def due(self, until: int) -> Ids:
        """Users whose next request comes before `until`."""
        return ((self.session >= 0) & (self.busy_until < until)).nonzero()[0]

    def admit(self, users: Ids, ts: Ids) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which of these arrivals (in order of time) start a session now, and which have to wait.

        An arrival of somebody who is still in a session is ignored. It waits while that cannot be known: the
        user's session has a request before it, or an earlier arrival of the same user starts now.
        """
        inside, busy_until = self.session[users] >= 0, self.busy_until[users]
        free = ~inside & (ts >= busy_until)
        starts = np.zeros(len(users), np.bool_)
        candidates = np.flatnonzero(free)
        starts[candidates[np.unique(users[candidates], return_index=True)[1]]] = True
        return starts, (free & ~starts) | (inside & (ts > busy_until))

    def start(self, users: Ids, sessions: Ids, ts: Ids) -> None:
        """Open a session: its first request is due at once."""
        self.session[users] = sessions
        self.start_ts[users] = self.busy_until[users] = ts
        self.request[users] = 0
        self.served[users] = MEMORY_REQUESTS  # no memory yet

    def unprepared(self, users: Ids) -> NDArray[np.bool_]:
        """Whether the feed has to `begin` before it can serve them: a new session, or a long one."""
        return self.served[users] >= MEMORY_REQUESTS

    def unprepare(self, users: Ids) -> None:
        """The feed has to begin again before it can serve them."""
        self.served[users] = MEMORY_REQUESTS

    def prepare(self, users: Ids) -> None:
        """The feed has begun: from here on it is told what was shown since."""
        self.served[users] = 0
        self.since[users] = 0

    def foresee(self, world: World, users: Ids) -> None:
        """Make the draws of all requests that one `begin` serves: far cheaper than at each request."""
        first = self.request[users] - self.served[users]
        numbers = first[:, None] + np.arange(MEMORY_REQUESTS)
        drawn = luck(world, users[:, None], self.session[users, None], numbers)
        self._mood[users] = drawn.mood[:, 0]
        self._stay[users], self._gap_ms[users] = drawn.stay, drawn.gap_ms

    def luck(self, users: Ids) -> Luck:
        """The draws of their next requests."""
        served = self.served[users]
        return Luck(self._mood[users], self._stay[users, served], self._gap_ms[users, served])

    def shown_since(self, users: Ids) -> Ids:
        """(n, S) videos shown since `begin`, 0 = none; S is as long as the longest needs."""
        width = int(self.served[users].max(initial=0)) * FEED_LENGTH
        return self.since[users, :width]

    def show(self, users: Ids, items: Ids) -> None:
        """One more feed of each user has been served."""
        columns = self.served[users, None] * FEED_LENGTH + np.arange(FEED_LENGTH)
        self.since[users[:, None], columns] = items
        self.served[users] += 1
        self.request[users] += 1

    def end(self, users: Ids, ts: Ids) -> None:
        """They leave; before `ts` they cannot come again."""
        self.session[users] = -1
        self.busy_until[users] = ts


class Memory:
    """What one feed remembers of the users in session: arrays that grow with the sessions in flight."""

    def __init__(self, n_users: int) -> None:
        self._slot = np.full(n_users, -1, np.int64)
        self._free = np.zeros(0, np.int64)
        self._arrays: Rows | None = None

    def keep(self, users: Ids, rows: Rows) -> None:
        """Remember one row a user, in place of what was known of them."""
        new = users[self._slot[users] < 0]
        if len(new) > len(self._free):
            self._grow(len(new) - len(self._free), rows)
        self._slot[new], self._free = self._free[: len(new)], self._free[len(new) :]
        for array, row in zip(self._arrays or (), rows, strict=True):
            array[self._slot[users]] = row

    def of(self, users: Ids) -> Rows:
        """The rows of these users, who all have one."""
        slots = self._slot[users]
        return tuple(array[slots] for array in self._arrays or ())

    def users(self) -> Ids:
        """Who is remembered."""
        return np.flatnonzero(self._slot >= 0)

    def forget(self, users: Ids) -> None:
        """Make room."""
        slots = self._slot[users]
        self._free = np.concatenate((self._free, slots[slots >= 0]))
        self._slot[users] = -1

    def _grow(self, least: int, like: Rows) -> None:
        used = int((self._slot >= 0).sum()) + len(self._free)
        more = max(least, used, 64)
        if self._arrays is None:
            self._arrays = tuple(np.empty((0, *row.shape[1:]), row.dtype) for row in like)
        self._arrays = tuple(
            np.concatenate((array, np.zeros((more, *array.shape[1:]), array.dtype))) for array in self._arrays
        )
        self._free = np.concatenate((self._free, np.arange(used, used + more)))

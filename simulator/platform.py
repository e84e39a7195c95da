"""The service: people open the app, a feed is served, watched and written down, until they leave and return.

simpy owns the time: a day is a process that opens, waits for the clock process to tick until midnight, and
closes. A tick only collects who is due, so that feeds are asked in large batches. Event times are continuous,
users do not meet between two midnights, and what they share (plays of each video) changes at midnight alone.
So the length of a tick, the size of a batch and the size of a flush change nothing in the results.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from simulator import behavior
from simulator.behavior import Arrivals, Response
from simulator.feed import FEED_LENGTH, Feed, Ids, InsideFeed
from simulator.journal import VIEW_KINDS, Journal, Record, Watched
from simulator.sessions import Memory, Sessions
from simulator.state import State
from simulator.world import World
from warehouse.events import DAY_MS

TICK_S = 86_400
"""Default length of a tick: from midnight to midnight. As users do not meet in between, a shorter tick only
makes batches smaller. 10,000 users in two arms took 24, 65 and 128 thousand impressions per CPU second with
ticks of 15 minutes, 6 hours and a day, and filled the blocks of 64 rows in which models begin by 31, 52 and
69 per cent."""

PREPARE_ROWS = 256
"""So many sessions a feed are worth a call of `begin` while others can still be answered."""

SWIPE_MS = len(VIEW_KINDS)  # from the end of a view to the start of the next, at least


class Platform:
    """A service with one or several feeds. `run(days)` lives some days and returns the state at their end.

    assign: called once with all users, returns which of `feeds` serves each. record: called with Arrow tables
    (`simulator.journal.Record`). With `experiment` and `arm_names`, a user's first served request is recorded
    as an exposure; an arm without a name (None) serves users who are not in the experiment. `users`: whose
    lives are lived here (all); the rows of others are left alone.
    `progress(fraction of the run, impressions so far)` is called after each round of answers,
    `at_day_end(day, state)` after each midnight's work. `plays` has the plays of each video on the last day,
    `expected` (n_users, behavior.EXPECTED), where the platform `expects`, how many comments and shares each
    user was to make on it, in parts per billion.

    Running 2 days and then 3 is the same as running 5. A new Platform that goes on with the state of another
    starts with an empty app: the sessions that were open at that midnight have been cut off.
    """

    def __init__(
        self,
        world: World,
        feeds: Sequence[Feed],
        assign: Callable[[Ids], NDArray[np.integer]],
        record: Record,
        *,
        state: State | None = None,
        start_day: int = 0,
        users: range | None = None,
        tick_s: float = TICK_S,
        flush_rows: int = 200_000,
        progress: Callable[[float, int], None] | None = None,
        experiment: str | None = None,
        arm_names: Sequence[str | None] = (),
        at_day_end: Callable[[int, State], None] | None = None,
        expects: bool = False,
    ) -> None:
        self.world = world
        self.feeds = list(feeds)
        self.state = state if state is not None else State.start(world)
        self.arm = _checked_arms(assign, world.n_users, len(self.feeds))
        self.users = range(world.n_users) if users is None else users
        self.day = start_day  # the next one to live
        self.tick_ms = _checked_tick(tick_s)
        self.impressions = 0
        self.sessions = Sessions(world.n_users)
        self.memories = [Memory(world.n_users) for _ in self.feeds]
        self.journal = Journal(record, flush_rows=flush_rows, experiment=experiment, arm_names=arm_names)
        self.exposed = np.zeros(world.n_users, np.bool_)
        self._exposes = np.array([name is not None for name in arm_names] or [True] * len(self.feeds))
        self.plays = np.zeros(world.n_items + 1, np.int64)
        self._plays_today = np.zeros_like(self.plays)
        self.expects = expects
        self.expected, self.expected_now, self.expected_later = (
            np.zeros((world.n_users, len(behavior.EXPECTED) if expects else 0), np.int64) for _ in range(3)
        )
        self._midnight = (start_day + 1) * DAY_MS
        self._arriving = Arrivals(*(np.zeros(0, np.int64) for _ in Arrivals._fields))
        self._progress = progress
        self._done = 0.0
        self._at_day_end = at_day_end
        if experiment is not None and len(arm_names) != len(self.feeds):
            raise ValueError(
                f"{len(self.feeds)} feeds but {len(arm_names)} arm names; an experiment needs one name a feed"
            )
        for feed in self.feeds:
            if isinstance(feed, InsideFeed):
                feed.attach(self.state)

    def run(self, days: int) -> State:
        """Live the next `days` days."""
        if days < 1:
            raise ValueError(f"days is {days}; a run needs at least one day")
        self._done = 0.0
        env = simpy.Environment(initial_time=self.day * DAY_MS)
        env.run(until=env.process(self._live(env, days)))
        return self.state

    def reassign(self, assign: Callable[[Ids], NDArray[np.integer]]) -> None:
        """Between two runs: assign anew who was not exposed yet; who was stays in their arm.

        The feed of a new arm begins an open session anew at the next request.
        """
        arms = _checked_arms(assign, self.world.n_users, len(self.feeds))
        arms = np.where(self.exposed, self.arm, arms)
        moved = np.flatnonzero(arms != self.arm)
        for arm, users in self._by_arm(moved):
            self.memories[arm].forget(users)
        self.sessions.unprepare(moved)
        self.arm = arms

    # -- time

    def _live(self, env: simpy.Environment, days: int) -> Generator[simpy.Event, Any, None]:
        """Day after day: who comes is known in the morning, the clock runs, at midnight the day is closed."""
        first = self.day
        for day in range(first, first + days):
            self._arriving = behavior.arrivals(self.world, self.state, day, self.users)
            self._midnight = (day + 1) * DAY_MS
            yield env.process(self._clock(env, self._midnight))
            self._close(day)
            self._done = (day + 1 - first) / days
            self._report()

    def _clock(self, env: simpy.Environment, midnight: int) -> Generator[simpy.Event, Any, None]:
        """Tick until midnight; at each tick, catch up with what fell due since the one before."""
        while env.now < midnight:
            yield env.timeout(min(self.tick_ms, midnight - env.now))
            self._catch_up(int(env.now))

    def _close(self, day: int) -> None:
        """Midnight: the barrier at which anything that users share may change."""
        behavior.overnight(self.world, self.state, day, self.users)
        self.plays, self._plays_today = self._plays_today, np.zeros_like(self._plays_today)
        self.expected, self.expected_now = self.expected_now, self.expected_later
        self.expected_later = np.zeros_like(self.expected)
        for feed in self.feeds:
            if isinstance(feed, InsideFeed):
                feed.learn(self.plays)
        self.day = day + 1
        self.journal.flush(self.day * DAY_MS)
        if self._at_day_end is not None:
            self._at_day_end(day, self.state)

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._done, self.impressions)

    # -- people

    def _catch_up(self, now: int) -> None:
        """Live everybody's life up to `now`, in rounds that answer one request of everybody who is due.

        Sessions that a feed has to begin wait for each other: models are fastest with many users in a call.
        The end of a session alone can let another arrival in, so in between nobody asks.
        """
        n = int(np.searchsorted(self._arriving.start_ms, now))
        waiting = Arrivals(*(column[:n] for column in self._arriving))
        self._arriving = Arrivals(*(column[n:] for column in self._arriving))
        some_left = True
        while True:
            if some_left:
                waiting = self._admit(waiting)
            due = self.sessions.due(now)
            if not len(due):
                waiting = self._admit(waiting)  # whoever is in a session that goes on later is not let in
                assert not len(waiting.users), f"{len(waiting.users)} arrivals were forgotten"
                return
            new = self.sessions.unprepared(due)
            if new.all() or np.count_nonzero(new) >= PREPARE_ROWS * len(self.feeds):
                self._prepare(due[new])
            else:
                due = due[~new]
            some_left = self._answer(due)
            self.journal.flush_if_due(now)
            self._report()

    def _admit(self, waiting: Arrivals) -> Arrivals:
        """Open the sessions that can start; returns the arrivals that cannot be decided yet."""
        if not len(waiting.users):
            return waiting
        starts, waits = self.sessions.admit(waiting.users, waiting.start_ms)
        users, sessions, ts = (column[starts] for column in waiting)
        if len(users):
            self.sessions.start(users, sessions, ts)
            behavior.begin_session(self.world, self.state, users)
        return Arrivals(*(column[waits] for column in waiting))

    def _prepare(self, new: Ids) -> None:
        """Let each feed begin the sessions that it has not seen: one call a feed."""
        for arm, users in self._by_arm(new):
            self.memories[arm].keep(
                users,
                self.feeds[arm].begin(
                    users,
                    self.state.histories(users),
                    self._shown(users),
                    self.sessions.busy_until[users],
                ),
            )
        self.sessions.prepare(new)
        self.sessions.foresee(self.world, new)

    def _shown(self, users: Ids) -> Ids:
        """(n, 512) what is not to be shown again, in any order; of a small world half at most."""
        most = int(self.world.available(self.day)) // 2
        if most >= self.state.shown.shape[1]:
            return self.state.shown[users].astype(np.int64)
        shown = self.state.recently_shown(users)
        length = (shown > 0).sum(1)[:, None]
        shown[np.arange(shown.shape[1]) < length - most] = 0
        return shown

    def _answer(self, users: Ids) -> bool:
        """One request of each: serve, watch, write down, and see who stays; whether anybody left."""
        sessions = self.sessions
        at, session, request = sessions.busy_until[users], sessions.session[users], sessions.request[users]
        self._expose(users, at)
        served, ppb = self._serve(users, session, request, at)
        luck = sessions.luck(users)
        since_start = at - sessions.start_ts[users]
        items, whole = behavior.reached(self.world, self.state, users, since_start, luck, served)
        response, chances = behavior.respond_with_chances(self.world, self.state, users, items)
        behavior.absorb(self.world, self.state, users, items, response)
        sessions.show(users, items)
        view_end, feed_end = view_times(at, items, response)
        self._note(users, session, request, items, ppb, response, view_end)
        if self.expects:
            self._expect(users, behavior.expected(chances, items), view_end)
        elapsed = feed_end - sessions.start_ts[users]
        stays = behavior.goes_on(self.world, self.state, users, elapsed, luck) & whole & items.any(1)
        sessions.busy_until[users] = feed_end + luck.gap_ms
        if stays.all():
            return False
        self._end(users[~stays], feed_end[~stays])
        return True

    def _serve(self, users: Ids, session: Ids, request: Ids, at: Ids) -> tuple[Ids, Ids]:
        """The feeds of these users, each from their arm, and the propensities (0 = unknown)."""
        items = np.zeros((len(users), FEED_LENGTH), np.int64)
        ppb = np.zeros_like(items)
        for arm, rows in self._by_arm(np.arange(len(users)), users):
            who = users[rows]
            since = self.sessions.shown_since(who)
            memory = self.memories[arm].of(who)
            served, chance = self.feeds[arm].serve(
                who, memory, session[rows], request[rows], since, at[rows], FEED_LENGTH
            )
            items[rows] = self._checked_feed(arm, served, len(who))
            if chance is not None:
                ppb[rows] = chance
        return items, ppb

    def _by_arm(self, rows: Ids, users: Ids | None = None) -> list[tuple[int, Ids]]:
        """The rows of each arm; `users` tells whose rows they are where they are no users themselves."""
        arms = self.arm[rows if users is None else users]
        return [(arm, rows[mine]) for arm in range(len(self.feeds)) if (mine := arms == arm).any()]

    def _expose(self, users: Ids, at: Ids) -> None:
        first = ~self.exposed[users] & self._exposes[self.arm[users]]
        if first.any():
            self.exposed[users[first]] = True
            self.journal.expose(users[first], self.arm[users[first]], at[first])

    def _note(
        self, users: Ids, session: Ids, request: Ids, items: Ids, ppb: Ids, response: Response, view_end: Ids
    ) -> None:
        """Into the journal, and into the shared counts of the day."""
        shown = items > 0
        r = response
        happened = (
            shown,
            r.play,
            r.long_view,
            r.like,
            r.comment,
            r.share,
            r.follow,
            r.hate,
            r.panel_ms > 0,
            r.profile_ms > 0,
        )
        self.journal.watch(
            Watched(
                users, session, request, items, view_end, happened, r.watch_ms, r.panel_ms, r.profile_ms, ppb
            )
        )
        self.impressions += int(np.count_nonzero(shown))
        np.add.at(self._plays_today, items[r.play], 1)

    def _expect(self, users: Ids, likely: Ids, view_end: Ids) -> None:
        """Add up what was to be expected on the day on which each view ends. Users are unique."""
        now = (view_end < self._midnight)[:, :, None]
        self.expected_now[users] += (likely * now).sum(1)
        self.expected_later[users] += (likely * ~now).sum(1)

    def _end(self, users: Ids, at: Ids) -> None:
        """They leave the app."""
        self.journal.end(users, self.sessions.session[users], self.sessions.start_ts[users], at)
        self.sessions.end(users, at)
        for arm, mine in self._by_arm(users):
            self.memories[arm].forget(mine)

    def _checked_feed(self, arm: int, served: Ids, n: int) -> Ids:
        served = np.asarray(served)
        name = type(self.feeds[arm]).__name__
        if served.shape != (n, FEED_LENGTH):
            raise ValueError(f"{name} served an array of shape {served.shape}; a feed is {(n, FEED_LENGTH)}")
        ordered = np.sort(served, axis=1)
        last = int(self.world.available(self.day))
        if ordered[:, 0].min() < 0 or ordered[:, -1].max() > last:
            wrong = served[(served < 0) | (served > last)][0]
            raise ValueError(f"{name} served video {wrong}; videos are 1 to {last}, 0 = nothing left")
        if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any():
            raise ValueError(f"{name} served a video twice in one feed; the videos of a feed must differ")
        return served


def view_times(at: Ids, items: Ids, response: Response) -> tuple[Ids, Ids]:
    """(n, k) when each view ends, and (n,) when the feed does, for feeds that are served at `at`.

    Videos are watched in order. After a view come the ten milliseconds in which its events are written, then
    the stays in the comment panel and in the author's profile.
    """
    after = np.where(items > 0, SWIPE_MS + response.panel_ms + response.profile_ms, 0)
    done = at[:, None] + np.cumsum(response.watch_ms + after, axis=1)
    return done - after, done[:, -1]


def _checked_arms(assign: Callable[[Ids], NDArray[np.integer]], n_users: int, n_feeds: int) -> Ids:
    arms = np.asarray(assign(np.arange(n_users, dtype=np.int64)), dtype=np.int64)
    if arms.shape != (n_users,) or (n_users and not 0 <= arms.min() <= arms.max() < n_feeds):
        raise ValueError(f"assign must give each of {n_users} users a feed from 0 to {n_feeds - 1}")
    return arms


def _checked_tick(tick_s: float) -> int:
    if not tick_s >= 0.001:
        raise ValueError(f"tick_s is {tick_s}; a tick lasts at least a millisecond (0.001)")
    return round(tick_s * 1000)

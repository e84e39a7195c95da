"""A day at the service: who is served when, what is written down, and that batching changes nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import simpy

from simulator import platform as platform_module
from simulator.feed import MEMORY_REQUESTS
from simulator.platform import Platform
from simulator.policies import LoggingPolicy, RandomPolicy
from simulator.sessions import Memory, Sessions
from simulator.world import World
from warehouse.events import DAY_MS, EVENT_KEY, Event, Exposure, Kind, Propensity
from warehouse.schema import arrow_schema

ORDERS = {
    "events": ("ts", *EVENT_KEY),
    "exposures": ("user",),
    "propensities": ("user", "session", "request", "position"),
}
RECORDS = {"events": Event, "exposures": Exposure, "propensities": Propensity}


class Record:
    """Keeps what a platform hands on."""

    def __init__(self) -> None:
        self.blocks: dict[str, list[pa.Table]] = {name: [] for name in ORDERS}

    def __call__(self, **tables: pa.Table) -> None:
        for name, table in tables.items():
            assert table.schema == arrow_schema(RECORDS[name])
            self.blocks[name].append(table)

    def table(self, name: str) -> pa.Table:
        tables = [arrow_schema(RECORDS[name]).empty_table(), *self.blocks[name]]
        return pa.concat_tables(tables).sort_by([(key, "ascending") for key in ORDERS[name]])

    def columns(self, name: str, **where: int) -> dict[str, np.ndarray]:
        table = self.table(name)
        columns = {field: table[field].to_numpy() for field in table.column_names}
        chosen = np.ones(len(table), bool)
        for field, value in where.items():
            chosen &= columns[field] == value
        return {field: column[chosen] for field, column in columns.items()}


def everyone(users: np.ndarray) -> np.ndarray:
    return np.zeros(len(users), np.int64)


def halves(users: np.ndarray) -> np.ndarray:
    return users % 2


def lived(
    world: World, days: int = 1, feeds: Callable[[], list[Any]] | None = None, **settings: Any
) -> Record:
    record = Record()
    served = feeds() if feeds else [LoggingPolicy(world)]
    assign = everyone if len(served) == 1 else halves
    Platform(world, served, assign, record, **settings).run(days)
    return record


def same(a: Record, b: Record) -> bool:
    return all(a.table(name).equals(b.table(name)) for name in ORDERS)


@pytest.fixture(scope="module")
def small() -> World:
    return World.synthetic(30, n_items=2_000, seed=5)


@pytest.fixture(scope="module")
def day(small: World) -> Record:
    return lived(small)


@pytest.fixture(scope="module")
def town() -> World:
    return World.synthetic(400, n_items=3_000, seed=5)


@pytest.fixture(scope="module")
def life(town: World) -> Record:
    """Two days of 400 users in an experiment of two equal arms."""
    return lived(
        town,
        2,
        lambda: [RandomPolicy(town), RandomPolicy(town)],
        experiment="test",
        arm_names=["even", "odd"],
    )


# -- nothing depends on how the work is cut


def test_the_same_world_lives_the_same_day(small: World, day: Record) -> None:
    assert len(day.table("events")) > 500
    assert same(lived(small), day)


@pytest.mark.parametrize(
    ("tick_s", "flush_rows"), [(1_800, 200_000), (7_001.5, 1), (40_000, 300), (86_400, 10**9)]
)
def test_ticks_and_flushes_change_nothing(small: World, day: Record, tick_s: float, flush_rows: int) -> None:
    assert same(lived(small, tick_s=tick_s, flush_rows=flush_rows), day)


def test_who_shares_a_batch_changes_nothing(
    small: World, day: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform_module, "PREPARE_ROWS", 1)
    assert same(lived(small, feeds=lambda: [LoggingPolicy(small), LoggingPolicy(small)]), day)


def test_running_day_by_day_is_running_at_once(small: World) -> None:
    record = Record()
    platform = Platform(small, [LoggingPolicy(small)], everyone, record, tick_s=30_000)
    platform.run(1)
    platform.run(1)
    assert same(record, lived(small, 2))


def test_flushes_hand_on_blocks_as_soon_as_they_are_due(small: World) -> None:
    assert len(lived(small, flush_rows=300).blocks["events"]) > 3
    assert len(lived(small, flush_rows=10**9).blocks["events"]) == 1


def test_a_day_is_recorded_up_to_midnight_and_no_further(town: World, life: Record) -> None:
    ts = life.table("events")["ts"].to_numpy()
    assert ts.min() >= 0
    assert DAY_MS < ts.max() < 2 * DAY_MS
    started_later = lived(town, 1, lambda: [RandomPolicy(town)], start_day=7)
    ts = started_later.table("events")["ts"].to_numpy()
    assert 7 * DAY_MS <= ts.min() < ts.max() < 8 * DAY_MS


# -- events


def test_event_keys_are_unique(life: Record) -> None:
    events = life.columns("events")
    keys = np.stack([events[field].astype(np.int64) for field in EVENT_KEY])
    assert np.unique(keys, axis=1).shape == keys.shape
    assert (events["ingest_ts"] == events["ts"]).all()


def test_a_user_does_one_thing_at_a_time(life: Record) -> None:
    events = life.columns("events")
    moments = np.stack((events["user"], events["ts"]))
    assert np.unique(moments, axis=1).shape == moments.shape


def test_feeds_are_watched_in_order(life: Record) -> None:
    seen = life.columns("events", kind=Kind.impression)
    order = np.lexsort((seen["ts"], seen["user"]))
    user, session, request, position = (seen[f][order] for f in ("user", "session", "request", "position"))
    follows = (user[1:] == user[:-1]) & (session[1:] == session[:-1])
    step = 6 * (request[1:] - request[:-1]) + position[1:] - position[:-1]
    assert (step[follows] == 1).all()
    assert (request[1:][~follows] == 0).all()
    assert (position[1:][~follows] == 0).all()


def test_views_take_their_watch_time(life: Record) -> None:
    seen = life.columns("events", kind=Kind.impression)
    order = np.lexsort((seen["ts"], seen["user"]))
    user, session, ts, watch_ms = (seen[f][order] for f in ("user", "session", "ts", "value"))
    follows = (user[1:] == user[:-1]) & (session[1:] == session[:-1])
    assert (np.diff(ts)[follows] >= watch_ms[1:][follows] + 10).all()


def test_a_play_is_written_right_after_its_impression(life: Record) -> None:
    seen, plays = life.columns("events", kind=Kind.impression), life.columns("events", kind=Kind.play)
    long_enough = seen["value"] > 7_000
    assert (plays["value"] == 1).all()
    assert (np.sort(plays["ts"]) == np.sort(seen["ts"][long_enough] + 1)).all()


def test_a_session_is_written_when_it_ends(life: Record) -> None:
    ended, exposed = life.columns("events", kind=Kind.session), life.columns("exposures")
    assert (ended["request"] == -1).all()
    assert (ended["position"] == -1).all()
    assert (ended["item"] == 0).all()
    started = ended["ts"] - ended["value"]
    first = dict(zip(ended["user"][::-1], started[::-1], strict=True))
    known = dict(zip(exposed["user"], exposed["first_ts"], strict=True))
    assert all(known[user] == ts for user, ts in first.items())


def test_sessions_of_a_user_do_not_overlap(life: Record) -> None:
    ended = life.columns("events", kind=Kind.session)
    order = np.lexsort((ended["ts"], ended["user"]))
    user, end, length = (ended[f][order] for f in ("user", "ts", "value"))
    again = user[1:] == user[:-1]
    assert again.sum() > 20
    assert ((end - length)[1:][again] >= end[:-1][again]).all()


def test_a_session_goes_on_across_midnight(life: Record) -> None:
    seen = life.columns("events", kind=Kind.impression)
    late = seen["session"] // 1000 == 0
    after = late & (seen["ts"] >= DAY_MS)
    assert after.any()
    for user, session in np.unique(np.stack((seen["user"][after], seen["session"][after])), axis=1).T:
        mine = (seen["user"] == user) & (seen["session"] == session)
        assert (np.diff(6 * seen["request"][mine] + seen["position"][mine]) == 1).all()
        assert seen["ts"][mine].min() < DAY_MS


def test_every_shown_video_of_a_policy_has_its_propensity(life: Record) -> None:
    seen, chances = life.columns("events", kind=Kind.impression), life.columns("propensities")
    fields = ("user", "session", "request", "position", "item")
    a, b = ({tuple(row) for row in np.stack([c[f] for f in fields], axis=1)} for c in (seen, chances))
    assert a == b
    assert (chances["ppb"] > 0).all()


# -- exposures


def test_a_user_is_exposed_at_the_first_served_request(life: Record) -> None:
    exposed, seen = life.columns("exposures"), life.columns("events", kind=Kind.impression)
    assert (np.unique(exposed["user"]) == exposed["user"]).all()
    assert set(seen["user"]) <= set(exposed["user"])
    assert (exposed["experiment"] == "test").all()
    assert [["even", "odd"][user % 2] for user in exposed["user"]] == list(exposed["arm"])
    first_view = dict(zip(seen["user"][::-1], (seen["ts"] - seen["value"])[::-1], strict=True))
    for user, ts in zip(exposed["user"], exposed["first_ts"], strict=True):
        assert first_view.get(user, ts) == ts


def test_nobody_is_exposed_outside_an_experiment(day: Record) -> None:
    assert len(day.table("exposures")) == 0


class Noting(RandomPolicy):
    """Notes whom it serves."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.served: list[int] = []

    def serve(self, users: np.ndarray, *rest: Any) -> Any:
        self.served += users.tolist()
        return super().serve(users, *rest)


@pytest.mark.parametrize("tick_s", [3_600, 86_400])
def test_new_users_come_in_between_two_runs_and_who_was_exposed_stays(small: World, tick_s: float) -> None:
    """Day 1: even users are in arm 0, the others outside; from day 2 on, whoever is new comes into arm 1."""
    feeds, record = [Noting(small) for _ in range(3)], Record()
    platform = Platform(
        small,
        feeds,
        lambda users: np.where(users % 2 == 0, 0, 2),
        record,
        experiment="ramp",
        arm_names=["a", "b", None],
        tick_s=tick_s,
    )
    platform.run(1)
    first = set(feeds[0].served)
    assert first
    assert feeds[2].served
    assert not feeds[1].served
    n_outside = len(feeds[2].served)
    platform.reassign(lambda users: np.ones(len(users), np.int64))
    platform.run(1)
    exposures = record.table("exposures").to_pydict()
    arms = dict(zip(exposures["user"], exposures["arm"], strict=True))
    assert {user for user, arm in arms.items() if arm == "a"} == first == set(feeds[0].served)
    assert {user for user, arm in arms.items() if arm == "b"} == set(feeds[1].served)
    assert len(feeds[2].served) == n_outside
    late = [ts for ts, arm in zip(exposures["first_ts"], exposures["arm"], strict=True) if arm == "b"]
    assert min(late) >= DAY_MS


def test_assigning_everybody_as_before_changes_nothing(small: World) -> None:
    def feeds() -> list[Any]:
        return [RandomPolicy(small) for _ in range(3)]

    names, record = ["even", "odd", None], Record()
    platform = Platform(small, feeds(), halves, record, experiment="test", arm_names=names)
    for _ in range(2):
        platform.reassign(halves)
        platform.run(1)
    assert same(record, lived(small, 2, feeds, experiment="test", arm_names=names))


def test_an_experiment_needs_a_name_for_every_feed(small: World) -> None:
    with pytest.raises(ValueError, match="2 feeds but 1 arm names"):
        lived(
            small,
            feeds=lambda: [RandomPolicy(small), RandomPolicy(small)],
            experiment="test",
            arm_names=["one"],
        )


# -- feeds


class Scripted:
    """Serves the next ids of a counter, `lengths[request]` of them, and checks what it is told."""

    def __init__(self, n_items: int, lengths: list[int]) -> None:
        self.n_items, self.lengths = n_items, lengths
        self.given: dict[int, list[int]] = {}
        self.begun: list[int] = []

    def begin(self, users: Any, histories: Any, shown: Any, ts_ms: Any) -> tuple[np.ndarray]:
        assert histories.shape == (len(users), 50)
        assert shown.shape == (len(users), 512)
        for user, row in zip(users, shown, strict=True):
            before = self.given.pop(user, [])
            was_shown = np.isin(before, row)
            assert (np.diff(was_shown.astype(int)) <= 0).all(), "what was served is shown, to the end or not"
            assert (~was_shown).sum() < 6, "of each feed its first video at least"
            self.given[user] = []
        self.begun.extend(users)
        return (np.array(users) * 10,)

    def serve(
        self, users: Any, memory: Any, sessions: Any, requests: Any, since: Any, ts_ms: Any, k: int = 6
    ) -> Any:
        assert (memory[0] == users * 10).all(), "the memory of these users"
        assert since.shape[1] <= 6 * (MEMORY_REQUESTS - 1)
        items = 1 + (requests[:, None] * 6 + np.arange(k) + 100 * (sessions[:, None] % 7)) % self.n_items
        lengths = np.array(self.lengths)[np.minimum(requests, len(self.lengths) - 1)]
        items = np.where(np.arange(k) < lengths[:, None], items, 0)
        for user, told, served in zip(users, since, items, strict=True):
            assert [item for item in told if item] == self.given[user]
            self.given[user].extend(item for item in served if item)
        return items, None


def test_a_feed_may_be_short_and_an_empty_one_ends_the_session(small: World) -> None:
    feed = Scripted(small.n_items, [6, 3, 0])
    record = lived(small, feeds=lambda: [feed])
    seen = record.columns("events", kind=Kind.impression)
    assert seen["request"].max() == 1
    assert seen["position"][seen["request"] == 1].max() == 2
    assert len(record.table("propensities")) == 0
    ended = record.columns("events", kind=Kind.session)
    both = np.isin(ended["user"], seen["user"][seen["request"] == 1])
    assert both.any()


def test_a_feed_with_nothing_at_all_still_exposes(small: World) -> None:
    record = lived(
        small, feeds=lambda: [Scripted(small.n_items, [0])], experiment="empty", arm_names=["nothing"]
    )
    kinds = record.columns("events")["kind"]
    assert set(kinds) == {Kind.session}
    assert (record.columns("events")["value"] == 0).all()
    assert len(record.table("exposures")) > 3


def test_a_feed_is_told_what_was_shown_and_begins_long_sessions_anew(small: World) -> None:
    feed = Scripted(small.n_items, [6])
    record = lived(small, feeds=lambda: [feed])
    sessions = len(record.table("events").filter(pa.compute.field("kind") == int(Kind.session)))
    assert record.columns("events")["request"].max() >= MEMORY_REQUESTS
    assert len(feed.begun) > sessions


def test_a_small_world_bars_half_of_its_videos_at_most() -> None:
    world = World.synthetic(20, n_items=40, seed=1)
    platform = Platform(world, [RandomPolicy(world)], everyone, Record())
    platform.run(2)
    shown = platform._shown(np.arange(20))
    assert shown.shape == (20, 512)
    assert (shown > 0).sum(1).max() == 20
    latest = platform.state.recently_shown(np.arange(20))
    for some, ring in zip(shown, latest, strict=True):
        assert list(some[some > 0]) == list(ring[ring > 0][-20:])


class Wrong(RandomPolicy):
    """Serves what it is told to."""

    def __init__(self, world: World, answer: Any) -> None:
        super().__init__(world)
        self.answer = answer

    def serve(self, users: Any, *args: Any, **kwargs: Any) -> Any:
        return np.array([self.answer] * len(users)), None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1, 2, 3], "Wrong served an array of shape"),
        ([1, 2, 3, 4, 5, 2_001], "Wrong served video 2001; videos are 1 to 2000, 0 = nothing left"),
        ([1, 2, 3, 4, 5, -1], "Wrong served video -1"),
        ([1, 2, 3, 4, 5, 2], "Wrong served a video twice in one feed"),
    ],
)
def test_a_wrong_feed_is_refused_in_one_sentence(small: World, answer: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lived(small, feeds=lambda: [Wrong(small, answer)])


# -- time


def test_simpy_owns_the_clock(small: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = []

    class Watched(simpy.Environment):
        def timeout(self, delay: float = 0, value: Any = None) -> Any:
            ticks.append((self.now, delay))
            return super().timeout(delay, value)

    monkeypatch.setattr(simpy, "Environment", Watched)
    lived(small, tick_s=50_000, start_day=3)
    assert ticks == [(3 * DAY_MS, 50_000_000), (3 * DAY_MS + 50_000_000, 36_400_000)]


def test_the_day_ends_with_its_hook_and_progress_reaches_one(small: World) -> None:
    ended, told = [], []
    platform = Platform(
        small,
        [RandomPolicy(small)],
        everyone,
        Record(),
        start_day=2,
        progress=lambda fraction, impressions: told.append((fraction, impressions)),
        at_day_end=lambda day, state: ended.append((day, int(state.active_days[:, 0].sum()))),
    )
    state = platform.run(2)
    assert state is platform.state
    assert [day for day, _ in ended] == [2, 3]
    assert all(active > 0 for _, active in ended), "the night has been worked off"
    assert told == sorted(told)
    assert told[-1] == (1.0, platform.impressions)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"tick_s": 0}, "tick_s is 0"), ({"tick_s": float("nan")}, "tick_s is nan"), ({"days": 0}, "days is 0")],
)
def test_bad_settings_are_refused(small: World, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lived(small, **settings)


def test_an_assignment_outside_the_feeds_is_refused(small: World) -> None:
    with pytest.raises(ValueError, match="a feed from 0 to 0"):
        Platform(small, [RandomPolicy(small)], halves, Record())


# -- sessions in flight


def test_an_arrival_during_a_session_is_ignored() -> None:
    sessions = Sessions(4)
    sessions.start(np.array([0, 1]), np.array([7, 8]), np.array([100, 100]))
    sessions.busy_until[0] = 500  # the next request of user 0, who was answered
    sessions.end(np.array([2]), np.array([300]))
    users, ts = np.array([0, 0, 1, 2, 2, 2, 3]), np.array([400, 600, 150, 200, 350, 360, 1])
    starts, waits = sessions.admit(users, ts)
    assert list(starts) == [False, False, False, False, True, False, True]
    assert list(waits) == [False, True, True, False, False, True, False]


def test_a_memory_keeps_the_rows_of_its_users() -> None:
    memory = Memory(1_000)
    users = np.arange(0, 1_000, 3)
    memory.keep(users, (users * 2, np.stack((users, users), axis=1)))
    memory.forget(users[:100])
    late = np.array([1, 2, 4])
    memory.keep(late, (late * 2, np.stack((late, late), axis=1)))
    memory.keep(users[200:210], (users[200:210] * 5, np.zeros((10, 2), np.int64)))
    some = np.array([4, 600, 900, 1])
    assert list(memory.of(some)[0]) == [8, 3000, 1800, 2]
    assert memory.of(some)[1].tolist() == [[4, 4], [0, 0], [900, 900], [1, 1]]

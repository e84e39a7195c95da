"""Users divided into shards live the same life, and a snapshot goes on as if nothing had happened."""

import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from simulator import snapshot
from simulator.feed import Feed
from simulator.platform import Platform
from simulator.policies import LoggingPolicy, RandomPolicy
from simulator.shards import Partitions, Service, ShardDay, live_day, shards
from simulator.world import World
from warehouse.events import EVENT_KEY

DAYS = 2


@pytest.fixture(scope="module")
def world() -> World:
    return World.synthetic(150, n_items=2_000, seed=8, uploads=20, days=DAYS)


@pytest.fixture(scope="module")
def service(world: World) -> Service:
    feeds = [LoggingPolicy(world), RandomPolicy(world)]
    return Service(world, feeds, np.arange(world.n_users) % 2, "test", ["even", "odd"])


def lived(service: Service, n_shards: int, folder: Path, later: Service | None = None) -> dict[str, pa.Table]:
    """Events, exposures and propensities of some days, read from partitions; `later` is that of other days
    than the first."""
    plays = np.zeros((0, service.world.n_items + 1), np.int64)
    before: list[Path | None] = [None] * n_shards
    found: dict[str, list[pa.Table]] = {}
    for day in range(DAYS):
        if day and later is not None:
            service = later
        ends = [folder / f"{day}-{i}" for i in range(n_shards)]
        done = []
        for i, users in enumerate(shards(service.world.n_users, n_shards)):
            task = ShardDay(users, day, before[i], day == 0, ends[i])
            done.append(live_day(service, task, plays, Partitions(folder, f"{day}-{i}")))
            for tables in Partitions.read(folder, f"{day}-{i}"):
                for name, table in tables.items():
                    found.setdefault(name, []).append(table)
        plays = np.vstack([plays, sum(shard.plays for shard in done)])
        before = list(ends)
    return {name: ordered(name, tables) for name, tables in found.items()}


def ordered(name: str, tables: list[pa.Table]) -> pa.Table:
    keys = {"events": ("ts", *EVENT_KEY), "exposures": ("user",)}.get(name, EVENT_KEY[:4])
    return pa.concat_tables(tables).sort_by([(key, "ascending") for key in keys])


@pytest.fixture(scope="module")
def whole(service: Service, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    found = lived(service, 1, tmp_path_factory.mktemp("whole"))
    assert (found["events"]["item"].to_numpy() > service.world.n_at_start).any()
    return found


@pytest.mark.parametrize("n_shards", [2, 4])
def test_any_number_of_shards_lives_the_same_days(
    service: Service, whole: dict[str, pa.Table], n_shards: int, tmp_path: Path
) -> None:
    parts = lived(service, n_shards, tmp_path)
    assert set(parts) == {"events", "exposures", "propensities"}
    assert all(parts[name].equals(whole[name]) for name in parts)


def test_days_from_snapshots_are_days_in_one_go(service: Service, whole: dict[str, pa.Table]) -> None:
    events: list[pa.Table] = []

    def record(**tables: pa.Table) -> None:
        events.append(tables["events"])

    feeds = [LoggingPolicy(service.world), RandomPolicy(service.world)]
    Platform(service.world, feeds, lambda users: users % 2, record).run(DAYS)
    assert ordered("events", events).equals(whole["events"])


@pytest.mark.parametrize("n_shards", [1, 2])
def test_users_come_in_with_a_new_day_in_any_number_of_shards(
    world: World, n_shards: int, tmp_path: Path
) -> None:
    """As in one platform that assigns anew: who was exposed on the first day keeps the arm."""
    users, names = np.arange(world.n_users), ["even", "odd", None]
    arms = [np.where(users % 5 == 0, users % 2, 2), (users + 1) % 2]
    found: dict[str, list[pa.Table]] = {}

    def record(**tables: pa.Table) -> None:
        for name, table in tables.items():
            found.setdefault(name, []).append(table)

    def feeds() -> list[Feed]:
        return [LoggingPolicy(world), RandomPolicy(world), RandomPolicy(world)]

    platform = Platform(
        world, feeds(), lambda users: arms[0][users], record, experiment="ramp", arm_names=names
    )
    platform.run(1)
    inside = np.flatnonzero((platform.sessions.session >= 0) & ~platform.exposed)
    platform.reassign(lambda users: arms[1][users])
    platform.run(1)
    assert len(inside), "somebody comes in within a session"
    days = [Service(world, feeds(), of_day, "ramp", names) for of_day in arms]
    parts = lived(days[0], n_shards, tmp_path, days[1])
    for name in ("events", "exposures"):
        assert parts[name].equals(ordered(name, found[name])), name
    kept = dict(zip(*(parts["exposures"][name].to_pylist() for name in ("user", "arm")), strict=True))
    early = [user for user in kept if user % 5 == 0 and names[arms[0][user]] == kept[user]]
    assert early
    assert len(early) < len(kept)


def test_a_snapshot_holds_sessions_that_cross_midnight(world: World, tmp_path: Path) -> None:
    platform = Platform(world, [RandomPolicy(world)], np.zeros_like, lambda **tables: None)
    platform.run(1)
    assert (platform.sessions.session >= 0).any()
    snapshot.save(platform, tmp_path / "night")
    other = Platform(world, [RandomPolicy(world)], np.zeros_like, lambda **tables: None)
    snapshot.restore(other, tmp_path / "night")
    assert other.day == 1
    inside = np.flatnonzero(platform.sessions.session >= 0)
    assert (other.sessions.session == platform.sessions.session).all()
    for a, b in zip(platform.memories[0].of(inside), other.memories[0].of(inside), strict=True):
        assert (a == b).all()
    assert other.journal.pending().keys() == platform.journal.pending().keys()
    users = np.arange(world.n_users)
    kept = snapshot.state_of(world, [tmp_path / "night"])
    assert (kept.histories(users) == platform.state.histories(users)).all()


def test_a_damaged_snapshot_is_told(world: World, tmp_path: Path) -> None:
    (tmp_path / "night").write_bytes(b"half")
    with pytest.raises(ValueError, match="no readable snapshot"):
        snapshot.state_of(world, [tmp_path / "night"])


def test_a_snapshot_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    """A full disk was an error of safetensors' own, and so a traceback on the command line."""
    world = World.synthetic(50, 100, seed=1)
    platform = Platform(world, [LoggingPolicy(world)], np.zeros_like, lambda **tables: None)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="cannot write"):
            snapshot.save(platform, tmp_path / "midnight")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []

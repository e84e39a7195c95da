"""Users divided into shards live the same life, and a snapshot goes on as if nothing had happened."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from simulator import snapshot
from simulator.platform import Platform
from simulator.policies import LoggingPolicy, RandomPolicy
from simulator.shards import Partitions, Service, ShardDay, live_day, shards
from simulator.world import World
from warehouse.events import EVENT_KEY

DAYS = 2


@pytest.fixture(scope="module")
def world() -> World:
    return World.synthetic(150, n_items=2_000, seed=8)


@pytest.fixture(scope="module")
def service(world: World) -> Service:
    feeds = [LoggingPolicy(world), RandomPolicy(world)]
    return Service(world, feeds, np.arange(world.n_users) % 2, "test", ["even", "odd"])


def lived(service: Service, n_shards: int, folder: Path) -> dict[str, pa.Table]:
    """Events, exposures and propensities of some days, read from partitions."""
    plays = np.zeros((0, service.world.n_items + 1), np.int64)
    before: list[Path | None] = [None] * n_shards
    found: dict[str, list[pa.Table]] = {}
    for day in range(DAYS):
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
    order = {"events": ("ts", *EVENT_KEY), "exposures": ("user",)}
    return {
        name: pa.concat_tables(tables).sort_by([(key, "ascending") for key in order.get(name, EVENT_KEY[:4])])
        for name, tables in found.items()
    }


@pytest.fixture(scope="module")
def whole(service: Service, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    return lived(service, 1, tmp_path_factory.mktemp("whole"))


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
    at_once = pa.concat_tables(events).sort_by([(key, "ascending") for key in ("ts", *EVENT_KEY)])
    assert at_once.equals(whole["events"])


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

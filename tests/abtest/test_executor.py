"""Shards in other processes and on a cluster give the events of one process."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import Result

from abtest.executor import Executor, Here, opened
from simulator.policies import RandomPolicy
from simulator.shards import Partitions, Service, ShardDay, shards
from simulator.world import World
from warehouse.events import Kind

Command = Callable[..., Result]

N_SHARDS = 2


@pytest.fixture(scope="module")
def service() -> Service:
    world = World.synthetic(60, n_items=500, seed=3)
    return Service(world, [RandomPolicy(world)], np.zeros(world.n_users, np.int64))


def first_day(executor: Executor, service: Service, folder: Path) -> list[pa.Table]:
    """The events of each shard."""
    tasks = [
        ShardDay(users, 0, None, True, folder / f"night-{i}")
        for i, users in enumerate(shards(service.world.n_users, N_SHARDS))
    ]
    told: list[float] = []
    done = executor.live(
        service,
        tasks,
        np.zeros((0, service.world.n_items + 1), np.int64),
        lambda shard: Partitions(folder, f"day-{shard}"),
        lambda fraction, impressions: told.append(fraction),
    )
    assert told[-1] == 1.0
    assert all(task.end.is_file() for task in tasks)
    events = [
        pa.concat_tables(tables["events"] for tables in Partitions.read(folder, f"day-{shard}"))
        for shard in range(N_SHARDS)
    ]
    for table, shard in zip(events, done, strict=True):
        views = table.filter(pa.compute.field("kind") == int(Kind.impression))
        assert 0 < len(views) <= shard.impressions  # some end after midnight
    return events


@pytest.fixture(scope="module")
def here(service: Service, tmp_path_factory: pytest.TempPathFactory) -> list[pa.Table]:
    return first_day(Here(), service, tmp_path_factory.mktemp("here"))


def test_two_processes_give_the_same_events(service: Service, here: list[pa.Table], tmp_path: Path) -> None:
    with opened("local", N_SHARDS, tmp_path) as pool:
        assert first_day(pool, service, tmp_path) == here
    assert not list(tmp_path.glob("pool-*"))


def test_a_dask_cluster_gives_the_same_events(service: Service, here: list[pa.Table], tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        with opened(address, N_SHARDS, tmp_path) as executor:
            assert first_day(executor, service, tmp_path) == here


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--executor", "dask://127.0.0.1:1"], ["dask://127.0.0.1:1", "dask scheduler"]),
        (["--executor", "spark"], ["unknown executor 'spark'", "dask://HOST:PORT"]),
        (["--workers", "0"], ["workers is 0"]),
        (["--workers", "9", "--users", "8"], ["workers is 9"]),
    ],
)
def test_what_cannot_run_shards_is_refused_before_anything_is_written(
    flags: list[str], words: list[str], tmp_path: Path, abtest: Command
) -> None:
    if "dask" in flags[1]:
        pytest.importorskip("distributed")
    result = abtest("run", "--arms", "poprec,poprec", *flags, "--out", str(tmp_path / "run"))
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert not (tmp_path / "run").exists()

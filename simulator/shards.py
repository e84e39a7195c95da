"""Users in shards: a day of some of the users as one task, which any process can do.

Users do not meet between two midnights, so shards need nothing from each other until then. What users share
are the plays of each video: integers, whose sums over the shards the next day's tasks are given.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator import snapshot
from simulator.feed import Feed, Ids, InsideFeed
from simulator.journal import Record
from simulator.platform import Platform
from simulator.state import State
from simulator.world import World


@dataclass(frozen=True)
class Service:
    """What all shards of a day have in common. `arms`: which of the feeds serves each user; an arm without a
    name (None) is of users who are not in the experiment. Whoever was exposed before stays in their arm.
    `expects`: whether to tell what users were to be expected to do, beside what they did."""

    world: World
    feeds: Sequence[Feed]
    arms: NDArray[np.integer]
    experiment: str | None = None
    arm_names: Sequence[str | None] = ()
    expects: bool = False


class ShardDay(NamedTuple):
    """A day of some users. `start`: their snapshot of the midnight before, None before the first day of all;
    with `fresh`, only the users' state is taken from it, and the app is empty."""

    users: range
    day: int
    start: Path | None
    fresh: bool
    end: Path  # where the next midnight is kept


class DayDone(NamedTuple):
    """What a shard tells of its day."""

    plays: Ids  # (n_items + 1,) of each video
    impressions: int  # since the phase began
    expected: Ids  # (users of the shard, behavior.EXPECTED) in parts per billion; no columns if not asked


def shards(n_users: int, n: int) -> list[range]:
    """Users in `n` ranges of nearly equal length.

    >>> shards(10, 3)
    [range(0, 3), range(3, 6), range(6, 10)]
    """
    bounds = [n_users * i // n for i in range(n + 1)]
    return [range(a, b) for a, b in pairwise(bounds)]


def live_day(
    service: Service,
    task: ShardDay,
    plays: NDArray[np.int64],
    record: Record,
    progress: Callable[[float, int], None] | None = None,
) -> DayDone:
    """Live the day, hand its rows to `record` and keep the next midnight.

    plays: (days, n_items + 1) of all users on each earlier day of the phase, which the feeds learn from.
    """

    def assign(users: Ids) -> NDArray[np.integer]:
        return service.arms[users]

    platform = Platform(
        service.world,
        [copy.copy(feed) if isinstance(feed, InsideFeed) else feed for feed in service.feeds],
        assign,
        record,
        state=_state(service.world, task),
        start_day=task.day,
        users=task.users,
        experiment=service.experiment,
        arm_names=service.arm_names,
        progress=progress,
        expects=service.expects,
    )
    if task.start is not None and not task.fresh:
        snapshot.restore(platform, task.start)
        platform.reassign(assign)
    for feed in platform.feeds:
        if isinstance(feed, InsideFeed):
            for night in plays:
                feed.learn(night)
    platform.run(1)
    snapshot.save(platform, task.end)
    expected = platform.expected[task.users.start : task.users.stop]
    return DayDone(platform.plays, platform.impressions, expected)


def _state(world: World, task: ShardDay) -> State:
    if task.start is None:
        return State.start(world)
    return snapshot.state_of(world, [task.start]) if task.fresh else State.blank(world)


class Partitions:
    """A `Record` that writes what it is given as Parquet files; `read` gives them back in their order."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self._n = folder, name, 0

    def __call__(self, **tables: Any) -> None:
        import pyarrow.parquet as pq

        for kind, table in tables.items():
            path = self.folder / f"{self.name}-{self._n:05d}-{kind}.parquet"
            pq.write_table(table, path, compression="zstd", compression_level=1, use_dictionary=False)
        self._n += 1

    @staticmethod
    def read(folder: Path, name: str) -> list[dict[str, Any]]:
        """The blocks of a name, each the tables that came together."""
        import pyarrow.parquet as pq

        blocks: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob(f"{name}-*.parquet")):
            number, kind = path.stem.removeprefix(f"{name}-").split("-")
            blocks.setdefault(number, {})[kind] = pq.read_table(path)
        return [blocks[number] for number in sorted(blocks)]

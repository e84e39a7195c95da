"""The days of a run: lived in shards, recorded exactly once, and kept at each midnight.

A midnight is a folder `midnights/PHASE-DAY` with a snapshot of each shard and the plays of all days of the
phase. It is made under another name and renamed when the day's rows are in the warehouse, so it is there
wholly or not at all. A run that goes on after a crash lives the day after its latest midnight again: batches
that the warehouse has already are known by their names, `PHASE-DAY-SHARD-NUMBER`, and change nothing.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from abtest.executor import POOL

if TYPE_CHECKING:
    from abtest.executor import Executor
    from simulator.journal import Record
    from simulator.shards import Service, ShardDay
    from simulator.state import State
    from simulator.world import World
    from warehouse.store import Warehouse

MIDNIGHTS, PARTITIONS = "midnights", "partitions"
PARTIAL = ".partial"
EXPECTED_FILE = "expected.npy"


class Midnight(NamedTuple):
    """The end of day `day` - 1 of a phase, and where it is kept."""

    phase: str
    day: int  # the next one
    folder: Path

    def snapshots(self) -> list[Path]:
        return sorted(self.folder.glob("shard-*.safetensors"))

    def expected(self) -> NDArray[np.int64]:
        """(days, n_users, behavior.EXPECTED) of the days of the phase so far, where its service expects."""
        found: NDArray[np.int64] = np.load(self.folder / EXPECTED_FILE)
        return found

    def state(self, world: "World") -> "State":
        """What all users are like then."""
        from simulator.snapshot import state_of

        return state_of(world, self.snapshots())


class Nowhere:
    """Takes the place of a warehouse for days that are lived again and have been recorded already."""

    def record(self, batch_id: str, **tables: Any) -> int:
        """Nothing is kept."""
        return 0


class Recorder:
    """Gives blocks their batch ids: NAME-0, NAME-1, ..."""

    def __init__(self, warehouse: "Warehouse | Nowhere", name: str) -> None:
        self._warehouse, self._name, self._n = warehouse, name, 0

    def __call__(self, **tables: Any) -> None:
        self._warehouse.record(f"{self._name}-{self._n}", **tables)
        self._n += 1


class Days:
    """Lives days in a run folder. `progress(fraction of the phase, impressions)` is told how far it is."""

    def __init__(
        self,
        folder: Path,
        warehouse: "Warehouse | Nowhere",
        executor: "Executor",
        n_shards: int,
        progress: Callable[[float, int], None],
    ) -> None:
        self._folder, self._warehouse, self._executor = folder.resolve(), warehouse, executor
        self._n_shards, self._progress = n_shards, progress

    def live(
        self,
        phase: str,
        service_of: "Callable[[int], Service]",
        days: range,
        start: Midnight | None = None,
    ) -> Midnight:
        """Live the days of a phase that have not been lived yet; returns the last midnight.

        `service_of(day)` is asked in the morning of each. `start`: where the phase begins, None for the first
        phase. Only the users go over into a phase: whoever was in the app then has been cut off.
        """
        last = self._latest(phase)
        for day in range(days.start if last is None else last.day, days.stop):
            service = service_of(day)
            last = self._live_day(phase, day, service, last or start, fresh=last is None, days=days)
        assert last is not None, f"{phase} has no day"
        return last

    def _live_day(
        self, phase: str, day: int, service: "Service", start: Midnight | None, *, fresh: bool, days: range
    ) -> Midnight:
        """From one midnight to the next; `fresh` on the first day of a phase."""
        from simulator.behavior import EXPECTED
        from simulator.shards import Partitions

        name = f"{phase}-{day:05d}"
        home = self._emptied(Path(MIDNIGHTS) / f"{name}{PARTIAL}")
        partitions = self._emptied(Path(PARTITIONS))
        plays = np.zeros((0, service.world.n_items + 1), np.int64)
        expected = np.zeros((0, service.world.n_users, len(EXPECTED)), np.int64)
        if start is not None and not fresh:
            plays = np.load(start.folder / "plays.npy")
            expected = start.expected() if service.expects else expected

        def report(fraction: float, impressions: int) -> None:
            self._progress((day - days.start + fraction) / len(days), impressions)

        def record(shard: int) -> "Record":
            if self._executor.remote:
                return Partitions(partitions, f"{name}-{shard}")
            return Recorder(self._warehouse, f"{name}-{shard}")

        tasks = self._tasks(service.world.n_users, day, start, fresh, home)
        done = self._executor.live(service, tasks, plays, record, report)
        if self._executor.remote:
            self._load(partitions, name)
        today = np.sum([shard.plays for shard in done], axis=0)
        np.save(home / "plays.npy", np.vstack([plays, today[None]]))
        if service.expects:
            of_all = np.concatenate([shard.expected for shard in done])
            np.save(home / EXPECTED_FILE, np.concatenate([expected, of_all[None]]))
        return self._keep(home, None if fresh else start, Midnight(phase, day + 1, home))

    def _emptied(self, place: Path) -> Path:
        """A folder of the run without what a crash may have left there."""
        folder = self._folder / place
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _tasks(
        self, n_users: int, day: int, start: Midnight | None, fresh: bool, home: Path
    ) -> "list[ShardDay]":
        from simulator.shards import ShardDay, shards

        before = [None] * self._n_shards if start is None else start.snapshots()
        parts = zip(shards(n_users, self._n_shards), before, strict=True)
        return [
            ShardDay(users, day, path, fresh, home / f"shard-{i:04d}.safetensors")
            for i, (users, path) in enumerate(parts)
        ]

    def _load(self, partitions: Path, name: str) -> None:
        """What the shards wrote into the warehouse, in the order in which they wrote it."""
        from simulator.shards import Partitions

        for shard in range(self._n_shards):
            recorder = Recorder(self._warehouse, f"{name}-{shard}")
            for tables in Partitions.read(partitions, f"{name}-{shard}"):
                recorder(**tables)

    def _keep(self, home: Path, previous: Midnight | None, midnight: Midnight) -> Midnight:
        """From here on the day has been lived; the midnight before it in the phase is not needed any more."""
        final = home.with_name(home.name.removesuffix(PARTIAL))
        home.rename(final)
        shutil.rmtree(self._folder / PARTITIONS)
        if previous is not None:
            shutil.rmtree(previous.folder)
        return midnight._replace(folder=final)

    def _latest(self, phase: str) -> Midnight | None:
        found = midnights(self._folder, phase)
        return found[-1] if found else None


def midnights(folder: Path, phase: str) -> list[Midnight]:
    """The whole midnights that a run folder keeps of a phase, in their order."""
    homes = sorted((folder / MIDNIGHTS).glob(f"{phase}-?????"))
    return [Midnight(phase, int(home.name.rpartition("-")[2]) + 1, home) for home in homes]


def forget_unfinished(folder: Path) -> None:
    """Leave what a crash before the first midnight has written: nothing of it is needed."""
    if not midnights(folder, "*"):
        for path in folder.glob("events.duckdb*"):
            path.unlink()


def forget(folder: Path) -> None:
    """A finished run needs its midnights no more, nor what a crash has left of a pool of processes."""
    for place in (folder / MIDNIGHTS, *folder.glob(f"{POOL}*")):
        shutil.rmtree(place, ignore_errors=True)

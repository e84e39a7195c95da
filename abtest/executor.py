"""Where the shards of a simulated day are lived: in this process, in a pool of processes, on a Dask cluster.

Every executor has `live(service, tasks, plays, record, report)`: the tasks are all done when it returns,
their results in the order of the tasks. `record` makes the `Record` of a task; elsewhere than in this process
it must survive pickling, so shards there write Parquet partitions.
"""

import os
import pickle
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from simulator.shards import DayDone, Service, ShardDay

SCHEME = "dask://"
CONNECT_S = 5
POOL = "pool-"
"""How the folders begin through which a pool's processes are given the service."""

Plays = NDArray[np.int64]
Report = Callable[[float, int], None]
RecordOf = Callable[[int], Any]

KILLED = (
    "a worker process was killed before its work was done, perhaps for want of memory; "
    "a run goes on with abtest run --resume FOLDER"
)


class Executor(Protocol):
    """Lives the shards of a day."""

    remote: bool  # whether shards run in other processes

    def live(
        self, service: "Service", tasks: "Sequence[ShardDay]", plays: Plays, record: RecordOf, report: Report
    ) -> "list[DayDone]":
        """Live them all. `report(fraction of the day, impressions)` is called now and then."""
        ...


@contextmanager
def opened(address: str, workers: int, folder: Path) -> Iterator[Executor]:
    """The executor of the settings: `local` or dask://host:port, with so many shards. A pool keeps files in a
    folder of its own in `folder`. Raises ValueError where there is no such cluster."""
    if address != "local":
        with _cluster(address) as client:
            yield Cluster(client)
    elif workers == 1:
        yield Here()
    else:
        with tempfile.TemporaryDirectory(prefix=POOL, dir=folder) as shared, processes(workers) as pool:
            yield Pool(pool, Path(shared).resolve())


def check(address: str) -> None:
    """Raise ValueError in one sentence unless shards can be run at this address."""
    if address != "local":
        with _cluster(address):
            pass


class Here:
    """One shard after the other, in this process."""

    remote = False

    def live(
        self, service: "Service", tasks: "Sequence[ShardDay]", plays: Plays, record: RecordOf, report: Report
    ) -> "list[DayDone]":
        from simulator.shards import live_day

        done: list[DayDone] = []
        for i, task in enumerate(tasks):
            before = sum(day.impressions for day in done)

            def tell(fraction: float, impressions: int, i: int = i, before: int = before) -> None:
                report((i + fraction) / len(tasks), before + impressions)

            done.append(live_day(service, task, plays, record(i), tell))
        return done


class Pool:
    """A process for each shard of this machine. The service is written to a file once for all days."""

    remote = True

    def __init__(self, pool: Any, folder: Path) -> None:
        self._pool, self._folder = pool, folder
        self._shared: Service | None = None
        self._n = 0

    def live(
        self, service: "Service", tasks: "Sequence[ShardDay]", plays: Plays, record: RecordOf, report: Report
    ) -> "list[DayDone]":
        path = self._share(service)
        futures = [self._pool.submit(_live_shared, path, t, plays, record(i)) for i, t in enumerate(tasks)]
        return _collected(futures, report)

    def _share(self, service: "Service") -> Path:
        if self._shared is not service:
            self._n += 1
            self._shared = service
            (self._folder / str(self._n)).write_bytes(pickle.dumps(service, protocol=5))
        return self._folder / str(self._n)


class Cluster:
    """Workers of a Dask cluster, which see the run folder under the same path as this process."""

    remote = True

    def __init__(self, client: Any) -> None:
        self._client = client
        self._shared: tuple[Service | None, Any] = (None, None)

    def live(
        self, service: "Service", tasks: "Sequence[ShardDay]", plays: Plays, record: RecordOf, report: Report
    ) -> "list[DayDone]":
        from simulator.shards import live_day

        if self._shared[0] is not service:
            self._shared = (service, self._client.scatter(service, broadcast=True))
        futures = [
            self._client.submit(live_day, self._shared[1], task, plays, record(i), pure=False)
            for i, task in enumerate(tasks)
        ]
        return _collected(futures, report)


def _collected(futures: list[Any], report: Report) -> "list[DayDone]":
    done: list[DayDone] = []
    for future in futures:
        done.append(future.result())
        report(len(done) / len(futures), sum(day.impressions for day in done))
    return done


@contextmanager
def processes(workers: int, prepare: Callable[..., None] | None = None, *args: Any) -> Iterator[Any]:
    """A pool of so many processes of this machine, which end with this one; `prepare(*args)` is called in
    each before its first task. RuntimeError, in one sentence, where one of them is killed."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    begin = (prepare, args)
    try:
        with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_begin, initargs=begin) as pool:
            yield pool
    except BrokenProcessPool as error:
        raise RuntimeError(KILLED) from error


def _begin(prepare: Callable[..., None] | None, args: tuple[Any, ...]) -> None:
    _end_with_parent()
    if prepare is not None:
        prepare(*args)


def _end_with_parent() -> None:
    """Let this worker end when the process that started it does, even if that was killed."""
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None, "only for workers"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


_known: dict[Path, Any] = {}


def _live_shared(path: Path, task: "ShardDay", plays: Plays, record: Any) -> "DayDone":
    """In a worker: the service of the file, kept until there is another."""
    from simulator.shards import live_day

    if path not in _known:
        _known.clear()
        _known[path] = pickle.loads(path.read_bytes())
    return live_day(_known[path], task, plays, record)


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    if not address.startswith(SCHEME) or ":" not in address.removeprefix(SCHEME):
        raise ValueError(f"unknown executor {address!r}; allowed: local, dask://HOST:PORT")
    try:
        import distributed
    except ImportError:
        raise ValueError(
            f"executor {address!r} needs Dask, which is not installed: pip install 'short-video-lab[cluster]'"
        ) from None
    place = address.removeprefix(SCHEME)
    try:
        host, _, port = place.rpartition(":")
        socket.create_connection((host, int(port)), CONNECT_S).close()  # Dask would try again for long
        client = distributed.Client(f"tcp://{place}", timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no Dask scheduler answers at {address} within {CONNECT_S} s; start one with `dask scheduler`, "
            "or leave out --executor"
        ) from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise ValueError(f"the Dask cluster at {address} has no workers; start some with `dask worker`")
        yield client

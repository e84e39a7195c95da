"""Recording: where a run is recorded, exactly once, and what was recorded there."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from warehouse import loading, queries
from warehouse.batch import checked, content_hash, packed_rows
from warehouse.duck import Duck
from warehouse.opening import open_database
from warehouse.schema import BATCHES, EXPERIMENTS, STAGED, TABLES, Range

HASH_BLOCK_ROWS = 262_144


class Recording:
    """A database of events. Open it with `open`, close it or use it in a `with` block.

    Bad input raises ValueError or LookupError, a file that cannot be used OSError or ValueError, always in
    one sentence. One warehouse serves one thread.
    """

    def __init__(self, database: Duck) -> None:
        self._database = database
        self._in_transaction = False

    @classmethod
    def open(
        cls, url: str | Path, *, memory_limit: str = "1GB", threads: int = 2, read_only: bool = False
    ) -> Self:
        """The warehouse at a path, at "duckdb:///path" or, for a short life, at "duckdb:///:memory:".

        A file that is not there is made, unless `read_only`. One process at a time may write to a file.
        """
        return cls(open_database(url, memory_limit=memory_limit, threads=threads, read_only=read_only))

    def close(self) -> None:
        """Give the file back. Closing twice is harmless."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Recording

    def record(
        self,
        batch_id: str,
        *,
        events: pa.Table | None = None,
        exposures: pa.Table | None = None,
        propensities: pa.Table | None = None,
        items: pa.Table | None = None,
        users: pa.Table | None = None,
    ) -> int:
        """Store a batch and its row in the ledger in one transaction, and return how many rows were new.

        The same batch again stores nothing and returns 0; the same id with other rows is a ValueError. Rows
        whose key (`schema.KEYS`) is stored already are left out; an exposure keeps its earliest first_ts.
        """
        given = {
            "events": events,
            "exposures": exposures,
            "propensities": propensities,
            "items": items,
            "users": users,
        }
        tables = {name: checked(name, table) for name, table in given.items() if table is not None}
        content = content_hash(tables)
        with self.atomic(), ExitStack() as staged:
            if self._is_recorded(batch_id, content):
                return 0
            for name, table in tables.items():
                staged.enter_context(self._database.staged(STAGED[name].name, table))
            for name in tables:
                self._check_constant(name)
            n_new = sum(self._load(name, table) for name, table in tables.items())
            self._enter_in_ledger(batch_id, content, n_new, tables.get("events"))
        return n_new

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Everything recorded in the block is stored together, or nothing of it where the block raises."""
        if self._in_transaction:
            yield
            return
        if self._database.read_only:
            raise ValueError(f"{self._database.path} was opened read-only; open it for writing to record")
        self._in_transaction = True
        try:
            with self._database.transaction():
                yield
        finally:
            self._in_transaction = False

    def register(self, name: str, settings: dict[str, Any]) -> None:
        """Keep the settings of an experiment, which must tell `start_ts`, the first moment of its day 1.

        Registering the same again does nothing; other settings under a known name are a ValueError.
        """
        if type(settings.get("start_ts")) is not int:
            raise ValueError(
                f"experiment {name!r} has start_ts {settings.get('start_ts')!r}; give milliseconds"
            )
        text = json.dumps(settings, allow_nan=False)
        with self.atomic():
            known = self._experiments().get(name)
            if known is None:
                self._database.write(EXPERIMENTS.insert().values(name=name, settings=text))
            elif known != json.loads(text):
                raise ValueError(f"experiment {name!r} is registered with other settings; take another name")

    # What was recorded

    def experiment(self, name: str | None = None) -> dict[str, Any]:
        """The settings of an experiment; without a name, of the only one. LookupError names the known."""
        known = self._experiments()
        names = ", ".join(sorted(known)) or "none"
        if name is None and len(known) == 1:
            return next(iter(known.values()))
        if name is None:
            raise LookupError(f"{len(known)} experiments are registered, so name one; registered: {names}")
        if name not in known:
            raise LookupError(f"unknown experiment {name!r}; registered: {names}")
        return known[name]

    def interactions(self, before: int | None = None) -> pa.Table:
        """Plays before a moment: user, item, ts, by user and time; repeats are kept."""
        return self._database.table(queries.interactions(before))

    def impressions(self, before: int | None = None) -> pa.Table:
        """Impressions before a moment: user, item, ts, position, watch_ms and play, long_view, like, comment,
        share, follow as 0 or 1 (what was done before that moment), by user and time."""
        return self._database.table(queries.impressions(before))

    def counts(self) -> dict[str, int]:
        """Rows of each table."""
        tables = {**TABLES, "batches": BATCHES, "experiments": EXPERIMENTS}
        return {
            name: self._scalar(sa.select(sa.func.count()).select_from(table))
            for name, table in tables.items()
        }

    def event_hash(self) -> str:
        """A hash of all events in the order of (ts, key), the same however they were recorded."""
        digest = hashlib.blake2b(digest_size=16)
        for block in self._database.blocks(queries.ordered_events(), HASH_BLOCK_ROWS):
            digest.update(packed_rows(block))
        return digest.hexdigest()

    def sql(self, text: str) -> pa.Table:
        """The answer to a SELECT. Sums of integers come as floats: cast them to BIGINT for all digits."""
        return self._database.ask(text)

    # Steps

    def _is_recorded(self, batch_id: str, content: str) -> bool:
        rows = self._database.rows(sa.select(BATCHES.c.content_hash).where(BATCHES.c.batch_id == batch_id))
        if rows and rows[0][0] != content:
            raise ValueError(f"batch {batch_id!r} was recorded with other rows; give a new batch a new id")
        return bool(rows)

    def _check_constant(self, name: str) -> None:
        if name in loading.CONSTANT:
            key = self._scalar(loading.differing(name))
            if key is not None:
                raise ValueError(f"{name[:-1]} {key} comes with two different rows; {name} do not change")

    def _load(self, name: str, table: pa.Table) -> int:
        if not table.num_rows:
            return 0
        near = None
        if name in loading.NEAR:
            extremes = pc.min_max(table[loading.NEAR[name]]).as_py()
            near = Range(extremes["min"], extremes["max"])
        if name == "exposures":
            self._database.write(loading.earlier_exposures())
        any_repeated = self._scalar(loading.repeated_keys(name)) > 0
        return self._database.write(loading.insert_new(name, near, any_repeated=any_repeated))

    def _enter_in_ledger(self, batch_id: str, content: str, n_rows: int, events: pa.Table | None) -> None:
        extremes = {"min": None, "max": None} if events is None else pc.min_max(events["ts"]).as_py()
        row = {
            "batch_id": batch_id,
            "content_hash": content,
            "n_rows": n_rows,
            "min_ts": extremes["min"],
            "max_ts": extremes["max"],
            "committed_at_ms": time.time_ns() // 1_000_000,
        }
        self._database.write(BATCHES.insert().values(**row))

    def _experiments(self) -> dict[str, dict[str, Any]]:
        rows = self._database.rows(sa.select(EXPERIMENTS.c.name, EXPERIMENTS.c.settings))
        return {name: json.loads(settings) for name, settings in rows}

    def _scalar(self, statement: sa.Select) -> Any:
        return self._database.rows(statement)[0][0]

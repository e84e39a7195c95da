"""Warehouse: where a run is recorded, exactly once, and the questions that an analysis asks of it."""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from warehouse import capped, loading, queries, values
from warehouse.batch import checked, content_hash, packed_rows
from warehouse.duck import Duck
from warehouse.events import DAY_MS, PRE
from warehouse.opening import open_database
from warehouse.panel.ask import MEMBERS, Ask, Pair
from warehouse.panel.summed import summed
from warehouse.panel.sums import LookPair, Moments, PanelSums
from warehouse.queries import TOTALS, Cohort, Cuts, Since, Window, days_of
from warehouse.schema import BATCHES, EXPERIMENTS, STAGED, TABLES, Range

__all__ = ["Cohort", "Cuts", "LookPair", "Moments", "PanelSums", "Since", "Warehouse", "Window"]

HASH_BLOCK_ROWS = 262_144


class Warehouse:
    """A database of events. Open it with `Warehouse.open`, close it or use it in a `with` block.

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

    # What an experiment did

    def exposed(self, experiment: str | Cohort) -> dict[str, int]:
        """Analysed users of each arm: those exposed in exactly one."""
        by_arm: dict[str, int] = {}
        for _, arm, n in self.daily_exposed(experiment):
            by_arm[arm] = by_arm.get(arm, 0) + n
        return dict(sorted(by_arm.items()))

    def daily_exposed(self, experiment: str | Cohort) -> list[tuple[int, str, int]]:
        """(day, arm, users first exposed on that day), analysed users only. Day 1 begins at start_ts."""
        start_ts = self._start_ts(experiment)
        rows = self._database.rows(queries.exposed_by_day(experiment, start_ts))
        return [((day_ts - start_ts) // DAY_MS + 1, arm, n) for day_ts, arm, n in rows]

    def crossovers(self, experiment: str) -> int:
        """Users that were seen in more than one arm: no other question counts them."""
        self._start_ts(experiment)
        return self._scalar(queries.crossovers(experiment))

    def totals(self, experiment: str, window: tuple[int, int]) -> pa.Table:
        """One row for each analysed user exposed before the window's end: user, arm, then `queries.TOTALS` of
        what happened in the window from the user's first exposure on; 0 without events."""
        (checked_window,) = checked_windows([window])
        return self._database.table(queries.totals(experiment, self._start_ts(experiment), checked_window))

    def moments(
        self,
        experiment: str | Cohort,
        windows: Sequence[tuple[int, int]],
        *,
        columns: Sequence[str] | None = None,
    ) -> list[Moments]:
        """Exact sums and sums of products of totals by window and arm, from one pass over the events.

        `columns` restricts them, in the order of TOTALS; fewer columns are much less work. An arm without any
        exposed user has no row.
        """
        asked, names = checked_windows(windows), checked_columns(columns)
        if not asked:
            return []
        found = self.panel(
            experiment,
            max(window.last_day for window in asked),
            columns=names,
            products=list(combinations_with_replacement(names, 2)),
        )
        return found.moments(asked)

    def panel(
        self,
        experiment: str | Cohort,
        days: int,
        *,
        columns: Sequence[str],
        products: Sequence[Pair],
        pre_days: int = 0,
        activity: Cuts | None = None,
    ) -> PanelSums:
        """The sums of days 1 to `days` from which every view of an experiment follows (`PanelSums`).

        `products` are pairs of columns; with `pre_` before its name a column is the total of the last
        `pre_days` days before the start. With `activity` users are also summed by how active they were then.
        """
        start_ts = self._start_ts(experiment)
        past = [name for pair in products for name in pair if name.startswith(PRE)]
        past += [PRE + activity.column] if activity else []
        before = tuple(dict.fromkeys(past))
        checked_columns([*columns, *(name.removeprefix(PRE) for name in before)])
        if before and pre_days < 1:
            raise ValueError(f"pre_days is {pre_days}; covariates need 1 day or more before the experiment")
        ask = Ask(
            start_ts, days, tuple(columns), tuple(products), before, n_groups=0 if activity is None else 1
        )
        statement = queries.panel_members(
            experiment,
            start_ts,
            days,
            pre_days=pre_days,
            before=[name.removeprefix(PRE) for name in before],
            cuts=activity,
        )
        with self._database.kept(MEMBERS, statement) as members:

            def of_days(first: int, last: int) -> sa.Select:
                return queries.panel_days(members, start_ts, Window(first, last), columns)

            try:
                return summed(self._database, members, of_days, ask)
            except OverflowError:  # products in 64 bits are faster and mostly do; wider ones always do
                wide = replace(ask, wide=frozenset((*columns, *before)))
                return summed(self._database, members, of_days, wide)

    def activity_cuts(self, experiment: str, pre_days: int, column: str) -> Cuts | None:
        """Where analysed users, by a total before the start, fall into thirds; None where all have 0."""
        checked_columns([column])
        statement = queries.activity_cuts(experiment, self._start_ts(experiment), pre_days, column)
        ((light, middle),) = self._database.rows(statement)
        return None if light is None else Cuts(column, int(light), int(middle))

    # What single users did

    def caps(
        self, experiment: str | Cohort, window: tuple[int, ...], columns: Sequence[str], share: float
    ) -> list[int]:
        """The value of each column with a share of the analysed users, of all arms, at or below it."""
        users = self._per_user(experiment, window, columns)
        n_users = self._scalar(sa.select(sa.func.count()).select_from(users.subquery("users")))
        if not n_users:
            return [0] * len(columns)
        rank = capped.rank_of(share, n_users)
        return [int(value) for value in self._database.rows(capped.caps_at(users, len(columns), rank))[0]]

    def capped(
        self,
        experiment: str | Cohort,
        window: tuple[int, ...],
        columns: Sequence[str],
        caps: Sequence[int | None],
        *,
        before: Sequence[str] = (),
        pre_days: int = 0,
    ) -> tuple[dict[str, capped.CutMoments], list[int]]:
        """By arm, moments of a window with each user's total at most the cap of its column, and users above
        each cap.

        Columns of the `pre_days` days `before` the start stand beside them as `pre_` and the name, not cut.
        """
        users = self._per_user(experiment, window, columns, before=before, pre_days=pre_days)
        names = [*columns, *(PRE + name for name in before)]
        rows = self._database.rows(capped.capped_sums(users, [*caps, *(None for _ in before)]))
        above = self._database.rows(capped.above(users, caps))[0]
        return capped.read(rows, names), [int(n) for n in above]

    def user_values(
        self,
        experiment: str | Cohort,
        window: tuple[int, ...],
        columns: Sequence[str],
        *,
        before: Sequence[str] = (),
        pre_days: int = 0,
    ) -> dict[str, values.ArmValues]:
        """By arm, each column with a value for every analysed user, 0 without events, by the users' ids;
        columns of `before` the start as `pre_` and the name."""
        users = self._per_user(experiment, window, columns, before=before, pre_days=pre_days)
        names = [*columns, *(PRE + name for name in before)]
        found = {}
        for arm in self.exposed(experiment):
            table = self._database.table(values.of_arm(users, arm, len(names)))
            arrays = [table[f"c{i}"].to_numpy() for i in range(len(names))]
            found[arm] = values.ArmValues(dict(zip(names, arrays, strict=True)))
        return found

    def user_activity(
        self, experiment: str | Cohort, window: tuple[int, ...], cuts: Cuts, pre_days: int
    ) -> dict[str, values.Values]:
        """By arm, how active each analysed user was before (`queries.Activity`), by the users' ids."""
        days = checked_days(window).last_cohort
        members = queries.panel_members(
            experiment,
            self._start_ts(experiment),
            days,
            pre_days=pre_days,
            before=[cuts.column],
            cuts=cuts,
        )
        return {
            arm: self._database.table(values.of_arm(members, arm, 1, prefix="g"))["g0"].to_numpy()
            for arm in self.exposed(experiment)
        }

    def event_values(
        self, experiment: str | Cohort, window: tuple[int, ...], column: str
    ) -> dict[str, values.EventValues]:
        """By arm, the values of the events that `column` adds up, and whose they are."""
        checked_window = checked_days(window)
        start_ts = self._start_ts(experiment)
        counts = self.daily_exposed(experiment)
        found = {}
        for arm in self.exposed(experiment):
            table = self._database.table(values.per_event(experiment, start_ts, checked_window, column, arm))
            n = sum(n for day, of_arm, n in counts if of_arm == arm and day <= checked_window.last_cohort)
            found[arm] = values.EventValues(table["value"].to_numpy(), table["place"].to_numpy(), n)
        return found

    # Steps

    def _per_user(
        self,
        experiment: str | Cohort,
        window: tuple[int, ...],
        columns: Sequence[str],
        *,
        before: Sequence[str] = (),
        pre_days: int = 0,
    ) -> sa.Select:
        checked_window = checked_days(window)
        checked_columns([*columns, *before])
        start_ts = self._start_ts(experiment)
        return values.per_user(
            experiment, start_ts, checked_window, columns, before=before, pre_days=pre_days
        )

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

    def _start_ts(self, experiment: str | Cohort) -> int:
        name = experiment.experiment if isinstance(experiment, Cohort) else experiment
        return self.experiment(name)["start_ts"]

    def _scalar(self, statement: sa.Select) -> Any:
        return self._database.rows(statement)[0][0]


def checked_windows(windows: Iterable[tuple[int, int]]) -> list[Window]:
    """The windows as such; ValueError unless 1 <= first_day <= last_day."""
    result = [Window(*window) for window in windows]
    for window in result:
        checked_days(window)
    return result


def checked_days(window: tuple[int, ...]) -> Window | Since:
    """A window of days of the experiment or since exposure; ValueError unless 1 <= first_day <= last_day."""
    days = days_of(window)
    if not 1 <= days.first_day <= days.last_day:
        raise ValueError(f"window {tuple(window)} is no range of days; days count from 1, first day first")
    return days


def checked_columns(columns: Sequence[str] | None) -> tuple[str, ...]:
    """The columns in the order of TOTALS, all of them for None; LookupError names the known ones."""
    if columns is None:
        return TOTALS
    for name in columns:
        if name not in TOTALS:
            raise LookupError(f"unknown column {name!r}; totals have: {', '.join(TOTALS)}")
    return tuple(name for name in TOTALS if name in columns)

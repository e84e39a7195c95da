"""OpenLog: a foreign log of events, where it lies, what it holds, and who was exposed in it."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, replace
from types import TracebackType
from typing import NamedTuple, Self

import sqlalchemy as sa

from warehouse.events import DAY_MS
from warehouse.logs import contents, exposure
from warehouse.logs.columns import Column, LogMapping
from warehouse.logs.opening import tables_of
from warehouse.logs.places import Database, open_place
from warehouse.logs.tables import LogTables, Span
from warehouse.logs.totals import Total, check_total, default_total

MOST_SEGMENT_VALUES = 1000
EXPOSED = "panel_exposed"
Drawn = tuple[int, int] | None
"""Between which moments users got their arm, where they are those of a phase."""


class Extent(NamedTuple):
    """Rows of the log, rows in which something needed is NULL, and the times between which it lies."""

    rows: int
    without_user: int
    without_ts: int
    without_arm: int
    first_ts: int | None
    last_ts: int | None
    last_ingest: int | None


class ValueCounts(NamedTuple):
    """Rows of a column that are NULL, that are NaN or infinite, and that are negative."""

    missing: int
    not_finite: int
    negative: int


@dataclass(frozen=True)
class UserCounts:
    """Users by day (from 1) and arm, those that were seen in one arm only, and how many were seen in more.

    `crossed` counts the latter by one of their arms.
    """

    by_day: Mapping[tuple[int, str], int]
    crossed: int

    def until(self, arm: str, last_day: int) -> int:
        """Users of an arm exposed on days up to `last_day`."""
        return sum(n for (day, of_arm), n in self.by_day.items() if of_arm == arm and day <= last_day)

    def by_arm(self) -> dict[str, int]:
        """Users of each arm."""
        found: dict[str, int] = {}
        for (_, arm), n in self.by_day.items():
            found[arm] = found.get(arm, 0) + n
        return dict(sorted(found.items()))


class OpenLog:
    """An open log. Bad input raises ValueError, LookupError or OSError in one sentence; nothing is written.

    A time without a zone is taken as UTC. NULL in a summed column adds nothing; a row without a user or a
    time is left out and counted.
    """

    def __init__(self, database: Database, tables: LogTables) -> None:
        self._database = database
        self._tables = tables
        self._extent: Extent | None = None
        self._magnitudes: dict[str, float] = {}
        self._exposures: dict[tuple[Span, Drawn], sa.FromClause] = {}
        self._kept = ExitStack()
        self.name = database.name

    @classmethod
    def open(
        cls,
        places: Sequence[str],
        mapping: LogMapping,
        *,
        table: str | None = None,
        assignment: str | None = None,
        ignored_arms: Sequence[str] = (),
        exposure_event: str | None = None,
        threads: int = 2,
    ) -> Self:
        """The log at a URL or in files; see `places.open_place`.

        Users of `ignored_arms` (a holdout) are not in the experiment. With `exposure_event` a user is exposed
        at the first event of that kind, else at the first row with an arm, or at the assignment.
        """
        named = (mapping.ts, mapping.ingest, mapping.assignment_ts)
        place = open_place(
            places,
            table=table,
            assignment=assignment,
            as_text=[name for name in named if name],
            threads=threads,
        )
        try:
            return cls(
                place.database,
                tables_of(
                    place.database, place.events, place.assignment, mapping, ignored_arms, exposure_event
                ),
            )
        except BaseException:
            place.database.close()
            raise

    def close(self) -> None:
        self._kept.close()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def columns(self) -> Mapping[str, Column]:
        """The columns of the events."""
        return self._tables.columns

    @property
    def mapping(self) -> LogMapping:
        """What the columns mean; the assignment's own columns are filled in."""
        return self._tables.mapping

    @property
    def has_times(self) -> bool:
        """Whether events have a time; without one all of them count, in one window."""
        return self._tables.ts_form is not None

    @property
    def has_assignment(self) -> bool:
        """Whether the arms stand in a table of their own."""
        return self._tables.assignment is not None

    @property
    def has_day_times(self) -> bool:
        """Whether times are finer than days."""
        return self._tables.ts_form not in (None, "date")

    @property
    def exposure_event(self) -> str | None:
        """The kind of event at which a user is exposed, where one was declared."""
        return self._tables.exposure_event

    def of_phase(self, from_ts: int, until_ts: int) -> Self:
        """The same log, in which only users who got their arm in [from_ts, until_ts) are in the experiment:
        at the assignment where its time is known, else at the first exposure."""
        view = copy(self)
        view._tables = replace(self._tables, drawn_between=(from_ts, until_ts))
        return view

    @property
    def knows_draws(self) -> bool:
        """Whether it is known when users got their arm, or at least when they were exposed."""
        return self.has_times and (self.exposure_event is not None or self._tables.knows_assignment_ts)

    # What the log holds

    def total(self, name: str, declared: Mapping[str, Total]) -> Total:
        """The total of that name, declared or by `totals.default_total`, checked against the columns."""
        total = declared.get(name) or default_total(name, self.mapping, self.columns)
        column = check_total(total, self.mapping, self.columns)
        return total if column is None else replace(total, column=column.name)

    def is_float(self, total: Total) -> bool:
        """Whether it is summed in floats, not in whole numbers."""
        return total.how == "sum" and self.columns[total.column or ""].kind == "float"

    def scale(self, total: Total) -> int:
        """The decimals of what it sums, which is counted in units of the last one."""
        column = self.columns.get(total.column or "") if total.how == "sum" else None
        return column.scale if column is not None and column.kind == "decimal" else 0

    def extent(self) -> Extent:
        """Rows, what they lack, and from when to when."""
        if self._extent is None:
            try:
                n, users, times, arms, *moments = self._database.rows(contents.extent(self._tables))[0]
            except OverflowError as error:
                raise ValueError(
                    f"column {self.mapping.ts!r} holds a time that is none, such as NaN, infinity or a much"
                    f" too large number ({error}); leave such rows out, or say what it is with ts_unit="
                ) from error
            self._extent = Extent(n, n - users, n - times, n - arms, *map(_whole, moments))
        return self._extent

    def arms(self) -> dict[str, int | None]:
        """Every arm in the log with the time when it was first seen, those of `ignored_arms` left out."""
        rows = self._database.rows(contents.arms(self._tables))
        return {arm: _whole(ts) for arm, ts in rows if arm not in self._tables.ignored_arms}

    def kinds(self) -> dict[str, int]:
        """Rows of each kind of event (up to 1,000 kinds, the commonest first)."""
        rows = self._database.rows(contents.kinds(self._tables))
        return {kind: n for kind, n in rows if kind is not None}

    def values(self, names: Iterable[str]) -> dict[str, ValueCounts]:
        """What is amiss with the values of columns, over the whole log."""
        columns = [self.columns[name] for name in dict.fromkeys(names)]
        if not columns:
            return {}
        try:
            row = [int(n) for n in self._database.rows(contents.values(self._tables, columns))[0]]
        except OverflowError as error:
            raise ValueError(
                f"{error}; sums of {', '.join(repr(c.name) for c in columns)} are of 64-bit whole numbers,"
                " so cast what is larger to DOUBLE"
            ) from error
        return {c.name: ValueCounts(*row[3 * i : 3 * i + 3]) for i, c in enumerate(columns)}

    def magnitudes(self, names: Iterable[str]) -> dict[str, float]:
        """The largest absolute value of each column of floats, 0 without any."""
        known = dict.fromkeys(names)
        new = [self.columns[name] for name in known if name not in self._magnitudes]
        if new:
            (found,) = self._database.rows(contents.magnitudes(self._tables, new))
            self._magnitudes |= {c.name: value or 0.0 for c, value in zip(new, found, strict=True)}
        return {name: self._magnitudes[name] for name in known}

    def texts(self, names: Iterable[str]) -> dict[str, tuple[int, int, str | None]]:
        """Of columns of text: rows with a value, rows whose value is written like a number, and one that is
        not."""
        columns = [self.columns[name] for name in names]
        if not columns:
            return {}
        (row,) = self._database.rows(contents.texts(self._tables, columns))
        return {c.name: (int(row[3 * i]), int(row[3 * i + 1]), row[3 * i + 2]) for i, c in enumerate(columns)}

    def duplicates(self, span: Span) -> dict[str, tuple[int, int]]:
        """(rows, rows that repeat another) by arm, "" where the arm is not in the events."""
        rows = self._database.rows(contents.duplicates(self._tables, span))
        return {arm or "": (int(n), int(repeats)) for arm, n, repeats in rows}

    def days(self, span: Span) -> dict[int, tuple[int, int]]:
        """(rows, last ts) of each day of the experiment that holds an event."""
        rows = self._database.rows(contents.days_with_events(self._tables, span))
        return {(int(ts) - span.start_ts) // DAY_MS + 1: (int(n), int(last)) for ts, n, last in rows}

    def lateness(self, span: Span) -> tuple[int, int, int | None]:
        """(rows with both times, rows that arrived over an hour late, largest delay in ms)."""
        n, late, largest = self._database.rows(contents.lateness(self._tables, span))[0]
        return int(n), int(late), _whole(largest)

    # Who was exposed

    def assigned(self, span: Span) -> UserCounts:
        """Users by day of their assignment."""
        return self._users(exposure.assigned(self._tables, span).subquery("assigned_users"), span)

    def exposed(self, span: Span) -> UserCounts:
        """Users by day of their first exposure: those that are analysed."""
        return self._users(self._exposed(span), span)

    def ignored(self, span: Span) -> dict[str, int]:
        """Users of each ignored arm, such as a holdout: they are in no other count."""
        if not self._tables.ignored_arms:
            return {}
        return {arm: int(n) for arm, n in self._database.rows(exposure.ignored(self._tables, span))}

    def segments(self, span: Span) -> dict[str, dict[str, dict[str, int]]]:
        """Exposed users by segment column, value ("" for none) and arm."""
        users = self._exposed(span)
        found: dict[str, dict[str, dict[str, int]]] = {}
        for index, name in enumerate(self.mapping.segments):
            values = found.setdefault(name, {})
            rows = self._database.rows(exposure.users_by_segment(users, index))
            if len({value for value, _, _ in rows}) > MOST_SEGMENT_VALUES:
                raise ValueError(
                    f"segment {name!r} has more than {MOST_SEGMENT_VALUES:,} values; map a column with fewer"
                )
            for value, arm, n in rows:
                values.setdefault(value or "", {})[arm] = int(n)
        return found

    # Steps

    def _exposed(self, span: Span) -> sa.FromClause:
        """The exposed users, found once for all that is asked about them."""
        key = span, self._tables.drawn_between
        if key not in self._exposures:
            name = f"{EXPOSED}_{len(self._exposures)}"
            statement = exposure.exposed(self._tables, span)
            self._exposures[key] = self._kept.enter_context(self._database.kept(name, statement))
        return self._exposures[key]

    def _users(self, users: sa.FromClause, span: Span) -> UserCounts:
        by_day: dict[tuple[int, str], int] = {}
        crossed = 0
        for arm, other, day_ts, n in self._database.rows(exposure.users_by_day(users, span)):
            if arm != other:
                crossed += int(n)
                continue
            by_day[(int(day_ts) - span.start_ts) // DAY_MS + 1, arm] = int(n)
        return UserCounts(by_day, crossed)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)

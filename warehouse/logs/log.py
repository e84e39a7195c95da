"""EventLog: a foreign log of events, and the questions that an analysis of an experiment asks of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import NamedTuple, Self

import sqlalchemy as sa

from warehouse.events import DAY_MS
from warehouse.logs import queries
from warehouse.logs.columns import Column, LogMapping, find_column
from warehouse.logs.moments import LogMoments, Number, central_moments, exact_moments, exposed_until
from warehouse.logs.places import Database, open_place
from warehouse.logs.queries import PRE, LogTables, Span
from warehouse.logs.times import form_of
from warehouse.logs.totals import Total, check_total, default_total
from warehouse.queries import Window

Sums = dict[tuple[Window, str], tuple[dict[str, Number], dict[tuple[str, str], Number]]]

__all__ = ["EventLog", "Extent", "Span", "UserCounts", "ValueCounts"]


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

    def by_arm(self) -> dict[str, int]:
        """Users of each arm."""
        found: dict[str, int] = {}
        for (_, arm), n in self.by_day.items():
            found[arm] = found.get(arm, 0) + n
        return dict(sorted(found.items()))


class EventLog:
    """An open log. Bad input raises ValueError, LookupError or OSError in one sentence; nothing is written.

    A time without a zone is taken as UTC. NULL in a summed column adds nothing; a row without a user or a
    time is left out and counted.
    """

    def __init__(self, database: Database, tables: LogTables) -> None:
        self._database = database
        self._tables = tables
        self._extent: Extent | None = None
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
                _tables(
                    place.database, place.events, place.assignment, mapping, ignored_arms, exposure_event
                ),
            )
        except BaseException:
            place.database.close()
            raise

    def close(self) -> None:
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

    def of_phase(self, from_ts: int, until_ts: int) -> "EventLog":
        """The same log, in which only users who got their arm in [from_ts, until_ts) are in the experiment:
        at the assignment where its time is known, else at the first exposure."""
        return EventLog(self._database, replace(self._tables, drawn_between=(from_ts, until_ts)))

    @property
    def knows_draws(self) -> bool:
        """Whether it is known when users got their arm, or at least when they were exposed."""
        return self.has_times and (
            self.exposure_event is not None or queries.knows_assignment_ts(self._tables)
        )

    # What the log holds

    def total(self, name: str, declared: Mapping[str, Total]) -> Total:
        """The total of that name, declared or by `totals.default_total`, checked against the columns."""
        total = declared.get(name) or default_total(name, self.mapping, self.columns)
        column = check_total(total, self.mapping, self.columns)
        return total if column is None else replace(total, column=column.name)

    def extent(self) -> Extent:
        """Rows, what they lack, and from when to when."""
        if self._extent is None:
            n, users, times, arms, *moments = self._database.rows(queries.extent(self._tables))[0]
            self._extent = Extent(n, n - users, n - times, n - arms, *map(_whole, moments))
        return self._extent

    def arms(self) -> dict[str, int | None]:
        """Every arm in the log with the time when it was first seen, those of `ignored_arms` left out."""
        rows = self._database.rows(queries.arms(self._tables))
        return {arm: _whole(ts) for arm, ts in rows if arm not in self._tables.ignored_arms}

    def kinds(self) -> dict[str, int]:
        """Rows of each kind of event (up to 1,000 kinds, the commonest first)."""
        rows = self._database.rows(queries.kinds(self._tables))
        return {kind: n for kind, n in rows if kind is not None}

    def values(self, names: Iterable[str]) -> dict[str, ValueCounts]:
        """What is amiss with the values of columns, over the whole log."""
        columns = [self.columns[name] for name in dict.fromkeys(names)]
        if not columns:
            return {}
        row = [int(n) for n in self._database.rows(queries.values(self._tables, columns))[0]]
        return {c.name: ValueCounts(*row[3 * i : 3 * i + 3]) for i, c in enumerate(columns)}

    def duplicates(self, span: Span) -> dict[str, tuple[int, int]]:
        """(rows, rows that repeat another) by arm, "" where the arm is not in the events."""
        rows = self._database.rows(queries.duplicates(self._tables, span))
        return {arm or "": (int(n), int(repeats)) for arm, n, repeats in rows}

    def days(self, span: Span) -> dict[int, tuple[int, int]]:
        """(rows, last ts) of each day of the experiment that holds an event."""
        rows = self._database.rows(queries.days_with_events(self._tables, span))
        return {(int(ts) - span.start_ts) // DAY_MS + 1: (int(n), int(last)) for ts, n, last in rows}

    def lateness(self, span: Span) -> tuple[int, int, int | None]:
        """(rows with both times, rows that arrived over an hour late, largest delay in ms)."""
        n, late, largest = self._database.rows(queries.lateness(self._tables, span))[0]
        return int(n), int(late), _whole(largest)

    # Who was exposed

    def assigned(self, span: Span) -> UserCounts:
        """Users by day of their assignment."""
        return self._users(queries.assigned(self._tables, span), span)

    def exposed(self, span: Span) -> UserCounts:
        """Users by day of their first exposure: those that are analysed."""
        return self._users(queries.exposed(self._tables, span), span)

    def ignored(self, span: Span) -> dict[str, int]:
        """Users of each ignored arm, such as a holdout: they are in no other count."""
        if not self._tables.ignored_arms:
            return {}
        return {arm: int(n) for arm, n in self._database.rows(queries.ignored(self._tables, span))}

    def segments(self, span: Span) -> dict[str, dict[str, dict[str, int]]]:
        """Exposed users by segment column, value ("" for none) and arm."""
        users = queries.exposed(self._tables, span)
        found: dict[str, dict[str, dict[str, int]]] = {}
        for index, name in enumerate(self.mapping.segments):
            values = found.setdefault(name, {})
            for value, arm, n in self._database.rows(queries.users_by_segment(users, index)):
                values.setdefault(value or "", {})[arm] = int(n)
        return found

    # What the exposed did

    def moments(
        self,
        span: Span,
        windows: Sequence[tuple[int, int]],
        totals: Sequence[Total],
        pairs: Iterable[tuple[str, str]],
        exposed: UserCounts,
        *,
        past: Sequence[Total] = (),
        pre_days: int = 0,
    ) -> list[LogMoments]:
        """Sums of each total and of the products of the named pairs, by window and arm.

        `past` are totals of the same users in the `pre_days` before the start, under other names.

        Sums of integers and decimals are exact; those with a float are taken by one thread around a
        centre.
        """
        extent = self.extent() if not self.has_assignment else None
        one_arm = (
            extent is not None
            and not (extent.without_arm or exposed.crossed)
            and not self._tables.ignored_arms
            and self.exposure_event is None
            and self._tables.drawn_between is None
        )
        days = queries.user_days(self._tables, span, totals, one_arm=one_arm)
        if past:
            before = queries.pre_period(self._tables, span, past, pre_days)
            days = queries.with_past(days, before, len(totals), len(past))
        asked = [Window(*window) for window in windows]
        return self._moments(days, span, asked, [*totals, *past], list(pairs), exposed)

    def pre_period(
        self,
        span: Span,
        totals: Sequence[Total],
        pairs: Iterable[tuple[str, str]],
        exposed: UserCounts,
        pre_days: int,
    ) -> list[LogMoments]:
        """The same of the days before the start, of the same users: window (0, 0)."""
        days = queries.pre_period(self._tables, span, totals, pre_days)
        return self._moments(days, span, [PRE], totals, list(pairs), exposed)

    # Steps

    def _users(self, users: sa.Select, span: Span) -> UserCounts:
        by_day: dict[tuple[int, str], int] = {}
        crossed = 0
        for arm, other, day_ts, n in self._database.rows(queries.users_by_day(users, span)):
            if arm != other:
                crossed += int(n)
                continue
            by_day[(int(day_ts) - span.start_ts) // DAY_MS + 1, arm] = int(n)
        return UserCounts(by_day, crossed)

    def _moments(
        self,
        days: sa.Select,
        span: Span,
        windows: Sequence[Window],
        totals: Sequence[Total],
        pairs: Sequence[tuple[str, str]],
        exposed: UserCounts,
    ) -> list[LogMoments]:
        by_name = {total.name: total for total in totals}
        is_float = {total.name: self._is_float(total) for total in totals}
        exact = [pair for pair in pairs if not any(is_float[name] for name in pair)]
        central = [pair for pair in pairs if pair not in exact]
        found: Sums = {}
        try:
            _merge(found, self._sums(days, span, windows, totals, exact, is_exact=True))
        except OverflowError:
            central, found = list(pairs), {}
        try:
            _merge(found, self._sums(days, span, windows, totals, central, is_exact=False))
        except OverflowError as error:
            raise ValueError(f"values of the log are too large to be squared and summed: {error}") from error
        nothing = dict.fromkeys(by_name, 0), dict.fromkeys(pairs, 0)
        last = {window: span.days if window == PRE else window.last_day for window in windows}
        return [
            LogMoments(
                arm,
                window,
                exposed_until(exposed.by_day, arm, last[window]),
                *found.get((window, arm), nothing),
            )
            for window in windows
            for arm in exposed.by_arm()
        ]

    def _sums(
        self,
        days: sa.Select,
        span: Span,
        windows: Sequence[Window],
        totals: Sequence[Total],
        pairs: Sequence[tuple[str, str]],
        *,
        is_exact: bool,
    ) -> Sums:
        """Sums and products for the named pairs, by integers or by deviations from a centre."""
        asked = [total for total in totals if any(total.name in pair for pair in pairs)]
        if not asked:
            return {}
        if not is_exact:
            self._database.one_thread()
        names = [total.name for total in asked]
        at = [(names.index(a), names.index(b)) for a, b in pairs]
        scales = [self._scale(total) for total in asked]
        statement = queries.exact_sums if is_exact else queries.central_sums
        read = exact_moments if is_exact else central_moments
        cte = _only(days, totals, asked).cte("user_days")
        rows = self._database.rows(statement(cte, span, windows, asked, at))
        return {(Window(row[0], row[1]), row[2]): read(row, names, scales, at) for row in rows}

    def _is_float(self, total: Total) -> bool:
        return total.how == "sum" and self.columns[total.column or ""].kind == "float"

    def _scale(self, total: Total) -> int:
        column = self.columns.get(total.column or "") if total.how == "sum" else None
        return column.scale if column is not None and column.kind == "decimal" else 0


def _tables(
    database: Database,
    events: str,
    assignment: str | None,
    mapping: LogMapping,
    ignored_arms: Sequence[str],
    exposure_event: str | None,
) -> LogTables:
    columns = database.columns(events)
    shown = f"the log ({database.name})"
    for name in (mapping.user, mapping.ts, mapping.event, mapping.value, mapping.id, mapping.ingest):
        if name is not None:
            find_column(columns, name, shown)
    source = _clause(events, columns)
    if exposure_event is not None and mapping.event is None:
        raise ValueError(f"exposure is event {exposure_event!r}; map the column of kinds, event=")
    if exposure_event is not None and mapping.ts is None:
        raise ValueError("exposure by an event needs times; map them, ts=")
    ts_form = (
        form_of(database, source, columns[mapping.ts], mapping.ts_unit) if mapping.ts is not None else None
    )
    ingest_form = (
        form_of(database, source, columns[mapping.ingest], mapping.ts_unit) if mapping.ingest else None
    )
    assigned = assigned_form = None
    if assignment is None:
        for key in ("assignment_user", "assignment_arm", "assignment_ts"):
            if getattr(mapping, key) is not None:
                raise ValueError(f"the mapping has {key} and there is no assignment table; give --assignment")
        for name in (mapping.arm, *mapping.segments) if mapping.arm else mapping.segments:
            find_column(columns, name, shown)
    else:
        own = database.columns(assignment)
        mapping = replace(
            mapping,
            assignment_user=find_column(own, mapping.assignment_user or mapping.user, "the assignment").name,
            assignment_arm=find_column(own, mapping.assignment_arm or mapping.arm, "the assignment").name,
            assignment_ts=_assignment_ts(mapping, own, ts_form),
        )
        for name in mapping.segments:
            find_column(own, name, "the assignment")
        assigned = _clause(assignment, own)
        if mapping.assignment_ts is not None:
            assigned_form = form_of(database, assigned, own[mapping.assignment_ts], mapping.ts_unit)
    return LogTables(
        source,
        assigned,
        mapping,
        columns,
        ts_form,
        ingest_form,
        assigned_form,
        tuple(ignored_arms),
        exposure_event,
    )


def _assignment_ts(mapping: LogMapping, own: Mapping[str, Column], ts_form: str | None) -> str | None:
    if mapping.assignment_ts is not None:
        if ts_form is None:
            raise ValueError("assignment_ts is mapped and ts is not; map the events' times too, ts=")
        return find_column(own, mapping.assignment_ts, "the assignment").name
    return mapping.ts if mapping.ts in own else None


def _clause(table: str, columns: Iterable[str]) -> sa.TableClause:
    named = sa.sql.quoted_name(table, quote=True)
    return sa.table(named, *(sa.column(sa.sql.quoted_name(name, quote=True)) for name in columns))


def _merge(into: Sums, more: Sums) -> None:
    """Add sums of other columns; what is there already is exact and stays."""
    for key, (sums, products) in more.items():
        old = into.get(key, ({}, {}))
        into[key] = ({**sums, **old[0]}, {**products, **old[1]})


def _only(days: sa.Select, totals: Sequence[Total], asked: Sequence[Total]) -> sa.Select:
    """The columns of `asked` alone, numbered anew."""
    if list(totals) == list(asked):
        return days
    d = days.subquery("all_totals").c
    kept = [d[f"t{totals.index(total)}"].label(f"t{i}") for i, total in enumerate(asked)]
    marks = [d.is_past] if "is_past" in d else []
    return sa.select(d.user, d.arm, d.day_ts, *marks, *kept)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)

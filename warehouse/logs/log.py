"""EventLog: a foreign log of events, and the questions that an analysis of an experiment asks of it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from fractions import Fraction
from math import frexp
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import sqlalchemy as sa

from warehouse import capped
from warehouse.events import DAY_MS
from warehouse.logs import contents, exposure, panel, values
from warehouse.logs.central import central_moments, central_sums
from warehouse.logs.columns import Column, LogMapping
from warehouse.logs.opening import tables_of
from warehouse.logs.places import Database, open_place
from warehouse.logs.tables import LogTables, Span
from warehouse.logs.totals import Total, check_total, default_total
from warehouse.panel import DAYS, MEMBERS, Ask, Pair, crossed, of_days, of_members, of_totals, totals_of
from warehouse.queries import Window
from warehouse.sums import Moments, PanelSums, read, read_one_day
from warehouse.values import ArmValues, EventValues, Values, of_arm

GRID_BITS = (53, 48, 40, 32)
"""Floats are rounded to whole multiples of a power of 2, so that the largest has so many bits: the first is a
double's own precision, the others are for sums of squares that would not fit 127 bits."""
MOST_SEGMENT_VALUES = 1000
EXPOSED = "panel_exposed"
Drawn = tuple[int, int] | None
"""Between which moments users got their arm, where they are those of a phase."""

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

    def until(self, arm: str, last_day: int) -> int:
        """Users of an arm exposed on days up to `last_day`."""
        return sum(n for (day, of_arm), n in self.by_day.items() if of_arm == arm and day <= last_day)

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

    def of_phase(self, from_ts: int, until_ts: int) -> "EventLog":
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
            n, users, times, arms, *moments = self._database.rows(contents.extent(self._tables))[0]
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
        row = [int(n) for n in self._database.rows(contents.values(self._tables, columns))[0]]
        return {c.name: ValueCounts(*row[3 * i : 3 * i + 3]) for i, c in enumerate(columns)}

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

    # What the exposed did

    def panel(
        self,
        span: Span,
        totals: Sequence[Total],
        products: Iterable[Pair],
        exposed: UserCounts,
        *,
        past: Sequence[Total] = (),
        pre_days: int = 0,
        by_segment: bool = False,
    ) -> PanelSums:
        """The sums from which every view of the experiment follows.

        `products` are pairs of names of totals. `past` are totals of the same users in the `pre_days` before
        the start, under other names. With `by_segment` users are also summed by their segments.

        All sums are exact, so they do not depend on the order of rows or the number of threads: floats are
        put on a grid of 2^-53 of the largest. OverflowError where the database has no integers wide enough.
        """
        ask = self._ask(span, totals, products, past, by_segment=by_segment)
        floats = frozenset(total.name for total in (*totals, *past) if self.is_float(total))
        everything = frozenset((*ask.columns, *ask.before))
        plans = [(GRID_BITS[0], floats), (GRID_BITS[0], everything)]
        plans += [(bits, everything) for bits in GRID_BITS[1:] if floats]
        for bits, wide in plans[:-1]:
            with suppress(OverflowError):
                return self._panel(replace(ask, wide=wide), span, totals, past, pre_days, bits, exposed)
        bits, wide = plans[-1]
        return self._panel(replace(ask, wide=wide), span, totals, past, pre_days, bits, exposed)

    def moments(
        self,
        span: Span,
        windows: Sequence[tuple[int, int]],
        totals: Sequence[Total],
        pairs: Iterable[Pair],
        exposed: UserCounts,
        *,
        past: Sequence[Total] = (),
        pre_days: int = 0,
    ) -> list[Moments]:
        """Sums of each total and of the products of the named pairs, by window and arm.

        As `panel` gives them; where the database is not up to it, around a centre, by one thread.
        """
        pairs, asked = list(pairs), [Window(*window) for window in windows]
        try:
            found = self.panel(span, totals, pairs, exposed, past=past, pre_days=pre_days).moments(asked)
        except OverflowError:
            return self.central_moments(span, asked, totals, pairs, exposed, past=past, pre_days=pre_days)
        return _complete(found, asked, exposed)

    def central_moments(
        self,
        span: Span,
        windows: Sequence[Window],
        totals: Sequence[Total],
        pairs: Iterable[Pair],
        exposed: UserCounts,
        *,
        past: Sequence[Total] = (),
        pre_days: int = 0,
    ) -> list[Moments]:
        """The same in floating point, each window for itself (`logs.central`)."""
        self._database.one_thread()
        ask = self._ask(span, totals, pairs, past)
        ask = replace(ask, floats=frozenset(t.name for t in (*totals, *past) if self.is_float(t)))
        try:
            with self._relations(ask, span, totals, past, pre_days, None, exposed) as (who, days):
                rows = self._database.rows(central_sums(who, days, ask, span, windows))
            scales = [self.scale(total) for total in (*past, *totals)]
            found = central_moments(rows, ask, scales)
        except OverflowError as error:
            raise ValueError(f"values of the log are too large to be squared and summed: {error}") from error
        return _complete(found.values(), windows, exposed)

    # What single users did

    def caps(
        self, span: Span, window: tuple[int, int], totals: Sequence[Total], share: float, exposed: UserCounts
    ) -> list[int | float]:
        """The value of each total with a share of the analysed users, of all arms, at or below it.

        A decimal is in units of its last place here and in `capped`.
        """
        users = values.per_user(self._tables, span, Window(*window), totals)
        n_users = sum(exposed.until(arm, window[1]) for arm in exposed.by_arm())
        if not n_users:
            return [0] * len(totals)
        (row,) = self._database.rows(capped.caps_at(users, len(totals), capped.rank_of(share, n_users)))
        return list(row)

    def capped(
        self,
        span: Span,
        window: tuple[int, int],
        totals: Sequence[Total],
        caps: Sequence[int | float | None],
        *,
        past: Sequence[Total] = (),
        pre_days: int = 0,
    ) -> tuple[dict[str, capped.CutMoments], list[int]]:
        """By arm, exact moments of a window with each user's total at most its cap, and users above each cap.

        The `past` is not cut. Totals are whole numbers or decimals; OverflowError where sums are too large
        for the database's integers.
        """
        users = values.per_user(self._tables, span, Window(*window), totals, past=past, pre_days=pre_days)
        asked = [*totals, *past]
        rows = self._database.rows(capped.capped_sums(users, [*caps, *(None for _ in past)]))
        (above,) = self._database.rows(capped.above(users, caps))
        found = capped.read(rows, [total.name for total in asked], [self.scale(total) for total in asked])
        return found, [int(n) for n in above]

    def user_values(
        self,
        span: Span,
        window: tuple[int, int],
        totals: Sequence[Total],
        exposed: UserCounts,
        *,
        past: Sequence[Total] = (),
        pre_days: int = 0,
    ) -> dict[str, ArmValues]:
        """By arm, each total with a value for every analysed user, 0 for nothing, by the users' ids."""
        users = values.per_user(self._tables, span, Window(*window), totals, past=past, pre_days=pre_days)
        asked = [*totals, *past]
        found = {}
        for arm in exposed.by_arm():
            arrays = self._database.arrays(of_arm(users, arm, len(asked)))
            found[arm] = ArmValues(
                {total.name: self._unscaled(total, x) for total, x in zip(asked, arrays, strict=True)}
            )
        return found

    def event_values(
        self, span: Span, window: tuple[int, int], total: Total, exposed: UserCounts
    ) -> dict[str, EventValues]:
        """By arm, the values that a total sums, and whose they are; NULL is no value."""
        if total.how != "sum":
            raise ValueError(
                f"total {total.name!r} sums no values, so events have no quantile; sum a column instead"
            )
        found = {}
        for arm in exposed.by_arm():
            statement = values.per_event(self._tables, span, Window(*window), total, arm)
            users, x = self._database.arrays(statement)
            n_users = exposed.until(arm, window[1])
            found[arm] = EventValues(self._unscaled(total, x), users.astype(np.int64), n_users)
        return found

    # Steps

    def _unscaled(self, total: Total, x: Values) -> Values:
        scale = self.scale(total)
        return x / 10**scale if scale else x

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

    def _ask(
        self,
        span: Span,
        totals: Sequence[Total],
        products: Iterable[Pair],
        past: Sequence[Total],
        *,
        by_segment: bool = False,
    ) -> Ask:
        return Ask(
            span.start_ts,
            span.days,
            tuple(total.name for total in totals),
            tuple(products),
            tuple(total.name for total in past),
            anys=frozenset(total.name for total in totals if total.how == "any"),
            n_groups=len(self.mapping.segments) if by_segment else 0,
        )

    def _panel(
        self,
        ask: Ask,
        span: Span,
        totals: Sequence[Total],
        past: Sequence[Total],
        pre_days: int,
        bits: int,
        exposed: UserCounts,
    ) -> PanelSums:
        exponents = self._exponents([*totals, *past], bits)
        factors = self._factors([*totals, *past], exponents)
        rows, groups = self._database.rows, [f"g{i}" for i in range(ask.n_groups)]
        if self._is_one_row_a_user(span, exposed) and not (past and self.has_times):
            at_once = panel.totals_at_once(self._tables, span, ask, totals, past, exponents).subquery("t")
            return read_one_day(
                ask,
                rows(of_totals(at_once, ask, ("arm", "cohort_ts"))),
                [rows(of_totals(at_once, ask, (group, "arm"))) for group in groups],
                factors,
            )
        with self._relations(ask, span, totals, past, pre_days, exponents, exposed) as (who, days):
            per_user = totals_of(who, days, ask).subquery("totals")
            grouped = [rows(of_totals(per_user, ask, (group, "arm"))) for group in groups]
            if span.days == 1:
                return read_one_day(
                    ask, rows(of_totals(per_user, ask, ("arm", "cohort_ts"))), grouped, factors
                )
            of_users = rows(of_members(who, ask, ("arm", "cohort_ts")))
            if not totals:
                return read(ask, of_users, [], [], grouped, factors)
            return read(
                ask, of_users, rows(of_days(who, days, ask)), rows(crossed(who, days, ask)), grouped, factors
            )

    @contextmanager
    def _relations(
        self,
        ask: Ask,
        span: Span,
        totals: Sequence[Total],
        past: Sequence[Total],
        pre_days: int,
        exponents: Mapping[str, int] | None,
        exposed: UserCounts,
    ) -> Iterator[tuple[sa.FromClause, sa.FromClause]]:
        """The members and their days, kept for as long as the block asks."""
        log = self._tables
        first_counts = log.exposure_event is not None or log.assignment_ts_form is not None
        lacks_arms = log.assignment is None and (self.extent().without_arm or log.ignored_arms)
        lacks_users = log.drawn_between is not None
        members = panel.members(log, span, ask, self._exposed(span), past, pre_days, exponents)
        with self._database.kept(MEMBERS, members) as who:
            days = panel.days(
                log,
                span,
                ask,
                totals,
                who,
                exponents,
                counts_from_start=not (first_counts or lacks_arms or lacks_users),
            )
            with self._database.kept(DAYS, days) as of_days:
                yield who, of_days

    def _is_one_row_a_user(self, span: Span, exposed: UserCounts) -> bool:
        """Whether the log is a table of users already, all of them exposed in the one day there is."""
        extent = self.extent()
        n_users = sum(exposed.by_day.values())
        return (
            span.days == 1
            and not self.has_assignment
            and not exposed.crossed
            and self._tables.drawn_between is None
            and n_users == extent.rows - extent.without_user
        )

    def _exponents(self, totals: Sequence[Total], bits: int) -> dict[str, int]:
        """For each column of floats the power of 2 that makes its largest value a number of so many bits."""
        names = dict.fromkeys(total.column or "" for total in totals if self.is_float(total))
        new = [self.columns[name] for name in names if name not in self._magnitudes]
        if new:
            (found,) = self._database.rows(contents.magnitudes(self._tables, new))
            self._magnitudes |= {c.name: value or 0.0 for c, value in zip(new, found, strict=True)}
        return {name: min(bits - frexp(self._magnitudes[name])[1], 1000) for name in names}

    def _factors(self, totals: Sequence[Total], exponents: Mapping[str, int]) -> dict[str, Fraction]:
        """What the whole numbers of a total are multiples of its values by, where that is not 1."""
        found = {}
        for total in totals:
            if self.is_float(total):
                found[total.name] = Fraction(2) ** exponents[total.column or ""]
            elif self.scale(total):
                found[total.name] = Fraction(10) ** self.scale(total)
        return found


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _complete(found: Iterable[Moments], windows: Sequence[Window], exposed: UserCounts) -> list[Moments]:
    """By window and arm, an arm of nobody in the window among them."""
    rows = {(row.window, row.arm): row for row in found}
    any_row = next(iter(rows.values()), None)
    nothing = (
        ({}, {}) if any_row is None else (dict.fromkeys(any_row.sums, 0), dict.fromkeys(any_row.products, 0))
    )
    return [
        rows.get((window, arm), Moments(arm, window, 0, *nothing))
        for window in windows
        for arm in exposed.by_arm()
    ]

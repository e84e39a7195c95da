"""EventLog: what an analysis of an experiment asks of an open log: sums and values of its exposed users."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from math import frexp

import numpy as np
import sqlalchemy as sa

from warehouse import capped
from warehouse.logs import log_users, members
from warehouse.logs.central import central_moments, central_sums
from warehouse.logs.members import Exponents
from warehouse.logs.opened import Extent, OpenLog, UserCounts, ValueCounts
from warehouse.logs.tables import Span
from warehouse.logs.totals import Total
from warehouse.panel.ask import DAYS, MEMBERS, Ask, Pair
from warehouse.panel.reading import read_one_day
from warehouse.panel.statements import of_totals
from warehouse.panel.summed import summed
from warehouse.panel.sums import Moments, PanelSums
from warehouse.queries import Window, days_of
from warehouse.users import ArmValues, EventValues, UserTotals, Values, of_arm

GRID_BITS = (53, 48, 40, 32)
"""Floats are rounded to whole multiples of a power of 2, so that the largest has so many bits: the first is a
double's own precision, the others are for sums of squares that would not fit 127 bits."""

__all__ = ["EventLog", "Extent", "Span", "UserCounts", "UserTotals", "ValueCounts"]


class EventLog(OpenLog):
    """An open log that is asked for sums and values of its exposed users, by arm."""

    # Sums

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
        stratum: int | None = None,
    ) -> PanelSums:
        """The sums from which every view of the experiment follows.

        `products` are pairs of names of totals. `past` are totals of the same users in the `pre_days` before
        the start, under other names. With `by_segment` users are also summed by their segments. With
        `stratum`, the index of a segment, arms are cells of it (`panel.reading.by_stratum`).

        All sums are exact, so they do not depend on the order of rows or the number of threads: floats are
        put on a grid of 2^-53 of the largest. OverflowError where the database has no integers wide enough.
        """
        ask = self._ask(span, totals, products, past, by_segment=by_segment)
        ask = replace(
            ask, stratum=stratum, n_groups=ask.n_groups or (stratum is not None) * len(self.mapping.segments)
        )
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
            people = self._members(ask, span, past, pre_days, None)
            with (
                self._database.kept(MEMBERS, people) as who,
                self._database.kept(DAYS, self._days(ask, span, totals, who, None)) as days,
            ):
                rows = self._database.rows(central_sums(who, days, ask, span, windows))
            scales = [self.scale(total) for total in (*past, *totals)]
            found = central_moments(rows, ask, scales)
        except OverflowError as error:
            raise ValueError(f"values of the log are too large to be squared and summed: {error}") from error
        return _complete(found.values(), windows, exposed)

    # What single users did

    def caps(
        self, span: Span, asked: UserTotals[Total], share: float, exposed: UserCounts
    ) -> list[int | float]:
        """The value of each total with a share of the analysed users, of all arms, at or below it.

        A decimal is in units of its last place here and in `capped`.
        """
        n_users = sum(exposed.until(arm, days_of(asked.window).last_cohort) for arm in exposed.by_arm())
        if not n_users:
            return [0] * len(asked.totals)
        rank = capped.rank_of(share, n_users)
        (row,) = self._database.rows(capped.caps_at(self._per_user(span, asked), len(asked.totals), rank))
        return list(row)

    def capped(
        self, span: Span, asked: UserTotals[Total], caps: Sequence[int | float | None]
    ) -> tuple[dict[str, capped.CutMoments], list[int]]:
        """By arm, exact moments of a window with each user's total at most its cap, and users above each cap.

        The past is not cut. Totals are whole numbers or decimals; OverflowError where sums are too large for
        the database's integers.
        """
        users, totals = self._per_user(span, asked), [*asked.totals, *asked.past]
        rows = self._database.rows(capped.capped_sums(users, [*caps, *(None for _ in asked.past)]))
        (above,) = self._database.rows(capped.above(users, caps))
        found = capped.read(rows, [total.name for total in totals], [self.scale(total) for total in totals])
        return found, [int(n) for n in above]

    def user_values(self, span: Span, asked: UserTotals[Total], exposed: UserCounts) -> dict[str, ArmValues]:
        """By arm, each total with a value for every analysed user, 0 for nothing, by the users' ids."""
        users, totals = self._per_user(span, asked), [*asked.totals, *asked.past]
        found = {}
        for arm in exposed.by_arm():
            arrays = self._database.arrays(of_arm(users, arm, len(totals)))
            found[arm] = ArmValues(
                {total.name: self._unscaled(total, x) for total, x in zip(totals, arrays, strict=True)}
            )
        return found

    def event_values(
        self, span: Span, window: tuple[int, ...], total: Total, exposed: UserCounts
    ) -> dict[str, EventValues]:
        """By arm, the values that a total sums, and whose they are; NULL is no value."""
        if total.how != "sum":
            raise ValueError(
                f"total {total.name!r} sums no values, so events have no quantile; sum a column instead"
            )
        found = {}
        for arm in exposed.by_arm():
            statement = log_users.per_event(
                self._tables, span, self._exposed(span), days_of(window), total, arm
            )
            users, x = self._database.arrays(statement)
            n_users = exposed.until(arm, days_of(window).last_cohort)
            found[arm] = EventValues(self._unscaled(total, x), users.astype(np.int64), n_users)
        return found

    def user_segments(
        self, span: Span, window: tuple[int, ...], exposed: UserCounts
    ) -> dict[str, dict[str, Values]]:
        """By arm and segment column, the segment of every analysed user, "" for none, by the users' ids."""
        statement = log_users.segments(self._tables, span, self._exposed(span), days_of(window))
        names = self.mapping.segments
        found = {}
        for arm in exposed.by_arm():
            arrays = self._database.arrays(of_arm(statement, arm, len(names), prefix="g"))
            found[arm] = dict(zip(names, arrays, strict=True))
        return found

    # Steps

    def _per_user(self, span: Span, asked: UserTotals[Total]) -> sa.Select:
        return log_users.per_user(self._tables, span, self._exposed(span), asked)

    def _unscaled(self, total: Total, x: Values) -> Values:
        scale = self.scale(total)
        return x / 10**scale if scale else x

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
        rows = self._database.rows
        if self._is_one_row_a_user(span, exposed) and not (past and self.has_times):
            at_once = members.totals_at_once(self._tables, span, ask, totals, past, exponents).subquery("t")
            return read_one_day(
                ask,
                rows(of_totals(at_once, ask, ("arm", "cohort_ts"))),
                [rows(of_totals(at_once, ask, (f"g{i}", "arm"))) for i in range(ask.n_groups)],
                factors,
            )
        people = self._members(ask, span, past, pre_days, exponents)
        with self._database.kept(MEMBERS, people) as who:

            def days(first: int, last: int) -> sa.Select:
                return self._days(ask, span.part(first, last), totals, who, exponents)

            return summed(self._database, who, days, ask, factors)

    def _members(
        self, ask: Ask, span: Span, past: Sequence[Total], pre_days: int, exponents: Exponents
    ) -> sa.Select:
        """The exposed users, with their past."""
        return members.members(
            self._tables,
            span,
            ask,
            self._exposed(span),
            past,
            pre_days,
            exponents,
            counts_from_start=self._counts_from_start(),
        )

    def _days(
        self, ask: Ask, span: Span, totals: Sequence[Total], who: sa.FromClause, exponents: Exponents
    ) -> sa.Select:
        """What members did on each day of a span."""
        return members.days(
            self._tables, span, ask, totals, who, exponents, counts_from_start=self._counts_from_start()
        )

    def _counts_from_start(self) -> bool:
        """Whether no event has to be left out for lying before its user's first exposure."""
        log = self._tables
        first_counts = log.exposure_event is not None or log.assignment_ts_form is not None
        lacks_arms = log.assignment is None and (self.extent().without_arm or log.ignored_arms)
        lacks_users = log.drawn_between is not None
        return not (first_counts or lacks_arms or lacks_users)

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
        sizes = self.magnitudes(total.column or "" for total in totals if self.is_float(total))
        return {name: min(bits - frexp(size)[1], 1000) for name, size in sizes.items()}

    def _factors(self, totals: Sequence[Total], exponents: Mapping[str, int]) -> dict[str, Fraction]:
        """What the whole numbers of a total are multiples of its values by, where that is not 1."""
        found = {}
        for total in totals:
            if self.is_float(total):
                found[total.name] = Fraction(2) ** exponents[total.column or ""]
            elif self.scale(total):
                found[total.name] = Fraction(10) ** self.scale(total)
        return found


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

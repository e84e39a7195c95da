"""From a panel's members and their days to its sums: which statements a database is asked."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from typing import Any, Protocol

import sqlalchemy as sa

from warehouse.panel import abreast, statements
from warehouse.panel.ask import DAYS, ROWS, Ask
from warehouse.panel.reading import read, read_abreast, read_one_day
from warehouse.panel.sums import PanelSums

Days = Callable[[int, int], sa.Select]
"""What members did on days first to last: user, day_ts, x0, x1, ..., of days with events only."""


class Asked(Protocol):
    """A database that is asked for sums."""

    @property
    def reads_days_apart(self) -> bool:
        """Whether reading the events once a day costs little more than reading them once."""

    def rows(self, statement: sa.Select) -> list[tuple[Any, ...]]:
        """All rows. OverflowError where a number does not fit its type."""

    def kept(self, name: str, statement: sa.Select) -> AbstractContextManager[sa.FromClause]:
        """The answer to a SELECT, to be asked further inside the block."""


def summed(
    database: Asked,
    members: sa.FromClause,
    days: Days,
    ask: Ask,
    factors: Mapping[str, Fraction] | None = None,
) -> PanelSums:
    """The sums of these members; `factors` as in `PanelSums`."""
    if not ask.columns:
        return read(ask, database.rows(statements.of_members(members, ask, ("arm", "cohort_ts"))), [], [])
    if abreast.suits(ask) and (database.reads_days_apart or ask.n_days == 1):
        return _abreast(database, members, days, ask, factors)
    return _by_pairs(database, members, days, ask, factors)


def _abreast(
    database: Asked, members: sa.FromClause, days: Days, ask: Ask, factors: Mapping[str, Fraction] | None
) -> PanelSums:
    statement = abreast.rows_of(members, [days(k, k) for k in range(1, ask.n_days + 1)], ask)
    once = not ask.n_groups  # then the rows pass by and need not be kept
    with nullcontext(statement.subquery(ROWS)) if once else database.kept(ROWS, statement) as rows:
        totals = abreast.totals_of(rows, ask).subquery("totals")
        groups = _groups(database, totals, ask)
        if ask.n_days == 1:
            of_totals = statements.of_totals(totals, ask, ("arm", "cohort_ts"))
            return read_one_day(ask, database.rows(of_totals), groups, factors)
        return read_abreast(ask, database.rows(abreast.sums_of(rows, ask)), groups, factors)


def _by_pairs(
    database: Asked, members: sa.FromClause, days: Days, ask: Ask, factors: Mapping[str, Fraction] | None
) -> PanelSums:
    of_members = database.rows(statements.of_members(members, ask, ("arm", "cohort_ts")))
    with database.kept(DAYS, days(1, ask.n_days)) as of_days:
        totals = statements.totals_of(members, of_days, ask).subquery("totals")
        return read(
            ask,
            of_members,
            database.rows(statements.of_days(members, of_days, ask)),
            database.rows(statements.crossed(members, of_days, ask)),
            _groups(database, totals, ask),
            factors,
        )


def _groups(database: Asked, totals: sa.FromClause, ask: Ask) -> list[list[tuple[Any, ...]]]:
    return [database.rows(statements.of_totals(totals, ask, (f"g{i}", "arm"))) for i in range(ask.n_groups)]

"""The sums of a panel of few days, each user's days beside each other in one row.

The same sums as by pairs of user-days (`statements.of_days`, `statements.crossed`), in one pass over the
users: every pair of days is a pair of columns, so no user-day is joined with another. Each day's rows are
grouped for themselves, so the events are read once a day: for a database to which that is cheap.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from warehouse.panel.ask import Ask, integer_of, star
from warehouse.panel.statements import Side, of_members, past_of, products

MOST_DAYS, MOST_SUMS = 7, 1_000
"""Beyond a week, or so many columns of an answer, pairs of days are joined: most users do nothing on most
days, and no database answers with any number of columns."""


def suits(ask: Ask) -> bool:
    """Whether there are few enough days and sums."""
    n_pairs = ask.n_days * (ask.n_days + 1) // 2
    of_days = len(ask.inner) + len(ask.inner_mixed)
    n_sums = len(ask.before) + len(ask.past) + ask.n_days * of_days + n_pairs * len(ask.inner_plain)
    return ask.n_days <= MOST_DAYS and n_sums <= MOST_SUMS


def rows_of(members: sa.FromClause, days: Sequence[sa.Select], ask: Ask) -> sa.Select:
    """A row for each member: what it is in `members`, and of the k-th of the `days` d{k}x0, d{k}x1, ..., 0
    without events."""
    joined: sa.FromClause = members
    values = []
    for k, statement in enumerate(days):
        day = statement.subquery(f"day_{k}")
        joined = joined.outerjoin(day, members.c.user == day.c.user)
        values += [
            sa.cast(sa.func.coalesce(day.c[f"x{i}"], 0), integer_of(ask, name)).label(f"d{k}x{i}")
            for i, name in enumerate(ask.columns)
        ]
    return sa.select(*members.c, *values).select_from(joined)


def totals_of(rows: sa.FromClause, ask: Ask) -> sa.Select:
    """As `statements.totals_of`: the rows with the totals of all days, t0..."""
    found = []
    for i, name in enumerate(ask.columns):
        of_days = [rows.c[f"d{k}x{i}"] for k in range(ask.n_days)]
        total = _largest(of_days) if name in ask.anys else sum(of_days[1:], of_days[0])
        found.append(total.label(f"t{i}"))
    return sa.select(*rows.c, *found)


def sums_of(rows: sa.FromClause, ask: Ask) -> sa.Select:
    """Rows of `statements.of_members` by (arm, cohort_ts), then for each day the sums of `inner` and the
    `inner_mixed` products, then for each pair of days, the earlier first, the `inner_plain` products."""
    days, past = range(ask.n_days), past_of(rows, ask)
    values = [_of_day(rows, k, ask) for k in days]
    sums: list[sa.ColumnElement] = []
    for x in values:
        sums += [sa.func.sum(x(name)) for name in ask.inner]
        sums += products(ask, ask.inner_mixed, past, x)
    for k in days:
        for later in days[k:]:
            sums += products(ask, ask.inner_plain, values[k], values[later])
    return of_members(rows, ask, ("arm", "cohort_ts")).add_columns(*sums)


def _of_day(rows: sa.FromClause, k: int, ask: Ask) -> Side:
    """The columns of a day; a starred one is 1 where the day has a 1 and no earlier day had one."""
    found: dict[str, sa.ColumnElement] = {}
    for i, name in enumerate(ask.columns):
        x = found[name] = rows.c[f"d{k}x{i}"]
        if name in ask.anys:
            earlier = [rows.c[f"d{j}x{i}"] == 0 for j in range(k)]
            found[star(name)] = sa.case((sa.and_(sa.true(), *earlier), x), else_=0)
    return lambda name: found[name]


def _largest(of_days: Sequence[sa.ColumnElement]) -> sa.ColumnElement:
    """Of numbers that are 0 or 1."""
    return sa.case((sa.or_(*(x == 1 for x in of_days)), 1), else_=0)

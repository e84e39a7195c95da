"""What single users did in a foreign log, as tables of users (`warehouse.users`) and as events."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from warehouse.events import DAY_MS
from warehouse.logs.tables import LogTables, Span
from warehouse.logs.totals import Total, value_expression
from warehouse.queries import Since, Window, days_of
from warehouse.users import UserTotals, indexed


class SortedSum(FunctionElement[float]):
    """A sum of floats, the smallest first, so that it does not depend on the order of rows or on threads."""

    type = sa.Double()
    inherit_cache = True


@compiles(SortedSum)
def _sorted(element: SortedSum, compiler: Any, **keywords: Any) -> str:
    value = compiler.process(element.clauses, **keywords)
    return f"SUM({value} ORDER BY {value})"


@compiles(SortedSum, "sqlite")
def _one_thread(element: SortedSum, compiler: Any, **keywords: Any) -> str:
    return f"SUM({compiler.process(element.clauses, **keywords)})"


def per_user(log: LogTables, span: Span, exposed: sa.FromClause, asked: UserTotals[Total]) -> sa.Select:
    """The table of users: totals of the window, then those of the past, 0 for users with nothing.

    `exposed` are those of `exposure.exposed`.
    """
    window = days_of(asked.window)
    u = _analysed(exposed).cte("analysed")
    now = _summed(log, span, u, asked.totals, _since_exposure(log, span, window, u)).subquery("now")
    values = [now.c[f"t{i}"] for i in range(len(asked.totals))]
    joined: sa.FromClause = u.outerjoin(now, u.c.user == now.c.user)
    if asked.past:
        earlier = [log.ts < span.start_ts, log.ts >= span.start_ts - asked.pre_days * DAY_MS]
        before = _summed(log, span, u, asked.past, earlier).subquery("before")
        values += [before.c[f"t{i}"] for i in range(len(asked.past))]
        joined = joined.outerjoin(before, u.c.user == before.c.user)
    kinds = [_type(log, total) for total in (*asked.totals, *asked.past)]
    return (
        sa.select(
            u.c.user,
            u.c.arm,
            *(
                sa.cast(sa.func.coalesce(value, 0), kind).label(f"c{i}")
                for i, (value, kind) in enumerate(zip(values, kinds, strict=True))
            ),
        )
        .select_from(joined)
        .where(u.c.first_ts < span.begin(window.last_cohort + 1))
    )


def per_event(
    log: LogTables, span: Span, exposed: sa.FromClause, window: Window | Since, total: Total, arm: str
) -> sa.Select:
    """The values that a total sums, in an arm: (index of the user, value), in no order; NULL is no value."""
    users = indexed(_analysed(exposed).subquery("analysed"), span.begin(window.last_cohort + 1), arm)
    value = _value(log, total)
    return (
        sa.select(users.c.place.label("place"), value.label("value"))
        .join_from(log.events, users, log.user == users.c.user)
        .where(value.is_not(None), *_since_exposure(log, span, window, users))
    )


def segments(log: LogTables, span: Span, exposed: sa.FromClause, window: Window | Since) -> sa.Select:
    """The segments of the same users: user, arm, g0, g1, ..., empty text where there is none."""
    u = exposed.c
    groups = (sa.func.coalesce(u[name], "").label(f"g{i}") for i, name in enumerate(log.segments))
    return sa.select(u.user, u.arm, *groups).where(
        u.arm == u.other_arm, u.first_ts < span.begin(window.last_cohort + 1)
    )


def _analysed(exposed: sa.FromClause) -> sa.Select:
    u = exposed.c
    return sa.select(u.user, u.arm, u.first_ts).where(u.arm == u.other_arm)


def _since_exposure(
    log: LogTables, span: Span, window: Window | Since, users: sa.FromClause
) -> list[sa.ColumnElement[bool]]:
    if log.ts_form is None:
        return []
    since: list[sa.ColumnElement[bool]] = [log.ts >= users.c.first_ts]
    day_1 = window.day_1(span.start_ts, users.c.first_ts)
    return [
        *since,
        log.ts >= day_1 + (window.first_day - 1) * DAY_MS,
        log.ts < day_1 + window.last_day * DAY_MS,
    ]


def _summed(
    log: LogTables,
    span: Span,
    users: sa.FromClause,
    totals: Sequence[Total],
    where: Sequence[sa.ColumnElement[bool]],
) -> sa.Select:
    """The totals of each user with an event, as t0, t1, ..."""
    rows = (
        sa.select(users.c.user, *(_value(log, total, span).label(f"v{i}") for i, total in enumerate(totals)))
        .join_from(log.events, users, log.user == users.c.user)
        .where(*where)
        .subquery("rows")
        .c
    )
    return sa.select(
        rows.user,
        *(
            _total(total, rows[f"v{i}"], is_float=_is_float(log, total)).label(f"t{i}")
            for i, total in enumerate(totals)
        ),
    ).group_by(rows.user)


def _value(log: LogTables, total: Total, span: Span | None = None) -> sa.ColumnElement:
    """What a row adds to a total; NULL where the row is of another kind. Of days it is the day."""
    value: sa.ColumnElement = sa.literal(1, sa.BigInteger)
    if total.how == "sum":
        column = log.columns[total.column or ""]
        value = value_expression(log.events.c[column.name], column)
    elif total.how == "days" and span is not None:
        value = log.ts - (log.ts - span.start_ts) % DAY_MS
    return value if total.event is None else sa.case((log.kind == total.event, value))


def _total(total: Total, value: sa.ColumnElement, *, is_float: bool) -> sa.ColumnElement:
    if total.how == "days":
        return sa.func.count(value.distinct())
    if total.how == "any":
        return sa.func.max(value)
    return SortedSum(value) if is_float else sa.func.sum(value)


def _type(log: LogTables, total: Total) -> sa.types.TypeEngine:
    return sa.Double() if _is_float(log, total) else sa.BigInteger()


def _is_float(log: LogTables, total: Total) -> bool:
    return total.how == "sum" and log.columns[total.column or ""].kind == "float"

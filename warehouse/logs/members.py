"""The panel of a foreign log: its members and their days (`warehouse.panel`), as SQLAlchemy statements."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from warehouse.events import DAY_MS
from warehouse.logs.tables import LogTables, Span
from warehouse.logs.totals import Total, value_expression
from warehouse.panel.ask import Ask, cell, integer_of

Exponents = Mapping[str, int] | None
"""By column of floats: the power of 2 by which its values are multiplied and rounded to whole numbers. None:
floats stay floats."""


def members(
    log: LogTables,
    span: Span,
    ask: Ask,
    u: sa.FromClause,
    past: Sequence[Total],
    pre_days: int,
    exponents: Exponents,
    *,
    counts_from_start: bool,
) -> sa.Select:
    """The users of `u` (`exposure.exposed`) in one arm, with segments and what they did in `pre_days` before.

    In a log without times the past is a value of the users' own rows. Where all counts from the start on
    (`days`), the moment of the first exposure is left out.
    """
    columns = [
        u.c.user,
        u.c.arm if ask.stratum is None else cell(u.c.arm, u.c[log.segments[ask.stratum]]).label("arm"),
        *([] if counts_from_start else [u.c.first_ts]),
        span.day_ts(u.c.first_ts).label("cohort_ts"),
        *(u.c[name].label(f"g{i}") for i, name in enumerate(log.segments[: ask.n_groups])),
    ]
    in_one_arm = u.c.arm == u.c.other_arm
    if not past:
        return sa.select(*columns).where(in_one_arm)
    before = _before(log, span, ask, past, pre_days, exponents).subquery("before")
    totals = [_or_zero(before.c[f"x{i}"], ask, total).label(f"p{i}") for i, total in enumerate(past)]
    joined = u.outerjoin(before, u.c.user == before.c.user)
    return sa.select(*columns, *totals).select_from(joined).where(in_one_arm)


def days(
    log: LogTables,
    span: Span,
    ask: Ask,
    totals: Sequence[Total],
    who: sa.FromClause,
    exponents: Exponents,
    *,
    counts_from_start: bool,
) -> sa.Select:
    """What members did on each day since their first exposure.

    `counts_from_start` says that no event before it need be left out: then events are grouped by user without
    a join, which takes half the time, and users who are no members have rows too.
    """
    rows = _rows(log, totals, span.day_ts(log.ts), exponents).where(*log.inside(span))
    if counts_from_start:
        rows = rows.where(log.user.is_not(None))
    else:
        rows = rows.join_from(log.events, who, log.user == who.c.user).where(log.ts >= who.c.first_ts)
    return _summed(rows.subquery("rows"), ask, totals)


def totals_at_once(
    log: LogTables,
    span: Span,
    ask: Ask,
    totals: Sequence[Total],
    past: Sequence[Total],
    exponents: Exponents,
) -> sa.Select:
    """Totals of a log of one row a user and one day: its rows as they stand, without grouping or join."""
    rows = _rows(log, [*totals, *past], sa.literal(span.start_ts, sa.BigInteger), exponents)
    segments = [
        sa.cast(log.events.c[name], sa.String).label(f"g{i}")
        for i, name in enumerate(log.mapping.segments[: ask.n_groups])
    ]
    where = [*log.inside(span), log.user.is_not(None), *log.usable]
    c = rows.add_columns(log.arm.label("arm"), *segments).where(*where).subquery("rows").c
    n = len(totals)
    return sa.select(
        c.arm if ask.stratum is None else cell(c.arm, c[f"g{ask.stratum}"]).label("arm"),
        c.day_ts.label("cohort_ts"),
        *(c[f"g{i}"] for i in range(ask.n_groups)),
        *(_or_zero(c[f"v{i}"], ask, total).label(f"t{i}") for i, total in enumerate(totals)),
        *(_or_zero(c[f"v{n + i}"], ask, total).label(f"p{i}") for i, total in enumerate(past)),
    )


def _before(
    log: LogTables, span: Span, ask: Ask, past: Sequence[Total], pre_days: int, exponents: Exponents
) -> sa.Select:
    start = span.start_ts - pre_days * DAY_MS
    inside = [] if log.ts_form is None else [log.ts >= start, log.ts < span.start_ts]
    counts_days = any(total.how == "days" for total in past)
    day_ts = log.ts - (log.ts - start) % DAY_MS if counts_days else sa.literal(0, sa.BigInteger)
    rows = _rows(log, past, day_ts, exponents).where(*inside, log.user.is_not(None)).subquery("rows_before")
    summed = _summed(rows, ask, past)
    if not counts_days:
        return summed
    by_day = summed.subquery("days_before")
    return sa.select(
        by_day.c.user,
        *(
            sa.cast(
                (sa.func.max if total.how == "any" else sa.func.sum)(by_day.c[f"x{i}"]), _type(ask, total)
            ).label(f"x{i}")
            for i, total in enumerate(past)
        ),
    ).group_by(by_day.c.user)


def _rows(
    log: LogTables, totals: Sequence[Total], day_ts: sa.ColumnElement, exponents: Exponents
) -> sa.Select:
    columns = []
    for i, total in enumerate(totals):
        value: sa.ColumnElement = sa.literal(1, sa.BigInteger)
        if total.how == "sum":
            column = log.columns[total.column or ""]
            value = value_expression(log.events.c[column.name], column)
            if exponents is not None and column.kind == "float":
                value = sa.cast(sa.func.round(value * 2.0 ** exponents[column.name]), sa.BigInteger)
        if total.event is not None:
            value = sa.case((log.kind == total.event, value))
        columns.append(value.label(f"v{i}"))
    return sa.select(log.user.label("user"), day_ts.label("day_ts"), *columns)


def _summed(rows: sa.Subquery, ask: Ask, totals: Sequence[Total]) -> sa.Select:
    return sa.select(
        rows.c.user,
        rows.c.day_ts,
        *(
            _or_zero(
                (sa.func.max if total.how in ("days", "any") else sa.func.sum)(rows.c[f"v{i}"]), ask, total
            ).label(f"x{i}")
            for i, total in enumerate(totals)
        ),
    ).group_by(rows.c.user, rows.c.day_ts)


def _or_zero(value: sa.ColumnElement, ask: Ask, total: Total) -> sa.ColumnElement:
    return sa.cast(sa.func.coalesce(value, 0), _type(ask, total))


def _type(ask: Ask, total: Total) -> type[sa.types.TypeEngine]:
    return sa.Double if total.name in ask.floats else integer_of(ask, total.name)

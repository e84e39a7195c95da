"""What a foreign log holds, as SQLAlchemy statements: its extent, arms, kinds, odd values, repeats, days."""

from collections.abc import Sequence

import sqlalchemy as sa

from warehouse.logs.columns import Column
from warehouse.logs.tables import LogTables, Span
from warehouse.logs.times import EpochMs
from warehouse.logs.totals import value_expression

NUMBER = r"^ *[+-]?[0-9]+([.,][0-9]+)?([eE][+-]?[0-9]+)? *$"


def extent(log: LogTables) -> sa.Select:
    """(rows, rows with a user, rows with a time, rows with an arm, first ts, last ts, last ingest)."""
    own_arm = log.arm if log.assignment is None else sa.literal(1)
    ingest = (
        EpochMs(log.events.c[log.mapping.ingest], log.ingest_form)
        if log.mapping.ingest and log.ingest_form
        else sa.null()
    )
    return sa.select(
        sa.func.count(),
        sa.func.count(log.user),
        sa.func.count(log.ts),
        sa.func.count(own_arm),
        sa.func.min(log.ts),
        sa.func.max(log.ts),
        sa.cast(sa.func.max(ingest), sa.BigInteger),
    ).select_from(log.events)


def values(log: LogTables, columns: Sequence[Column]) -> sa.Select:
    """For each column: rows that are NULL, NaN or infinite, and negative."""
    counts = []
    for column in columns:
        c = value_expression(log.events.c[column.name], column)
        finite = (c - c) == 0 if column.kind == "float" else sa.true()
        counts += [
            sa.func.count() - sa.func.count(c),
            sa.func.coalesce(sa.func.sum(sa.case((c.is_(None), 0), (finite, 0), else_=1)), 0),
            sa.func.coalesce(sa.func.sum(sa.case((c < 0, 1), else_=0)), 0),
        ]
    return sa.select(*counts).select_from(log.events)


def magnitudes(log: LogTables, columns: Sequence[Column]) -> sa.Select:
    """The largest absolute value of each column of floats, of its finite ones; NULL without any."""
    found = []
    for column in columns:
        c = value_expression(log.events.c[column.name], column)
        found.append(sa.func.max(sa.case(((c - c) == 0, sa.func.abs(c)))))
    return sa.select(*found).select_from(log.events)


def texts(log: LogTables, columns: Sequence[Column]) -> sa.Select:
    """For each column of text: rows with a value, rows whose value is written like a number, and a value that
    is not (NULL without one)."""
    found: list[sa.ColumnElement] = []
    for column in columns:
        c = log.events.c[column.name]
        is_number = c.regexp_match(NUMBER)
        found += [
            sa.func.count(c),
            sa.func.coalesce(sa.func.sum(sa.case((is_number, 1), else_=0)), 0),
            sa.func.min(sa.case((sa.not_(is_number), c))),
        ]
    return sa.select(*found).select_from(log.events)


def kinds(log: LogTables) -> sa.Select:
    """(kind, rows) of a long log, the commonest first."""
    n = sa.func.count().label("n")
    return sa.select(log.kind, n).select_from(log.events).group_by(log.kind).order_by(n.desc()).limit(1000)


def arms(log: LogTables) -> sa.Select:
    """(arm, first time with it) for every arm that stands in the log."""
    if log.assignment is None:
        ts: sa.ColumnElement = log.ts
    else:
        ts = log.assignment_ts
    source = log.events if log.assignment is None else log.assignment
    rows = sa.select(log.arm.label("arm"), ts.label("ts")).select_from(source).subquery("rows").c
    return (
        sa.select(rows.arm, sa.func.min(rows.ts))
        .where(rows.arm.is_not(None))
        .group_by(rows.arm)
        .order_by(rows.arm)
    )


def duplicates(log: LogTables, span: Span) -> sa.Select:
    """(arm or NULL, rows, rows that repeat another one): by id, or by all mapped columns without one."""
    m = log.mapping
    named = [m.id] if m.id else [m.user, m.ts, m.event, m.value]
    key = [log.events.c[name] for name in dict.fromkeys(named) if name]
    if not m.id and m.event is None:
        key = [*key, *(log.events.c[name] for name in log.columns if name not in named)]
    arm = sa.func.min(log.arm) if log.assignment is None else sa.cast(sa.null(), sa.String)
    repeated = (
        sa.select(arm.label("arm"), sa.func.count().label("n"))
        .select_from(log.events)
        .where(*log.inside(span))
        .group_by(*key)
        .subquery("repeated")
    )
    return sa.select(repeated.c.arm, sa.func.sum(repeated.c.n), sa.func.sum(repeated.c.n - 1)).group_by(
        repeated.c.arm
    )


def days_with_events(log: LogTables, span: Span) -> sa.Select:
    """(day_ts, rows, last ts) of each day of the experiment that holds an event."""
    day = span.day_ts(log.ts).label("day_ts")
    inside = sa.select(day, log.ts.label("ts")).where(*log.inside(span)).subquery("inside")
    return (
        sa.select(inside.c.day_ts, sa.func.count(), sa.func.max(inside.c.ts))
        .group_by(inside.c.day_ts)
        .order_by(inside.c.day_ts)
    )


def lateness(log: LogTables, span: Span) -> sa.Select:
    """(rows, rows that arrived more than an hour late, largest delay in ms) of the experiment's days."""
    assert log.mapping.ingest is not None
    assert log.ingest_form is not None
    delay = EpochMs(log.events.c[log.mapping.ingest], log.ingest_form) - log.ts
    return sa.select(
        sa.func.count(delay),
        sa.func.coalesce(sa.func.sum(sa.case((delay > 3_600_000, 1), else_=0)), 0),
        sa.func.max(delay),
    ).where(*log.inside(span))

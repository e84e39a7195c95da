"""Who was assigned and who was exposed in a foreign log, since when, as SQLAlchemy statements."""

from collections.abc import Sequence

import sqlalchemy as sa

from warehouse.logs.tables import LogTables, Span


def assigned(log: LogTables, span: Span) -> sa.Select:
    """Every user of the assignment: user, arm, other_arm (the same for a user in one), first_ts, segments."""
    if log.assignment is None:
        where = [*log.inside(span), log.user.is_not(None), *log.usable]
        if log.exposure_event is not None:
            where.append(log.kind == log.exposure_event)
        return _per_user(log, log.events, log.user, log.ts, where)
    a = log.assignment
    user = log.assigned_user
    ts = log.assignment_ts
    first = sa.case((ts > span.start_ts, ts), else_=span.start_ts)
    return _per_user(log, a, user, first, [user.is_not(None), first < span.end_ts, *log.usable])


def ignored(log: LogTables, span: Span) -> sa.Select:
    """(arm, users) of the arms that are left out."""
    source, user, inside = log.events, log.user, log.inside(span)
    if log.assignment is not None:
        source, user, inside = log.assignment, log.assigned_user, []
    return (
        sa.select(log.arm, sa.func.count(user.distinct()))
        .select_from(source)
        .where(log.arm.in_(log.ignored_arms), *inside)
        .group_by(log.arm)
        .order_by(log.arm)
    )


def exposed(log: LogTables, span: Span) -> sa.Select:
    """As `assigned`, from a user's first exposure on: the first event of the declared kind, if one is."""
    users = assigned(log, span)
    if log.assignment is None or log.exposure_event is None:
        return users
    u = users.subquery("assigned")
    first = sa.func.min(log.ts)
    columns = [sa.func.min(u.c[name]).label(name) for name in ("arm", "other_arm")]
    rest = [sa.func.min(u.c[name]).label(name) for name in log.segments]
    return (
        sa.select(u.c.user, *columns, first.label("first_ts"), *rest)
        .join_from(log.events, u, log.user == u.c.user)
        .where(log.kind == log.exposure_event, log.ts >= u.c.first_ts, log.ts < span.end_ts)
        .group_by(u.c.user)
        .having(*([] if log.knows_assignment_ts else log.drawn(first)))
    )


def users_by_day(users: sa.FromClause, span: Span) -> sa.Select:
    """(arm, other_arm, day_ts, users): users seen in two arms have a row with both."""
    u = users
    day = span.day_ts(u.c.first_ts).label("day_ts")
    by_day = sa.select(u.c.arm, u.c.other_arm, day).subquery("by_day").c
    return (
        sa.select(by_day.arm, by_day.other_arm, by_day.day_ts, sa.func.count())
        .group_by(by_day.arm, by_day.other_arm, by_day.day_ts)
        .order_by(by_day.day_ts, by_day.arm, by_day.other_arm)
    )


def users_by_segment(users: sa.FromClause, index: int) -> sa.Select:
    """(value of the segment, arm, users), of users seen in one arm; a missing value is a segment too."""
    u = users.c
    return (
        sa.select(u[f"segment_{index}"], u.arm, sa.func.count())
        .where(u.arm == u.other_arm)
        .group_by(u[f"segment_{index}"], u.arm)
        .order_by(u[f"segment_{index}"], u.arm)
    )


def _per_user(
    log: LogTables,
    source: sa.TableClause,
    user: sa.ColumnElement,
    ts: sa.ColumnElement,
    where: Sequence[sa.ColumnElement[bool]],
) -> sa.Select:
    rows = (
        sa.select(
            user.label("user"),
            log.arm.label("arm"),
            ts.label("ts"),
            *(
                sa.cast(source.c[column], sa.String).label(name)
                for name, column in zip(log.segments, log.mapping.segments, strict=True)
            ),
        )
        .select_from(source)
        .where(*where)
        .subquery("assignments")
        .c
    )
    users = sa.select(
        rows.user,
        sa.func.min(rows.arm).label("arm"),
        sa.func.max(rows.arm).label("other_arm"),
        sa.func.min(rows.ts).label("first_ts"),
        *(sa.func.min(rows[name]).label(name) for name in log.segments),
    )
    drawn = log.drawn(sa.func.min(rows.ts)) if log.knows_assignment_ts else []
    return users.group_by(rows.user).having(*drawn)

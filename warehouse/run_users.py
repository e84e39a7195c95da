"""What single users did in a recorded run, as tables of users (`warehouse.users`) and as events."""

import sqlalchemy as sa

from warehouse.events import DAY_MS
from warehouse.queries import (
    DURATIONS,
    EVENTS,
    Cohort,
    Since,
    Window,
    analysed,
    before_start,
    days_of,
    since_exposure,
)
from warehouse.users import UserTotals, indexed


def per_user(experiment: str | Cohort, start_ts: int, asked: UserTotals[str]) -> sa.Select:
    """The table of users: columns of the window, then those of the past."""
    window = days_of(asked.window)
    users = analysed(experiment).cte("analysed")
    summed = since_exposure(users, start_ts, window, asked.totals)
    values = [summed.c[name] for name in asked.totals]
    joined: sa.FromClause = users.outerjoin(summed, users.c.user == summed.c.user)
    if asked.past:
        past = before_start(users, start_ts, asked.pre_days, asked.past).subquery("past")
        values += [past.c[name] for name in asked.past]
        joined = joined.outerjoin(past, users.c.user == past.c.user)
    return (
        sa.select(users.c.user, users.c.arm, *(_or_zero(value, f"c{i}") for i, value in enumerate(values)))
        .select_from(joined)
        .where(users.c.first_ts < start_ts + window.last_cohort * DAY_MS)
    )


def per_event(
    experiment: str | Cohort, start_ts: int, window: Window | Since, column: str, arm: str
) -> sa.Select:
    """The events of a kind in an arm: (index of the user, value), in no order."""
    if column not in DURATIONS:
        raise LookupError(f"events hold no value {column!r}; those that do: {', '.join(DURATIONS)}")
    users = indexed(analysed(experiment).subquery("analysed"), start_ts + window.last_cohort * DAY_MS, arm)
    day_1 = window.day_1(start_ts, users.c.first_ts)
    e = EVENTS.c
    return sa.select(users.c.place, e.value).join_from(EVENTS, users, e.user == users.c.user).where(
        e.kind == DURATIONS[column],
        e.ts >= users.c.first_ts,
        e.ts >= day_1 + (window.first_day - 1) * DAY_MS,
        e.ts < day_1 + window.last_day * DAY_MS,
    )  # fmt: skip


def _or_zero(value: sa.ColumnElement, name: str) -> sa.ColumnElement:
    return sa.cast(sa.func.coalesce(value, 0), sa.BigInteger).label(name)

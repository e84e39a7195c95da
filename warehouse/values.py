"""What single users did: for caps, quantiles and re-sampling, which sums over users cannot serve.

A table of users holds one row for each analysed user exposed before a window's end: user, arm, c0, c1, ... (0
without events). `capped` and the reading of arrays know only this form: it serves recorded runs (here)
and foreign logs (`warehouse.logs.values`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from warehouse.events import DAY_MS
from warehouse.queries import (
    DURATIONS,
    EVENTS,
    Cohort,
    Since,
    Window,
    analysed,
    before_start,
    since_exposure,
)

Values = NDArray[np.generic]


@dataclass(frozen=True)
class ArmValues:
    """The values of an arm: by column, one a user, in the order of the users' ids."""

    columns: Mapping[str, Values]

    @property
    def n(self) -> int:
        return len(next(iter(self.columns.values()), ()))


class EventValues(NamedTuple):
    """Single events of an arm: a value each, and the index of its user among the `n_users` of the arm."""

    values: Values
    users: NDArray[np.int64]
    n_users: int


def per_user(
    experiment: str | Cohort,
    start_ts: int,
    window: Window | Since,
    columns: Sequence[str],
    *,
    before: Sequence[str] = (),
    pre_days: int = 0,
) -> sa.Select:
    """The table of users of a run: `columns` of the window, then those `before` the start."""
    users = analysed(experiment).cte("analysed")
    summed = since_exposure(users, start_ts, window, columns)
    values = [summed.c[name] for name in columns]
    joined: sa.FromClause = users.outerjoin(summed, users.c.user == summed.c.user)
    if before:
        past = before_start(users, start_ts, pre_days, before).subquery("past")
        values += [past.c[name] for name in before]
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


def indexed(users: sa.FromClause, end_ts: int, arm: str) -> sa.CTE:
    """The users of an arm exposed before a moment, numbered from 0 in the order of their ids, as `place`."""
    place = (sa.func.row_number().over(order_by=users.c.user) - 1).label("place")
    return (
        sa.select(users.c.user, users.c.first_ts, place)
        .where(users.c.arm == arm, users.c.first_ts < end_ts)
        .cte("indexed")
    )


def of_arm(users: sa.Select, arm: str, n_columns: int, prefix: str = "c") -> sa.Select:
    """The columns of a table of users, in an arm, by user."""
    table = users.subquery("users").c
    columns = (table[f"{prefix}{i}"] for i in range(n_columns))
    return sa.select(*columns).where(table.arm == arm).order_by(table.user)


def _or_zero(value: sa.ColumnElement, name: str) -> sa.ColumnElement:
    return sa.cast(sa.func.coalesce(value, 0), sa.BigInteger).label(name)

"""Exact moments of per-user totals, for many windows in one pass over the events.

A row of the user-days carries x, what a user did on that day, and X, the running total from the first day of
the windows. For a single day the sum of x*y over rows is the moment. For days 1..d the sum of X*Y over all
users changes on a day only by those active then: X*Y - (X-x)*(Y-y) = x*Y + y*(X-x). So the days' increments
are added up, and no user-day is copied into each window that contains it.
Users without events are in n only: they add 0 to every sum.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import sqlalchemy as sa

from warehouse.events import DAY_MS
from warehouse.queries import TOTALS, Cohort, WideInteger, Window, analysed, user_days


class Moments(NamedTuple):
    """Sums over the `n` users of an arm that were exposed before the window's end.

    `products` holds each pair of columns once, in the order of TOTALS, squares included. All are exact.
    """

    arm: str
    window: Window
    n: int
    sums: dict[str, int]
    products: dict[tuple[str, str], int]


class DaySums(NamedTuple):
    """What one day contributes to an arm's windows that start on day `first_day`."""

    sums: tuple[int, ...]
    products: tuple[int, ...]  # of the day's own totals
    increments: tuple[int, ...]  # of the products of running totals


def checked_windows(windows: Iterable[tuple[int, int]]) -> list[Window]:
    """The windows as such; ValueError unless 1 <= first_day <= last_day."""
    result = [Window(*window) for window in windows]
    for window in result:
        if not 1 <= window.first_day <= window.last_day:
            raise ValueError(
                f"window {tuple(window)} is no range of days; days count from 1, first day first"
            )
    return result


def checked_columns(columns: Sequence[str] | None) -> tuple[str, ...]:
    """The columns in the order of TOTALS, all of them for None; LookupError names the known ones."""
    if columns is None:
        return TOTALS
    for name in columns:
        if name not in TOTALS:
            raise LookupError(f"unknown column {name!r}; totals have: {', '.join(TOTALS)}")
    return tuple(name for name in TOTALS if name in columns)


def day_sums(
    experiment: str | Cohort, start_ts: int, windows: Sequence[Window], columns: Sequence[str]
) -> sa.Select | sa.CompoundSelect:
    """Rows of (first_day, arm, day_ts, sums, products, increments): one for each arm, day with events and
    first day of a longer window. Single days need no rows of their own where a longer window covers them."""
    span = Window(min(w.first_day for w in windows), max(w.last_day for w in windows))
    users = analysed(experiment).cte("analysed")
    days = user_days(users, start_ts, span, columns).cte("user_days")
    starts = sorted({span.first_day} | {w.first_day for w in windows if w.last_day > w.first_day})
    branches = [_branch(days, first_day, start_ts, columns) for first_day in starts]
    return branches[0] if len(branches) == 1 else sa.union_all(*branches)


def _branch(days: sa.CTE, first_day: int, start_ts: int, columns: Sequence[str]) -> sa.Select:
    running = (
        sa.select(
            days,
            *(
                sa.cast(
                    sa.func.sum(days.c[name]).over(
                        partition_by=days.c.user, order_by=days.c.day_ts, rows=(None, 0)
                    ),
                    sa.BigInteger,
                ).label(f"running_{name}")
                for name in columns
            ),
        )
        .where(days.c.day_ts >= start_ts + (first_day - 1) * DAY_MS)
        .subquery(f"running_{first_day}")
        .c
    )
    today = {name: running[name] for name in columns}
    wide = {name: sa.cast(running[name], WideInteger) for name in columns}
    so_far = {name: running[f"running_{name}"] for name in columns}
    pairs = list(combinations_with_replacement(columns, 2))
    return sa.select(
        sa.literal(first_day, sa.Integer).label("first_day"),
        running.arm,
        running.day_ts,
        *(sa.func.sum(today[name]) for name in columns),
        *(sa.func.sum(wide[a] * today[b]) for a, b in pairs),
        *(sa.func.sum(wide[a] * so_far[b] + wide[b] * (so_far[a] - today[a])) for a, b in pairs),
    ).group_by(running.arm, running.day_ts)


def assembled(
    rows: Iterable[Sequence[Any]],
    exposed: Iterable[tuple[int, str, int]],
    start_ts: int,
    windows: Sequence[Window],
    columns: Sequence[str],
) -> list[Moments]:
    """Moments of each window and arm, from the rows of `day_sums` and of `queries.exposed_by_day`."""
    pairs = list(combinations_with_replacement(columns, 2))
    days = _days_of(rows, start_ts, len(columns), len(pairs))
    newly = [((day_ts - start_ts) // DAY_MS + 1, arm, n) for day_ts, arm, n in exposed]
    earliest = min(w.first_day for w in windows)
    return [
        _moments(arm, window, newly, days, earliest, columns, pairs)
        for window in windows
        for arm in sorted({arm for _, arm, _ in newly})
    ]


def _days_of(
    rows: Iterable[Sequence[Any]], start_ts: int, n_columns: int, n_pairs: int
) -> Mapping[tuple[int, str], dict[int, DaySums]]:
    days: dict[tuple[int, str], dict[int, DaySums]] = defaultdict(dict)
    for first_day, arm, day_ts, *values in rows:
        numbers = tuple(map(int, values))
        days[first_day, arm][(day_ts - start_ts) // DAY_MS + 1] = DaySums(
            numbers[:n_columns], numbers[n_columns : n_columns + n_pairs], numbers[n_columns + n_pairs :]
        )
    return days


def _moments(
    arm: str,
    window: Window,
    newly: Sequence[tuple[int, str, int]],
    days: Mapping[tuple[int, str], dict[int, DaySums]],
    earliest: int,
    columns: Sequence[str],
    pairs: Sequence[tuple[str, str]],
) -> Moments:
    single = window.first_day == window.last_day
    branch = days.get((earliest if single else window.first_day, arm), {})
    inside = [sums for day, sums in branch.items() if window.first_day <= day <= window.last_day]
    products = [day.products if single else day.increments for day in inside]
    return Moments(
        arm,
        window,
        sum(n for day, of_arm, n in newly if of_arm == arm and day <= window.last_day),
        {name: sum(day.sums[i] for day in inside) for i, name in enumerate(columns)},
        {pair: sum(values[i] for values in products) for i, pair in enumerate(pairs)},
    )

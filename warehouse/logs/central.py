"""Moments of floats in a database whose integers are too narrow for the exact sums of a panel (SQLite).

Each window is summed for itself, around a centre, and put together as exact fractions: adding those is Chan's
formula for central moments (Chan, Golub and LeVeque 1979) without its rounding, so no variance is lost at a
mean of 1e8 and a deviation of 1.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import isfinite
from typing import Any

import sqlalchemy as sa

from warehouse.logs.tables import Span
from warehouse.panel.ask import Ask
from warehouse.panel.sums import Moments, Number
from warehouse.queries import Window


def central_sums(
    members: sa.FromClause, days: sa.FromClause, ask: Ask, span: Span, windows: Sequence[Window]
) -> sa.Select | sa.CompoundSelect:
    """Rows of (first_day, last_day, arm, users, centre of each name, sum of each deviation, sum of each
    product of deviations); the names are those of `before`, then `columns`.

    The centre is the arm's mean as the database rounds it.
    """
    names = [*ask.before, *ask.columns]
    branches = []
    for window in windows:
        per_user = _window_totals(members, days, ask, span, window)
        x = [per_user.c[f"x{i}"] for i in range(len(names))]
        centred = sa.select(
            per_user.c.arm,
            *x,
            *(sa.func.avg(c).over(partition_by=per_user.c.arm).label(f"c{i}") for i, c in enumerate(x)),
        ).subquery(f"centred_{window.first_day}_{window.last_day}")
        d = [centred.c[f"x{i}"] - centred.c[f"c{i}"] for i in range(len(names))]
        branches.append(
            sa.select(
                sa.literal(window.first_day, sa.Integer),
                sa.literal(window.last_day, sa.Integer),
                centred.c.arm,
                sa.func.count(),
                *(sa.func.min(centred.c[f"c{i}"]) for i in range(len(names))),
                *(sa.func.sum(deviation) for deviation in d),
                *(sa.func.sum(d[names.index(a)] * d[names.index(b)]) for a, b in ask.products),
            ).group_by(centred.c.arm)
        )
    return branches[0] if len(branches) == 1 else sa.union_all(*branches)


def central_moments(
    rows: Iterable[Sequence[Any]], ask: Ask, scales: Sequence[int]
) -> dict[tuple[Window, str], Moments]:
    """The rows as the fractions that their floats are; `scales` are the decimals of each name.

    With deviations u, v from centres a, b: sum xy = sum uv + a sum v + b sum u + n a b. OverflowError where a
    sum is not finite.
    """
    names = [*ask.before, *ask.columns]
    found = {}
    for first_day, last_day, arm, n, *values in rows:
        if not all(isfinite(value) for value in values):
            raise OverflowError("a sum is too large for a float")
        numbers = [Fraction(value) for value in values]
        k = len(names)
        centre, deviation, product = numbers[:k], numbers[k : 2 * k], numbers[2 * k :]
        sums: dict[str, Number] = {
            name: (deviation[i] + n * centre[i]) / 10 ** scales[i] for i, name in enumerate(names)
        }
        products: dict[tuple[str, str], Number] = {}
        for (a, b), uv in zip(ask.products, product, strict=True):
            i, j = names.index(a), names.index(b)
            cross = centre[i] * deviation[j] + centre[j] * deviation[i]
            products[a, b] = (uv + cross + n * centre[i] * centre[j]) / 10 ** (scales[i] + scales[j])
        window = Window(first_day, last_day)
        found[window, arm] = Moments(arm, window, n, sums, products)
    return found


def _window_totals(
    members: sa.FromClause, days: sa.FromClause, ask: Ask, span: Span, window: Window
) -> sa.Subquery:
    """A row for each member exposed by the window's end: arm and x0..., as doubles, 0 without events."""
    label = f"{window.first_day}_{window.last_day}"
    summed = (
        sa.select(
            days.c.user,
            *(
                (sa.func.max if name in ask.anys else sa.func.sum)(days.c[f"x{i}"]).label(f"x{i}")
                for i, name in enumerate(ask.columns)
            ),
        )
        .where(days.c.day_ts >= span.begin(window.first_day), days.c.day_ts < span.begin(window.last_day + 1))
        .group_by(days.c.user)
        .subquery(f"summed_{label}")
    )
    values: list[sa.ColumnElement] = [members.c[f"p{i}"] for i in range(len(ask.before))]
    values += [sa.func.coalesce(summed.c[f"x{i}"], 0) for i in range(len(ask.columns))]
    return (
        sa.select(members.c.arm, *(sa.cast(v, sa.Double).label(f"x{i}") for i, v in enumerate(values)))
        .select_from(members.outerjoin(summed, members.c.user == summed.c.user))
        .where(members.c.cohort_ts < span.begin(window.last_day + 1))
        .subquery(f"totals_{label}")
    )

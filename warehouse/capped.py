"""Winsorising in the database: users' totals above a cap count as the cap, then sums as always.

A cap is an order statistic of all users together, those without events included, over all arms: the smallest
value with a share of at least q at or below it. Each column has its own, of the same users. It is one of the
values, so that integers stay integers and their sums exact. Only what is large is cut.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import combinations_with_replacement
from math import ceil
from typing import Any, NamedTuple

import sqlalchemy as sa

from warehouse.panel.ask import WideInteger

Number = int | float


class CutMoments(NamedTuple):
    """Users of an arm, the sum of each column over them, and of each pair's product, squares included."""

    n: int
    sums: dict[str, int | Fraction]
    products: dict[tuple[str, str], int | Fraction]


def rank_of(share: float, n_users: int) -> int:
    """The rank, from 0, of the order statistic with a share of at least `share` at or below it.

    >>> rank_of(0.999, 1000), rank_of(0.999, 1001), rank_of(0.5, 1)
    (998, 999, 0)
    """
    return max(ceil(share * n_users - 1e-9) - 1, 0)


def caps_at(users: sa.Select, n_columns: int, rank: int) -> sa.Select:
    """One row: of each column the value at a rank, counted from 0."""
    table = users.cte("users")
    values = []
    for i in range(n_columns):
        column = table.c[f"c{i}"]
        values.append(sa.select(column).order_by(column).limit(1).offset(rank).scalar_subquery())
    return sa.select(*values)


def above(users: sa.Select, caps: Sequence[Number | None]) -> sa.Select:
    """One row: of each column how many users lie above its cap."""
    table = users.subquery("users").c
    return sa.select(
        *(
            sa.literal(0)
            if cap is None
            else sa.func.coalesce(sa.func.sum(sa.case((table[f"c{i}"] > cap, 1), else_=0)), 0)
            for i, cap in enumerate(caps)
        )
    )


def limited(column: sa.ColumnElement, cap: Number | None) -> sa.ColumnElement:
    """The column, at most the cap."""
    return column if cap is None else sa.case((column > cap, cap), else_=column)


def capped_sums(users: sa.Select, caps: Sequence[Number | None]) -> sa.Select:
    """Rows of (arm, users, sum of each column, sum of each pair's product): columns above their caps cut."""
    table = users.subquery("users").c
    cut = (
        sa.select(
            table.arm,
            *(
                sa.cast(limited(table[f"c{i}"], cap), WideInteger).label(f"c{i}")
                for i, cap in enumerate(caps)
            ),
        )
        .subquery("cut")
        .c
    )
    columns = [cut[f"c{i}"] for i in range(len(caps))]
    return (
        sa.select(
            cut.arm,
            sa.func.count(),
            *(sa.func.sum(column) for column in columns),
            *(sa.func.sum(a * b) for a, b in combinations_with_replacement(columns, 2)),
        )
        .group_by(cut.arm)
        .order_by(cut.arm)
    )


def read(
    rows: Iterable[Sequence[Any]], names: Sequence[str], scales: Sequence[int] | None = None
) -> dict[str, CutMoments]:
    """The rows of `capped_sums` by arm, columns of decimals divided by 10^scale.

    OverflowError where the database left the integers, as SQLite does beyond 64 bits.
    """
    tens = [10**scale for scale in scales or [0] * len(names)]
    pairs = list(combinations_with_replacement(range(len(names)), 2))
    found = {}
    for arm, n, *numbers in rows:
        if not all(number == int(number) and not isinstance(number, float) for number in numbers):
            raise OverflowError("a sum does not fit the integers of the database")
        whole = [int(number) for number in numbers]
        sums, products = whole[: len(names)], whole[len(names) :]
        found[arm] = CutMoments(
            n,
            {name: _over(value, ten) for name, value, ten in zip(names, sums, tens, strict=True)},
            {
                (names[i], names[j]): _over(value, tens[i] * tens[j])
                for (i, j), value in zip(pairs, products, strict=True)
            },
        )
    return found


def _over(value: int, divisor: int) -> int | Fraction:
    return value if divisor == 1 else Fraction(value, divisor)

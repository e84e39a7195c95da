"""What is asked of a panel: its columns, the products of them, and the types that hold their sums."""

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

Pair = tuple[str, str]
MOST_COHORTS = 62
"""Days up to which pairs of days are summed by cohort; the sums of more would be too many."""
BETWEEN = "\x1f"
"""Between arm and stratum where they are one text: no arm's name holds it."""
MEMBERS, DAYS, ROWS = "panel_members", "panel_days", "panel_rows"
"""The names of the relations where they are kept for several questions."""


class WideInteger(sa.types.UserDefinedType[int]):
    """An integer of 38 digits or more, so that products of totals are exact."""

    cache_ok = True


@compiles(WideInteger)
def _numeric(element: WideInteger, compiler: Any, **keywords: Any) -> str:
    return "NUMERIC"


@compiles(WideInteger, "duckdb")
def _hugeint(element: WideInteger, compiler: Any, **keywords: Any) -> str:
    return "HUGEINT"


@dataclass(frozen=True)
class Ask:
    """What to sum over `n_days` days from `start_ts` on.

    `columns` are totals of the days; a name of them after `pre_` is the same total before the start.
    `products` are pairs of either. `anys` are columns of 0 and 1 whose total over several days is 1 where a
    day has a 1. `wide` are columns whose products may not fit 64 bits; `floats` those that are no whole
    numbers, which nothing here sums. `n_groups` is the number of groups. With `stratum`, the index of a
    group, the members' arm is a cell of arm and group (`cell`), which `reading.by_stratum` takes apart.
    """

    start_ts: int
    n_days: int
    columns: tuple[str, ...]
    products: tuple[Pair, ...]
    before: tuple[str, ...] = ()
    anys: frozenset[str] = frozenset()
    wide: frozenset[str] = frozenset()
    floats: frozenset[str] = frozenset()
    n_groups: int = 0
    stratum: int | None = None
    inner: tuple[str, ...] = field(init=False)
    """The columns as they are summed over days: those of `anys` twice, starred where only the first day that
    has a 1 counts, so that they add."""

    def __post_init__(self) -> None:
        known = {*self.columns, *self.before}
        for pair in self.products:
            missing = [name for name in pair if name not in known]
            if missing:
                raise LookupError(f"unknown column {missing[0]!r} in a product; known: {', '.join(known)}")
        stars = [star(name) for name in self.columns if name in self.anys] if self.n_days > 1 else []
        object.__setattr__(self, "inner", (*self.columns, *stars))

    def summed(self, name: str) -> str:
        """The name under which a column's total over several days adds up."""
        return star(name) if name in self.anys and self.n_days > 1 else name

    @property
    def has_cohorts(self) -> bool:
        """Whether pairs of days are summed by the day of the first exposure."""
        return self.n_days <= MOST_COHORTS

    @property
    def plain(self) -> tuple[Pair, ...]:
        """Products of two totals of the days."""
        return tuple(pair for pair in self.products if not set(pair) & set(self.before))

    @property
    def past(self) -> tuple[Pair, ...]:
        """Products of two totals before the start."""
        return tuple(pair for pair in self.products if set(pair) <= set(self.before))

    @property
    def mixed(self) -> tuple[Pair, ...]:
        """Products of a total before the start and one since, in that order."""
        rest = [pair for pair in self.products if sum(name in self.before for name in pair) == 1]
        return tuple(pair if pair[0] in self.before else pair[::-1] for pair in rest)

    @property
    def inner_plain(self) -> tuple[Pair, ...]:
        """`plain` over the inner columns, both orders of a pair: of one day and of another."""
        pairs = [*self.plain, *((self.summed(a), self.summed(b)) for a, b in self.plain)]
        return tuple(dict.fromkeys(order for pair in pairs for order in (pair, pair[::-1])))

    @property
    def inner_mixed(self) -> tuple[Pair, ...]:
        """`mixed` over the inner columns."""
        return tuple(dict.fromkeys([*self.mixed, *((p, self.summed(x)) for p, x in self.mixed)]))


def cell(arm: sa.ColumnElement, stratum: sa.ColumnElement) -> sa.ColumnElement:
    """An arm and a stratum in one text."""
    return arm + BETWEEN + sa.func.coalesce(stratum, "")


def star(name: str) -> str:
    """The name of the column that is 1 on the first day that has a 1."""
    return name + "\0first"


def integer_of(ask: Ask, name: str) -> type[sa.types.TypeEngine[int]]:
    """The type that holds a user's total."""
    return WideInteger if name in ask.wide else sa.BigInteger

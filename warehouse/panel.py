"""A panel: what each analysed user did on each day of an experiment, and the additive sums of it, in SQL.

Two relations hold it. `members` has a row for each analysed user: user, arm, cohort_ts (the day of the first
exposure), p0, p1, ... (totals before the experiment) and g0, g1, ... (groups, such as a country). `days` has
a row for each user and day with events: user, day_ts and x0, x1, ....

What follows is summed once, by arm, cohort and day, and every view adds those few rows up (`sums.PanelSums`).
A product of totals of several days is a sum of products of two days, so each user-day is joined with the same
user's later ones. That gives the looks' covariances as well, and is cheaper than running totals by a window
function: 3.9 M user-days of 5 days took .84 CPU s against 1.85. A week or less has a faster form (`abreast`).
"""

from collections.abc import Callable, Sequence
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
    group, the members' arm is a cell of arm and group (`cell`), which `sums.by_stratum` takes apart.
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


Side = Callable[[str], sa.ColumnElement]
"""Where the factors of products stand: the column of a name."""


def cell(arm: sa.ColumnElement, stratum: sa.ColumnElement) -> sa.ColumnElement:
    """An arm and a stratum in one text."""
    return arm + BETWEEN + sa.func.coalesce(stratum, "")


def star(name: str) -> str:
    """The name of the column that is 1 on the first day that has a 1."""
    return name + "\0first"


def of_members(members: sa.FromClause, ask: Ask, key: Sequence[str]) -> sa.Select:
    """Rows of (key, users, sums of `before`, `past` products)."""
    c = members.c
    return sa.select(
        *(c[name] for name in key),
        sa.func.count(),
        *(sa.func.sum(c[f"p{i}"]) for i in range(len(ask.before))),
        *products(ask, ask.past, past_of(members, ask), past_of(members, ask)),
    ).group_by(*(c[name] for name in key))


def of_totals(totals: sa.FromClause, ask: Ask, key: Sequence[str]) -> sa.Select:
    """Rows of `of_members`, then sums of the columns, `plain` and `mixed` products, of users' totals t0..."""
    t = _side(totals, "t", ask.columns)
    return of_members(totals, ask, key).add_columns(
        *(sa.func.sum(t(name)) for name in ask.columns),
        *products(ask, ask.plain, t, t),
        *products(ask, ask.mixed, past_of(totals, ask), t),
    )


def of_days(members: sa.FromClause, days: sa.FromClause, ask: Ask) -> sa.Select:
    """Rows of (arm, cohort_ts, day_ts, sums of `inner`, `inner_mixed` products)."""
    d = _with_stars(days, ask)
    x = _side(d, "x", ask.inner)
    key = (members.c.arm, members.c.cohort_ts, d.c.day_ts)
    return (
        sa.select(
            *key,
            *(sa.func.sum(x(name)) for name in ask.inner),
            *products(ask, ask.inner_mixed, past_of(members, ask), x),
        )
        .join_from(d, members, d.c.user == members.c.user)
        .group_by(*key)
    )


def crossed(members: sa.FromClause, days: sa.FromClause, ask: Ask) -> sa.Select:
    """Rows of (arm, cohort_ts, day_ts, later day_ts or the same, `inner_plain` products).

    The first of a pair is of the earlier day. Of more than MOST_COHORTS days all cohorts count as the first.
    """
    d = _with_stars(days, ask)
    one, other = d.alias("one"), d.alias("other")
    first_day = sa.literal(ask.start_ts, sa.BigInteger)
    cohort = members.c.cohort_ts if ask.has_cohorts else first_day
    key = [members.c.arm, one.c.day_ts, other.c.day_ts, *([cohort] if ask.has_cohorts else [])]
    both = sa.join(one, other, sa.and_(one.c.user == other.c.user, one.c.day_ts <= other.c.day_ts))
    return (
        sa.select(
            members.c.arm,
            cohort,
            one.c.day_ts,
            other.c.day_ts,
            *products(ask, ask.inner_plain, _side(one, "x", ask.inner), _side(other, "x", ask.inner)),
        )
        .select_from(both.join(members, one.c.user == members.c.user))
        .group_by(*key)
    )


def totals_of(members: sa.FromClause, days: sa.FromClause, ask: Ask) -> sa.Select:
    """A row for each member: arm, cohort_ts, p0.., g0.., and totals of all days t0.., 0 without events."""
    summed = (
        sa.select(
            days.c.user,
            *(
                (sa.func.max if name in ask.anys else sa.func.sum)(days.c[f"x{i}"]).label(f"x{i}")
                for i, name in enumerate(ask.columns)
            ),
        )
        .group_by(days.c.user)
        .subquery("summed")
    )
    kept = ("arm", "cohort_ts", *_numbered("p", ask.before), *(f"g{i}" for i in range(ask.n_groups)))
    return sa.select(
        *(members.c[name] for name in kept),
        *(
            sa.cast(sa.func.coalesce(summed.c[f"x{i}"], 0), integer_of(ask, name)).label(f"t{i}")
            for i, name in enumerate(ask.columns)
        ),
    ).select_from(members.outerjoin(summed, members.c.user == summed.c.user))


def _numbered(prefix: str, names: Sequence[str]) -> list[str]:
    return [f"{prefix}{i}" for i in range(len(names))]


def integer_of(ask: Ask, name: str) -> type[sa.types.TypeEngine[int]]:
    """The type that holds a user's total."""
    return WideInteger if name in ask.wide else sa.BigInteger


def past_of(members: sa.FromClause, ask: Ask) -> Side:
    """The totals before the experiment."""
    return _side(members, "p", ask.before)


def products(ask: Ask, pairs: Sequence[Pair], one: Side, other: Side) -> list[sa.ColumnElement]:
    """The sum of the product of each pair; its first stands on the one side, its second on the other."""
    found: list[sa.ColumnElement] = []
    for first, second in pairs:
        a, b = one(first), other(second)
        is_wide = not ask.wide.isdisjoint((first, second))
        found.append(sa.func.sum(sa.cast(a, WideInteger) * b if is_wide else a * b))
    return found


def _side(relation: sa.FromClause, prefix: str, names: Sequence[str]) -> Side:
    """The columns of a relation, which stand in the order of their names."""
    places = {name: f"{prefix}{i}" for i, name in enumerate(names)}
    return lambda name: relation.c[places[name]]


def _with_stars(days: sa.FromClause, ask: Ask) -> sa.FromClause:
    """The days with the starred columns: 1 where the user has a 1 and had none on an earlier day."""
    if len(ask.inner) == len(ask.columns):
        return days
    stars = []
    anys = [i for i, name in enumerate(ask.columns) if name in ask.anys]
    for place, i in enumerate(anys, start=len(ask.columns)):
        x = days.c[f"x{i}"]
        so_far = sa.func.max(x).over(
            partition_by=days.c.user, order_by=days.c.day_ts, rows=(None, -1)
        )  # of the days before
        stars.append(sa.case((sa.func.coalesce(so_far, 0) == 0, x), else_=0).label(f"x{place}"))
    return sa.select(*days.c, *stars).cte("days_with_stars")

"""Views of an experiment by addition: windows, looks, days since exposure and groups, from a panel's sums.

All users of a row share arm, day of first exposure (the cohort) and days, so that every view is a choice of
rows. Sums are whole numbers; totals that were scaled to be whole (decimals, floats on a grid) are divided at
the end, as fractions.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from warehouse.events import LATE, day_name
from warehouse.panel.ask import Ask, Pair
from warehouse.panel.blocks import Block, Blocks, Stretch
from warehouse.queries import Window

Number = int | Fraction
Products = dict[Pair, Any]


class Moments(NamedTuple):
    """Sums over the `n` users of an arm that were exposed before the window's end. All are exact.

    `products` holds each pair of columns that was asked for once, in the order given.
    """

    arm: str
    window: Window
    n: int
    sums: dict[str, Any]
    products: Products


class LookPair(NamedTuple):
    """Sums over the `n` users of an arm exposed by the day `early`: their totals of days 1..early under the
    columns' names, of days 1..late under `late_` and the name, of the pre-period under `pre_` and the name.

    A product of a later total with anything is over the same users. All are exact.
    """

    arm: str
    early: int
    late: int
    n: int
    sums: dict[str, Any]
    products: Products


@dataclass
class PanelSums:
    """The sums of a panel by arm: of members by cohort, of days by cohort and day, of pairs of days by cohort
    and both days; and of each group's users over all days. Days count from 1.

    `factors` are what columns were multiplied by.
    """

    ask: Ask
    members: Blocks
    days: Blocks
    crossed: Blocks
    groups: Sequence[Mapping[str, Mapping[str, Sequence[int]]]] = ()
    factors: Mapping[str, Fraction] = field(default_factory=dict)

    @property
    def arms(self) -> list[str]:
        return sorted(self.members)

    @property
    def has_cohorts(self) -> bool:
        """Whether the sums tell days since exposure."""
        return self.ask.has_cohorts

    def moments(self, windows: Iterable[tuple[int, int]]) -> list[Moments]:
        """Of each window and arm: totals of users exposed by its last day, of what they did in it."""
        asked = [Window(*window) for window in windows]
        for window in asked:
            if self.ask.anys and 1 < window.first_day < window.last_day:
                raise ValueError(
                    f"window {tuple(window)} of a total of any day begins on day 1, or is one day"
                )
        return [
            self._moments(arm, window, window.last_day, Stretch(*window))
            for window in asked
            for arm in self.arms
        ]

    def since_exposure(self) -> list[Moments]:
        """As `moments`, in days since exposure: a user's k-th day is window (k, k), the first k days (1, k).

        Day 1 is the rest of the day of the first exposure. Only users who can have had k days by the last day
        of the experiment count. None of an experiment of more than `ask.MOST_COHORTS` days.
        """
        if not self.ask.has_cohorts:
            return []
        days = range(1, self.ask.n_days + 1)
        windows = dict.fromkeys(window for k in days for window in (Window(k, k), Window(1, k)))
        return [
            self._moments(
                arm, window, self._last_cohort(window.last_day), Stretch(*window, since_exposure=True)
            )
            for window in windows
            for arm in self.arms
        ]

    def of_first_days(self, n_days: int) -> list[Moments]:
        """Each user's first `n_days` days since exposure, as if the experiment ended after day d: the window
        (1, d), of the users who can have had them by then. Of sums with cohorts only."""
        if not self.has_cohorts:
            raise ValueError(f"sums of {self.ask.n_days} days are not by cohort")
        stretch = Stretch(1, n_days, since_exposure=True)
        return [
            self._moments(arm, Window(1, day), day - n_days + 1, stretch)
            for day in range(n_days, self.ask.n_days + 1)
            for arm in self.arms
        ]

    def courses(self, n_days: int) -> list[Moments]:
        """Each of the first `n_days` days since exposure as a column of its own (`day_name`), by arm.

        Over the users who can have had all of them; the products are of all pairs of days.
        """
        return [self._course(arm, n_days) for arm in self.arms]

    def pairs(self, days: Sequence[int]) -> Iterator[LookPair]:
        """All pairs of looks after these days, early before late."""
        for arm in self.arms:
            for i, early in enumerate(days):
                for late in days[i + 1 :]:
                    yield self._pair(arm, early, late)

    def by_group(self) -> list[dict[str, list[Moments]]]:
        """For each group the moments of all days by its value and arm."""
        window = Window(1, self.ask.n_days)
        return [
            {
                value: [self._of_totals(arm, window, row) for arm, row in sorted(arms.items())]
                for value, arms in g.items()
            }
            for g in self.groups
        ]

    # Steps

    def _last_cohort(self, k: int) -> int:
        """The last day of a first exposure after which k days fit into the experiment."""
        return self.ask.n_days - k + 1

    def _moments(self, arm: str, window: Window, last_cohort: int, stretch: Stretch) -> Moments:
        ask = self.ask
        n, sums, products = self._members(arm, last_cohort)
        of_days, mixed = self._days(arm, last_cohort, stretch)
        inner = {x: x if stretch.first == stretch.last else ask.summed(x) for x in ask.columns}
        crossed = self._squares(arm, last_cohort, stretch)
        sums |= {x: of_days[inner[x]] for x in ask.columns}
        products |= {(p, x): mixed[p, inner[x]] for p, x in ask.mixed}
        products |= {(a, b): crossed[inner[a], inner[b]] for a, b in ask.plain}
        return Moments(arm, window, n, self._scaled(sums), self._asked(products))

    def _members(self, arm: str, last_cohort: int) -> tuple[int, dict[str, int], dict[Pair, int]]:
        """Users exposed by a day, their sums and products from before the start."""
        block, k = self.members[arm], len(self.ask.before)
        n, *numbers = block.total(block.keys[:, 0] <= last_cohort)
        return (
            n,
            dict(zip(self.ask.before, numbers[:k], strict=True)),
            dict(zip(self.ask.past, numbers[k:], strict=True)),
        )

    def _days(self, arm: str, last_cohort: int, stretch: Stretch) -> tuple[dict[str, int], dict[Pair, int]]:
        """Sums over days of users exposed by a day, and products with their past."""
        ask, block = self.ask, self.days.get(arm)
        numbers = [0] * (len(ask.inner) + len(ask.inner_mixed))
        if block is not None:
            cohort, day = block.keys.T
            numbers = block.total((cohort <= last_cohort) & stretch.holds(cohort, day, day))
        k = len(ask.inner)
        return (
            dict(zip(ask.inner, numbers[:k], strict=True)),
            dict(zip(ask.inner_mixed, numbers[k:], strict=True)),
        )

    def _squares(self, arm: str, last_cohort: int, stretch: Stretch) -> dict[Pair, int]:
        """Products of totals: over each pair of days in either order, over a day with itself once."""
        block = self.crossed.get(arm)
        if block is None:
            return dict.fromkeys(self.ask.inner_plain, 0)
        cohort, day, later = block.keys.T
        inside = (cohort <= last_cohort) & stretch.holds(cohort, day, later)
        same, differing = (self._crossed(block, inside & mask) for mask in (day == later, day < later))
        return {(a, b): same[a, b] + differing[a, b] + differing[b, a] for a, b in self.ask.inner_plain}

    def _crossed(self, block: Block, mask: np.ndarray) -> dict[Pair, int]:
        return dict(zip(self.ask.inner_plain, block.total(mask), strict=True))

    def _pair(self, arm: str, early: int, late: int) -> LookPair:
        ask = self.ask
        n, sums, products = self._members(arm, early)
        for prefix, last in (("", early), (LATE, late)):
            of_days, mixed = self._days(arm, early, Stretch(1, last))
            sums |= {prefix + x: of_days[ask.summed(x)] for x in ask.columns}
            products |= {(p, prefix + x): mixed[p, ask.summed(x)] for p, x in ask.mixed}
        factors = {**self.factors, **{LATE + name: factor for name, factor in self.factors.items()}}
        crossed: dict[Pair, int] = {}
        block = self.crossed.get(arm)
        if block is not None:
            _, day, later = block.keys.T
            forward = self._crossed(block, (day <= early) & (later <= late))
            backward = self._crossed(block, (day < later) & (later <= early))
        for a, b in dict.fromkeys(order for pair in ask.plain for order in (pair, pair[::-1])):
            inner = ask.summed(a), ask.summed(b)
            crossed[a, LATE + b] = forward[inner] + backward[inner[::-1]] if block is not None else 0
        return LookPair(
            arm,
            early,
            late,
            n,
            {name: _over(value, factors.get(name)) for name, value in sums.items()},
            {
                pair: _over(value, *(factors.get(name) for name in pair))
                for pair, value in {**products, **crossed}.items()
            },
        )

    def _course(self, arm: str, n_days: int) -> Moments:
        ask, last_cohort = self.ask, self._last_cohort(n_days)
        n = self._members(arm, last_cohort)[0]
        sums: dict[str, Any] = {}
        products: Products = {}
        for k in range(1, n_days + 1):
            of_day = self._days(arm, last_cohort, Stretch(k, k, since_exposure=True))[0]
            sums |= {day_name(x, k): _over(of_day[x], self.factors.get(x)) for x in ask.columns}
        block = self.crossed.get(arm)
        for i in range(1, n_days + 1):
            for j in range(i, n_days + 1):
                found = dict.fromkeys(ask.inner_plain, 0)
                if block is not None:
                    cohort, day, later = block.keys.T
                    since = (cohort <= last_cohort) & (day - cohort + 1 == i) & (later - cohort + 1 == j)
                    found = self._crossed(block, since)
                for a, b in dict.fromkeys(order for pair in ask.plain for order in (pair, pair[::-1])):
                    value = _over(found[a, b], self.factors.get(a), self.factors.get(b))
                    products[day_name(a, i), day_name(b, j)] = value
        return Moments(arm, Window(1, n_days), n, sums, products)

    def _of_totals(self, arm: str, window: Window, row: Sequence[int]) -> Moments:
        ask = self.ask
        n, *numbers = row
        names = [*ask.before, *ask.past, *ask.columns, *ask.plain, *ask.mixed]
        found = dict(zip(names, numbers, strict=True))
        sums = {name: found[name] for name in (*ask.before, *ask.columns)}
        products = {pair: found[pair] for pair in (*ask.past, *ask.plain, *ask.mixed)}
        return Moments(arm, window, n, self._scaled(sums), self._asked(products))

    def _scaled(self, sums: Mapping[str, int]) -> dict[str, Any]:
        names = [*self.ask.columns, *self.ask.before]
        return {name: _over(sums[name], self.factors.get(name)) for name in names}

    def _asked(self, products: Mapping[Pair, int]) -> Products:
        """In the order and the spelling in which the pairs were asked for."""
        return {
            pair: _over(
                products[pair] if pair in products else products[pair[::-1]],
                *(self.factors.get(name) for name in pair),
            )
            for pair in self.ask.products
        }


def _over(value: int, *factors: Fraction | None) -> Number:
    for factor in factors:
        if factor is not None:
            value = value / factor  # type: ignore[assignment]
    return value

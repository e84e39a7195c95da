"""What the daily looks of an experiment and its pre-period need beside plain moments, as exact integer sums.

A covariate is a user's total before the experiment (`pre_n_play`); a pair of looks is what the same users had
done by an earlier and by a later day (`n_play`, `late_n_play`). Users arrive over the days, so sums are kept
by cohort: the day of a user's first exposure. All else is addition:
the users of days 1..d are the cohorts up to d, and a total of days 1..d is a sum over days.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement, product
from typing import Any, NamedTuple

import sqlalchemy as sa

from warehouse.events import DAY_MS, LATE, PRE
from warehouse.moments import Moments
from warehouse.queries import Cohort, WideInteger, Window, analysed, before_start, day_of, user_days


class Asked(NamedTuple):
    """What to sum. `covariates` holds pairs of (column of the pre-period, column whose product with it is
    needed), `pairs` those of columns whose products over two looks are needed."""

    covariates: tuple[tuple[str, str], ...]
    pairs: tuple[tuple[str, str], ...]

    @property
    def before(self) -> tuple[str, ...]:
        """The columns of the pre-period, each once."""
        return tuple(dict.fromkeys(pre for pre, _ in self.covariates))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the experiment's days, each once."""
        named = [column for _, column in self.covariates] + [column for pair in self.pairs for column in pair]
        return tuple(dict.fromkeys(named))


class LookPair(NamedTuple):
    """Sums over the `n` users of an arm exposed by the day `early`: their totals of days 1..early under the
    columns' names, of days 1..late under `late_` and the name, of the pre-period under `pre_` and the name.

    A product of a later total with anything is over the same users. All are exact.
    """

    arm: str
    early: int
    late: int
    n: int
    sums: dict[str, int]
    products: dict[tuple[str, str], int]


@dataclass
class LookSums:
    """The rows of the three statements below, by arm, cohort and day (days count from 1)."""

    asked: Asked
    users: dict[tuple[str, int], tuple[int, ...]] = field(default_factory=dict)  # by (arm, cohort)
    days: dict[tuple[str, int, int], tuple[int, ...]] = field(default_factory=dict)  # by (arm, cohort, day)
    crossed: dict[tuple[str, int, int], tuple[int, ...]] = field(default_factory=dict)  # by (arm, day, day)

    @property
    def arms(self) -> list[str]:
        return sorted({arm for arm, _ in self.users})

    def extended(self, moments: Moments) -> Moments:
        """The same moments with the covariates' sums and products beside them."""
        arm, window = moments.arm, moments.window
        sums, products = self._of_users(arm, window.last_day)
        inside = self._of_days(arm, window.last_day, window)
        return moments._replace(
            sums={**moments.sums, **sums},
            products={**moments.products, **products, **inside[1]},
        )

    def pairs(self, days: int) -> Iterator[LookPair]:
        """All pairs of looks from day 1 to `days`, early before late; none where no pairs were asked for."""
        if not self.asked.pairs:
            return
        for arm, early in product(self.arms, range(1, days)):
            of_users = self._of_users(arm, early)
            by_early = self._of_days(arm, early, Window(1, early))
            for late in range(early + 1, days + 1):
                by_late = self._of_days(arm, early, Window(1, late))
                crossed = self._crossed(arm, early, late)
                yield LookPair(
                    arm,
                    early,
                    late,
                    sum(values[0] for _, values in self._cohorts(arm, early)),
                    {
                        **by_early[0],
                        **{LATE + name: total for name, total in by_late[0].items()},
                        **of_users[0],
                    },
                    {
                        **of_users[1],
                        **by_early[1],
                        **{(pre, LATE + name): total for (pre, name), total in by_late[1].items()},
                        **crossed,
                    },
                )

    def _cohorts(self, arm: str, last: int) -> list[tuple[int, tuple[int, ...]]]:
        return [(c, values) for (of, c), values in self.users.items() if of == arm and c <= last]

    def _of_users(self, arm: str, last: int) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
        """Sums and products of the pre-period over the users exposed by a day."""
        before = self.asked.before
        totals = _added((values for _, values in self._cohorts(arm, last)))
        numbers = iter(totals[1:] or (0,) * (len(before) + len(_pairs(before))))
        return (
            {PRE + name: next(numbers) for name in before},
            {(PRE + a, PRE + b): next(numbers) for a, b in _pairs(before)},
        )

    def _of_days(
        self, arm: str, last_cohort: int, window: Window
    ) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
        """Sums of the window's days over the users exposed by a day, and their products with covariates."""
        columns, covariates = self.asked.columns, self.asked.covariates
        totals = _added(
            values
            for (of, cohort, day), values in self.days.items()
            if of == arm and cohort <= last_cohort and window.first_day <= day <= window.last_day
        )
        numbers = iter(totals or (0,) * (len(columns) + len(covariates)))
        return (
            {name: next(numbers) for name in columns},
            {(PRE + pre, name): next(numbers) for pre, name in covariates},
        )

    def _crossed(self, arm: str, early: int, late: int) -> dict[tuple[str, str], int]:
        """Products of the totals by an early and by a late day. A user who was not exposed by the early day
        has 0 there, so all users may be counted."""
        found = {}
        for i, (a, b) in enumerate(self.asked.pairs):
            found[a, LATE + b] = sum(
                self.crossed.get((arm, day, other), (0,) * len(self.asked.pairs))[i]
                for day, other in product(range(1, early + 1), range(1, late + 1))
            )
        return found


def read(
    asked: Asked, start_ts: int, users: Iterable[Any], days: Iterable[Any], crossed: Iterable[Any]
) -> LookSums:
    """The rows of `users_before`, `days_with_covariates` and `days_crossed` as sums."""

    def day(ts: int) -> int:
        return (ts - start_ts) // DAY_MS + 1

    return LookSums(
        asked,
        {(arm, day(cohort)): _whole(numbers) for arm, cohort, *numbers in users},
        {(arm, day(cohort), day(ts)): _whole(numbers) for arm, cohort, ts, *numbers in days},
        {(arm, day(a), day(b)): _whole(numbers) for arm, a, b, *numbers in crossed},
    )


def users_before(experiment: str | Cohort, start_ts: int, pre_days: int, asked: Asked) -> sa.Select:
    """Rows of (arm, cohort_ts, n, sums, products): the pre-period's totals of the users of each cohort."""
    users = analysed(experiment).cte("analysed")
    cohort_ts = day_of(users.c.first_ts, start_ts)
    if not asked.before:
        return sa.select(users.c.arm, cohort_ts, sa.func.count()).group_by(users.c.arm, cohort_ts)
    before = before_start(users, start_ts, pre_days, asked.before).cte("before")
    wide = {name: _or_zero(before.c[name]) for name in asked.before}
    return (
        sa.select(
            users.c.arm,
            cohort_ts,
            sa.func.count(),
            *(sa.func.sum(wide[name]) for name in asked.before),
            *(sa.func.sum(wide[a] * wide[b]) for a, b in _pairs(asked.before)),
        )
        .select_from(users.outerjoin(before, users.c.user == before.c.user))
        .group_by(users.c.arm, cohort_ts)
    )


def days_with_covariates(
    experiment: str | Cohort, start_ts: int, days: int, pre_days: int, asked: Asked
) -> sa.Select:
    """Rows of (arm, cohort_ts, day_ts, sums, products with covariates)."""
    users = analysed(experiment).cte("analysed")
    of_day = user_days(users, start_ts, Window(1, days), asked.columns).cte("user_days")
    cohort_ts = day_of(users.c.first_ts, start_ts)
    joined: sa.FromClause = of_day.join(users, of_day.c.user == users.c.user)
    products: list[sa.ColumnElement] = []
    if asked.before:
        before = before_start(users, start_ts, pre_days, asked.before).cte("before")
        joined = joined.outerjoin(before, of_day.c.user == before.c.user)
        products = [
            sa.func.sum(_or_zero(before.c[pre]) * sa.cast(of_day.c[name], WideInteger))
            for pre, name in asked.covariates
        ]
    return (
        sa.select(
            of_day.c.arm,
            cohort_ts,
            of_day.c.day_ts,
            *(sa.func.sum(of_day.c[name]) for name in asked.columns),
            *products,
        )
        .select_from(joined)
        .group_by(of_day.c.arm, cohort_ts, of_day.c.day_ts)
    )


def days_crossed(experiment: str | Cohort, start_ts: int, days: int, asked: Asked) -> sa.Select:
    """Rows of (arm, day_ts, other_day_ts, products): what users did on one day times on another."""
    users = analysed(experiment).cte("analysed")
    columns = tuple(dict.fromkeys(column for pair in asked.pairs for column in pair))
    of_day = user_days(users, start_ts, Window(1, days), columns).cte("user_days")
    one, other = of_day.alias("one"), of_day.alias("other")
    return (
        sa.select(
            one.c.arm,
            one.c.day_ts,
            other.c.day_ts,
            *(sa.func.sum(sa.cast(one.c[a], WideInteger) * other.c[b]) for a, b in asked.pairs),
        )
        .join_from(one, other, one.c.user == other.c.user)
        .group_by(one.c.arm, one.c.day_ts, other.c.day_ts)
    )


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    return list(combinations_with_replacement(names, 2))


def _or_zero(column: sa.ColumnElement) -> sa.ColumnElement:
    return sa.cast(sa.func.coalesce(column, 0), WideInteger)


def _whole(numbers: Iterable[Any]) -> tuple[int, ...]:
    return tuple(map(int, numbers))


def _added(rows: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*rows, strict=True)))

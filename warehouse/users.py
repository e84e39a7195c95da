"""Tables of users: what single users did, for caps, quantiles and re-sampling, which sums cannot serve.

A table holds one row for each analysed user exposed before a window's end: user, arm, c0, c1, ... (0 without
events). `capped` and the reading of arrays know only this form: it serves recorded runs (`run_users`) and
foreign logs (`logs.log_users`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

Total = TypeVar("Total")
"""How a total is named: by its column in a run, by its declaration in a foreign log."""
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


@dataclass(frozen=True)
class UserTotals(Generic[Total]):
    """What is asked of each user: `totals` of a window (`queries.days_of`), then those of the `past`, of the
    `pre_days` days before the start."""

    window: tuple[int, ...]
    totals: Sequence[Total]
    past: Sequence[Total] = ()
    pre_days: int = 0


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

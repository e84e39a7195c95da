"""The values of an arm: of users, or of events with their users, in strata or not; and their mid-quantile.

The mid-quantile (Ma, Genton, Parzen 2011) is linear between the values, each of which stands at the middle of
its step of the distribution function.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Strata(NamedTuple):
    """The stratum of each user of an arm, and the share of all arms' users that each stratum holds."""

    of_user: NDArray[np.int64]
    shares: Floats

    @property
    def counts(self) -> NDArray[np.int64]:
        """The arm's users in each stratum."""
        return np.bincount(self.of_user, minlength=len(self.shares))

    @property
    def weights(self) -> Floats:
        """What each user counts, so that a stratum counts as its share; 1 on average."""
        return (self.shares * len(self.of_user) / np.maximum(self.counts, 1))[self.of_user]

    def sums(self, column: Floats) -> Floats:
        """Of a value a user, by stratum."""
        return np.bincount(self.of_user, column, minlength=len(self.shares)).astype(float)

    def rescaled(self, drawn: Floats) -> Floats:
        """(replicates, users) of weights, so that in each replicate a stratum weighs its share; NaN in one
        that drew nobody of a stratum."""
        totals = np.stack([drawn[:, self.of_user == k].sum(axis=1) for k in range(len(self.shares))], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            factors = self.shares * len(self.of_user) / totals
        factors[~np.isfinite(factors).all(axis=1)] = np.nan
        return drawn * factors[:, self.of_user]


class Clustered(NamedTuple):
    """The values of an arm: `values` of events, `users` the index of each event's user, from 0 to n_users - 1
    (users without events count). Without `users` each value is a user's own. `strata`: where there are some
    in which the arms were drawn by other weights."""

    values: NDArray[np.generic]
    users: NDArray[np.int64] | None = None
    n_users: int = 0
    strata: Strata | None = None

    @property
    def n(self) -> int:
        return len(self.values) if self.users is None else self.n_users

    @property
    def weights(self) -> Floats | None:
        """What each value counts; None where all count the same."""
        if self.strata is None:
            return None
        return self.strata.weights if self.users is None else self.strata.weights[self.users]


class Knots(NamedTuple):
    """The values next to a share, and how much of the way from `low` to `high` it lies; `tied`: the share of
    all values that the commoner of the two holds."""

    low: float
    high: float
    way: float
    tied: float

    @property
    def value(self) -> float:
        return self.low + self.way * (self.high - self.low)


def over_strata(parts: Sequence[Clustered], shares: Sequence[float]) -> Clustered:
    """An arm's values in all strata together; `shares` of all arms' users sum to 1."""
    if len(parts) == 1:
        return parts[0]
    sizes = [part.n for part in parts]
    firsts = np.cumsum([0, *sizes[:-1]])
    users = None
    if any(part.users is not None for part in parts):
        users = np.concatenate(
            [
                first + (np.arange(part.n) if part.users is None else part.users)
                for part, first in zip(parts, firsts, strict=True)
            ]
        )
    strata = Strata(np.repeat(np.arange(len(parts)), sizes), np.asarray(shares, dtype=float))
    return Clustered(np.concatenate([part.values for part in parts]), users, sum(sizes), strata)


def knots_of(arm: Clustered) -> Callable[[float], Knots]:
    """The mid-quantile of an arm as a function of the share."""
    weights = arm.weights
    return partial(knots_at, arm.values) if weights is None else WeightedSteps(arm.values, weights).at


class WeightedSteps:
    """The distribution function of weighted values."""

    def __init__(self, values: NDArray[np.generic], weights: Floats) -> None:
        self.distinct, places = np.unique(np.asarray(values, dtype=float), return_inverse=True)
        self.shares = np.bincount(places, weights) / weights.sum()
        self.middles = np.cumsum(self.shares) - self.shares / 2

    def at(self, share: float) -> Knots:
        """As `knots_at`."""
        i = int(np.searchsorted(self.middles, share))
        if i in (0, len(self.distinct)):
            end = min(i, len(self.distinct) - 1)
            value = float(self.distinct[end])
            return Knots(value, value, 0.0, float(self.shares[end]))
        way = (share - self.middles[i - 1]) / (self.middles[i] - self.middles[i - 1])
        low, high = (float(value) for value in self.distinct[i - 1 : i + 1])
        return Knots(low, high, float(way), float(self.shares[i - 1 : i + 1].max()))


def knots_at(values: NDArray[np.generic], share: float) -> Knots:
    """The mid-quantile at a share; beyond the middle of the first or last value's step it is that value."""
    x = np.asarray(values)
    n = len(x)
    rank = min(max(ceil(share * n - 1e-9), 1), n) - 1
    value = float(np.partition(x, rank)[rank])
    below, tied = int((x < value).sum()), int((x == value).sum())
    middle = (below + tied / 2) / n
    others = x[x > value] if share >= middle else x[x < value]
    if not others.size:
        return Knots(value, value, 0.0, tied / n)
    other = float(others.min() if share >= middle else others.max())
    tied_other = int((others == other).sum())
    gap = (tied + tied_other) / 2 / n
    most = max(tied, tied_other) / n
    if share >= middle:
        return Knots(value, other, min((share - middle) / gap, 1.0), most)
    return Knots(other, value, max(1 - (middle - share) / gap, 0.0), most)

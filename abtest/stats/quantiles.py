"""Quantiles of users' values, and of events' values with the users as independent units.

The quantile is the mid-quantile (Ma, Genton, Parzen 2011): linear between the values, each of which stands at
the middle of its step of the distribution function. Without ties that is numpy's method "hazen"; with ties by
the million (whole counts) it stays normal, where an order statistic would jump from one count to the next.

Its error is that of Deng, Knoblich, Lu (KDD 2018), section 4: the share of values below the quantile is a
ratio of totals with standard error s (delta method, clustered by user); the quantiles at q - z s and q + z s
are 2 z standard errors apart. No density is estimated. The second engine is the bootstrap over users.
"""

from math import ceil, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from abtest.stats.bootstrap import DRAWS, weights
from abtest.stats.means import Estimate

Floats = NDArray[np.float64]

Z = 1.96
MOST_TIED = 0.1
WIDE = 6.0  # standard errors around the quantile in which a replicate's quantile is looked for first

NO_VALUES = "an arm has no values"
NO_RANKS = "too few users to bound this quantile"
TIED = "one value at the quantile holds 10 % of all values or more, so the quantile moves in jumps"


class Clustered(NamedTuple):
    """The values of an arm: `values` of events, `users` the index of each event's user, from 0 to n_users - 1
    (users without events count). Without `users` each value is a user's own."""

    values: NDArray[np.generic]
    users: NDArray[np.int64] | None = None
    n_users: int = 0

    @property
    def n(self) -> int:
        return len(self.values) if self.users is None else self.n_users


class QuantileEstimate(NamedTuple):
    """The quantile in an arm; `reason` says why it has no variance, or no value."""

    estimate: Estimate
    reason: str | None = None


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


def quantile_estimate(arm: Clustered, q: float, *, scale: int = 1) -> QuantileEstimate:
    """The quantile and its variance by the delta method; both are divided by `scale`."""
    checked = _checked(arm, q, scale)
    if checked.reason is not None:
        return checked
    error = share_error(arm, knots_at(arm.values, q))
    spread = knots_at(arm.values, q + Z * error).value - knots_at(arm.values, q - Z * error).value
    variance = (spread / (2 * Z * scale)) ** 2 if error else 0.0
    return QuantileEstimate(checked.estimate._replace(variance=variance))


def bootstrap_quantile(
    arm: Clustered, q: float, *, scale: int = 1, draws: int = DRAWS, seed: int = 0, arm_index: int = 0
) -> QuantileEstimate:
    """The quantile, and the variance of its replicates under the Poisson bootstrap over users."""
    checked = _checked(arm, q, scale)
    if checked.reason is not None:
        return checked
    replicates = quantile_replicates(arm, q, draws=draws, seed=seed, arm_index=arm_index) / scale
    return QuantileEstimate(checked.estimate._replace(variance=float(replicates.var(ddof=1))))


def quantile_replicates(
    arm: Clustered, q: float, *, draws: int = DRAWS, seed: int = 0, arm_index: int = 0
) -> Floats:
    """The weighted mid-quantile of each replicate, exactly.

    It is looked for among the values within 6 standard errors, whose weights are added up in order; a
    replicate whose quantile lies elsewhere is searched through all values.
    """
    order = np.argsort(arm.values, kind="stable")
    ordered = np.asarray(arm.values)[order].astype(float)
    owners = order if arm.users is None else arm.users[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-np.inf))  # where each distinct value begins
    distinct = ordered[starts]
    reach = WIDE * share_error(arm, knots_at(arm.values, q))
    first, last = (
        int(np.searchsorted(distinct, knots_at(arm.values, share).value)) for share in (q - reach, q + reach)
    )
    first, last = max(first - 2, 0), min(last + 2, len(distinct))
    ends = np.append(starts[1:], len(ordered))
    inside = owners[starts[first] : ends[last - 1]]
    below = np.bincount(owners[: starts[first]], minlength=arm.n).astype(float)
    every = np.bincount(owners, minlength=arm.n).astype(float)
    near = starts[first:last] - starts[first]
    result = []
    for block in weights(arm.n, draws, seed, arm_index):
        targets, before = q * (block @ every), block @ below
        for row, target, start in zip(block, targets, before, strict=True):
            found = _weighted(distinct[first:last], np.add.reduceat(row[inside], near), start, target)
            if found is None:
                found = _weighted(distinct, np.add.reduceat(row[owners], starts), -1.0, target)
            result.append(np.nan if found is None else found)
    drawn = np.array(result)
    return drawn[~np.isnan(drawn)]  # of few users a replicate may hold none


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


def share_error(arm: Clustered, knots: Knots) -> float:
    """The standard error of the share of values below the quantile (at a knot half of its values count)."""
    x = np.asarray(arm.values)
    inside = np.where(x < knots.low, 1.0, 0.0)
    inside[x == knots.high] = knots.way / 2
    inside[x == knots.low] = (1 + knots.way) / 2
    if arm.users is None:
        counted, every = inside, np.ones(len(x))
    else:
        counted = np.bincount(arm.users, inside, minlength=arm.n)
        every = np.bincount(arm.users, minlength=arm.n).astype(float)
    residual = counted - counted.sum() / every.sum() * every
    return sqrt(arm.n / (arm.n - 1) * float(residual @ residual)) / float(every.sum())


def _checked(arm: Clustered, q: float, scale: int) -> QuantileEstimate:
    """The quantile without a variance, and why it can have none."""
    if not 0 < q < 1:
        raise ValueError(f"quantile is {q}; a share between 0 and 1 is allowed, e.g. 0.9")
    if not len(arm.values):
        return QuantileEstimate(Estimate(arm.n, None, None), NO_VALUES)
    knots = knots_at(arm.values, q)
    estimate = Estimate(arm.n, knots.value / scale, None)
    if arm.n < 2:
        return QuantileEstimate(estimate, NO_RANKS)
    if knots.tied >= MOST_TIED and knots.tied > 1 / len(arm.values):
        return QuantileEstimate(estimate, TIED)
    n, reach = len(arm.values), Z * share_error(arm, knots)
    if q - reach < 0.5 / n or q + reach > 1 - 0.5 / n:
        return QuantileEstimate(estimate, NO_RANKS)
    return QuantileEstimate(estimate)


def _weighted(distinct: Floats, by_value: Floats, before: float, target: float) -> float | None:
    """The weighted mid-quantile among these values, `before` lying below them; None where it is not there.

    Below 0, `before` says that these are all the values."""
    held = by_value > 0
    if not held.any():
        return None
    ends = max(before, 0.0) + np.cumsum(by_value[held])
    middles = ends - by_value[held] / 2
    if before >= 0 and not middles[0] <= target <= middles[-1]:
        return None
    return float(np.interp(target, middles, distinct[held]))

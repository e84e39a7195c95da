"""Quantiles of users' values, and of events' values with the users as independent units.

The quantile is the mid-quantile (Ma, Genton, Parzen 2011): linear between the values, each of which stands at
the middle of its step of the distribution function. Without ties that is numpy's method "hazen"; with ties by
the million (whole counts) it stays normal, where an order statistic would jump from one count to the next.

Its error is that of Deng, Knoblich, Lu (KDD 2018), section 4: the share of values below the quantile is a
ratio of totals with standard error s (delta method, clustered by user); the quantiles at q - z s and q + z s
are 2 z standard errors apart. No density is estimated. The second engine is the bootstrap over users.

Over strata in which the arms were drawn by other weights, such as phases, an arm's users are weighed so that
each stratum counts as its share of all arms' users (Firpo 2007, inverse probabilities of the arm, here known
by stratum): the quantile is that of everybody's values had all been in the arm. Shares below it are then
compared within strata, and a replicate of the bootstrap draws within strata.
"""

from math import sqrt
from typing import NamedTuple

import numpy as np

from abtest.stats.bootstrap import DRAWS, weights
from abtest.stats.clustered import Clustered, Floats, Knots, Strata, knots_of
from abtest.stats.means import FEW_USERS, Estimate
from abtest.stats.strata import stratified_estimate

Z = 1.96
MOST_TIED = 0.1
WIDE = 6.0  # standard errors around the quantile in which a replicate's quantile is looked for first

NO_VALUES = "an arm has no values"
NO_RANKS = "too few users to bound this quantile"
TIED = "one value at the quantile holds 10 % of all values or more, so the quantile moves in jumps"


class QuantileEstimate(NamedTuple):
    """The quantile in an arm; `reason` says why it has no variance, or no value."""

    estimate: Estimate
    reason: str | None = None


def quantile_estimate(arm: Clustered, q: float, *, scale: int = 1) -> QuantileEstimate:
    """The quantile and its variance by the delta method; both are divided by `scale`."""
    checked = _checked(arm, q, scale)
    if checked.reason is not None:
        return checked
    at = knots_of(arm)
    error = share_error(arm, at(q))
    spread = at(q + Z * error).value - at(q - Z * error).value
    variance = (spread / (2 * Z * scale)) ** 2 if error else 0.0
    return QuantileEstimate(_with_variance(arm, at(q), checked.estimate, variance))


def bootstrap_quantile(
    arm: Clustered, q: float, *, scale: int = 1, draws: int = DRAWS, seed: int = 0, arm_index: int = 0
) -> QuantileEstimate:
    """The quantile, and the variance of its replicates under the Poisson bootstrap over users."""
    checked = _checked(arm, q, scale)
    if checked.reason is not None:
        return checked
    replicates = quantile_replicates(arm, q, draws=draws, seed=seed, arm_index=arm_index) / scale
    variance = float(replicates.var(ddof=1))
    return QuantileEstimate(_with_variance(arm, knots_of(arm)(q), checked.estimate, variance))


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
    at = knots_of(arm)
    reach = WIDE * share_error(arm, at(q))
    first, last = (int(np.searchsorted(distinct, at(share).value)) for share in (q - reach, q + reach))
    first, last = max(first - 2, 0), min(last + 2, len(distinct))
    ends = np.append(starts[1:], len(ordered))
    inside = owners[starts[first] : ends[last - 1]]
    below = np.bincount(owners[: starts[first]], minlength=arm.n).astype(float)
    every = np.bincount(owners, minlength=arm.n).astype(float)
    near = starts[first:last] - starts[first]
    result = []
    for drawn in weights(arm.n, draws, seed, arm_index):
        block = drawn if arm.strata is None else arm.strata.rescaled(drawn)
        targets, before = q * (block @ every), block @ below
        for row, target, start in zip(block, targets, before, strict=True):
            if np.isnan(target):
                continue
            found = _weighted(distinct[first:last], np.add.reduceat(row[inside], near), start, target)
            if found is None:
                found = _weighted(distinct, np.add.reduceat(row[owners], starts), -1.0, target)
            result.append(np.nan if found is None else found)
    found_in = np.array(result)
    return found_in[~np.isnan(found_in)]  # of few users a replicate may hold none


def share_error(arm: Clustered, knots: Knots) -> float:
    """The standard error of the share of values below the quantile (at a knot half of its values count)."""
    residual, every = _residuals(arm, knots)
    if arm.strata is not None:
        return sqrt(_variance_parts(arm.strata, residual).sum()) / float(arm.strata.weights @ every / arm.n)
    return sqrt(arm.n / (arm.n - 1) * float(residual @ residual)) / float(every.sum())


def _residuals(arm: Clustered, knots: Knots) -> tuple[Floats, Floats]:
    """Of each user: values below the quantile, less their share of all the user's values; and the values."""
    x = np.asarray(arm.values)
    inside = np.where(x < knots.low, 1.0, 0.0)
    inside[x == knots.high] = knots.way / 2
    inside[x == knots.low] = (1 + knots.way) / 2
    if arm.users is None:
        counted, every = inside, np.ones(len(x))
    else:
        counted = np.bincount(arm.users, inside, minlength=arm.n)
        every = np.bincount(arm.users, minlength=arm.n).astype(float)
    if arm.strata is None:
        return counted - counted.sum() / every.sum() * every, every
    weights = arm.strata.weights
    return counted - (weights @ counted) / (weights @ every) * every, every


def _variance_parts(strata: Strata, residual: Floats) -> Floats:
    """What each stratum adds to the variance of the weighed mean residual."""
    n = strata.counts
    squares = strata.sums(residual**2) - strata.sums(residual) ** 2 / n
    return strata.shares**2 * np.maximum(squares, 0.0) / (n - 1) / n


def _with_variance(arm: Clustered, knots: Knots, estimate: Estimate, variance: float) -> Estimate:
    """Over strata with Satterthwaite's degrees of freedom, those of the share below the quantile."""
    if arm.strata is None:
        return estimate._replace(variance=variance)
    parts = _variance_parts(arm.strata, _residuals(arm, knots)[0])
    dfs = (arm.strata.counts - 1).tolist()
    return stratified_estimate(estimate.n, estimate.value, variance, parts.tolist(), dfs)


def _checked(arm: Clustered, q: float, scale: int) -> QuantileEstimate:
    """The quantile without a variance, and why it can have none."""
    if not 0 < q < 1:
        raise ValueError(f"quantile is {q}; a share between 0 and 1 is allowed, e.g. 0.9")
    if not len(arm.values):
        return QuantileEstimate(Estimate(arm.n, None, None), NO_VALUES)
    if arm.strata is not None and arm.strata.counts.min() < 2:
        return QuantileEstimate(Estimate(arm.n, None, None), FEW_USERS)
    weights = arm.weights
    knots = knots_of(arm)(q)
    estimate = Estimate(arm.n, knots.value / scale, None)
    if arm.n < 2:
        return QuantileEstimate(estimate, NO_RANKS)
    heaviest = 1 / len(arm.values) if weights is None else float(weights.max() / weights.sum())
    if knots.tied >= MOST_TIED and knots.tied > heaviest:
        return QuantileEstimate(estimate, TIED)
    reach = Z * share_error(arm, knots)
    if q - reach < heaviest / 2 or q + reach > 1 - heaviest / 2:
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

"""Estimates put together from strata in which the arms were drawn by the same weights, such as phases.

Pooling users over strata of other weights compares arms of another mix of users (Simpson's paradox). So the
arms are compared within strata, and every arm's value is the sum of its strata's, weighed by the strata's
shares of all arms' users: a difference is the weighted sum of the differences within strata. The shares are
taken as known, as is usual. A ratio of totals is weighed by users like a mean.
"""

from collections.abc import Sequence

from abtest.stats.means import Estimate


class Combined(Estimate):
    """An estimate over strata, whose variance has other degrees of freedom than n - 1."""

    known_df: float

    @property
    def df(self) -> float:
        return self.known_df


def combined(estimates: Sequence[Estimate], shares: Sequence[float]) -> Estimate:
    """One arm's estimate over strata; `shares` sum to 1. Value or variance is None where one stratum's is.

    Degrees of freedom are Satterthwaite's. Of one stratum it is that stratum's.

    >>> combined([Estimate(10, 1.0, 0.04), Estimate(30, 3.0, 0.08)], [0.5, 0.5])
    Combined(n=40, value=2.0, variance=0.03)
    """
    if len(estimates) == 1:
        return estimates[0]
    values = [e.value for e in estimates if e.value is not None]
    variances = [e.variance for e in estimates if e.variance is not None]
    value = variance = None
    parts: list[float] = []
    if len(values) == len(estimates):
        value = sum(share * v for share, v in zip(shares, values, strict=True))
    if len(variances) == len(estimates):
        parts = [share**2 * v for share, v in zip(shares, variances, strict=True)]
        variance = sum(parts)
    return stratified_estimate(sum(e.n for e in estimates), value, variance, parts, [e.df for e in estimates])


def stratified_estimate(
    n: int, value: float | None, variance: float | None, parts: Sequence[float], dfs: Sequence[float]
) -> Estimate:
    """An estimate whose degrees of freedom are Satterthwaite's: `parts` of its variance, each with its own.
    The fewest of them where there is no variance."""
    total = sum(parts)
    squares = sum(part**2 / df for part, df in zip(parts, dfs, strict=True)) if len(parts) else 0.0
    found = Combined(n, value, variance)
    found.known_df = float(total**2 / squares) if squares > 0 else float(min(dfs))
    return found

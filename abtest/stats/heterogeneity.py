"""Does an effect differ between segments? Cochran's Q on their lifts."""

from collections.abc import Sequence
from typing import NamedTuple

from scipy.special import chdtrc

from abtest.stats.means import Estimate


class Heterogeneity(NamedTuple):
    """Cochran's Q of k estimates, chi-square with k - 1 degrees of freedom where all estimate one value."""

    q: float
    df: int
    p: float


def cochran_q(values: Sequence[float], variances: Sequence[float]) -> Heterogeneity:
    """Whether independent estimates with these variances (above 0) have one expectation.

    Cochran (1954), weights 1 / variance; for two estimates the square of their z test. It needs estimates
    that are about normal.

    >>> q, df, p = cochran_q([.1, .3], [.005, .005])
    >>> round(q, 9), df, round(p, 4)
    (4.0, 1, 0.0455)
    """
    if len(values) != len(variances) or len(values) < 2:
        raise ValueError(f"{len(values)} values with {len(variances)} variances; give two or more of both")
    weights = [1 / variance for variance in variances]
    mean = sum(w * x for w, x in zip(weights, values, strict=True)) / sum(weights)
    q = sum(w * (x - mean) ** 2 for w, x in zip(weights, values, strict=True))
    return Heterogeneity(q, len(values) - 1, float(chdtrc(len(values) - 1, q)))


def lift_variance(control: Estimate, treatment: Estimate) -> float | None:
    """The variance of treatment / control - 1 by the delta method; None where it cannot be computed."""
    c, t = control.value, treatment.value
    if c is None or t is None or c == 0 or control.variance is None or treatment.variance is None:
        return None
    return (treatment.variance + (t / c) ** 2 * control.variance) / c**2

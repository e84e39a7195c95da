"""Two arms compared by draws of the test statistic (of a bootstrap or a permutation) instead of Student's t.

The statistic is the difference over its standard error, so the interval stays difference +- q error, with q
the draws' quantile, and the lift's interval stays Fieller's: both exclude 0 exactly when p < alpha.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from abtest.stats.means import CONTROL_NEAR_ZERO, Comparison, Estimate, compare, fieller

Floats = NDArray[np.float64]
TIE = 1e-9
"""Draws that fall short of the statistic by this share of it are equal: they are sums in another order."""


@dataclass(frozen=True)
class Reference:
    """|t| where nothing differs, in falling order. `is_exact`: all there are, what was observed among them;
    else a sample, to which what was observed is added."""

    draws: Floats
    is_exact: bool = False

    @classmethod
    def of(cls, statistics: Floats, *, is_exact: bool = False) -> "Reference":
        """From draws of t in any order."""
        return cls(np.sort(np.abs(statistics))[::-1], is_exact)

    @property
    def n(self) -> int:
        return len(self.draws) + (not self.is_exact)

    def p(self, statistic: float) -> float:
        """The share of draws at or beyond the statistic; never 0 (Phipson and Smyth 2010)."""
        beyond = int(np.searchsorted(-self.draws, -abs(statistic) * (1 - TIE), side="right"))
        return (beyond + (not self.is_exact)) / self.n

    def critical(self, alpha: float) -> float | None:
        """The q with p < alpha exactly for |t| beyond q; None where no |t| has so small a p."""
        allowed = ceil(alpha * self.n - TIE) - 1 - (not self.is_exact)  # draws that may lie beyond
        if allowed < self.is_exact:
            return None
        return float(self.draws[allowed]) * (1 + TIE) if allowed < len(self.draws) else 0.0


def compare_by_draws(
    control: Estimate, treatment: Estimate, reference: Reference, *, alpha: float = 0.05
) -> Comparison:
    """As `means.compare`, with p and intervals from the reference. Without draws enough for the level,
    intervals are absent and `reason` says so."""
    found = compare(control, treatment, alpha=alpha)
    if found.p is None or found.standard_error is None or found.difference is None:
        return found
    difference, error = found.difference, found.standard_error
    p, q = reference.p(difference / error), reference.critical(alpha)
    if q is None or not np.isfinite(q):
        too_few = f"{reference.n:,} draws are too few for an interval at level {100 * (1 - alpha):.6g} %"
        return found._replace(p=p, difference_ci=None, lift_ci=None, reason=too_few)
    assert control.value is not None
    assert control.variance is not None
    assert treatment.variance is not None
    lift_ci = fieller(control.value, control.variance, difference, treatment.variance, q)
    return found._replace(
        p=p,
        difference_ci=(difference - q * error, difference + q * error),
        lift_ci=lift_ci,
        reason=None if lift_ci else CONTROL_NEAR_ZERO,
    )

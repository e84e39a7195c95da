"""The same users in two lives: a difference and a lift, paired by user.

Each life gives a value, a mean or a ratio of two totals over its users. What a user did in one life and in
the other is strongly correlated, so the variance of the difference is that of the users' own differences.
"""

from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from abtest.stats.means import CONTROL_NEAR_ZERO, FEW_USERS, Interval, t_quantile, two_sided_p

Floats = NDArray[np.float64]

NO_DENOMINATOR = "the ratio divides by 0 in a life"
SAME_LIVES = "every user did the same in both lives"


class Life(NamedTuple):
    """Of each user, in one order for both lives: what counts, and what it is divided by (1 for a plain mean,
    1 or 0 for a mean over those who were there). (n,) each."""

    amount: Floats
    base: Floats

    @property
    def value(self) -> float | None:
        """Total over total; None where that divides by 0."""
        base = float(self.base.sum())
        return float(self.amount.sum()) / base if base else None

    def influence(self) -> Floats:
        """(n,) what each user moves the value by, times n; their mean is 0."""
        return (self.amount - (self.value or 0.0) * self.base) / self.base.mean()


class Paired(NamedTuple):
    """Treatment against control. `lift` is the difference over the control's value, as a fraction.

    less_variance: how many times smaller the variance of the difference is than it would be between two lives
    of different users. `reason` is None where all is computed; else it says why values are None.
    """

    control: float | None = None
    treatment: float | None = None
    difference: float | None = None
    difference_ci: Interval | None = None
    lift: float | None = None
    lift_ci: Interval | None = None
    p: float | None = None
    less_variance: float | None = None
    reason: str | None = None


def compare_lives(control: Life, treatment: Life, *, alpha: float = 0.01) -> Paired:
    """Difference and lift with intervals of level 1 - alpha, and the paired p; both exclude 0 exactly when
    p < alpha. For plain means these are the paired t-test's, and the lift's interval is Fieller's (1954) with
    the covariance of the lives; for ratios by the delta method on users."""
    c, t, n = control.value, treatment.value, len(control.amount)
    if c is None or t is None:
        return Paired(c, t, reason=FEW_USERS if n < 2 else NO_DENOMINATOR)
    difference = t - c
    found = Paired(c, t, difference, lift=difference / c if c else None)
    if n < 2:
        return found._replace(reason=FEW_USERS)
    of_control, of_treatment = control.influence(), treatment.influence()
    own = of_treatment - of_control
    if not own.any():
        return found._replace(reason=SAME_LIVES)
    covariance = np.cov(np.stack([of_control, own])) / n
    apart = (of_control.var(ddof=1) + of_treatment.var(ddof=1)) / n
    error, q = sqrt(covariance[1, 1]), t_quantile(alpha, n - 1)
    lift_ci = _fieller(c, difference, covariance, q)
    return found._replace(
        difference_ci=(difference - q * error, difference + q * error),
        lift_ci=lift_ci,
        p=two_sided_p(difference / error, n - 1),
        less_variance=float(apart / covariance[1, 1]),
        reason=None if lift_ci else CONTROL_NEAR_ZERO,
    )


def _fieller(c: float, difference: float, covariance: Floats, q: float) -> Interval | None:
    """All lifts L with |difference - L c| <= q se(difference - L c); covariance (2, 2) of c and the
    difference. None where the set is unbounded: |c| <= q se(c)."""
    (var_c, both), (_, var_d) = covariance
    a = c * c - q * q * var_c
    if a <= 0:
        return None
    half_b = difference * c - q * q * both
    last = difference * difference - q * q * var_d
    root = sqrt(max(half_b * half_b - a * last, 0.0))
    return (half_b - root) / a, (half_b + root) / a

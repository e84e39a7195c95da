"""Two arms compared: Welch's test of the difference, and Fieller's interval of the relative lift.

A mean and a ratio of two totals (delta method, clustered by user) both become an `Estimate`; `compare` treats
them alike. What cannot be computed is None, with the reason.
"""

from math import sqrt
from typing import NamedTuple

from scipy.special import stdtr, stdtrit

from abtest.stats.moments import Moments

Interval = tuple[float, float]

FEW_USERS = "fewer than 2 users in an arm"
ZERO_VARIANCE = "zero variance in both arms"
CONTROL_NEAR_ZERO = "control mean not distinguishable from 0"


class Estimate(NamedTuple):
    """A mean or ratio over the n users of an arm. `variance` is that of the estimate itself (its squared
    standard error). None where there are too few users, or where a ratio divides by 0."""

    n: int
    value: float | None
    variance: float | None

    @property
    def df(self) -> float:
        """The degrees of freedom of the variance."""
        return self.n - 1


class Comparison(NamedTuple):
    """Treatment against control. `lift` is the difference over the control's value, as a fraction.

    `reason` is None where all is computed; else it says why values are None. p is two-sided; it can underflow
    to 0.0 (beyond about 38 standard errors), which reports print as < 1e-300.
    """

    difference: float | None = None
    difference_ci: Interval | None = None
    lift: float | None = None
    lift_ci: Interval | None = None
    p: float | None = None
    standard_error: float | None = None
    df: float | None = None
    reason: str | None = None


def mean_estimate(moments: Moments, column: str, *, scale: int = 1) -> Estimate:
    """The mean of a column over users, divided by `scale`: exactly (sum / n) / scale."""
    if moments.n == 0:
        return Estimate(0, None, None)
    value = moments.mean(column) / scale
    variance = moments.variance(column) / moments.n / scale**2 if moments.n > 1 else None
    return Estimate(moments.n, value, variance)


def ratio_estimate(moments: Moments, numerator: str, denominator: str, *, scale: int = 1) -> Estimate:
    """Total of the numerator over total of the denominator: exactly (sum x / sum y) / scale.

    Users are the independent units, not plays: the delta-method variance on user totals, which equals that of
    a regression on plays with errors clustered by user (up to the factor (n - 1) / n). With R = X / Y it is
    n / (n - 1) * sum (x - R y)^2 / Y^2, here as one quotient of integers.
    """
    x, y, n = moments.sums.get(numerator, 0), moments.sums.get(denominator, 0), moments.n
    if y == 0:
        return Estimate(n, None, None)
    value = float(x / y) / scale
    if n < 2:
        return Estimate(n, value, None)
    xx, xy, yy = (
        moments.product(a, b)
        for a, b in ((numerator, numerator), (numerator, denominator), (denominator, denominator))
    )
    squares = xx * y * y - 2 * x * y * xy + x * x * yy  # sum (x - R y)^2, times Y^2
    return Estimate(n, value, float(n * squares / ((n - 1) * y**4)) / scale**2)


def compare(control: Estimate, treatment: Estimate, *, alpha: float = 0.05) -> Comparison:
    """Difference and lift with intervals of level 1 - alpha, and Welch's p.

    The interval of the difference excludes 0 exactly when p < alpha, and so does that of the lift.
    """
    c, t = control.value, treatment.value
    if c is None or t is None:
        few = min(control.df, treatment.df) < 1
        return Comparison(reason=FEW_USERS if few else "the ratio divides by 0 in an arm")
    difference = t - c
    lift = difference / c if c != 0 else None
    if control.variance is None or treatment.variance is None:
        return Comparison(difference, lift=lift, reason=FEW_USERS)
    if control.variance == 0 and treatment.variance == 0:
        return Comparison(difference, lift=lift, reason=ZERO_VARIANCE)
    error = sqrt(control.variance + treatment.variance)
    df = welch_df(control, treatment)
    q = t_quantile(alpha, df)
    lift_ci = fieller(c, control.variance, difference, treatment.variance, q)
    return Comparison(
        difference,
        (difference - q * error, difference + q * error),
        lift,
        lift_ci,
        two_sided_p(difference / error, df),
        error,
        df,
        None if lift_ci else CONTROL_NEAR_ZERO,
    )


def welch_df(control: Estimate, treatment: Estimate) -> float:
    """Welch and Satterthwaite's degrees of freedom of the difference."""
    vc, vt = control.variance or 0.0, treatment.variance or 0.0
    assert vc + vt > 0, (control, treatment)
    share = vt / (vc + vt)
    return 1 / (share**2 / treatment.df + (1 - share) ** 2 / control.df)


def fieller(c: float, var_c: float, difference: float, var_t: float, q: float) -> Interval | None:
    """Fieller's interval of the lift: all L with |difference - L c| <= q se(difference - L c).

    Variances are not pooled, and `q` stays at Welch's degrees of freedom for L = 0, so that 0 lies outside
    exactly when Welch's test rejects. None where the set is unbounded: |c| <= q se(c).
    """
    a = c * c - q * q * var_c
    if a <= 0:
        return None
    half_b = difference * c + q * q * var_c
    last = difference * difference - q * q * (var_c + var_t)  # negative exactly when 0 lies inside
    root = q * sqrt(a * var_t + (c + difference) ** 2 * var_c)  # of half_b^2 - a * last, free of cancellation
    far = half_b + root if half_b >= 0 else half_b - root
    if far == 0:  # no difference, and no spread at this q
        return 0.0, 0.0
    ends = far / a, last / far
    return min(ends), max(ends)


def two_sided_p(t: float, df: float) -> float:
    """P(|T| >= |t|), from the lower tail so that it stays exact far out."""
    return float(2 * stdtr(df, -abs(t)))


def t_quantile(alpha: float, df: float) -> float:
    """The q with P(|T| > q) = alpha."""
    return float(-stdtrit(df, alpha / 2))

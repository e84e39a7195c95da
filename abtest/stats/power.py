"""How small an effect a test can find, and how many users it takes."""

from math import ceil, isnan, sqrt

from scipy.special import nctdtr, nctdtrinc, ndtr, ndtri, stdtrit

POWER = 0.8
NORMAL_DF = 10_000
"""From so many degrees of freedom on the noncentral t is taken as normal: powers differ by less than 1e-4."""


def detectable_difference(
    standard_error: float, df: float, *, alpha: float = 0.05, power: float = POWER
) -> float:
    """The true difference that a two-sided test at alpha finds with this power: that of the noncentral t.
    Rejections in the wrong direction are not counted."""
    return float(nctdtrinc(df, 1 - power, stdtrit(df, 1 - alpha / 2))) * standard_error


def detectable_lift(
    mean: float,
    variance: float,
    n_control: int,
    n_treatment: int,
    *,
    alpha: float = 0.05,
    power: float = POWER,
) -> float:
    """The smallest lift, as a fraction, found with this power; `variance` is that of a user's value."""
    _check(mean, variance)
    if min(n_control, n_treatment) < 2:
        raise ValueError(f"{n_control} and {n_treatment} users; each arm needs 2 or more")
    error = sqrt(variance / n_control + variance / n_treatment)
    return detectable_difference(error, n_control + n_treatment - 2, alpha=alpha, power=power) / mean


def power_of_lift(
    lift: float, mean: float, variance: float, n_control: int, n_treatment: int, *, alpha: float = 0.05
) -> float:
    """The power of the two-sided test at a true lift: the noncentral t's, rejections in the wrong direction
    not counted.

    >>> round(power_of_lift(.1, 10., 25., 400, 400), 3)
    0.806
    """
    _check(mean, variance)
    if min(n_control, n_treatment) < 2:
        raise ValueError(f"{n_control} and {n_treatment} users; each arm needs 2 or more")
    drift = abs(lift) * mean / sqrt(variance / n_control + variance / n_treatment)
    df = n_control + n_treatment - 2
    critical = float(stdtrit(df, 1 - alpha / 2))
    if df >= NORMAL_DF:
        return float(ndtr(drift - critical))
    found = 1 - float(nctdtr(df, drift, critical))
    return _normal_power(df, drift, critical) if isnan(found) else found


def users_needed(
    mean: float,
    variance: float,
    lift: float,
    *,
    alpha: float = 0.05,
    power: float = POWER,
    control_share: float = 0.5,
) -> int:
    """Users of both arms together so that a true lift of this size is found with this power."""
    _check(mean, variance)
    if lift == 0:
        raise ValueError("no number of users can find a lift of 0; give the smallest lift that matters")
    if not 0 < control_share < 1:
        raise ValueError(f"control_share is {control_share}; it must lie between 0 and 1")

    def enough(n: int) -> bool:
        n_control = round(n * control_share)
        if min(n_control, n - n_control) < 2:
            return False
        found = detectable_lift(mean, variance, n_control, n - n_control, alpha=alpha, power=power)
        return found <= abs(lift)

    z = float(ndtri(1 - alpha / 2) + ndtri(power))
    high = max(4, ceil((z / (abs(lift) * mean)) ** 2 * variance / (control_share * (1 - control_share))))
    low = high - 1 if not enough(high) else 3
    while not enough(high):
        low, high = high, high + max(high // 8, 4)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _normal_power(df: int, drift: float, critical: float) -> float:
    """Of the noncentral t by Abramowitz and Stegun 26.7.10, for drifts of some 30 that SciPy gives up on."""
    return float(ndtr((drift - critical * (1 - 1 / (4 * df))) / sqrt(1 + critical**2 / (2 * df))))


def _check(mean: float, variance: float) -> None:
    if mean <= 0 or variance <= 0:
        raise ValueError(f"mean is {mean} and variance is {variance}; a lift needs both above 0")

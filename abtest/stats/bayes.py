"""The Bayesian view of a lift: a normal posterior, the chance to win and the loss expected from each choice.

The estimate of the lift is taken as normal with its delta-method standard error; the prior of the true lift
is normal, flat unless one is given. It stands beside the test and decides nothing.
"""

from math import sqrt
from typing import NamedTuple

from scipy.special import ndtr, ndtri

from abtest.stats.means import CONTROL_NEAR_ZERO, FEW_USERS, ZERO_VARIANCE, Estimate, Interval

LEAST_CONTROL_ERRORS = 3.0
"""Standard errors by which the control must differ from 0, so that a lift is near to normal."""


class Prior(NamedTuple):
    """What is believed of the lift before; `sd` None is flat."""

    mean: float = 0.0
    sd: float | None = None


class Posterior(NamedTuple):
    """Of the lift, as a fraction. `chance_to_win`: that it is in the good direction. `loss_if_shipped` and
    `loss_if_kept`: the lift expected to be lost by each choice. None with a `reason`."""

    mean: float | None = None
    sd: float | None = None
    interval: Interval | None = None
    chance_to_win: float | None = None
    loss_if_shipped: float | None = None
    loss_if_kept: float | None = None
    reason: str | None = None


FLAT = Prior()


def posterior_of_lift(
    control: Estimate,
    treatment: Estimate,
    prior: Prior = FLAT,
    *,
    higher_is_better: bool = True,
    level: float = 0.95,
) -> Posterior:
    """The posterior of the lift; a lift needs a control mean clearly away from 0."""
    c, t = control.value, treatment.value
    if c is None or t is None or control.variance is None or treatment.variance is None:
        return Posterior(reason=FEW_USERS)
    if control.variance + treatment.variance == 0:
        return Posterior(reason=ZERO_VARIANCE)
    if abs(c) <= LEAST_CONTROL_ERRORS * sqrt(control.variance):
        return Posterior(reason=CONTROL_NEAR_ZERO)
    lift = (t - c) / c
    variance = (treatment.variance + (1 + lift) ** 2 * control.variance) / c**2
    return posterior(lift, variance, prior, higher_is_better=higher_is_better, level=level)


def posterior(
    value: float, variance: float, prior: Prior = FLAT, *, higher_is_better: bool = True, level: float = 0.95
) -> Posterior:
    """Normal estimate and normal prior: precisions add, means are weighed by them.

    >>> found = posterior(0.02, 0.0001, Prior(0.0, 0.01))
    >>> round(found.mean, 6), round(found.chance_to_win, 4)
    (0.01, 0.9214)
    """
    if prior.sd is not None and prior.sd <= 0:
        raise ValueError(f"prior_sd is {prior.sd}; it must be above 0, or left out for a flat prior")
    precision = 0.0 if prior.sd is None else prior.sd**-2
    mean = (value + precision * variance * prior.mean) / (1 + precision * variance)
    sd = sqrt(variance / (1 + precision * variance))
    z = float(-ndtri((1 - level) / 2))
    gain = mean if higher_is_better else -mean
    return Posterior(
        mean,
        sd,
        (mean - z * sd, mean + z * sd),
        float(ndtr(gain / sd)),
        expected_excess(-gain, sd),
        expected_excess(gain, sd),
    )


def expected_excess(mean: float, sd: float) -> float:
    """E max(X, 0) of a normal X. Never below 0, also far out where rounding would make it so."""
    z = mean / sd
    return max(0.0, float(mean * ndtr(z) + sd * _density(z)))


def _density(z: float) -> float:
    from math import exp, pi

    return exp(-z * z / 2) / sqrt(2 * pi)

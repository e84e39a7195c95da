"""CUPED: means and ratios with what users did before the experiment taken out, as functions of moments.

Deng, Xu, Kohavi, Walker (WSDM 2013), with a vector of covariates. theta comes from the arms pooled (within
arms, so that an effect does not enter it): for a mean the difference is exactly that of a regression on arm
and covariates. A ratio is taken as the mean of its linearised values (N - R D) / mean D, R being its arm's.
An arm's adjusted value is value - theta' (its mean covariates - those of all arms together), so the lift
divides by the adjusted control mean. theta and the covariates' overall means are taken as known, as is usual:
the variance is that of the adjusted values within the arm.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from abtest.stats.means import Estimate, mean_estimate, ratio_estimate
from abtest.stats.moments import Moments

NO_COVARIATE = "no covariate varies in the pre-period"
TOO_FEW = "too few users for the covariates"
COLLINEAR = 1e-10  # singular values of the covariates' correlation below this share of the largest count as 0

Form = Mapping[str, Fraction]
"""A linear combination of columns: what a metric, linearised, is for one user (up to a constant)."""


class Adjustment(NamedTuple):
    """Adjusted estimates by arm, and theta by covariate. Without theta `reason` says why, and the estimates
    are the plain ones."""

    estimates: Mapping[str, Estimate]
    theta: Mapping[str, float]
    reason: str | None = None


def adjust(
    arms: Mapping[str, Moments],
    numerator: str,
    denominator: str | None = None,
    *,
    covariates: Sequence[str],
    scale: int = 1,
) -> Adjustment:
    """The mean of a column (with a denominator: total over total) in each arm, adjusted for covariates.

    Moments must hold the covariates' sums, their products with each other and with the metric's columns.
    Sums are exact integers and theta is the only rounded number: the variance never comes out negative.
    """
    plain = {
        arm: mean_estimate(moments, numerator, scale=scale)
        if denominator is None
        else ratio_estimate(moments, numerator, denominator, scale=scale)
        for arm, moments in arms.items()
    }
    usable = {arm: arms[arm] for arm, estimate in plain.items() if estimate.variance is not None}
    n_users = sum(moments.n for moments in usable.values())
    if n_users - len(usable) <= len(covariates) + 1:
        return Adjustment(plain, {}, TOO_FEW)
    forms = {arm: linearised(moments, numerator, denominator, scale) for arm, moments in usable.items()}
    theta = pooled_theta(usable, forms, covariates)
    if theta is None:
        return Adjustment(plain, {}, NO_COVARIATE)
    exact = {name: Fraction(value) for name, value in theta.items()}
    overall = {name: Fraction(sum(m.sums[name] for m in usable.values()), n_users) for name in exact}
    estimates = dict(plain)
    for arm, moments in usable.items():
        value = _exact_value(moments, numerator, denominator, scale)
        shift = sum(
            (w * (Fraction(moments.sums[name], moments.n) - overall[name]) for name, w in exact.items()),
            Fraction(0),
        )
        residual = {**forms[arm], **{name: -w for name, w in exact.items()}}
        variance = form_covariance(moments, residual, residual) / moments.n
        estimates[arm] = Estimate(moments.n, float(value - shift), float(variance))
    return Adjustment(estimates, theta)


def linearised(moments: Moments, numerator: str, denominator: str | None, scale: int = 1) -> Form:
    """What one user adds to the metric: x / scale, or (N - R D) / (mean D scale). The total of D is not 0."""
    if denominator is None:
        return {numerator: Fraction(1, scale)}
    x, y = moments.sums[numerator], moments.sums[denominator]
    per_user = Fraction(moments.n, y * scale)
    if numerator == denominator:
        return {numerator: Fraction(0)}
    return {numerator: per_user, denominator: -per_user * Fraction(x, y)}


def form_covariance(moments: Moments, one: Form, other: Form) -> Fraction:
    """The sample covariance (divisor n - 1) of two linear combinations of columns, exactly."""
    n = moments.n
    total = sum(
        (
            v * w * (n * moments.product(a, b) - moments.sums[a] * moments.sums[b])
            for a, v in one.items()
            for b, w in other.items()
        ),
        Fraction(0),
    )
    return total / (n * (n - 1))


def pooled_theta(
    arms: Mapping[str, Moments], forms: Mapping[str, Form], covariates: Sequence[str]
) -> dict[str, float] | None:
    """Least squares of the metric on the covariates within arms. None where no covariate varies.

    Covariates that say the same share the weight (the smallest theta that fits).
    """

    def pooled(form: Mapping[str, Form], name: str) -> float:
        one: Form = {name: Fraction(1)}
        return float(
            sum(((m.n - 1) * form_covariance(m, form[arm], one) for arm, m in arms.items()), Fraction(0))
        )

    single = {name: {arm: {name: Fraction(1)} for arm in arms} for name in covariates}
    squares = {name: pooled(single[name], name) for name in covariates}
    kept = [name for name in covariates if squares[name] > 0]
    if not kept:
        return None
    sizes = np.sqrt([squares[name] for name in kept])
    xx = np.array([[pooled(single[a], b) for b in kept] for a in kept]) / np.outer(sizes, sizes)
    xy = np.array([pooled(forms, name) for name in kept]) / sizes
    found, *_ = np.linalg.lstsq(xx, xy, rcond=COLLINEAR)
    return dict(zip(kept, (found / sizes).tolist(), strict=True))


def _exact_value(moments: Moments, numerator: str, denominator: str | None, scale: int) -> Fraction:
    over = moments.n if denominator is None else moments.sums[denominator]
    return Fraction(moments.sums[numerator], over * scale)

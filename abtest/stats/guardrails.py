"""Non-inferiority and equivalence: is the treatment shown not to be worse, or not to differ, by a margin?"""

from math import sqrt
from typing import NamedTuple

from scipy.special import stdtr

from abtest.stats.means import FEW_USERS, ZERO_VARIANCE, Estimate, welch_df

NON_INFERIORITY_ALPHA = 0.025
EQUIVALENCE_ALPHA = 0.05
"""Of each of the two one-sided tests: equivalent where the interval at level .90 lies within the margins."""


class MarginTest(NamedTuple):
    """One-sided p of "the treatment is worse than the margin allows", and of its opposite. A small `p` proves
    non-inferiority, a small `p_worse` that the margin is broken. None with a `reason`."""

    p: float | None = None
    p_worse: float | None = None
    reason: str | None = None


def non_inferiority(
    control: Estimate,
    treatment: Estimate,
    margin: float,
    *,
    relative: bool = True,
    higher_is_better: bool = True,
) -> MarginTest:
    """Test treatment > (1 - margin) control, or treatment > control - margin where not `relative`.

    Where less is better: treatment < (1 + margin) control, or < control + margin. A relative margin needs a
    control above 0 to mean anything. Variances are not pooled; Welch's degrees of freedom are those of the
    plain difference, so that p < alpha exactly when the interval at 1 - 2 alpha lies beyond the margin.
    """
    if margin <= 0:
        raise ValueError(f"margin is {margin}; it must be above 0, fixed before the start")
    c, t = control.value, treatment.value
    if c is None or t is None or control.variance is None or treatment.variance is None:
        return MarginTest(reason=FEW_USERS)
    if relative and c <= 0:
        return MarginTest(reason=f"a relative margin needs a control mean above 0, not {c:g}")
    sign = 1 if higher_is_better else -1
    factor = 1 - sign * margin if relative else 1.0
    allowed = factor * c if relative else c - sign * margin
    variance = treatment.variance + factor**2 * control.variance
    if control.variance + treatment.variance == 0 or variance == 0:
        return MarginTest(reason=ZERO_VARIANCE)
    statistic = sign * (t - allowed) / sqrt(variance)
    df = welch_df(control, treatment)
    return MarginTest(float(stdtr(df, -statistic)), float(stdtr(df, statistic)))


def equivalence(
    control: Estimate, treatment: Estimate, margin: float, *, relative: bool = True
) -> MarginTest:
    """Two one-sided tests (Schuirmann 1987): p small where the difference is shown to lie within +-margin.

    `p_worse` is absent: a difference beyond the margin is shown by the interval.
    """
    sides = [
        non_inferiority(control, treatment, margin, relative=relative, higher_is_better=up)
        for up in (True, False)
    ]
    if sides[0].p is None or sides[1].p is None:
        return MarginTest(reason=sides[0].reason or sides[1].reason)
    return MarginTest(max(sides[0].p, sides[1].p))

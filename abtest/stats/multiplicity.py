"""Many metrics and arms: Holm's correction, with intervals that tell the same story as the adjusted p."""

from collections.abc import Sequence
from typing import NamedTuple


class Adjusted(NamedTuple):
    """A test after the correction. Its interval at level 1 - `alpha` excludes 0 exactly when `rejected`."""

    p_adjusted: float | None
    rejected: bool
    alpha: float


def holm(p_values: Sequence[float | None], alpha: float = 0.05) -> list[Adjusted]:
    """Holm's step-down procedure: the chance of any false rejection is at most alpha.

    Rejected means p_adjusted < alpha. A test without a p (None) was planned, so it counts in the number of
    tests, and is not rejected. With m tests and R rejections, the rejected one of rank i gets its interval at
    alpha / (m - i + 1), all others at alpha / (m - R). These levels match the decisions; the intervals are
    not simultaneous ones.

    >>> [round(test.p_adjusted, 3) for test in holm([.03, .01, .04])]
    [0.06, 0.03, 0.06]
    """
    m = len(p_values)
    p_adjusted: list[float | None] = [None] * m
    largest = 0.0
    for rank, (p, i) in enumerate(sorted((p, i) for i, p in enumerate(p_values) if p is not None)):
        largest = max(largest, min(1.0, (m - rank) * p))
        p_adjusted[i] = largest
    rejected = [p is not None and p < alpha for p in p_adjusted]
    others = alpha / max(m - sum(rejected), 1)
    levels = [others] * m
    in_order = sorted((p_values[i], i) for i in range(m) if rejected[i])
    for rank, (_, i) in enumerate(in_order):
        levels[i] = alpha / (m - rank)
    return [Adjusted(*test) for test in zip(p_adjusted, rejected, levels, strict=True)]

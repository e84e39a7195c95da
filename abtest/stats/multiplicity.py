"""Many metrics and arms: corrections whose intervals tell the same story as the adjusted p.

Any valid p may come in, sequential ones too.
"""

from collections.abc import Callable, Mapping, Sequence
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
    for rank, (p, i) in enumerate(_in_order(p_values)):
        largest = max(largest, min(1.0, (m - rank) * p))
        p_adjusted[i] = largest
    return _with_levels(p_values, p_adjusted, alpha, lambda rank, _: alpha / (m - rank))


def hochberg(p_values: Sequence[float | None], alpha: float = 0.05) -> list[Adjusted]:
    """Hochberg's step-up procedure: Holm's levels, searched from the largest p; it rejects as much or more.

    The chance of any false rejection is at most alpha for independent or positively dependent tests. The R
    rejected get their intervals at the level of the largest rejected p, alpha / (m - R + 1), all others at
    alpha / (m - R). Tests without a p count as the largest.

    >>> [round(test.p_adjusted, 3) for test in hochberg([.03, .01, .04])]
    [0.04, 0.03, 0.04]
    """
    m = len(p_values)
    p_adjusted: list[float | None] = [None] * m
    smallest = 1.0
    for rank, (p, i) in reversed(list(enumerate(_in_order(p_values)))):
        smallest = min(smallest, (m - rank) * p)
        p_adjusted[i] = smallest
    return _with_levels(p_values, p_adjusted, alpha, lambda _, n_rejected: alpha / (m - n_rejected + 1))


def benjamini_hochberg(p_values: Sequence[float | None], alpha: float = 0.05) -> list[Adjusted]:
    """Benjamini and Hochberg's procedure, for exploration: at most a share alpha of what it rejects is false.

    All intervals are at max(R, 1) alpha / m with R rejections (Benjamini and Yekutieli 2005), which are the
    level of the largest rejected p and so match the decisions.

    >>> [round(test.p_adjusted, 3) for test in benjamini_hochberg([.03, .01, .04])]
    [0.04, 0.03, 0.04]
    """
    m = len(p_values)
    p_adjusted: list[float | None] = [None] * m
    smallest = 1.0
    for rank, (p, i) in reversed(list(enumerate(_in_order(p_values), start=1))):
        smallest = min(smallest, p * m / rank)
        p_adjusted[i] = smallest
    rejected = [p is not None and p < alpha for p in p_adjusted]
    level = max(sum(rejected), 1) * alpha / max(m, 1)
    return [Adjusted(p, yes, level) for p, yes in zip(p_adjusted, rejected, strict=True)]


Correction = Callable[[Sequence[float | None], float], list[Adjusted]]
CORRECTIONS: Mapping[str, Correction] = {"holm": holm, "hochberg": hochberg, "bh": benjamini_hochberg}


def _in_order(p_values: Sequence[float | None]) -> list[tuple[float, int]]:
    for p in p_values:
        if p is not None and not 0 <= p <= 1:  # NaN too: it would hide what comes after it
            raise ValueError(f"p-value {p} does not lie between 0 and 1; give None where there is none")
    return sorted((p, i) for i, p in enumerate(p_values) if p is not None)


def _with_levels(
    p_values: Sequence[float | None],
    p_adjusted: Sequence[float | None],
    alpha: float,
    level_of: Callable[[int, int], float],
) -> list[Adjusted]:
    """The rejected get `level_of`(rank from 0, number of rejections), all others alpha / (m - R)."""
    m = len(p_values)
    rejected = [p is not None and p < alpha for p in p_adjusted]
    n_rejected = sum(rejected)
    levels = [alpha / max(m - n_rejected, 1)] * m
    in_order = [i for _, i in _in_order(p_values) if rejected[i]]
    for rank, i in enumerate(in_order):
        levels[i] = level_of(rank, n_rejected)
    return [Adjusted(*test) for test in zip(p_adjusted, rejected, levels, strict=True)]

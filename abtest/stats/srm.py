"""Sample-ratio mismatch: do the arms hold the users that their weights promise?

A mismatch means that users were lost or counted twice in a way that depends on the arm, so that no
other figure of the experiment can be trusted.
"""

from collections.abc import Iterator, Sequence
from math import inf, isfinite, sqrt
from typing import NamedTuple

import numpy as np
from scipy.special import bdtr, bdtrc, chdtrc, chdtri, chndtrinc, gammaln

SMALL_EXPECTED = 5
MOST_OUTCOMES = 4_000_000
BLOCK = 100_000  # outcomes in memory at a time
DRAWS = 100_000
TIE = 1e-9
"""Outcomes whose log-probabilities differ by less, beyond rounding, are equally likely."""


class SampleRatio(NamedTuple):
    """Expected users an arm; `p` is None where there is nothing to test; `method` says how it came about."""

    p: float | None
    expected: list[float]
    method: str


def sample_ratio(observed: Sequence[int], weights: Sequence[float]) -> SampleRatio:
    """Test the counts against the weights (which need not sum to 1).

    An arm of weight 0 and without users leaves the test and its degrees of freedom; one with users is a fault
    without any test, and there is no p. Chi-square; the exact multinomial test (all outcomes no more likely
    than the observed one) where fewer than 5 users are expected in an arm: of two arms the binomial one; of
    more all outcomes are listed (but for those of 1e-20 in all), or, where these are more than 4 million,
    estimated by 100,000 fixed draws.
    """
    if len(observed) != len(weights):
        raise ValueError(f"{len(observed)} counts for {len(weights)} weights; give one weight an arm")
    if any(n < 0 for n in observed):
        raise ValueError(f"counts are {list(observed)}; users of an arm are 0 or more")
    if any(not isfinite(weight) or weight < 0 for weight in weights) or not sum(weights) > 0:
        raise ValueError(f"weights are {list(weights)}; they are 0 or more, one of them above 0")
    total = sum(observed)
    expected = [total * weight / sum(weights) for weight in weights]
    if total == 0:
        return SampleRatio(None, expected, "no users")
    if any(n > 0 and weight == 0 for n, weight in zip(observed, weights, strict=True)):
        return SampleRatio(None, expected, "users in an arm of weight 0")
    kept = [i for i, weight in enumerate(weights) if weight > 0]
    counts = np.array([observed[i] for i in kept])
    means = np.array([expected[i] for i in kept])
    if len(kept) < 2:
        return SampleRatio(None, expected, "one arm")
    if means.min() < SMALL_EXPECTED:
        p, method = _multinomial_p(counts, means / total)
        return SampleRatio(p, expected, method)
    statistic = float(((counts - means) ** 2 / means).sum())
    return SampleRatio(float(chdtrc(len(kept) - 1, statistic)), expected, "chi-square")


def smallest_loss(
    total: int, weights: Sequence[float], *, threshold: float = 0.001, power: float = 0.8
) -> float | None:
    """The smallest share of one arm's users whose loss the chi-square test finds with this power.

    Whichever arm it is (the value for the arm in which it is hardest to see). None where even the loss of a
    whole arm might pass. `total` counts the users that were left.
    """
    kept = [weight / sum(weights) for weight in weights if weight > 0]
    if total == 0 or len(kept) < 2:
        return None
    df = len(kept) - 1
    noncentrality = float(chndtrinc(chdtri(df, threshold), df, 1 - power))
    # losing a share d of an arm of weight w: noncentrality / total = w (1 - w) d^2 / (1 - w d)^2
    ratios = [sqrt(noncentrality / total / (w * (1 - w))) for w in kept]
    loss = max((r / (1 + r * w) if r < inf else inf) for r, w in zip(ratios, kept, strict=True))
    return loss if loss < 1 else None


def _multinomial_p(counts: np.ndarray, shares: np.ndarray) -> tuple[float, str]:
    total, k = int(counts.sum()), len(counts)
    if k == 2:
        rare = int(np.argmin(shares))
        return _binomial_p(int(counts[rare]), total, float(shares[rare])), "exact multinomial"
    # beyond these bounds lies less than 1e-20 of an arm's counts, unless the observed one is farther out
    spans = np.maximum(10 * np.sqrt(total * shares * (1 - shares)) + 50, 2 * np.abs(counts - total * shares))
    low = np.maximum(np.ceil(total * shares - spans), 0).astype(int)
    high = np.minimum(np.floor(total * shares + spans), total).astype(int)
    order = np.argsort(high - low)  # the last arm, of the widest bounds, holds the rest
    counts, shares, low, high = counts[order], shares[order], low[order], high[order]
    limit = _log_probability(counts[None], shares)[0]
    limit += TIE + 64 * np.finfo(float).eps * gammaln(total + 1)
    if np.prod((high - low + 1)[:-1].astype(float)) > MOST_OUTCOMES:
        draws = np.random.default_rng(0).multinomial(total, shares, size=DRAWS)
        hits = int((_log_probability(draws, shares) <= limit).sum())
        return (hits + 1) / (DRAWS + 1), f"multinomial, {DRAWS:,} draws"
    p = 0.0
    for outcomes in _outcomes(total, low, high):
        logs = _log_probability(outcomes, shares)
        p += float(np.exp(logs[logs <= limit]).sum())
    return min(p, 1.0), "exact multinomial"


def _binomial_p(n: int, total: int, share: float) -> float:
    """The probability of all counts no more likely than n; they lie in two tails, as there is one peak."""

    def log_probability(count: int) -> float:
        pair = np.array([[count, total - count]])
        return float(_log_probability(pair, np.array([share, 1 - share]))[0])

    limit = log_probability(n) + TIE
    peak = min(int((total + 1) * share), total)
    if log_probability(peak) <= limit:
        return 1.0
    if n < peak:  # the first count above the peak that is no more likely
        low, high = peak, total + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if log_probability(middle) <= limit else (middle, high)
        ends = n, high
    else:
        low, high = -1, peak
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if log_probability(middle) <= limit else (low, middle)
        ends = low, n
    below = float(bdtr(ends[0], total, share)) if ends[0] >= 0 else 0.0
    above = float(bdtrc(ends[1] - 1, total, share)) if ends[1] <= total else 0.0
    return min(below + above, 1.0)


def _log_probability(outcomes: np.ndarray, shares: np.ndarray) -> np.ndarray:
    total = outcomes[0].sum()
    return gammaln(total + 1) - gammaln(outcomes + 1).sum(axis=1) + (outcomes * np.log(shares)).sum(axis=1)


def _outcomes(total: int, low: np.ndarray, high: np.ndarray) -> Iterator[np.ndarray]:
    """All ways to put `total` users into arms, each between its bounds (the last arm takes the rest), in
    blocks with one outcome a row."""
    sizes = (high - low + 1)[:-1]
    n = int(np.prod(sizes))
    for first in range(0, n, BLOCK):
        places = np.unravel_index(np.arange(first, min(first + BLOCK, n)), sizes)
        counts = np.stack(places, axis=1) + low[:-1]
        rest = total - counts.sum(axis=1)
        inside = rest >= 0
        if inside.any():
            yield np.column_stack([counts, rest])[inside]

"""Sample-ratio mismatch: do the arms hold the users that their weights promise?

A mismatch means that users were lost or counted twice in a way that depends on the arm, so that no
other figure of the experiment can be trusted.
"""

from collections.abc import Iterator, Sequence
from math import inf, sqrt
from typing import NamedTuple

import numpy as np
from scipy.special import chdtrc, chdtri, chndtrinc, gammaln

SMALL_EXPECTED = 5
MOST_OUTCOMES = 200_000
DRAWS = 100_000


class SampleRatio(NamedTuple):
    """Expected users an arm; `p` is None where there is nothing to test; `method` says how it came about."""

    p: float | None
    expected: list[float]
    method: str


def sample_ratio(observed: Sequence[int], weights: Sequence[float]) -> SampleRatio:
    """Test the counts against the weights (which need not sum to 1).

    An arm of weight 0 and without users leaves the test and its degrees of freedom; one with users is a fault
    without any test, and there is no p. Chi-square; the exact multinomial test (all outcomes no more likely
    than the observed one) where fewer than 5 users are expected in an arm, estimated from 100,000 fixed draws
    where there are more than 200,000 outcomes.
    """
    if len(observed) != len(weights):
        raise ValueError(f"{len(observed)} counts for {len(weights)} weights; give one weight an arm")
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
    n_outcomes = np.exp(gammaln(total + k) - gammaln(total + 1) - gammaln(k))
    limit = _log_probability(counts[None], shares)[0] + 1e-9  # outcomes equal up to rounding count as equal
    if n_outcomes > MOST_OUTCOMES:
        draws = np.random.default_rng(0).multinomial(total, shares, size=DRAWS)
        hits = int((_log_probability(draws, shares) <= limit).sum())
        return (hits + 1) / (DRAWS + 1), f"multinomial, {DRAWS:,} draws"
    p = 0.0
    for outcomes in _outcomes(total, k):
        logs = _log_probability(outcomes, shares)
        p += float(np.exp(logs[logs <= limit]).sum())
    return min(p, 1.0), "exact multinomial"


def _log_probability(outcomes: np.ndarray, shares: np.ndarray) -> np.ndarray:
    total = outcomes[0].sum()
    return gammaln(total + 1) - gammaln(outcomes + 1).sum(axis=1) + (outcomes * np.log(shares)).sum(axis=1)


def _outcomes(total: int, k: int) -> Iterator[np.ndarray]:
    """All ways to put `total` users into k arms, in blocks with one outcome a row."""
    if k == 2:
        first = np.arange(total + 1)
        yield np.stack([first, total - first], axis=1)
        return
    for first_arm in range(total + 1):
        for rest in _outcomes(total - first_arm, k - 1):
            yield np.column_stack([np.full(len(rest), first_arm), rest])

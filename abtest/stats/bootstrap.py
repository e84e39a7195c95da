"""The Poisson bootstrap over users (Chamandy et al. 2012): a replicate weighs each user by a Poisson(1) draw.

Means and ratios are studentised: |t*| = |difference* - difference| / standard error* is what `reference`
compares with. Quantiles take the spread of their replicates. Weights are counter-based: those of a replicate
depend on (seed, arm, replicate) and the user's place alone, whatever the blocks; sums are matrix products.

Over strata in which the arms were drawn by other weights, such as phases, users are drawn within strata
(Davison and Hinkley 1997, section 3.2) and estimates weighed by the strata's shares of all arms' users.
"""

from collections.abc import Iterator, Sequence
from math import exp, factorial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from abtest.stats.reference import Reference

Floats = NDArray[np.float64]

DRAWS = 2000
LEAST_USERS = 2
BLOCK_WEIGHTS = 4_000_000  # weights in memory at a time
_LEVELS = 1 << 16  # a weight is drawn from 16 random bits


class Sample(NamedTuple):
    """The users of an arm: a value each, and what it is divided by (None for a mean)."""

    x: NDArray[np.generic]
    y: NDArray[np.generic] | None = None


class Stratum(NamedTuple):
    """The users of two arms in a stratum, which holds this share of all arms' users."""

    share: float
    control: Sample
    treatment: Sample

    @property
    def fewest(self) -> int:
        """Users of the smaller arm."""
        return min(len(self.control.x), len(self.treatment.x))


class Terms(NamedTuple):
    """Columns whose weighted sums give an estimate and its standard error; `centre` was taken out before."""

    columns: Floats  # (users, 3 or 5)
    is_ratio: bool


def weights(n_users: int, draws: int, seed: int, arm: int) -> Iterator[Floats]:
    """Blocks of (replicates, users) of independent Poisson(1) weights."""
    table = _poisson_table()
    n_words = -(-n_users // 16) * 4  # of 64 bits, for 4 users each; Philox makes four at a step
    size = max(1, BLOCK_WEIGHTS // max(n_users, 1))
    for first in range(0, draws, size):
        n = min(size, draws - first)
        words = raw_words([seed, arm], first, n, n_words)
        yield table[words.view("<u2").reshape(n, 4 * n_words)[:, :n_users]]


def raw_words(key: Sequence[int], first: int, draws: int, n_words: int) -> NDArray[np.uint64]:
    """(draws, words) of random bits from draw `first` on; words come in fours. Each draw has its own place in
    the stream, so blocks may be cut anywhere."""
    bits = np.random.Philox(key=list(key)).advance(first * n_words // 4)
    return bits.random_raw(draws * n_words).astype("<u8").reshape(draws, n_words)


def bootstrap_reference(
    control: Sample, treatment: Sample, *, draws: int = DRAWS, seed: int = 0
) -> Reference | None:
    """`stratified_bootstrap` of one stratum."""
    return stratified_bootstrap([Stratum(1.0, control, treatment)], draws=draws, seed=seed)


def stratified_bootstrap(strata: Sequence[Stratum], *, draws: int = DRAWS, seed: int = 0) -> Reference | None:
    """|t*| of the difference of two means or ratios; None where an arm has fewer than 2 users in a stratum.

    A replicate without users, or without variance, counts as beyond everything: p only grows by it.
    """
    if min(stratum.fewest for stratum in strata) < LEAST_USERS:
        return None
    terms = terms_of([sample for stratum in strata for sample in stratum[1:]])
    sums = [
        np.concatenate([block @ part.columns for block in weights(len(part.columns), draws, seed, place)])
        for place, part in enumerate(terms)
    ]
    shares = [stratum.share for stratum in strata]
    observed = [estimates(part.columns.sum(axis=0)[None, :], part.is_ratio) for part in terms]
    drawn = [estimates(total, part.is_ratio) for total, part in zip(sums, terms, strict=True)]
    control, treatment = (weighed(observed[arm::2], shares) for arm in (0, 1))
    difference = (treatment[0] - control[0])[0]
    return Reference.of(studentised(weighed(drawn[0::2], shares), weighed(drawn[1::2], shares), difference))


def terms_of(samples: list[Sample]) -> list[Terms]:
    """What to sum for each arm. The mean (or ratio times denominator) of all is taken out first, and values
    are scaled, so that no digits are lost at a mean of 1e12; t does not change by either."""
    x = np.concatenate([sample.x for sample in samples]).astype(float)
    if samples[0].y is None:
        deviation = x - x.mean()
        columns = [np.ones(len(x)), deviation / _size(deviation)]
    else:
        y = np.concatenate([np.asarray(sample.y) for sample in samples]).astype(float)
        ratio = x.sum() / y.sum() if y.sum() else 0.0
        deviation = x - ratio * y
        columns = [np.ones(len(x)), deviation / _size(deviation), y / _size(y)]
    products = [a * b for i, a in enumerate(columns[1:]) for b in columns[1 + i :]]
    ends = np.cumsum([len(sample.x) for sample in samples])[:-1]
    parts = np.split(np.column_stack([*columns, *products]), ends)
    return [Terms(part, samples[0].y is not None) for part in parts]


def estimates(sums: Floats, is_ratio: bool) -> tuple[Floats, Floats]:
    """(value, its variance) of each row of sums; NaN where there are too few users or a division by 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if not is_ratio:
            n, x, xx = sums.T
            return x / n, np.maximum(xx - x * x / n, 0) / (n - 1) / n
        n, x, y, xx, xy, yy = sums.T
        r = x / y
        return r, n / (n - 1) * np.maximum(xx - 2 * r * xy + r * r * yy, 0) / y**2


def weighed(parts: Sequence[tuple[Floats, Floats]], shares: Sequence[float]) -> tuple[Floats, Floats]:
    """(value, its variance) of each draw over strata."""
    return (
        np.sum([share * value for share, (value, _) in zip(shares, parts, strict=True)], axis=0),
        np.sum([share**2 * variance for share, (_, variance) in zip(shares, parts, strict=True)], axis=0),
    )


def studentised(
    control: tuple[Floats, Floats], treatment: tuple[Floats, Floats], difference: float
) -> Floats:
    """(difference* - difference) / standard error*; infinite where it cannot be computed, 0 for 0 / 0."""
    gap = treatment[0] - control[0] - difference
    error = np.sqrt(control[1] + treatment[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where((error == 0) & (np.abs(gap) < 1e-12), 0.0, gap / error)
    return np.where(np.isnan(t), np.inf, t)


def _poisson_table() -> NDArray[np.float64]:
    """The weight for each value of 16 bits: P(weight <= k) is right to 1 / 65,536."""
    ends = np.cumsum([exp(-1) / factorial(k) for k in range(12)])
    return np.searchsorted(ends, (np.arange(_LEVELS) + 0.5) / _LEVELS).astype(float)


def _size(values: Floats) -> float:
    largest = float(np.abs(values).max(initial=0.0))
    return largest or 1.0

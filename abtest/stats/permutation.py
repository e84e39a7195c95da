"""The permutation test: users are dealt to two arms again and again, in the numbers seen.

The statistic is Welch's t (for a ratio the delta method's), so the test is exact where the arms have one
distribution, and holds its level in large samples where only the means are equal (Chung and Romano 2013).
Where all deals can be listed they are; else each draw is a pure function of (seed, draw). Over strata, such
as phases, users are dealt within strata, as they were when the arms were drawn.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb, prod

import numpy as np
from numpy.typing import NDArray

from abtest.stats.bootstrap import (
    DRAWS,
    LEAST_USERS,
    Floats,
    Sample,
    Stratum,
    estimates,
    raw_words,
    studentised,
    terms_of,
    weighed,
)
from abtest.stats.reference import Reference

MOST_LISTED = 20_000
BLOCK = 256  # draws summed at a time
MOST_KEYS = 4_000_000  # random numbers in memory at a time
STREAM = 2**32  # beyond the arms of a bootstrap


def permutation_reference(
    control: Sample, treatment: Sample, *, draws: int = DRAWS, seed: int = 0
) -> Reference | None:
    """`stratified_permutation` of one stratum."""
    return stratified_permutation([Stratum(1.0, control, treatment)], draws=draws, seed=seed)


def stratified_permutation(
    strata: Sequence[Stratum], *, draws: int = DRAWS, seed: int = 0
) -> Reference | None:
    """|t| over deals of the users within strata; None where an arm has fewer than 2 users in a stratum."""
    if min(stratum.fewest for stratum in strata) < LEAST_USERS:
        return None
    parts = terms_of([sample for stratum in strata for sample in stratum[1:]])
    sizes = [(len(stratum.control.x), len(stratum.treatment.x)) for stratum in strata]
    n_deals = [comb(n_c + n_t, n_t) for n_c, n_t in sizes]
    is_exact = prod(n_deals) <= MOST_LISTED
    # of all deals of each stratum, every choice of one a stratum; of drawn ones, the same draw in each
    chosen = np.indices(n_deals).reshape(len(strata), -1) if is_exact else [slice(None)] * len(strata)
    sides: tuple[list[tuple[Floats, Floats]], list[tuple[Floats, Floats]]] = [], []
    for i, (n_c, n_t) in enumerate(sizes):
        columns = np.concatenate([part.columns for part in parts[2 * i : 2 * i + 2]])
        deals = _all_deals(n_c + n_t, n_t) if is_exact else _some_deals(n_c + n_t, n_t, draws, seed, i)
        treated = np.concatenate([columns[deal].sum(axis=1) for deal in deals])
        for side, sums in zip(sides, (columns.sum(axis=0) - treated, treated), strict=True):
            value, variance = estimates(sums, parts[0].is_ratio)
            side.append((value[chosen[i]], variance[chosen[i]]))
    control, treatment = (weighed(side, [stratum.share for stratum in strata]) for side in sides)
    return Reference.of(studentised(control, treatment, 0.0), is_exact=is_exact)


def _all_deals(n: int, n_treated: int) -> Iterator[NDArray[np.int64]]:
    yield np.array(list(combinations(range(n), n_treated)), dtype=np.int64)


def _some_deals(n: int, n_treated: int, draws: int, seed: int, stratum: int) -> Iterator[NDArray[np.int64]]:
    """Blocks of (draws, treated users)."""
    size = max(1, min(BLOCK, MOST_KEYS // n))
    n_words = -(-n // 4) * 4
    for first in range(0, draws, size):
        keys = raw_words([seed, STREAM + stratum], first, min(size, draws - first), n_words)[:, :n]
        yield np.argpartition(keys, n_treated - 1, axis=1)[:, :n_treated]

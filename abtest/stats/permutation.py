"""The permutation test: users are dealt to two arms again and again, in the numbers seen.

The statistic is Welch's t (for a ratio the delta method's), so the test is exact where the arms have one
distribution, and holds its level in large samples where only the means are equal (Chung and Romano 2013).
Where all deals can be listed they are; else each draw is a pure function of (seed, draw).
"""

from collections.abc import Iterator
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from abtest.stats.bootstrap import (
    DRAWS,
    LEAST_USERS,
    Sample,
    estimates,
    raw_words,
    studentised,
    terms_of,
)
from abtest.stats.reference import Reference

MOST_LISTED = 20_000
BLOCK = 256  # draws summed at a time
MOST_KEYS = 4_000_000  # random numbers in memory at a time
STREAM = 2**32  # beyond the arms of a bootstrap


def permutation_reference(
    control: Sample, treatment: Sample, *, draws: int = DRAWS, seed: int = 0
) -> Reference | None:
    """|t| over deals of the users; None where an arm has fewer than 2 users."""
    n_c, n_t = len(control.x), len(treatment.x)
    if min(n_c, n_t) < LEAST_USERS:
        return None
    parts = terms_of([control, treatment])
    columns = np.concatenate([part.columns for part in parts])
    is_exact = comb(n_c + n_t, n_t) <= MOST_LISTED
    deals = _all_deals(n_c + n_t, n_t) if is_exact else _some_deals(n_c + n_t, n_t, draws, seed)
    treated = np.concatenate([columns[deal].sum(axis=1) for deal in deals])
    total = columns.sum(axis=0)
    is_ratio = parts[0].is_ratio
    t = studentised(estimates(total - treated, is_ratio), estimates(treated, is_ratio), 0.0)
    return Reference.of(t, is_exact=is_exact)


def _all_deals(n: int, n_treated: int) -> Iterator[NDArray[np.int64]]:
    yield np.array(list(combinations(range(n), n_treated)), dtype=np.int64)


def _some_deals(n: int, n_treated: int, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Blocks of (draws, treated users)."""
    size = max(1, min(BLOCK, MOST_KEYS // n))
    n_words = -(-n // 4) * 4
    for first in range(0, draws, size):
        keys = raw_words([seed, STREAM], first, min(size, draws - first), n_words)[:, :n]
        yield np.argpartition(keys, n_treated - 1, axis=1)[:, :n_treated]

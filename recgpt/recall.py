"""Two-step recall: m items, then the model's own pick is appended to the history, then n more items.

Step 1 ranks all items after the history (L1 is the top m) and picks the best item that the history does not
hold. Step 2 appends the pick as a generated item, one more token, and ranks again; L2 is the top n without
the items of L1. The list is L1 followed by L2. Both rankings are kept as two top lists, from which the list
for every (m, n) follows without running the network again. Excluded items are masked with minus infinity in
both rankings, but the pick looks at the history alone: what has been shown meanwhile then changes no state.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from baselines.base import Ids, without
from baselines.evaluate import list_ranks
from baselines.layers import last_slot
from recgpt.growing import growing
from recgpt.model import Decoder
from recgpt.prompts import best

CUTOFFS = (5, 10, 20, 50)
"""Lengths of lists for which (m, n) is chosen."""


class Split(NamedTuple):
    """How a list of m + n items is put together, and how it did against the one-step list of that length:
    users whose target only this list held (gained), and only the one-step list (lost)."""

    m: int
    n: int
    gained: int = 0
    lost: int = 0


@torch.no_grad()
def encode_twice(
    decoder: Decoder, users: Tensor, histories: Tensor, *, repeats: bool = False
) -> tuple[Tensor, Tensor]:
    """The states (B, D) that rank in step 1 and in step 2. `repeats`: the pick may be of the history.

    An empty history counts as one padding item. Both states rank by the item table; where the network has an
    output layer of its own, that layer makes the pick, which need not be the first of step 1 then.
    """
    grown = growing(decoder, users, histories, last_slot(histories) + 1, 1)
    first = grown.state
    picks = best(decoder, first, None if repeats else histories)
    return first, grown.append(picks)


def merge(first: Ids, second: Ids, m: int, n: int, since: Ids) -> Ids:
    """(rows, m + n): L1 followed by L2, from two rankings and without the items of `since` (rows, any)."""
    l1 = without(first, since, m)
    l2 = without(second, np.concatenate([np.asarray(since, np.int64), l1], axis=1), n)
    return np.concatenate([l1, l2], axis=1)


def split_ranks(first: Ids, second: Ids, targets: Ids, m: int, n: int) -> Ids:
    """(rows,) 1-based rank of each target in the list for (m, n), 0 where the list does not hold it."""
    r1, r2 = list_ranks(first, targets), list_ranks(second, targets)
    ahead = np.arange(second.shape[1]) < (r2 - 1)[:, None]  # of the target in the second ranking
    in_l1 = np.zeros_like(ahead)
    for column in first[:, :m].T:
        in_l1 |= second == column[:, None]
    q = r2 - (ahead & in_l1).sum(1)
    return np.where((r1 > 0) & (r1 <= m), r1, np.where((r2 > 0) & (q <= n), m + q, 0))


def choose_splits(
    first: Ids, second: Ids, targets: Ids, cutoffs: Sequence[int] = CUTOFFS, *, caution: float = 1.0
) -> dict[int, Split]:
    """For each length the (m, n), n at most half, that finds most targets, if that is more than one step
    finds by `caution` standard errors (the root of the discordant pairs); else one step, (length, 0).

    Meant for validation targets. The caution is there because the best of many splits looks good by luck
    alone.
    """
    return {length: _choose(first, second, targets, length, caution) for length in cutoffs}


def split_for(k: int, splits: dict[int, Split]) -> tuple[int, int]:
    """(m, n) with m + n = k: that of the longest list not above k (else of the shortest), scaled.

    >>> split_for(30, {10: Split(9, 1), 20: Split(18, 2)})
    (27, 3)
    """
    if not splits:
        return k, 0
    length = max((length for length in splits if length <= k), default=min(splits))
    n = round(k * splits[length].n / length)
    return k - n, n


def _choose(first: Ids, second: Ids, targets: Ids, length: int, caution: float) -> Split:
    one_step = split_ranks(first, second, targets, length, 0) > 0
    chosen = Split(length, 0)
    for n in range(1, length // 2 + 1):
        found = split_ranks(first, second, targets, length - n, n) > 0
        gained, lost = int((found & ~one_step).sum()), int((one_step & ~found).sum())
        if gained - lost > max(chosen.gained - chosen.lost, caution * (gained + lost) ** 0.5):
            chosen = Split(length - n, n, gained, lost)
    return chosen

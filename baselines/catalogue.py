"""The items as a fitted network has them: all of them ranked for a block of users.

Batch-invariant: scores are computed in blocks of exactly 64 rows, and ties go to the smaller item id.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.base import Ids
from baselines.scores import ROWS, ItemScores
from baselines.toplist import top_items
from baselines.training import torch_threads

BLOCK = ROWS
"""Rows of a scoring block."""

WIDTHS = (12, 50)
"""Columns of a history in a block; a history takes the first width that holds it."""


class Catalogue:
    """table (n_items + 1, d): what users are scored against, row 0 padding; counts (n_items + 1,): training
    interactions of each item."""

    def __init__(self, table: Tensor, counts: Ids, threads: int) -> None:
        self._scores = ItemScores(table)
        self.n_items = self._scores.n_items
        self._counts, self._threads = counts, threads

    @torch.no_grad()
    def top_of(
        self, vectors: Tensor, exclude: Ids, depth: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(items, scores) of the best items for a block of 64 vectors; the first len(exclude) rows count."""
        with torch_threads(self._threads):
            scores = self._scores.of(vectors)
        return top_items(self._masked(scores[: len(exclude)].cpu().numpy(), exclude), depth)

    def _masked(self, scores: NDArray[np.float32], exclude: Ids) -> NDArray[np.float32]:
        """Write -inf over padding, what is past the catalogue, and excluded items."""
        scores[:, self.n_items + 1 :] = -np.inf
        scores[np.arange(len(exclude))[:, None], exclude] = -np.inf
        scores[:, 0] = -np.inf
        return scores

    def popular(self, exclude: Ids, depth: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(items, training interactions of each) for users without a history: what `top` says about them."""
        counts = np.zeros((len(exclude), self._scores.width), np.float32)
        counts[:, : self.n_items + 1] = self._counts
        return top_items(self._masked(counts, exclude), depth)


def blocks(lengths: Ids) -> Iterator[tuple[int, Ids]]:
    width_of = np.searchsorted(np.array(WIDTHS), lengths)
    for number, width in enumerate(WIDTHS):
        rows = np.flatnonzero(width_of == number)
        for start in range(0, len(rows), BLOCK):
            yield width, rows[start : start + BLOCK]

"""Scores of all items for a block of users: inner products, the best interest where there are several."""

import torch
from torch import Tensor

from baselines.toplist import padded_width

ROWS = 64
"""Users whose scores are held at once: what fits a cache."""


class ItemScores:
    """table (n_items + 1, d): what users are scored against, copied by columns, which makes the product a
    quarter cheaper. Buffers are kept: what `of` returns holds until its next call."""

    def __init__(self, table: Tensor) -> None:
        self.n_items = len(table) - 1
        self.width = padded_width(len(table))
        self._by_column = table.new_zeros(table.shape[1], self.width)
        self._by_column[:, : len(table)] = table.T
        self._best = table.new_empty(ROWS, self.width)
        self._other: Tensor | None = None

    def of(self, vectors: Tensor) -> Tensor:
        """(B, width) of vectors (B, d) or (B, I, d), B <= 64; columns past n_items are 0."""
        best = self._best[: len(vectors)]
        if vectors.dim() == 2:
            return torch.mm(vectors, self._by_column, out=best)
        if self._other is None:
            self._other = torch.empty_like(self._best)
        other = self._other[: len(vectors)]
        torch.mm(vectors[:, 0], self._by_column, out=best)
        for interest in range(1, vectors.shape[1]):
            torch.mm(vectors[:, interest], self._by_column, out=other)
            torch.maximum(best, other, out=best)
        return best

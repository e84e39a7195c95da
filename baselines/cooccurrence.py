"""First item vectors from which items are used together: a factorised table of co-occurrences.

Two items of one training window co-occur; what counts is their positive pointwise mutual information, and its
best approximation of the given rank gives each item a vector (Levy and Goldberg, 2014: what word2vec's
skip-gram factorises implicitly). A network that starts there already knows neighbourhoods of items that it
would have to find from a handful of interactions each.
"""

import numpy as np
from numpy.typing import NDArray

from baselines.base import Interactions
from baselines.batches import windows

SMOOTHING = 0.75
"""Exponent of the frequency of the second item of a pair, which keeps rare items from dominating."""


def item_vectors(interactions: Interactions, dim: int) -> NDArray[np.float32]:
    """(n_items + 1, dim) vectors of length 1; 0 for padding and for items that co-occur with no other one.

    Only pairs within a window of at most 50 items count, so time and memory grow with the interactions. The
    same interactions give the same vectors. A catalogue of fewer than dim + 2 items leaves columns of 0.
    """
    n = interactions.n_items + 1
    found = np.zeros((n, dim), np.float32)
    information = _information(interactions)
    rank = min(dim, n - 2)
    if rank < 1 or information.nnz == 0:
        return found
    vectors = _leading(information, rank)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    found[:, :rank] = np.divide(vectors, length, where=length > 1e-6, out=np.zeros_like(vectors))
    return found


def _information(interactions: Interactions):  # type: ignore[no-untyped-def]
    """(n, n) sparse, symmetric: max(0, log(p(a, b) / (p(a) p'(b)))), p' smoothed, both ways averaged."""
    from scipy.sparse import csr_matrix

    n = interactions.n_items + 1
    cut = windows(interactions)
    start, length = cut.starts, cut.lengths + 1  # inputs and the last target
    row = np.repeat(np.arange(len(start)), length)
    within = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    item = cut.items[start[row] + within]
    used = csr_matrix((np.ones(len(row)), (row, item)), (len(start), n))
    used.data[:] = 1.0  # an item counts once in a window, however often it is there
    together = (used.T @ used).tocoo()
    others = together.row != together.col
    a, b, count = together.row[others], together.col[others], together.data[others]
    frequency = np.bincount(a, count, minlength=n)
    smoothed = frequency**SMOOTHING
    expected = frequency[a] * smoothed[b] / max(smoothed.sum(), 1.0)
    one_way = csr_matrix((np.maximum(np.log(count / expected), 0.0), (a, b)), (n, n))
    return (one_way + one_way.T) / 2


def _leading(matrix, rank: int) -> NDArray[np.float64]:  # type: ignore[no-untyped-def]
    """Eigenvectors of the largest eigenvalues by size, each scaled by the root of that size."""
    from scipy.sparse.linalg import eigsh

    n = matrix.shape[0]
    start = np.random.default_rng(0).standard_normal(n)
    values, vectors = eigsh(matrix, k=rank, which="LM", v0=start)
    scaled: NDArray[np.float64] = vectors * np.sqrt(np.abs(values))
    return scaled

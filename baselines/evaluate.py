"""How good a recommender is offline: HR@k, NDCG@k and MRR by full ranking over all items, one target a user.

Full ranking: every item competes, never a sample. Seen items are masked (as if never in the catalogue) with
exclude="history". The rank of every user is kept, so two models can be compared user by user.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.base import Ids, RanksTargets, Recommender, recent
from baselines.data import Validation
from baselines.distributed import n_ranks, rank, total
from baselines.scores import ROWS, ItemScores


@dataclass(frozen=True)
class Evaluation:
    """ranks (n,): the 1-based place of the target in the user's list, 0 = not in it. The list has max(ks)
    items, so MRR counts nothing below. `seconds` are CPU seconds."""

    ranks: Ids
    ks: tuple[int, ...]
    seconds: float

    @property
    def n_users(self) -> int:
        return len(self.ranks)

    @property
    def hr(self) -> dict[int, float]:
        return {k: float(hits(self.ranks, k).mean()) for k in self.ks}

    @property
    def ndcg(self) -> dict[int, float]:
        return {k: float(gains(self.ranks, k).mean()) for k in self.ks}

    @property
    def mrr(self) -> float:
        return float(np.divide(1.0, self.ranks, where=self.ranks > 0, out=np.zeros(self.n_users)).mean())


class PairedDifference(NamedTuple):
    """Mean of a - b over users, with a percentile bootstrap interval."""

    difference: float
    low: float
    high: float


def evaluate(
    recommender: Recommender,
    users: Ids,
    histories: Ids,
    targets: Ids,
    *,
    exclude: Literal["history"] | Ids | None = None,
    ks: Sequence[int] = (5, 10),
    block: int = 1024,
) -> Evaluation:
    """Ask a model that tells ranks for the targets' ranks; any other for lists of max(ks) items, `block`
    users at a time (models score 64 at once, so much fewer leave their blocks half empty), to look for the
    targets in them. Raises ValueError without users."""
    if not len(users) == len(histories) == len(targets) or not len(users):
        raise ValueError(
            f"{len(users)} users, {len(histories)} histories and {len(targets)} targets; "
            "evaluation needs the same number of each, and at least one"
        )
    if isinstance(exclude, str) and exclude != "history":
        raise ValueError(f"exclude is {exclude!r}; allowed: 'history', an array of item ids, or None")
    started = time.process_time()
    masked = histories if isinstance(exclude, str) else exclude
    if masked is None:
        masked = np.zeros((len(users), 0), np.int64)
    if isinstance(recommender, RanksTargets):
        told = recommender.target_ranks(users, histories, targets, masked)
        if told is not None:
            ranks = np.where(told <= max(ks), told, 0)
            return Evaluation(ranks, tuple(ks), time.process_time() - started)
    ranks = np.zeros(len(users), np.int64)
    for start in range(0, len(users), block):
        rows = slice(start, start + block)
        hidden = masked[rows]
        lists = recommender.recommend(users[rows], histories[rows], max(ks), hidden)
        ranks[rows] = list_ranks(lists, targets[rows])
    return Evaluation(ranks, tuple(ks), time.process_time() - started)


def evaluate_split(
    recommender: Recommender, validation: Validation, ks: Sequence[int] = (5, 10)
) -> Evaluation:
    """evaluate() on the held-out items of a split, seen items masked as the split says."""
    users, histories, targets, exclude_history = validation
    exclude: Literal["history"] | None = "history" if exclude_history else None
    return evaluate(recommender, users, histories, targets, exclude=exclude, ks=ks)


def list_ranks(lists: Ids, targets: Ids) -> Ids:
    """The 1-based place of each target in its list, 0 = not there.

    >>> list_ranks(np.array([[4, 2], [7, 1]]), np.array([2, 3])).tolist()
    [2, 0]
    """
    found = lists == targets[:, None]
    return np.where(found.any(axis=1), found.argmax(axis=1) + 1, 0)


def hits(ranks: Ids, k: int) -> NDArray[np.float64]:
    """1 where the target is among the first k, for each user."""
    return ((ranks >= 1) & (ranks <= k)).astype(float)


def gains(ranks: Ids, k: int) -> NDArray[np.float64]:
    """1 / log2(rank + 1) where the target is among the first k (NDCG with one relevant item), a user each."""
    return hits(ranks, k) / np.log2(np.maximum(ranks, 1) + 1)


def paired_difference(
    a: NDArray[np.float64], b: NDArray[np.float64], *, level: float = 0.95, n_draws: int = 2000, seed: int = 0
) -> PairedDifference:
    """Of two models' values (hits or gains) for the same users, in the same order."""
    if len(a) != len(b) or not len(a):
        raise ValueError(f"{len(a)} values against {len(b)}; a paired difference needs the same users")
    difference = np.asarray(a, float) - b
    generator = np.random.default_rng(seed)
    # A draw of n users with replacement is a multinomial count over the distinct differences.
    values, counts = np.unique(difference, return_counts=True)
    drawn = generator.multinomial(len(a), counts / len(a), size=n_draws) @ values / len(a)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return PairedDifference(float(difference.mean()), float(low), float(high))


class Comparison(NamedTuple):
    """Mean of a - b over users and seeds, a percentile bootstrap interval, and its two-sided p-value."""

    difference: float
    low: float
    high: float
    p: float


def two_way_comparison(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    *,
    level: float = 0.95,
    n_draws: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Two models' values (hits or gains), a (S, n) and b (R, n): a row a training seed, a column a user.

    Both ways are drawn anew: users (the same for both models, so the comparison is paired) and seeds (for
    each model on its own, because seed 0 of one has nothing in common with seed 0 of the other). With one
    seed the interval speaks of users alone; with five it is still somewhat too narrow, as a bootstrap of five
    is. p is twice the smaller share of draws on the other side of 0, with one added to both counts, so it is
    never 0. Raises ValueError where the users differ or there are none.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not a.size or not b.size:
        raise ValueError(f"values of shapes {a.shape} and {b.shape}; give (seeds, users) of the same users")
    generator = np.random.default_rng(seed)
    # A draw of n users with replacement is a multinomial count over the distinct columns.
    columns, counts = np.unique(np.concatenate((a, b)), axis=1, return_counts=True)
    n, chunk = a.shape[1], max(1, 2_000_000 // len(counts))
    drawn = []
    for start in range(0, n_draws, chunk):
        size = min(chunk, n_draws - start)
        means = generator.multinomial(n, counts / n, size=size) @ columns.T / n  # (size, S + R)
        of_a = _resampled_rows(means[:, : len(a)], generator)
        drawn.append(of_a - _resampled_rows(means[:, len(a) :], generator))
    differences = np.concatenate(drawn)
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    p = min(1.0, 2 * (int(tail) + 1) / (n_draws + 1))
    return Comparison(float(a.mean() - b.mean()), float(low), float(high), p)


def exact_ranks(vectors: Tensor, items: ItemScores, targets: Tensor, exclude: Tensor) -> Tensor:
    """The full rank of each target without a list: 1 + the items that score above it (or as much, with a
    smaller id). 0 where the target itself is excluded.

    vectors (B, d) or (B, I, d), targets (B,), exclude (B, E) with 0 = none.
    """
    ranks = torch.zeros_like(targets)
    for start in range(0, len(vectors), ROWS):
        rows = slice(start, start + ROWS)
        scores = items.of(vectors[rows])[:, : items.n_items + 1]
        scores[:, 0] = -torch.inf
        scores.scatter_(1, exclude[rows], -torch.inf)
        ranks[rows] = _places(scores, targets[rows])
    return ranks


def _places(scores: Tensor, targets: Tensor) -> Tensor:
    """(B,) ranks of targets among the columns, ties to the smaller; 0 where a target's score is -inf."""
    own = scores.gather(1, targets[:, None])
    above = _above_by_row if scores.device.type == "cpu" else _above_at_once
    return torch.where(own[:, 0] > -torch.inf, above(scores, own, targets) + 1, 0)


def _above_at_once(scores: Tensor, own: Tensor, targets: Tensor) -> Tensor:
    smaller = torch.arange(scores.shape[1], device=scores.device) < targets[:, None]
    return ((scores > own) | ((scores == own) & smaller)).sum(dim=1)


def _above_by_row(scores: Tensor, own: Tensor, targets: Tensor) -> Tensor:
    """The same in a quarter of the time on a CPU, where torch is slow to sum truth values."""
    rows = zip(scores.numpy(), own[:, 0].numpy(), targets.tolist(), strict=True)
    return torch.tensor(
        [
            np.count_nonzero(row[:target] >= score) + np.count_nonzero(row[target + 1 :] > score)
            for row, score, target in rows
        ],
        dtype=torch.long,
        device=scores.device,
    )


def validator(
    encode: Callable[[Tensor, Tensor], Tensor],
    table: Callable[[], Tensor],
    validation: Validation,
    *,
    k: int = 10,
    max_length: int = 50,
    block: int = 256,
    max_users: int = 5000,
    device: str | torch.device = "cpu",
) -> Callable[[], float]:
    """A function that measures NDCG@k of the network as it is now, by exact full ranking.

    encode(users (B,), items (B, L)) -> (B, d) or (B, I, d); table() -> (n_items + 1, d). Of more than
    `max_users` users every so-many-th is measured, always the same. Users go in blocks of similar length,
    which the ranks of a distributed training divide among them.
    """
    n = len(validation.users)
    chosen = np.arange(n) if n <= max_users else np.linspace(0, n - 1, max_users).astype(np.int64)
    histories = validation.histories[chosen]
    seen = histories if validation.exclude_history else histories[:, :0]
    inputs = validation.users[chosen], histories, validation.targets[chosen], seen
    parts = list(_blocks_by_length(*inputs, block, max_length, device, rank(), n_ranks()))

    @torch.no_grad()
    def measure() -> float:
        items = ItemScores(table())
        ranks = [exact_ranks(encode(u, h), items, t, seen).cpu().numpy() for _, u, h, t, seen in parts]
        own = gains(np.concatenate([np.zeros(0, np.int64), *ranks]), k)
        gained, n_users = total(float(own.sum()), len(own))
        return gained / n_users

    return measure


@torch.no_grad()
def full_ranks(
    encode: Callable[[Tensor, Tensor], Tensor],
    table: Tensor,
    users: Ids,
    histories: Ids,
    targets: Ids,
    exclude: Ids,
    *,
    max_length: int = 50,
    block: int = 256,
    device: str | torch.device = "cpu",
) -> Ids:
    """(n,) the exact rank of each user's target, 0 where it is excluded; encode and table as of `validator`.

    Blocks hold users of similar length, so half as many slots are computed as for lists, and the last bits of
    a vector are those of its block.
    """
    ranks, items = np.zeros(len(users), np.int64), ItemScores(table)
    for rows, u, h, t, hidden in _blocks_by_length(
        users, histories, targets, exclude, block, max_length, device
    ):
        ranks[rows] = exact_ranks(encode(u, h), items, t, hidden).cpu().numpy()
    return ranks


def _blocks_by_length(
    users: Ids,
    histories: Ids,
    targets: Ids,
    exclude: Ids,
    block: int,
    max_length: int,
    device: str | torch.device,
    first: int = 0,
    step: int = 1,
) -> Iterator[tuple[Ids, Tensor, Tensor, Tensor, Tensor]]:
    """(rows, users, histories, targets, exclude) of `block` users of similar length, histories no wider than
    needed; every step-th block from `first` on."""
    n_items = np.count_nonzero(histories, axis=1)
    by_length = np.argsort(n_items, kind="stable")
    for start in range(first * block, len(by_length), step * block):
        rows = by_length[start : start + block]
        longest = max(1, int(n_items[rows].max()))
        hidden = exclude[rows]
        used = np.flatnonzero(hidden.any(axis=0))
        columns = (
            users[rows],
            recent(histories[rows, :longest], min(longest, max_length)),
            targets[rows],
            hidden[:, : used[-1] + 1 if len(used) else 1] if hidden.shape[1] else np.zeros((len(rows), 1)),
        )
        u, h, t, e = (torch.from_numpy(np.ascontiguousarray(c, np.int64)).to(device) for c in columns)
        yield rows, u, h, t, e


def _resampled_rows(means: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """The mean of each row over columns drawn with replacement: (draws, S) -> (draws,)."""
    drawn = generator.integers(0, means.shape[1], means.shape)
    resampled: NDArray[np.float64] = np.take_along_axis(means, drawn, axis=1).mean(axis=1)
    return resampled

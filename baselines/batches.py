"""How sequences reach a network: training windows, batches of similar length, negatives.

No pads to speak of: windows of similar length share a batch, which is padded on the right to its longest row
(about 5 % of the slots). Under causal attention right pads are invisible to real items, so no mask is needed.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from baselines.base import MAX_LENGTH, Ids, Interactions


class Windows(NamedTuple):
    """Stretches of the users' sequences: window w has the inputs items[start : start + length] and, one
    further, the targets items[start + 1 : start + length + 1]. Every item but a user's first is the
    target of exactly one window."""

    items: Ids
    users: Ids
    starts: Ids
    lengths: Ids

    @property
    def n_targets(self) -> int:
        return int(self.lengths.sum())

    def content_hash(self) -> str:
        """The same text for the same windows."""
        digest = hashlib.sha256()
        for column in self:
            digest.update(np.ascontiguousarray(column, "<i8").tobytes())
        return digest.hexdigest()[:32]


class Batch(NamedTuple):
    """users (B,); items (B, T), left-aligned, 0 = pad; targets (B, T), the next items, 0 = none."""

    users: Tensor
    items: Tensor
    targets: Tensor

    def whole(self) -> Tensor:
        """The items with the last target at their end: (B, T + 1), for models that mask what they predict."""
        return torch.cat((self.items[:, :1], self.targets), dim=1)

    def to(self, device: str | torch.device) -> "Batch":
        return Batch(self.users.to(device), self.items.to(device), self.targets.to(device))

    @property
    def n_targets(self) -> int:
        return int(torch.count_nonzero(self.targets))

    def part(self, number: int, n_parts: int) -> "Batch":
        """Every n_parts-th row, from row `number` on: rows of each length in every part."""
        return Batch(*(column[number::n_parts] for column in self))


def windows(interactions: Interactions, max_length: int = MAX_LENGTH) -> Windows:
    """Cut each sequence into windows of at most `max_length` targets, counted from its end, so that the most
    recent window is full."""
    offsets, items = interactions.sequences()
    n_targets = np.maximum(np.diff(offsets) - 1, 0)
    n_windows = -(-n_targets // max_length)
    user = np.repeat(np.arange(interactions.n_users), n_windows)
    number = np.arange(len(user)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)  # 0 = the last
    end = offsets[user + 1] - 1 - number * max_length
    start = np.maximum(end - max_length, offsets[user])
    return Windows(items, user, start, end - start)


def batches(
    windows: Windows, batch_targets: int, generator: np.random.Generator, max_targets: int | None = None
) -> Iterator[Batch]:
    """One epoch: every window once, or a random draw of them of `max_targets` targets.

    A batch has at most `batch_targets` slots (but at least one window). Windows are sorted by length with
    jitter, so batches have other companions each epoch, and come in random order.
    """
    chosen = _draw(windows, max_targets, generator)
    length = windows.lengths[chosen]
    chosen = chosen[np.argsort(length * (1 + 0.1 * generator.random(len(chosen))), kind="stable")]
    cuts = _cuts(windows.lengths[chosen], batch_targets)
    for number in generator.permutation(len(cuts) - 1):
        yield _batch(windows, chosen[cuts[number] : cuts[number + 1]])


def uniform_negatives(n_items: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Item ids 1 .. n_items, each as likely as the other. A negative may be a target by accident: the losses
    mask it."""
    return torch.randint(1, n_items + 1, shape, generator=generator, device=generator.device)


def _draw(windows: Windows, max_targets: int | None, generator: np.random.Generator) -> Ids:
    everything = generator.permutation(len(windows.users))
    if max_targets is None or windows.n_targets <= max_targets:
        return everything
    before = np.cumsum(windows.lengths[everything]) - windows.lengths[everything]
    return everything[before < max_targets]


def _cuts(lengths: Ids, batch_targets: int) -> list[int]:
    """Where to cut nearly ascending lengths so that rows times longest row stays within `batch_targets`."""
    cuts, longest = [0], 0
    for row, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        if row > cuts[-1] and (row + 1 - cuts[-1]) * longest > batch_targets:
            cuts.append(row)
            longest = length
    return [*cuts, len(lengths)] if len(lengths) else cuts


def _batch(windows: Windows, rows: Ids) -> Batch:
    length = windows.lengths[rows]
    column = np.arange(length.max())
    inside = column < length[:, None]
    at = np.where(inside, windows.starts[rows][:, None] + column, 0)
    items = np.where(inside, windows.items[at], 0)
    targets = np.where(inside, windows.items[np.where(inside, at + 1, 0)], 0)
    return Batch(*(torch.from_numpy(array) for array in (windows.users[rows], items, targets)))

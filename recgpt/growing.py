"""Histories to which the model appends items of its own, one by one, and the state after each.

Where an appended item leaves the states before it as they are, each is one more token after a cache of keys
and values. Where it moves the positions of the others or takes the place of a pad, the row is encoded anew.
"""

from typing import Protocol

import torch
from torch import Tensor

from recgpt.model import GENERATED, Cache, Decoder


class Growing(Protocol):
    """state (B, D): after the last item of each history."""

    state: Tensor

    def append(self, picks: Tensor) -> Tensor:
        """The state (B, D) after one more generated item (B,) at the end of each history."""


def growing(decoder: Decoder, users: Tensor | None, items: Tensor, lengths: Tensor, room: int) -> Growing:
    """The first `lengths` (B,), 1 or more, of the left-aligned items (B, T), with room for `room` more."""
    if decoder.config.append_only:
        return _Cached(decoder, users, items, lengths, room)
    return _Encoded(decoder, users, items, lengths)


class _Cached:
    """The cache holds all T slots, followed by what was appended. A new slot looks at the first `lengths` of
    its row and at all that was appended, and stands at the position after them, the last one at most."""

    def __init__(
        self, decoder: Decoder, users: Tensor | None, items: Tensor, lengths: Tensor, room: int
    ) -> None:
        self._decoder, self._users, self._lengths = decoder, users, lengths
        self._appended = 0
        self._cache = Cache(decoder, len(items), items.shape[1] + room)
        self.state = decoder(items, users, cache=self._cache, only=lengths - 1)[:, 0]

    def append(self, picks: Tensor) -> Tensor:
        slots = torch.arange(self._cache.filled + 1, device=picks.device)
        own = slots < self._lengths[:, None]
        mask = own | (slots >= self._cache.filled - self._appended)  # (B, slots)
        positions = (self._lengths + self._appended)[:, None].clamp(max=self._decoder.config.max_length)
        h = self._decoder(
            picks[:, None],
            self._users,
            positions=positions,
            segments=torch.full_like(positions, GENERATED),
            mask=mask[:, None],
            cache=self._cache,
        )
        self._appended += 1
        self.state = h[:, 0]
        return self.state


class _Encoded:
    """The window of the last max_length items, encoded anew whenever it has changed. Its width depends on T
    and on how many items were appended, so a row's state does not depend on the rows beside it."""

    def __init__(self, decoder: Decoder, users: Tensor | None, items: Tensor, lengths: Tensor) -> None:
        self._decoder, self._users, self._lengths = decoder, users, lengths
        self._items = items * (torch.arange(items.shape[1], device=items.device) < lengths[:, None])
        self._segments = torch.zeros_like(items)
        self.state = self._encode()

    def append(self, picks: Tensor) -> Tensor:
        window = self._decoder.config.max_length
        full = self._lengths == window
        self._lengths = (self._lengths + 1).clamp(max=window)
        self._items = self._extended(self._items, picks, full)
        self._segments = self._extended(self._segments, torch.full_like(picks, GENERATED), full)
        self.state = self._encode()
        return self.state

    def _extended(self, columns: Tensor, values: Tensor, full: Tensor) -> Tensor:
        """Values (B,) at the new end of each row; a full row has lost its first slot."""
        wider = torch.nn.functional.pad(columns, (0, 1))
        wider = torch.where(full[:, None], wider.roll(-1, 1), wider)[:, : self._decoder.config.max_length]
        return wider.scatter(1, self._lengths[:, None] - 1, values[:, None])

    def _encode(self) -> Tensor:
        last = self._lengths - 1
        h: Tensor = self._decoder(self._items, self._users, segments=self._segments, only=last)
        return h[:, 0]

"""BERT4Rec: items are masked and found again from both sides (Sun et al., 2019, arXiv 1904.06690).

Training hides round(rho n) of the n items of a window behind a mask token and predicts each from what is
left on both sides (the Cloze task, eq. 8); a share of the windows hides its last item alone, which is the
task of serving ("fine-tuning" in section 3.6, mixed in throughout as in the authors' data). To recommend, a
mask token is appended to the history. Output layer as in eq. 7: softmax(GELU(h W + b) E^T + b_O), with the
LayerNorm after the GELU that the authors' code has.

Positions count from the end, so that a mask token finds the last item at the same place whatever the length.

Departures: masks are drawn anew in every epoch, where the authors store ten copies; Adam at a constant rate
without the L2 weight of .01, warm-up and clipping; the loss may be over negatives. The mask token is a vector
of its own, no row of the item table, so it cannot be scored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.base import MAX_LENGTH
from baselines.batches import Batch
from baselines.layers import Block, initialise, last_slot
from baselines.losses import LossSettings, NextItemLoss
from baselines.networks import SequenceNetwork
from baselines.sequential import SequentialRecommender
from baselines.settings import BEST_TRAINING, Preset, TrainingSettings


@dataclass(frozen=True)
class BERT4RecSettings:
    dim: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.2
    attention_dropout: float | None = None  # None = as `dropout`
    mask_share: float = 0.6  # rho: the items of a window that are hidden
    last_share: float = 0.1  # windows whose last item is hidden, and no other
    loss: LossSettings = LossSettings()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        if not 0 < self.mask_share < 1:
            raise ValueError(f"mask_share is {self.mask_share}; it must be above 0 and below 1")
        if not 0 <= self.last_share <= 1:
            raise ValueError(f"last_share is {self.last_share}; it must be 0 to 1")


class BERT4RecNetwork(SequenceNetwork):
    def __init__(self, n_items: int, settings: BERT4RecSettings) -> None:
        super().__init__()
        s = settings
        attention = s.dropout if s.attention_dropout is None else s.attention_dropout
        self.mask_share, self.last_share = s.mask_share, s.last_share
        self.items = nn.Embedding(n_items + 1, s.dim, padding_idx=0)
        self.mask = nn.Embedding(1, s.dim)
        self.positions = nn.Embedding(MAX_LENGTH + 1, s.dim)
        self.norm = nn.LayerNorm(s.dim)
        self.drop = nn.Dropout(s.dropout)
        self.blocks = nn.ModuleList(Block(s.dim, s.heads, s.dropout, attention) for _ in range(s.layers))
        self.head = nn.Sequential(nn.Linear(s.dim, s.dim), nn.GELU(), nn.LayerNorm(s.dim))
        self.bias = nn.Parameter(torch.zeros(n_items + 1, 1))
        self.next_item_loss = NextItemLoss(s.loss)
        initialise(self)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        window = batch.whole()  # (B, T)
        hidden = cloze(window, self.mask_share, self.last_share, generator)
        x, real = self._embed(window, hidden)
        for block in self.blocks:
            x = block(x, real)
        return self.next_item_loss(self._query(x[hidden]), self.table(), window[hidden], generator)

    def encode(self, users: Tensor, items: Tensor) -> Tensor:
        window = F.pad(items, (0, 1))
        n = (items > 0).sum(dim=1)  # the slot after the history: (B,)
        slot = torch.arange(window.shape[1], device=items.device)
        x, real = self._embed(window, slot == n[:, None])
        for block in self.blocks[:-1]:
            x = block(x, real)
        last: Block = self.blocks[-1]  # type: ignore[assignment]
        return self._query(last.at(x, n)[:, 0])

    def table(self) -> Tensor:
        """Items with their bias as one more column: (n_items + 1, d + 1)."""
        return torch.cat((self.items.weight, self.bias), dim=1)

    def _embed(self, window: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, d) and which slots are no pads (B, T)."""
        real = (window > 0) | hidden
        items = torch.where(hidden[:, :, None], self.mask.weight, self.items(window))
        slot = torch.arange(window.shape[1], device=window.device)
        from_end = (real.sum(dim=1, keepdim=True) - 1 - slot).clamp_min(0)
        return self.drop(self.norm(items + self.positions(from_end))), real

    def _query(self, h: Tensor) -> Tensor:
        return F.pad(self.head(h), (0, 1), value=1.0)  # the bias counts once


class BERT4Rec(SequentialRecommender):
    name = "bert4rec"
    settings_type = BERT4RecSettings
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            BERT4RecSettings(dropout=0.5, attention_dropout=0.2, loss=LossSettings("full")),
            TrainingSettings(epochs=200, max_targets=None, lr=1e-3, patience=20),
            "section 4.3 and the authors' configuration for Beauty; a constant 1e-3 where they take 400,000 "
            "steps at 1e-4",
        ),
        "best": Preset(
            BERT4RecSettings(dropout=0.2, loss=LossSettings("full")),
            replace(BEST_TRAINING, epochs=48, patience=48),
            "the best of three trials on validation (bench/models.json), for four times SASRec's epochs: the "
            "task of serving, a masked last item, is one in ten windows of training",
        ),
    }

    def build(self, n_users: int, n_items: int) -> BERT4RecNetwork:
        return BERT4RecNetwork(n_items, self.settings)


def cloze(window: Tensor, share: float, last_share: float, generator: torch.Generator) -> Tensor:
    """What to hide of left-aligned windows (B, T): (B, T), True in one slot a row or more, never in pads.

    A row hides round(share n) of its n items at random; with probability `last_share` its last one instead.
    """
    real = window > 0
    n_hidden = (real.sum(dim=1) * share).round().clamp_min(1)
    draw = torch.rand(window.shape, generator=generator, device=window.device).masked_fill(~real, 2.0)
    hidden = draw.argsort(dim=1).argsort(dim=1) < n_hidden[:, None]
    last = torch.arange(window.shape[1], device=window.device) == last_slot(window)[:, None]
    only_last = torch.rand(len(window), 1, generator=generator, device=window.device) < last_share
    return torch.where(only_last, last, hidden)

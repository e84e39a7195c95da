"""eSASRec: SASRec with gated layers and sampled softmax (Tikhonovich et al., 2025, arXiv 2508.06450).

SASRec's training (every prefix predicts the next item) with LiGR layers (Borisyuk et al., 2025, arXiv
2502.03417): pre-norm, each residual branch multiplied by a sigmoid gate of its input, and a SwiGLU
feed-forward without biases:

    x <- x + sigmoid(x W_1) * attention(LN(x));    x <- x + sigmoid(x W_2) * SwiGLU(LN(x))

With the loss "bce" these layers are trained as gSASRec (Petrov and Macdonald, 2023, arXiv 2308.07192): gBCE,
that is BCE over n_negatives with the calibration t.

Departures: a LayerNorm after the last layer, N(0, .02) weights and positions counted from the start of the
window, as in the other models here; negatives are shared by the batch, for gBCE too, which makes their logits
one product.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.base import MAX_LENGTH
from baselines.batches import Batch, uniform_negatives
from baselines.layers import CausalAttention, initialise, last_slot, take
from baselines.losses import LossSettings, NextItemLoss
from baselines.networks import SequenceNetwork
from baselines.sasrec import SASRecSettings
from baselines.sequential import SequentialRecommender
from baselines.settings import BEST_TRAINING, Preset, TrainingSettings


@dataclass(frozen=True)
class ESASRecSettings(SASRecSettings):
    calibration: float = 0.75  # t of gBCE, where the loss is "bce": 0 = plain BCE, 1 = unbiased probabilities

    def __post_init__(self) -> None:
        if not 0 <= self.calibration <= 1:
            raise ValueError(f"calibration is {self.calibration}; it must be 0 (plain BCE) to 1")


class SwiGLU(nn.Module):
    """(SiLU(x W) * x V) U, without biases."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.into = nn.Linear(dim, 2 * hidden, bias=False)  # W and V
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.into(x).chunk(2, dim=-1)
        y: Tensor = self.out(self.drop(F.silu(gate) * value))
        return y


class GatedBlock(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.attention = CausalAttention(dim, heads, attention_dropout)
        self.feed_forward = SwiGLU(dim, 4 * dim, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.gate1, self.gate2 = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self._add(x, self.attention(self.norm1(x)))

    def at(self, x: Tensor, last: Tensor) -> Tensor:
        """The row of slot last[b] of forward(x) in eval mode: (B, 1, d)."""
        return self._add(take(x, last), self.attention.at(self.norm1(x), last))

    def _add(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.gate1(x).sigmoid() * self.drop(attended)
        return x + self.gate2(x).sigmoid() * self.drop(self.feed_forward(self.norm2(x)))


class ESASRecNetwork(SequenceNetwork):
    def __init__(self, n_items: int, settings: ESASRecSettings) -> None:
        super().__init__()
        s = settings
        self.items = nn.Embedding(n_items + 1, s.dim, padding_idx=0)
        self.positions = nn.Embedding(MAX_LENGTH, s.dim)
        self.drop = nn.Dropout(s.dropout)
        self.blocks = nn.ModuleList(
            GatedBlock(s.dim, s.heads, s.dropout, s.dropout_of_attention) for _ in range(s.layers)
        )
        self.norm = nn.LayerNorm(s.dim)
        self.settings = s
        self.next_item_loss = NextItemLoss(s.loss)
        initialise(self)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        x = self._embed(batch.items)
        for block in self.blocks:
            x = block(x)
        real = batch.targets > 0
        h, targets = self.norm(x[real]), batch.targets[real]
        if self.settings.loss.kind != "bce":
            return self.next_item_loss(h, self.table(), targets, generator)
        negatives = uniform_negatives(len(self.table()) - 1, (self.settings.loss.n_negatives,), generator)
        return calibrated_bce(h, self.table(), targets, negatives, self.settings.calibration)

    def encode(self, users: Tensor, items: Tensor) -> Tensor:
        x = self._embed(items)
        for block in self.blocks[:-1]:
            x = block(x)
        last: GatedBlock = self.blocks[-1]  # type: ignore[assignment]
        h: Tensor = self.norm(last.at(x, last_slot(items))[:, 0])
        return h

    def _embed(self, items: Tensor) -> Tensor:
        position = torch.arange(items.shape[1], device=items.device)
        x: Tensor = self.drop(self.items(items) + self.positions(position))
        return x


class ESASRec(SequentialRecommender):
    name = "esasrec"
    settings_type = ESASRecSettings
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            ESASRecSettings(dim=256, layers=1, dropout=0.2, loss=LossSettings("sampled", 256)),
            TrainingSettings(epochs=200, max_targets=None, batch_targets=768, lr=1e-3, patience=10),
            "the authors' configuration for Beauty (128 sequences a batch)",
        ),
        "best": Preset(
            ESASRecSettings(dropout=0.3, loss=LossSettings("full")),
            replace(BEST_TRAINING, lr=4e-3),
            "SASRec's training at twice the rate; the best of three trials on validation (bench/models.json)",
        ),
    }

    def build(self, n_users: int, n_items: int) -> ESASRecNetwork:
        return ESASRecNetwork(n_items, self.settings)


def calibrated_bce(h: Tensor, table: Tensor, targets: Tensor, negatives: Tensor, t: float) -> Tensor:
    """gBCE: -(beta log s(target) + sum log(1 - s(negative))) / (K + 1), the mean over slots.

    h (N, d), targets (N,), negatives (K,), shared. beta = a (t (1 - 1/a) + 1/a) with the sampling rate
    a = K / (n_items - 1) undoes a part t of the overconfidence that comes from sampling. A negative that is a
    slot's target by accident does not count.
    """
    rate = min(1.0, len(negatives) / max(1, len(table) - 2))  # n_items - 1 items are no target
    beta = rate * (t * (1 - 1 / rate) + 1 / rate)
    rows = F.embedding(torch.cat((targets, negatives)), table)
    own, shared = rows[: len(targets)], rows[len(targets) :]
    pull = beta * F.softplus(-(h * own).sum(dim=1))
    push = F.softplus(h @ shared.T).masked_fill(targets[:, None] == negatives, 0.0).sum(dim=1)
    return ((pull + push) / (len(negatives) + 1)).mean()

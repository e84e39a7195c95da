"""Caser: convolutions over the last items, and who the user is (Tang and Wang, 2018, arXiv 1809.07426).

The vectors of the last L items are an image of L x d. A horizontal filter of height h = 1 .. L spans h items
in a row, and its largest value over the image counts; a vertical filter is a weighted sum of the L items. All
feed a layer z, and an item's score is w . [z; p_u] + b with the user's vector p_u and output weights w of
twice the width. In the preset "paper" a slot is trained on the next T = 3 items (skip behaviours) by BCE with
three negatives each.

Departures: every slot trains, whose missing items before the first are zeros; a convolution runs once over
the whole history, and all images of L items share its values. A user not seen in training is served with the
mean of the users' vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.batches import Batch
from baselines.layers import UserVectors, initialise, last_slot
from baselines.losses import LossSettings, NextItemLoss
from baselines.networks import SequenceNetwork
from baselines.sequential import SequentialRecommender
from baselines.settings import BEST_TRAINING, Preset, TrainingSettings


@dataclass(frozen=True)
class CaserSettings:
    dim: int = 64
    window: int = 5  # L, items of an image
    ahead: int = 1  # T, items that a slot is trained on
    horizontal: int = 16  # filters of each height
    vertical: int = 4
    dropout: float = 0.2
    loss: LossSettings = LossSettings()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        for name in ("window", "ahead", "horizontal", "vertical"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")


class CaserNetwork(SequenceNetwork):
    def __init__(self, n_users: int, n_items: int, settings: CaserSettings) -> None:
        super().__init__()
        s = settings
        self.window, self.ahead = s.window, s.ahead
        self.items = nn.Embedding(n_items + 1, s.dim, padding_idx=0)
        self.users = UserVectors(n_users, s.dim)
        self.horizontal = nn.ModuleList(
            nn.Linear(height * s.dim, s.horizontal) for height in range(1, s.window + 1)
        )
        self.vertical = nn.Linear(s.window, s.vertical)
        self.drop = nn.Dropout(s.dropout)
        self.join = nn.Linear(s.vertical * s.dim + s.window * s.horizontal, s.dim)
        self.output = nn.Embedding(n_items + 1, 2 * s.dim + 1)  # w and, in the last column, b
        self.next_item_loss = NextItemLoss(s.loss)
        initialise(self, s.dim**-0.5)
        with torch.no_grad():
            self.items.weight[0] = 0
            self.output.weight[:, -1] = 0

    def table(self) -> Tensor:
        return self.output.weight

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        z = self.convolve(self.items(F.pad(batch.items, (self.window - 1, 0))))  # (B, T, d)
        h = self.with_user(z, self.users(batch.users))
        pairs = []
        for skipped in range(min(self.ahead, h.shape[1])):
            targets = batch.targets[:, skipped:]
            pairs.append((h[:, : targets.shape[1]][targets > 0], targets[targets > 0]))
        vectors, targets = (torch.cat(part) for part in zip(*pairs, strict=True))
        return self.next_item_loss(vectors, self.table(), targets, generator)

    def encode(self, users: Tensor, items: Tensor) -> Tensor:
        slot = last_slot(items)[:, None] + torch.arange(1 - self.window, 1, device=items.device)  # (B, L)
        image = self.items(torch.where(slot < 0, 0, items.gather(1, slot.clamp_min(0))))
        return self.with_user(self.convolve(image), self.users(users))[:, 0]  # (B, 2 d + 1)

    def convolve(self, x: Tensor) -> Tensor:
        """z of each image of L items in a row: (B, P + L - 1, d) -> (B, P, d)."""
        rows = x.transpose(1, 2)  # (B, d, P + L - 1)
        parts = [self.vertical(rows.unfold(2, self.window, 1)).transpose(1, 2).flatten(2)]  # (B, P, d n_v)
        for height, convolution in enumerate(self.horizontal, start=1):
            rows_of = x.unfold(1, height, 1).transpose(2, 3).flatten(2)  # (B, P + L - height, height d)
            values = F.relu(convolution(rows_of)).transpose(1, 2)
            parts.append(F.max_pool1d(values, self.window - height + 1, 1).transpose(1, 2))  # (B, P, n_h)
        z: Tensor = F.relu(self.join(self.drop(torch.cat(parts, dim=2))))
        return z

    def with_user(self, z: Tensor, user: Tensor) -> Tensor:
        """[z; p_u; 1], whose last entry meets the item's bias: (B, P, 2 d + 1)."""
        own = user[:, None].expand(-1, z.shape[1], -1)
        return torch.cat((z, own, z.new_ones(*z.shape[:2], 1)), dim=2)


class Caser(SequentialRecommender):
    name = "caser"
    settings_type = CaserSettings
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            CaserSettings(dim=50, ahead=3, dropout=0.5, loss=LossSettings("bce", 3)),
            TrainingSettings(epochs=60, max_targets=None, lr=1e-3, weight_decay=1e-6, patience=10),
            "section 4.1 of the paper and the authors' code: d 50, L 5, T 3, 16 and 4 filters, dropout .5",
        ),
        "best": Preset(
            CaserSettings(dropout=0.3, loss=LossSettings("full")),
            replace(BEST_TRAINING, lr=4e-3, epochs=6),
            "SASRec's training at twice the rate, the best of three trials on validation "
            "(bench/models.json), for half its epochs: in 12 it learns its users by heart (validation "
            "NDCG@10 on Beauty .048, not .051)",
        ),
    }

    def build(self, n_users: int, n_items: int) -> CaserNetwork:
        return CaserNetwork(n_users, n_items, self.settings)

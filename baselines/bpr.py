"""BPR: matrix factorisation by pairwise comparison (Rendle et al., 2009, arXiv 1205.2618).

A user's score of an item is the product of their vectors; a triple (user, item of theirs, another item) costs
-log sigmoid(score - other score) plus an L2 penalty (BPR-Opt). The history says nothing but whose it is.

A user not seen in training is served with the mean of the users' vectors, one list for all of them.
Departures: Adam on batches instead of single steps; the other item is uniform over all items, the user's own
included; the penalty is on the vectors of the user and of their item, not on the other's; dropout on the
user's vector, of which the paper has none. The first item of every window of a history counts as a positive
like its targets, so in histories past 51 items every 50th is drawn twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from baselines.batches import Batch
from baselines.layers import UserVectors, initialise
from baselines.losses import LossSettings, NextItemLoss
from baselines.networks import SequenceNetwork
from baselines.sequential import SequentialRecommender
from baselines.settings import BEST_TRAINING, Preset, TrainingSettings


@dataclass(frozen=True)
class BPRSettings:
    dim: int = 64
    dropout: float = 0.2
    l2: float = 0.0  # of the squared norms, for each of a user's items
    loss: LossSettings = LossSettings("bpr", 1)  # noqa: RUF009 - frozen


class BPRNetwork(SequenceNetwork):
    def __init__(self, n_users: int, n_items: int, settings: BPRSettings) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items + 1, settings.dim, padding_idx=0)
        self.users = UserVectors(n_users, settings.dim)
        self.drop = nn.Dropout(settings.dropout)
        self.l2 = settings.l2
        self.next_item_loss = NextItemLoss(settings.loss)
        initialise(self, 0.1)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        own = torch.cat((batch.items[:, :1], batch.targets), dim=1)  # (B, 1 + T), what the user took
        user, item = batch.users[:, None].expand(own.shape)[own > 0], own[own > 0]
        h = self.users(user)  # (N, d)
        value = self.next_item_loss(self.drop(h), self.table(), item, generator)
        if self.l2:
            value = value + self.l2 * (h.square().sum(dim=1) + self.items(item).square().sum(dim=1)).mean()
        return value

    def encode(self, users: Tensor, items: Tensor) -> Tensor:
        vectors: Tensor = self.users(users)  # (B, d)
        return vectors


class BPR(SequentialRecommender):
    name = "bpr"
    settings_type = BPRSettings
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            BPRSettings(dropout=0.0, l2=1e-3, loss=LossSettings("bpr", 1)),
            TrainingSettings(epochs=100, max_targets=None, batch_targets=1536, lr=1e-3, patience=20),
            "the paper's loss and penalty; it names no rates",
        ),
        "best": Preset(
            BPRSettings(dropout=0.3, loss=LossSettings("full")),
            replace(BEST_TRAINING, lr=4e-3, epochs=48, patience=48),
            "twice SASRec's rate, the best of three trials on validation (bench/models.json), for four times "
            "its epochs: vectors of users, which have no items to start from, learn slowly",
        ),
    }

    def build(self, n_users: int, n_items: int) -> BPRNetwork:
        return BPRNetwork(n_users, n_items, self.settings)

"""GRU4Rec: a recurrent network over the history (Hidasi et al., 2016, arXiv 1511.06939; losses of Hidasi and
Karatzoglou, 2018, arXiv 1706.03847).

The state h_t after item x_t is a gated recurrent unit's, and an item's score is its vector's product with
h_t. Both presets train with BPR-max over 2,048 uniform negatives, the authors' loss of 2018; their TOP1-max
is the loss kind "top1-max". Sampled cross-entropy, the default as for all models and what later reproductions
use, learned more slowly: after six epochs on Beauty .017 NDCG@10 on validation against .035.

Departures: a history is one sequence rather than sessions in parallel batches, so gradients go through the
whole of it; input and output share the item vectors (the authors' constrained embedding), without item
biases; BPR-max is on the products themselves, without an ELU on them; the negatives are uniform alone, not
the items of the batch as well; Adam instead of Adagrad; one rate of dropout for the inputs and the states.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from baselines.batches import Batch
from baselines.layers import initialise, last_slot, take
from baselines.losses import LossSettings, NextItemLoss
from baselines.networks import SequenceNetwork
from baselines.sequential import SequentialRecommender
from baselines.settings import BEST_TRAINING, Preset, TrainingSettings


@dataclass(frozen=True)
class GRU4RecSettings:
    dim: int = 64  # of an item and of the state
    layers: int = 1
    dropout: float = 0.2
    loss: LossSettings = LossSettings()  # noqa: RUF009 - frozen


class GRU4RecNetwork(SequenceNetwork):
    def __init__(self, n_items: int, settings: GRU4RecSettings) -> None:
        super().__init__()
        s = settings
        self.items = nn.Embedding(n_items + 1, s.dim, padding_idx=0)
        self.gru = nn.GRU(s.dim, s.dim, s.layers, batch_first=True, dropout=s.dropout if s.layers > 1 else 0)
        self.drop = nn.Dropout(s.dropout)
        self.next_item_loss = NextItemLoss(s.loss)
        initialise(self, s.dim**-0.5)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        h = self.drop(self.states(batch.items))  # (B, T, d)
        real = batch.targets > 0
        return self.next_item_loss(h[real], self.table(), batch.targets[real], generator)

    def encode(self, users: Tensor, items: Tensor) -> Tensor:
        return take(self.states(items), last_slot(items))[:, 0]  # (B, d)

    def states(self, items: Tensor) -> Tensor:
        """The state after each item, which knows nothing of later ones: (B, T) -> (B, T, d)."""
        h: Tensor = self.gru(self.drop(self.items(items)))[0]
        return h


class GRU4Rec(SequentialRecommender):
    name = "gru4rec"
    settings_type = GRU4RecSettings
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            GRU4RecSettings(dropout=0.2, loss=LossSettings("bpr-max", 2048)),
            TrainingSettings(epochs=60, max_targets=None, lr=1e-3, patience=5),
            "BPR-max and 2,048 samples as in section 5 of the 2018 paper; Adam and its lr are ours",
        ),
        "best": Preset(
            GRU4RecSettings(dropout=0.3, loss=LossSettings("full")),
            replace(BEST_TRAINING, lr=4e-3, epochs=24, patience=24),
            "twice SASRec's rate, the best of three trials on validation (bench/models.json), and epochs: "
            "after 12 it still learned",
        ),
    }

    def build(self, n_users: int, n_items: int) -> GRU4RecNetwork:
        return GRU4RecNetwork(n_items, self.settings)

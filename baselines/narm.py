"""NARM: a recurrent network and an attention over its states (Li et al., 2017, arXiv 1711.04725).

The global encoder is the last state h_t of a GRU; the local one is c = sum_j a_tj h_j over the states so far,
a_tj = v . sigmoid(A1 h_t + A2 h_j), not normalised to one. The score of an item with vector x is the bilinear
product x B [h_t; c]. Dropout is on the item vectors and, twice as much, on [h_t; c]: .25 and .5 in the preset
"paper", with softmax over all items, as published.

Departures: every prefix of a history trains in one pass (the attention of all of them is one masked product)
where the authors cut a session into its prefixes; the learning rate does not decay.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from baselines.layers import initialise, sigmoid_attention
from baselines.losses import LossSettings, NextItemLoss
from baselines.networks import PrefixNetwork
from baselines.sequential import SequentialRecommender
from baselines.settings import BEST_TRAINING, Preset, TrainingSettings


@dataclass(frozen=True)
class NARMSettings:
    dim: int = 64
    hidden: int | None = None  # of the states; None = as `dim`
    dropout: float = 0.2  # before the decoder; on the item vectors half of it
    loss: LossSettings = LossSettings()  # noqa: RUF009 - frozen


class NARMNetwork(PrefixNetwork):
    def __init__(self, n_items: int, settings: NARMSettings) -> None:
        super().__init__()
        s = settings
        hidden = s.hidden or s.dim
        self.items = nn.Embedding(n_items + 1, s.dim, padding_idx=0)
        self.drop_items = nn.Dropout(s.dropout / 2)
        self.drop = nn.Dropout(s.dropout)
        self.gru = nn.GRU(s.dim, hidden, batch_first=True)
        self.query = nn.Linear(hidden, hidden, bias=False)  # A1
        self.key = nn.Linear(hidden, hidden, bias=False)  # A2
        self.weigh = nn.Parameter(torch.empty(hidden))  # v
        self.decode = nn.Linear(2 * hidden, s.dim, bias=False)  # B
        self.next_item_loss = NextItemLoss(s.loss)
        initialise(self, s.dim**-0.5)
        nn.init.normal_(self.weigh, std=hidden**-0.5)

    def prefixes(self, items: Tensor, ends: Tensor) -> Tensor:
        states, _ = self.gru(self.drop_items(self.items(items)))  # (B, T, H)
        last = states.gather(1, ends[:, :, None].expand(-1, -1, states.shape[2]))  # (B, P, H), global
        local = sigmoid_attention(self.query(last), self.key(states), self.weigh, states, ends)
        both = torch.cat((last, local), dim=2)
        vectors: Tensor = self.decode(self.drop(both))
        return vectors


class NARM(SequentialRecommender):
    name = "narm"
    settings_type = NARMSettings
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            NARMSettings(dim=50, hidden=100, dropout=0.5, loss=LossSettings("full")),
            TrainingSettings(epochs=60, max_targets=None, lr=1e-3, patience=5),
            "section 4.3 of the paper: 50 and 100 dimensions, dropout .25 and .5, Adam with lr .001",
        ),
        "best": Preset(
            NARMSettings(dropout=0.3, loss=LossSettings("full")),
            replace(BEST_TRAINING, lr=4e-3),
            "SASRec's training at twice the rate; the best of three trials on validation (bench/models.json)",
        ),
    }

    def build(self, n_users: int, n_items: int) -> NARMNetwork:
        return NARMNetwork(n_items, self.settings)

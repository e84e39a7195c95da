"""STAMP: attention over the history with the last item as the priority (Liu et al., 2018, KDD, "STAMP:
Short-Term Attention/Memory Priority Model for Session-based Recommendation").

With item vectors x_1 .. x_t and their mean m_s: a_j = w . sigmoid(W1 x_j + W2 x_t + W3 m_s + b), m_a = sum_j
a_j x_j, h_s = tanh(W_s m_a + b_s), h_t = tanh(W_t x_t + b_t), and an item's score is the trilinear product
<h_s, h_t, x>. There is no recurrence: the order of all but the last item is lost.

As in the authors' code, and unlike the text, m_s is added to m_a, and the softmax is over the products
themselves rather than their sigmoids. Departures: every prefix of a history trains in one pass (the attention
of all of them is one masked product); dropout on h_s * h_t, of which the paper has none; the norm of item
vectors has no limit, and they start with N(0, 1/d) in place of N(0, .002^2).
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
class STAMPSettings:
    dim: int = 64
    dropout: float = 0.2
    loss: LossSettings = LossSettings()  # noqa: RUF009 - frozen


class STAMPNetwork(PrefixNetwork):
    def __init__(self, n_items: int, settings: STAMPSettings) -> None:
        super().__init__()
        s = settings
        self.items = nn.Embedding(n_items + 1, s.dim, padding_idx=0)
        self.key = nn.Linear(s.dim, s.dim, bias=False)  # W1
        self.query = nn.Linear(2 * s.dim, s.dim)  # [W2; W3], b
        self.weigh = nn.Parameter(torch.empty(s.dim))  # w
        self.general = nn.Linear(s.dim, s.dim)  # W_s
        self.current = nn.Linear(s.dim, s.dim)  # W_t
        self.drop = nn.Dropout(s.dropout)
        self.next_item_loss = NextItemLoss(s.loss)
        initialise(self, s.dim**-0.5)
        nn.init.normal_(self.weigh, std=s.dim**-0.5)

    def prefixes(self, items: Tensor, ends: Tensor) -> Tensor:
        x = self.items(items)  # (B, T, d)
        at = ends[:, :, None].expand(-1, -1, x.shape[2])
        last = x.gather(1, at)  # (B, P, d)
        mean = x.cumsum(dim=1).gather(1, at) / (ends[:, :, None] + 1)
        query = self.query(torch.cat((last, mean), dim=2))
        general = sigmoid_attention(query, self.key(x), self.weigh, x, ends) + mean
        h: Tensor = self.drop(torch.tanh(self.general(general)) * torch.tanh(self.current(last)))
        return h


class STAMP(SequentialRecommender):
    name = "stamp"
    settings_type = STAMPSettings
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            STAMPSettings(dim=100, dropout=0.0, loss=LossSettings("full")),
            TrainingSettings(epochs=60, max_targets=None, lr=1e-3, patience=5),
            "section 4.4 of the paper: 100 dimensions and no dropout; lr .001 in place of .005",
        ),
        "best": Preset(
            STAMPSettings(dropout=0.3, loss=LossSettings("full")),
            replace(BEST_TRAINING, lr=4e-3),
            "SASRec's training at twice the rate; the best of three trials on validation (bench/models.json)",
        ),
    }

    def build(self, n_users: int, n_items: int) -> STAMPNetwork:
        return STAMPNetwork(n_items, self.settings)

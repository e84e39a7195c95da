"""BSARec: a frequency filter beside self-attention in each layer (Shin et al., 2024, arXiv 2312.10325).

    a = alpha LN(x + low(x) + beta^2 high(x)) + (1 - alpha) LN(x + attention(x)),  then a feed-forward

low(x) keeps the lowest c // 2 + 1 frequencies of the Fourier transform over a window of 50 slots, high(x) is
the rest; beta is learned for each dimension.

Departure: the authors train each prefix as a sequence of its own, right-aligned in the window, because the
low-pass of a slot depends on all slots, later ones too. Here all prefixes train in one pass: the state of
slot t is what the authors' filter gives at the LAST slot of the prefix that ends with t, with zeros before
it. That is a linear map with a lower-triangular matrix (`last_slot_low_pass`), so no later item reaches an
earlier state. In the first layer it is the authors' value for that prefix exactly, but for their pads,
which are not zero vectors. In further layers the inputs at earlier slots are those of the earlier prefixes,
where the authors filter the whole prefix again. A window of T items costs one pass, their way T. Positions
count from the start of the window, as in the other models here.

Tried: the prefix over and over before it instead of zeros, because Hutter et al. (2025, arXiv 2512.17442)
find that padding should not be constant. No difference on Beauty's validation (NDCG@10 .0651 against .0652
after 13 epochs).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from baselines.base import MAX_LENGTH
from baselines.layers import CausalAttention, FeedForward, take
from baselines.losses import LossSettings
from baselines.sasrec import SASRecNetwork, SASRecSettings
from baselines.sequential import SequentialRecommender
from baselines.settings import BEST_TRAINING, Preset, TrainingSettings


@dataclass(frozen=True)
class BSARecSettings(SASRecSettings):
    alpha: float = 0.7  # the filter's part of a layer; the rest is attention's
    cutoff: int = 5  # c: frequencies up to c // 2 waves in 50 slots are low

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}; it must be 0 (attention only) to 1 (filter only)")
        if not 0 <= self.cutoff <= MAX_LENGTH:
            raise ValueError(f"cutoff is {self.cutoff}; it must be 0 to {MAX_LENGTH}")


class FrequencyFilter(nn.Module):
    """LN(x + low(x) + beta^2 high(x)), each slot as the last of its prefix."""

    low_pass: Tensor

    def __init__(self, dim: int, cutoff: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("low_pass", last_slot_low_pass(cutoff // 2 + 1), persistent=False)
        self.beta = nn.Parameter(torch.randn(dim))
        self.norm = nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        return self._mix(x, self.low_pass[:n, :n] @ x)

    def at(self, x: Tensor, last: Tensor) -> Tensor:
        """The row of slot last[b] of forward(x) in eval mode: (B, 1, d)."""
        return self._mix(take(x, last), self.low_pass[last, None, : x.shape[1]] @ x)

    def _mix(self, x: Tensor, low: Tensor) -> Tensor:
        y: Tensor = self.norm(x + self.drop(low + self.beta.square() * (x - low)))
        return y


class FilteredBlock(nn.Module):
    def __init__(self, s: BSARecSettings) -> None:
        super().__init__()
        self.alpha = s.alpha
        self.filter = FrequencyFilter(s.dim, s.cutoff, s.dropout)
        self.attention = CausalAttention(s.dim, s.heads, s.dropout_of_attention)
        self.feed_forward = FeedForward(s.dim, 4 * s.dim, s.dropout)
        self.norm1, self.norm2 = nn.LayerNorm(s.dim), nn.LayerNorm(s.dim)
        self.drop = nn.Dropout(s.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self._mix(self.filter(x), x + self.drop(self.attention(x)))

    def at(self, x: Tensor, last: Tensor) -> Tensor:
        """The row of slot last[b] of forward(x) in eval mode: (B, 1, d)."""
        return self._mix(self.filter.at(x, last), take(x, last) + self.attention.at(x, last))

    def _mix(self, filtered: Tensor, attended: Tensor) -> Tensor:
        a = self.alpha * filtered + (1 - self.alpha) * self.norm1(attended)
        y: Tensor = self.norm2(a + self.feed_forward(a))
        return y


class BSARecNetwork(SASRecNetwork):
    """SASRec's with a filter in each layer."""

    def block(self, s: SASRecSettings) -> nn.Module:
        assert isinstance(s, BSARecSettings), f"settings are {type(s).__name__}"
        return FilteredBlock(s)


class BSARec(SequentialRecommender):
    name = "bsarec"
    settings_type = BSARecSettings
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            BSARecSettings(dropout=0.5, loss=LossSettings("full")),
            TrainingSettings(epochs=200, max_targets=None, lr=5e-4, patience=10),
            "the authors' configuration for Beauty",
        ),
        "best": Preset(
            BSARecSettings(dropout=0.3, loss=LossSettings("full")),
            replace(BEST_TRAINING, lr=4e-3),
            "SASRec's training at twice the rate; the best of three trials on validation (bench/models.json)",
        ),
    }

    def build(self, n_users: int, n_items: int) -> BSARecNetwork:
        return BSARecNetwork(n_items, self.settings)


def last_slot_low_pass(n_frequencies: int, window: int = MAX_LENGTH) -> Tensor:
    """The matrix (window, window) whose row t is the low-pass, at its last slot, of the first t + 1 inputs
    right-aligned in a window of zeros.

    A low-pass by Fourier transform is a circular convolution with the Dirichlet kernel; at the last slot the
    input of age j has the kernel's j-th weight, whatever the length of the prefix.
    """
    age = torch.arange(window, dtype=torch.float64)
    kernel = torch.zeros(window, dtype=torch.float64)
    for frequency in range(min(n_frequencies, window // 2 + 1)):
        twice = 1 if frequency == 0 or 2 * frequency == window else 2  # with its negative frequency
        kernel += twice * torch.cos(2 * math.pi * frequency * age / window) / window
    slot = torch.arange(window)
    lag = slot[:, None] - slot
    return torch.where(lag >= 0, kernel[lag.clamp_min(0)], 0.0).float()

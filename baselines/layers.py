"""Parts of networks: attention (causal, both ways, of NARM and STAMP), feed-forward, the block, user vectors.

Batches are right-padded. Under causal attention a real slot sees only slots before it, all of them real, so
there is no padding mask; what stands in pad slots is arbitrary and must not be read. Where attention goes
both ways the real slots are given as a mask.
"""

from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CausalAttention(nn.Module):
    """Multi-head softmax attention of each slot to itself and those before it; to all real slots, before and
    after, where forward is told which ones these are."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} does not divide into {heads} heads")
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """x (B, T, d) -> (B, T, d). real (B, T): both ways among the slots that are True, one or more a row;
        None: causal."""
        q, k, v = (self._split(part) for part in self.qkv(x).chunk(3, dim=-1))  # each (B, H, T, d/H)
        p = self.dropout if self.training else 0.0
        seen = None if real is None else real[:, None, None]
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=p, is_causal=real is None)
        return self.out(_join(a))

    def at(self, x: Tensor, last: Tensor) -> Tensor:
        """The row of slot last[b] of forward(x) alone, at a T-th of the cost: (B, 1, d). Where it is the last
        real slot, causal and both ways are the same.

        Written out, because scaled_dot_product_attention with one query and two threads gives a row other
        last bits in another place of the batch.
        """
        dim = x.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        q = self._split(F.linear(take(x, last), weight[:dim], bias[:dim]))
        k, v = (self._split(part) for part in F.linear(x, weight[dim:], bias[dim:]).chunk(2, dim=-1))
        unseen = torch.arange(x.shape[1], device=x.device) > last[:, None]
        logits = (q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5  # (B, H, 1, T)
        weights = logits.masked_fill(unseen[:, None, None], -torch.inf).softmax(dim=-1)
        return self.out(_join(weights @ v))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Sequential):
    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim), nn.Dropout(dropout))


class Block(nn.Module):
    """Attention and feed-forward, each with residual dropout and a LayerNorm after the sum (post-norm)."""

    def __init__(
        self, dim: int, heads: int, dropout: float, attention_dropout: float, expand: int = 4
    ) -> None:
        super().__init__()
        self.attention = CausalAttention(dim, heads, attention_dropout)
        self.feed_forward = FeedForward(dim, expand * dim, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        a = self.norm1(x + self.drop(self.attention(x, real)))
        y: Tensor = self.norm2(a + self.feed_forward(a))
        return y

    def at(self, x: Tensor, last: Tensor) -> Tensor:
        """The row of slot last[b] of forward(x) in eval mode: (B, 1, d)."""
        a = self.norm1(take(x, last) + self.attention.at(x, last))
        y: Tensor = self.norm2(a + self.feed_forward(a))
        return y


class UserVectors(nn.Embedding):
    """A vector for each user of the training data; in eval mode -1, an unknown user, has their mean."""

    def train(self, mode: bool = True) -> Self:
        if not mode:  # once, not for every block, and by a sum that does not depend on the number of threads
            mean = self.weight.detach().cpu().numpy().mean(axis=0, dtype=np.float64)
            self.mean = torch.from_numpy(mean).to(self.weight)
        return super().train(mode)

    def forward(self, users: Tensor) -> Tensor:
        """(B,) -> (B, d)"""
        known = super().forward(users.clamp_min(0))
        return known if self.training else torch.where(users[:, None] < 0, self.mean, known)


def take(x: Tensor, last: Tensor) -> Tensor:
    """Slot last[b] of each row: (B, T, d) -> (B, 1, d)."""
    return x.gather(1, last[:, None, None].expand(-1, 1, x.shape[-1]))


def sigmoid_attention(query: Tensor, key: Tensor, weigh: Tensor, value: Tensor, ends: Tensor) -> Tensor:
    """sum_j (weigh . sigmoid(query_p + key_j)) value_j over the slots j <= ends[p] of each prefix p, not
    normalised (the attention of NARM and STAMP).

    query (B, P, H), key (B, T, H), weigh (H,), value (B, T, D), ends (B, P) -> (B, P, D).
    """
    slot = torch.arange(key.shape[1], device=key.device)
    weights = torch.sigmoid(query[:, :, None] + key[:, None]) @ weigh  # (B, P, T)
    return weights.masked_fill(slot > ends[:, :, None], 0.0) @ value


def last_slot(items: Tensor) -> Tensor:
    """The slot of the last item of left-aligned rows, 0 for empty ones: (B, T) -> (B,)."""
    return ((items != 0).sum(dim=1) - 1).clamp_min(0)


def initialise(network: nn.Module, std: float = 0.02) -> None:
    """Normal weights, zero biases, unit norms: as in BERT and the published sequential recommenders."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def _join(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)

"""The decoder: item + user + position + segment embeddings, causal attention, output tied to the items.

After "RecGPT: Generative Personalized Prompts for Sequential Recommendation" (DASFAA 2024, arXiv 2404.08675).
Differences: softmax attention without padding in it (histories are left-aligned and padded on the right,
where causal attention never looks), one item table for input and output, and positions that count from the
start of the history, so that a generated item never moves the items before it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.base import MAX_LENGTH
from baselines.layers import initialise, last_slot, take
from baselines.sequential import SequenceNetwork

REAL, GENERATED = 0, 1
"""Segments: an item that the user chose, an item that the model generated."""


@dataclass(frozen=True)
class RecGPTConfig:
    """Sizes of the network. `user_vectors` adds a learned vector for each user; in training it gives way,
    with probability `user_dropout`, to the one that all unknown users share. Off by default: with
    user_dropout .7 validation on Beauty was worse at every one of 21 epochs (NDCG@10 .0568 against .0583 at
    epoch 19)."""

    n_items: int
    n_users: int = 0
    dim: int = 64
    layers: int = 2
    heads: int = 1
    dropout: float = 0.5
    user_vectors: bool = False
    user_dropout: float = 0.5
    max_length: int = MAX_LENGTH

    def __post_init__(self) -> None:
        if self.heads < 1 or self.dim % self.heads:
            raise ValueError(f"dim {self.dim} does not divide into {self.heads} heads")
        if self.layers < 1:
            raise ValueError(f"layers is {self.layers}; it must be at least 1")
        if not 0 <= self.dropout < 1 or not 0 <= self.user_dropout <= 1:
            raise ValueError(
                f"dropout is {self.dropout} and user_dropout {self.user_dropout}; "
                "allowed are 0 to below 1, and 0 to 1"
            )


class Cache:
    """Keys and values of the slots seen so far, with room for `slots` of them."""

    def __init__(self, decoder: "Decoder", n_rows: int, slots: int) -> None:
        config, like = decoder.config, decoder.items.weight
        shape = (n_rows, config.heads, slots, config.dim // config.heads)
        self.filled = 0
        self._layers = [(like.new_zeros(shape), like.new_zeros(shape)) for _ in range(config.layers)]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append to a layer; everything that the layer holds then. The last layer moves `filled` on."""
        end = self.filled + keys.shape[2]
        old_keys, old_values = self._layers[layer]
        old_keys[:, :, self.filled : end] = keys
        old_values[:, :, self.filled : end] = values
        if layer == len(self._layers) - 1:
            self.filled = end
        return old_keys[:, :, :end], old_values[:, :, :end]


class Decoder(SequenceNetwork):
    """Hidden states for the slots of a batch of item sequences; `h @ items.weight.T` are the scores."""

    def __init__(self, config: RecGPTConfig) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(config.n_items + 1, config.dim)
        self.positions = nn.Embedding(
            config.max_length + 1, config.dim
        )  # one more: a pick after a full history
        self.segments = nn.Embedding(2, config.dim)
        self.users = (
            nn.Embedding(config.n_users + 1, config.dim) if config.user_vectors else None
        )  # 0: unknown
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config, layer) for layer in range(config.layers))
        initialise(self)

    def forward(
        self,
        items: Tensor,
        users: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        only: Tensor | None = None,
    ) -> Tensor:
        """(B, S) item ids to (B, S, D) hidden states, or to (B, 1, D), those of slot only[b] of each row.

        users: (B,) ids, -1 or n_users and above are unknown. positions and segments: (S,) or (B, S), by
        default 0, 1, ... and all real. mask: True where a slot may look, (S, slots) or (B, S, slots), by
        default causal; `slots` are those in the cache followed by the new ones.
        """
        before = cache.filled if cache else 0
        B, S = items.shape
        if positions is None:
            positions = torch.arange(before, before + S, device=items.device)
        x = self.items(items) + self.positions(positions)  # (B, S, D)
        x = x + (self.segments.weight[REAL] if segments is None else self.segments(segments))
        if self.users is not None:
            x = x + self._user_vectors(self.users, users, B)
        if mask is None:
            mask = torch.ones(S, before + S, dtype=torch.bool, device=items.device).tril(before)
        mask = mask.reshape(-1, 1, S, before + S)  # (1 or B, any head, S, slots)
        x = self.dropout(self.norm(x))
        for block in self.blocks[:-1]:
            x = block(x, mask, cache)
        h: Tensor = self.blocks[-1](x, mask, cache, only)
        return h

    def encode(self, users: Tensor, items: Tensor) -> Tensor:
        """(B, D): the state after the last item of each history, which ranks the next one."""
        return self(items, users, only=last_slot(items))[:, 0]

    def grow(self, picks: Tensor, users: Tensor | None, lengths: Tensor, step: int, cache: Cache) -> Tensor:
        """One generated item after the end of each history: (B,) picks to (B, D) hidden states.

        The cache holds the right-padded histories followed by the `step` items grown before; the new slot
        looks at the first `lengths` slots of its row and at all that was grown, and stands at position
        lengths + step.
        """
        slots = torch.arange(cache.filled + 1, device=picks.device)
        mask = (slots < lengths[:, None]) | (slots >= cache.filled - step)  # (B, slots)
        positions = (lengths + step)[:, None].clamp(max=self.config.max_length)
        segments = torch.full_like(positions, GENERATED)
        h = self(
            picks[:, None], users, positions=positions, segments=segments, mask=mask[:, None], cache=cache
        )
        return h[:, 0]

    def _user_vectors(self, table: nn.Embedding, users: Tensor | None, n_rows: int) -> Tensor:
        """(B, 1, D), or (1, 1, D) where nobody is known."""
        if users is None:
            return table.weight[:1, None]
        known = (users >= 0) & (users < self.config.n_users)
        if self.training:
            known = known & (torch.rand(n_rows, device=users.device) >= self.config.user_dropout)
        vectors: Tensor = table(torch.where(known, users + 1, 0))
        return vectors[:, None]


class _Block(nn.Module):
    """Attention and feed-forward, each added to its input and normalised after (post-norm, as in the paper).

    Not baselines' Block: a cache, masks of any shape, and generated items need attention of their own.
    """

    def __init__(self, config: RecGPTConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.p = layer, config.heads, config.dropout
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.widen = nn.Linear(config.dim, 4 * config.dim)
        self.narrow = nn.Linear(4 * config.dim, config.dim)
        self.norm_attention = nn.LayerNorm(config.dim)
        self.norm_forward = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, cache: Cache | None, only: Tensor | None = None) -> Tensor:
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each (B, heads, S, D/heads)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        if only is not None:
            x = take(x, only)
            q = q.gather(2, only[:, None, None, None].expand(-1, *q.shape[1:2], 1, q.shape[3]))
            mask = mask.expand(len(x), -1, -1, -1)[torch.arange(len(x)), :, only][:, :, None]
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (B, heads, S, slots)
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        attended = (F.dropout(weights, self.p, self.training) @ v).transpose(1, 2).flatten(2)
        x = self.norm_attention(x + self.dropout(self.out(attended)))
        y: Tensor = self.norm_forward(x + self.dropout(self.narrow(F.gelu(self.widen(x)))))
        return y

"""The decoder: item + user + position + segment embeddings, causal attention, output tied to the items.

After "RecGPT: Generative Personalized Prompts for Sequential Recommendation" (DASFAA 2024, arXiv 2404.08675).
Differences by default: softmax attention without padding in it (histories are left-aligned and padded on the
right, where causal attention never looks), one item table for input and output, and positions that count
from the start of the history, so that a generated item never moves the items before it.

The authors' published code is another network, and the settings can be it: flow attention, pads included,
positions that count from the end of a full window, an output layer of its own, no normalised input, no
dropout in the attention, half the feed-forward width, and torch's own first weights in the attention. What
still differs: their tables hold one more item, S3-Rec's mask, which is never an input; padding and that item
are no classes of the softmax here; and with several layers the pads of a history share one dropout mask.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.base import MAX_LENGTH
from baselines.layers import initialise, last_slot, take
from baselines.networks import SequenceNetwork
from recgpt.attention import flow_attention, slot_counts, softmax_attention

REAL, GENERATED = 0, 1
"""Segments: an item that the user chose, an item that the model generated."""

ATTENTIONS = ("softmax", "flow")
POSITIONS = ("start", "end")
OUTPUTS = ("tied", "untied")
FIRST_WEIGHTS = ("normal", "torch")


@dataclass(frozen=True)
class DecoderSettings:
    """What the network is, whatever the data.

    expand: the width of the feed-forward part, in dims. attention_dropout: of attention weights, None: as
    `dropout`. input_norm: LayerNorm and dropout on the sum of the embeddings. attention: "softmax", or "flow"
    (`recgpt.attention`), where the pads that fill a history up to 50 items take part. positions: counted from
    the "start" of the history, or from the "end" of a full window, where the last item stands at 49 and all
    items move down by one for each that is appended. output: "untied" gives guesses and prompt-tuning a layer
    of their own, which pre-training does not touch; lists are ranked by the item table all the same.
    attention_init: the first weights of the attention's linear layers, "normal" as everywhere (deviation .02,
    no bias) or torch's "torch" (uniform, with bias).

    `user_vectors` adds a learned vector for each user, projected from `user_dim` numbers (None: dim numbers
    and no projection); in training it gives way, with probability `user_dropout`, to the one that all unknown
    users share, and `user_decay` times the mean squared length of a batch's user vectors is added to the
    loss. Off by default: with user_dropout .7 validation on Beauty was worse at every one of 21 epochs
    (NDCG@10 .0568 against .0583 at epoch 19).
    """

    dim: int = 64
    layers: int = 2
    heads: int = 1
    expand: int = 4
    dropout: float = 0.5
    attention_dropout: float | None = None
    input_norm: bool = True
    attention: str = "softmax"
    positions: str = "start"
    output: str = "tied"
    attention_init: str = "normal"
    user_vectors: bool = False
    user_dim: int | None = None
    user_dropout: float = 0.5
    user_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.heads < 1 or self.dim % self.heads:
            raise ValueError(f"dim {self.dim} does not divide into {self.heads} heads")
        for name in ("dim", "layers", "expand", "user_dim"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} is {size}; it must be at least 1")
        if not 0 <= self.dropout < 1 or not 0 <= self.user_dropout <= 1:
            raise ValueError(
                f"dropout is {self.dropout} and user_dropout {self.user_dropout}; "
                "allowed are 0 to below 1, and 0 to 1"
            )
        if self.user_decay < 0:
            raise ValueError(f"user_decay is {self.user_decay}; it must be 0 (none) or above")
        if self.attention_dropout is not None and not 0 <= self.attention_dropout < 1:
            raise ValueError(
                f"attention_dropout is {self.attention_dropout}; give 0 to below 1, or None (as dropout)"
            )
        known = {
            "attention": ATTENTIONS,
            "positions": POSITIONS,
            "output": OUTPUTS,
            "attention_init": FIRST_WEIGHTS,
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown; known: {', '.join(values)}")
        if self.attention == "flow" and self.attention_dropout:
            raise ValueError(
                f"attention_dropout is {self.attention_dropout}, but flow attention has no weights to drop; "
                "give 0 or None"
            )

    @property
    def append_only(self) -> bool:
        """Whether an appended item leaves the states before it as they are, so that a cache of keys and
        values applies."""
        return self.attention == "softmax" and self.positions == "start"


@dataclass(frozen=True)
class RecGPTConfig(DecoderSettings):
    """The network for given data, whose histories have up to `max_length` items."""

    n_items: int = field(kw_only=True)
    n_users: int = field(default=0, kw_only=True)
    max_length: int = field(default=MAX_LENGTH, kw_only=True)


class Cache:
    """Keys and values of the slots seen so far, with room for `slots` of them."""

    def __init__(self, decoder: "Decoder", n_rows: int, slots: int) -> None:
        config, like = decoder.config, decoder.items.weight
        assert config.append_only, f"{config.attention} attention, positions from the {config.positions}"
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
            nn.Embedding(config.n_users + 1, config.user_dim or config.dim) if config.user_vectors else None
        )  # 0: unknown
        self.widen_user = (
            nn.Linear(config.user_dim, config.dim, bias=False)
            if config.user_vectors and config.user_dim
            else None
        )
        self.norm = nn.LayerNorm(config.dim) if config.input_norm else None
        self.dropout = nn.Dropout(config.dropout)
        blocks = [_Block(config, layer) for layer in range(config.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.output = nn.Linear(config.dim, config.n_items + 1) if config.output == "untied" else None
        initialise(self)
        if config.attention_init == "torch":
            for block in blocks:
                block.qkv.reset_parameters()
                block.out.reset_parameters()

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
        pads: Tensor | None = None,
    ) -> Tensor:
        """(B, S) item ids to (B, S, D) hidden states, or to (B, 1, D), those of slot only[b] of each row.

        users: (B,) ids, -1 or n_users and above are unknown. positions and segments: (S,) or (B, S), by
        default as the settings count them and all real. mask: True where a slot may look, (S, slots) or
        (B, S, slots), by default causal; `slots` are those in the cache followed by the new ones. With flow
        attention there is no mask and no cache, but pads (B,), which stand in front of each row; by default
        as many as fill it up to max_length.
        """
        before = cache.filled if cache else 0
        B, S = items.shape
        if positions is None:
            positions = self._positions(items, before)
        x = self.items(items) + self.positions(positions)  # (B, S, D)
        x = x + (self.segments.weight[REAL] if segments is None else self.segments(segments))
        user = None if self.users is None else self._user_vectors(self.users, users, B)
        if user is not None:
            x = x + user
        if self.config.attention == "flow":
            assert mask is None, "flow attention is causal"
            assert cache is None, "flow attention has no cache"
            if pads is None:
                pads = (self.config.max_length - _lengths(items)).clamp(min=0)
            return self._flow(x, user, pads, only)
        if mask is None:
            mask = torch.ones(S, before + S, dtype=torch.bool, device=items.device).tril(before)
        mask = mask.reshape(-1, 1, S, before + S)  # (1 or B, any head, S, slots)
        x = self._entry(x)
        for block in self.blocks[:-1]:
            x = block(x, mask, cache)
        h: Tensor = self.blocks[-1](x, mask, cache, only)
        return h

    def encode(self, users: Tensor, items: Tensor) -> Tensor:
        """(B, D): the state after the last item of each history, which ranks the next one."""
        return self(items, users, only=last_slot(items))[:, 0]

    def guessing(self) -> tuple[Tensor, Tensor | None]:
        """Weights (n_items + 1, D) and bias of the layer that guesses and is prompt-tuned: the output layer
        where there is one, else the item table, without a bias."""
        return (self.items.weight, None) if self.output is None else (self.output.weight, self.output.bias)

    def user_penalty(self, users: Tensor) -> Tensor | None:
        """user_decay times the mean squared length of the vectors of users (B,); None without."""
        if self.users is None or not self.config.user_decay:
            return None
        known = (users >= 0) & (users < self.config.n_users)
        lengths: Tensor = self.users(torch.where(known, users + 1, 0)).square().sum(-1)
        return self.config.user_decay * lengths.mean()

    def _positions(self, items: Tensor, before: int) -> Tensor:
        """(S,), or (B, S) where they count from the end. What stands after the end does not matter."""
        slots = torch.arange(before, before + items.shape[1], device=items.device)
        if self.config.positions == "start":
            return slots
        last = self.config.max_length - 1
        return (last + 1 - _lengths(items)[:, None] + slots).clamp(max=last)

    def _user_vectors(self, table: nn.Embedding, users: Tensor | None, n_rows: int) -> Tensor:
        """(B, 1, D), or (1, 1, D) where nobody is known."""
        if users is None:
            vectors = table.weight[:1]
        else:
            known = (users >= 0) & (users < self.config.n_users)
            if self.training:
                known = known & (torch.rand(n_rows, device=users.device) >= self.config.user_dropout)
            vectors = table(torch.where(known, users + 1, 0))
        if self.widen_user is not None:
            vectors = self.widen_user(vectors)
        return vectors[:, None]

    def _entry(self, x: Tensor) -> Tensor:
        if self.norm is None:
            return x
        entered: Tensor = self.dropout(self.norm(x))
        return entered

    def _flow(self, x: Tensor, user: Tensor | None, pads: Tensor, only: Tensor | None) -> Tensor:
        """The states of forward, from the sums x (B, S, D) and with the one pad slot of each row in front:
        padding item, which does not learn, position 0, real."""
        pad = self.items.weight[0].detach() + self.positions.weight[0] + self.segments.weight[REAL]
        pad = pad if user is None else pad + user
        x = self._entry(torch.cat([pad.expand(len(x), 1, -1), x], 1))  # (B, 1 + S, D)
        counts = slot_counts(pads, x.shape[1] - 1)
        for block in self.blocks[:-1]:
            x = block(x, counts)
        h: Tensor = self.blocks[-1](x, counts, None, slice(1, None) if only is None else 1 + only)
        return h


class _Block(nn.Module):
    """Attention and feed-forward, each added to its input and normalised after (post-norm, as in the paper).

    Not baselines' Block: a cache, masks of any shape, and generated items need attention of their own.
    """

    def __init__(self, config: RecGPTConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.flow = layer, config.heads, config.attention == "flow"
        self.p = config.dropout if config.attention_dropout is None else config.attention_dropout
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.widen = nn.Linear(config.dim, config.expand * config.dim)
        self.narrow = nn.Linear(config.expand * config.dim, config.dim)
        self.norm_attention = nn.LayerNorm(config.dim)
        self.norm_forward = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, mask: Tensor, cache: Cache | None = None, only: Tensor | slice | None = None
    ) -> Tensor:
        """only: slot only[b] of each row, or some slots of all. mask: with flow attention the counts."""
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each (B, heads, S, D/heads)
        if self.flow:
            attended = _kept(flow_attention(q, k, v, mask).transpose(1, 2).flatten(2), only)
            x = _kept(x, only)
        else:
            if cache is not None:
                k, v = cache.extend(self.layer, k, v)
            if isinstance(only, Tensor):
                x = take(x, only)
                q = q.gather(2, only[:, None, None, None].expand(-1, *q.shape[1:2], 1, q.shape[3]))
                mask = mask.expand(len(x), -1, -1, -1)[torch.arange(len(x), device=x.device), :, only][
                    :, :, None
                ]
            dropout = self.p if self.training else 0.0
            attended = softmax_attention(q, k, v, mask, dropout).transpose(1, 2).flatten(2)
        x = self.norm_attention(x + self.dropout(self.out(attended)))
        y: Tensor = self.norm_forward(x + self.dropout(self.narrow(F.gelu(self.widen(x)))))
        return y


def _kept(x: Tensor, only: Tensor | slice | None) -> Tensor:
    """The slots of x (B, S, D) that `only` names."""
    if only is None:
        return x
    return take(x, only) if isinstance(only, Tensor) else x[:, only]


def _lengths(items: Tensor) -> Tensor:
    """(B,) items of each history; an empty one counts as one padding item."""
    return last_slot(items) + 1

"""S3-Rec: SASRec after self-supervised pre-training (Zhou et al., 2020, arXiv 2008.07873).

Stage 1 pre-trains the encoder with attention both ways on whole windows, by
- MIP, masked item prediction: hidden items against a negative;
- SP, segment prediction: a window without a stretch of it against that stretch and a foreign one;
and, where item attributes are given, AAP (the attributes of an item) and MAP (those of a hidden
item). Stage 2 trains the same weights on as SASRec. Without attributes this is the variant that later papers
call S3-Rec (IPS).

Departures. Windows instead of every prefix of every sequence. Segments are encoded alone at their
positions, where the authors fill up with mask tokens to the length of the window. A foreign segment comes
from another row of the batch. Scores go into log s(positive - negative) as they are, where the authors'
code squashes each by a sigmoid before. With a softmax as `loss`, MIP takes that loss too. AAP reads the
item's embedding as the paper says; the authors' code reads its contextual state. Fine-tuning is this
project's SASRec (see there).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.base import MAX_LENGTH, Ids, Interactions, Progress
from baselines.batches import Batch, uniform_negatives
from baselines.data import Validation
from baselines.layers import initialise, last_slot, take
from baselines.losses import LossSettings
from baselines.networks import SequenceNetwork
from baselines.sasrec import SASRecNetwork, SASRecSettings
from baselines.sequential import SequentialRecommender
from baselines.settings import BEST_TRAINING, Preset, TrainingSettings


@dataclass(frozen=True)
class S3RecSettings(SASRecSettings):
    """pretrain_share: the part of the epochs of TrainingSettings that is pre-training (0: none). The weights
    multiply sums over a batch's slots (MIP, AAP, MAP) and rows (SP)."""

    heads: int = 2
    mask_share: float = 0.2  # of the items, beside each window's last
    pretrain_share: float = 0.3
    mip_weight: float = 0.2
    sp_weight: float = 0.5
    aap_weight: float = 1.0
    map_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("mask_share", "pretrain_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 to below 1")


class S3RecNetwork(SASRecNetwork):
    """SASRec's network, and what pre-training needs beside it. attributes (n_items + 1, A): ids, 0 = none."""

    def __init__(self, n_items: int, settings: S3RecSettings, attributes: Ids | None = None) -> None:
        super().__init__(n_items, settings)
        dim = settings.dim
        self.settings = settings
        self.positions = nn.Embedding(MAX_LENGTH + 1, dim)
        self.mask = nn.Embedding(1, dim)
        self.item_head, self.segment_head = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.attributes: nn.Embedding | None = None
        if attributes is not None:
            self.attributes = nn.Embedding(int(attributes.max(initial=0)) + 1, dim, padding_idx=0)
            self.associated_head, self.masked_head = nn.Linear(dim, dim), nn.Linear(dim, dim)
            self.register_buffer("attributes_of", torch.from_numpy(attributes), persistent=False)
        initialise(self)

    def pretraining_loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The weighted objectives, summed over the batch and divided by its rows."""
        s, window = self.settings, batch.whole()  # (B, T)
        hidden = mask_some(window, s.mask_share, generator)
        f = self.both_ways(window, hidden)[hidden]  # (N, d)
        targets = window[hidden]
        total = s.mip_weight * self._item_loss(f, targets, generator) * len(f)
        total = total + s.sp_weight * self._segment_loss(window, generator).sum()
        if self.attributes is not None:
            shown = window[(window > 0) & ~hidden]
            aap = self._attribute_loss(self.associated_head(self.items(shown)), shown)
            total = total + s.aap_weight * aap
            total = total + s.map_weight * self._attribute_loss(self.masked_head(f), targets)
        return total / len(window)

    def both_ways(self, items: Tensor, hidden: Tensor, start: Tensor | None = None) -> Tensor:
        """States (B, T, d) under attention both ways, with the mask token where `hidden`; the slots of row b
        count from start[b]."""
        position = torch.arange(items.shape[1], device=items.device)
        if start is not None:
            position = (position + start[:, None]).clamp_max(MAX_LENGTH)  # pads may reach past the end
        x = torch.where(hidden[:, :, None], self.mask.weight, self.items(items))
        x = self.drop(self.norm(x + self.positions(position)))
        for block in self.blocks:
            x = block(x, items > 0)
        return x

    def _item_loss(self, f: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        query = self.item_head(f)
        if self.settings.loss.kind != "bce":
            return self.next_item_loss(query, self.table(), targets, generator)
        negatives = uniform_negatives(len(self.table()) - 1, targets.shape, generator)
        rows = F.embedding(torch.stack((targets, negatives), dim=1), self.table())  # (N, 2, d)
        better = (query * (rows[:, 0] - rows[:, 1])).sum(dim=1)
        return F.softplus(-better).mean()

    def _segment_loss(self, window: Tensor, generator: torch.Generator) -> Tensor:
        """-log s(context . segment - context . foreign segment) for each row: (B,)."""
        start, length = draw_segments(window, generator)
        slot = torch.arange(window.shape[1], device=window.device)
        inside = (slot >= start[:, None]) & (slot < (start + length)[:, None])
        context = take(self.both_ways(window, inside), last_slot(window))[:, 0]
        own, foreign = segments(window, start, length, generator)
        both = torch.cat((own, foreign))
        states = self.both_ways(both, torch.zeros_like(both, dtype=torch.bool), start.repeat(2))
        ends = take(states, (length - 1).repeat(2))[:, 0]  # (2 B, d)
        better = (self.segment_head(context) * (ends[: len(own)] - ends[len(own) :])).sum(dim=1)
        return F.softplus(-better)

    def _attribute_loss(self, query: Tensor, items: Tensor) -> Tensor:
        """Binary cross-entropy of all attributes of each item, summed."""
        assert self.attributes is not None
        logits = (query @ self.attributes.weight.T)[:, 1:]
        has = torch.zeros(len(items), len(self.attributes.weight), device=items.device)
        has.scatter_(1, self.attributes_of[items], 1.0)  # type: ignore[index]
        return F.binary_cross_entropy_with_logits(logits, has[:, 1:], reduction="sum")


class S3Rec(SequentialRecommender):
    """`attributes` (n_items + 1, A): the attribute ids of each item, 1 and up, 0 = none; row 0 is padding."""

    name = "s3rec"
    settings_type = S3RecSettings
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            S3RecSettings(dropout=0.5, loss=LossSettings("bce", 1)),
            TrainingSettings(epochs=150, max_targets=None, lr=1e-3, patience=10),
            "the paper and the authors' code, with fewer epochs of pre-training",
        ),
        "best": Preset(
            S3RecSettings(dropout=0.3, pretrain_share=0.15, loss=LossSettings("full")),
            replace(BEST_TRAINING, lr=4e-3),
            "SASRec's training at twice the rate; the best of three trials on validation (bench/models.json)",
        ),
    }

    def __init__(
        self,
        settings: S3RecSettings | None = None,
        training: TrainingSettings | None = None,
        attributes: Ids | None = None,
    ) -> None:
        super().__init__(settings, training)
        self.attributes = None if attributes is None else np.asarray(attributes, np.int64)

    def build(self, n_users: int, n_items: int) -> S3RecNetwork:
        if self.attributes is not None and (
            self.attributes.ndim != 2 or len(self.attributes) != n_items + 1 or self.attributes.min() < 0
        ):
            raise ValueError(
                f"attributes of shape {self.attributes.shape} for {n_items} items; give ids of 0 (none) and "
                f"up, a row for each item and row 0 for padding: ({n_items + 1}, A)"
            )
        return S3RecNetwork(n_items, self.settings, self.attributes)

    def learn(
        self,
        network: SequenceNetwork,
        interactions: Interactions,
        validation: Validation | None,
        progress: Progress,
    ) -> None:
        """Pre-training keeps its last epoch: as a recommender it cannot be measured yet."""
        assert isinstance(network, S3RecNetwork), f"S3Rec built a {type(network).__name__}"
        first, second = self.stages()
        share = 0.0
        if first is not None:
            share = first.epochs / self.training.epochs
            part = _part(progress, 0, share)
            label = "fit s3rec, pre-training"
            self.stage(
                network, interactions, None, network.pretraining_loss, part, training=first, label=label
            )
        part = _part(progress, share, 1)
        self.stage(network, interactions, validation, network.loss, part, training=second)

    def stages(self) -> tuple[TrainingSettings | None, TrainingSettings]:
        """The epochs of a fit divided between pre-training and fine-tuning, which has one or more; None
        where there is no pre-training."""
        epochs, share = self.training.epochs, self.settings.pretrain_share
        n = min(max(1, round(epochs * share)), epochs - 1) if share > 0 else 0
        return replace(self.training, epochs=n) if n else None, replace(self.training, epochs=epochs - n)

    def extra(self) -> dict[str, Any]:
        return {} if self.attributes is None else {"attributes": self.attributes.tolist()}

    def restore_extra(self, extra: dict[str, Any]) -> None:
        if "attributes" in extra:
            self.attributes = np.array(extra["attributes"], np.int64)


def mask_some(window: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Each item of left-aligned windows (B, T) with probability `share`, and each row's last: (B, T)."""
    draw = torch.rand(window.shape, generator=generator, device=window.device)
    last = torch.arange(window.shape[1], device=window.device) == last_slot(window)[:, None]
    return ((draw < share) & (window > 0)) | last


def draw_segments(window: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(start, length) of a stretch of each row, (B,) both: 1 to half of its items, anywhere in it."""
    n = (window > 0).sum(dim=1)
    draw = torch.rand(2, len(window), generator=generator, device=window.device)
    length = 1 + (draw[0] * (n // 2)).long().clamp_max(n // 2 - 1).clamp_min(0)
    return (draw[1] * (n - length + 1)).long().minimum(n - length), length


def segments(
    window: Tensor, start: Tensor, length: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The stretches, and as many items in a row from elsewhere in the batch, both left-aligned: (B, S)."""
    slot = torch.arange(int(length.max()), device=window.device)
    inside = slot < length[:, None]
    own = window.gather(1, (start[:, None] + slot).clamp_max(window.shape[1] - 1))
    n = (window > 0).sum(dim=1)
    items, end = window[window > 0], n.cumsum(dim=0)  # all rows, one after the other
    n_starts = (len(items) - n - length + 1).clamp_min(1)  # so that the stretch stays in other rows
    draw = torch.rand(len(window), generator=generator, device=window.device)
    begin = end + (draw * n_starts).long().minimum(n_starts - 1)
    foreign = items[(begin[:, None] + slot) % len(items)]
    return torch.where(inside, own, 0), torch.where(inside, foreign, 0)


def _part(progress: Progress, start: float, end: float) -> Progress:
    """The progress of a part of the work, as progress of the whole."""
    return lambda stage, fraction: progress(stage, start + (end - start) * fraction)

"""ComiRec: several interests of a user, and their aggregation (Cen et al., 2020, arXiv 2005.09347).

ComiRec-DR finds the interests by dynamic routing, ComiRec-SA by self-attention. An item's score is its best
interest's.

Departures, so that a comparison is about the interests and not about the rest: every prefix of a history
trains (the routing of all prefixes is one masked product), with the loss, negatives, budget, dropout and
embeddings of the other models. An item's vote is multiplied by a learned factor for each age and interest,
where the authors' code has a whole matrix for each position: without it ComiRec-DR does not know what is
recent and stays at popularity (10,000 users of KuaiRand, 12 epochs, test NDCG@10: .039 with, .024 without,
popularity .024). Interests are scaled by sqrt(d) after the squash, so that logits start with the spread of
the other models. In training, too, each negative is scored by its own best interest: the paper scores the
negatives by the interest that fits the target best (interest_of="target"), so an interest never learns to
keep quiet about items that only others should find (ComiRec-DR before the factors, Beauty, 12 epochs, test
HR@10: .037 against .014). As in the authors' code the routing weights are constants to the gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.base import MAX_LENGTH, Ids, State
from baselines.batches import Batch
from baselines.layers import initialise, last_slot
from baselines.losses import LossSettings, NextItemLoss
from baselines.networks import SequenceNetwork
from baselines.sequential import MAX_SINCE, SequentialRecommender, check_reach
from baselines.settings import BEST_TRAINING, Preset, TrainingSettings

POOL = 100
"""Best-scored items among which the aggregation chooses, where categories count."""


@dataclass(frozen=True)
class ComiRecSettings:
    dim: int = 64
    interests: int = 4
    iterations: int = 3  # of the routing
    dropout: float = 0.2
    interest_of: str = "item"  # whose best interest scores a negative in training: its own, or the "target"'s
    diversity: float = 0.0  # lambda of the aggregation: what a pair of items of different categories is worth
    loss: LossSettings = LossSettings()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        if self.interest_of not in ("item", "target"):
            raise ValueError(f"interest_of is {self.interest_of!r}; allowed: 'item', 'target'")
        if self.interest_of == "item" and self.loss.kind != "sampled":
            raise ValueError(f"loss {self.loss.kind!r} takes one vector a slot; set interest_of to 'target'")


class ComiRecNetwork(SequenceNetwork):
    """Items to interests: `extract` is the routing or the attention."""

    def __init__(self, n_items: int, settings: ComiRecSettings) -> None:
        super().__init__()
        s = settings
        self.items = nn.Embedding(n_items + 1, s.dim, padding_idx=0)
        self.positions = nn.Embedding(MAX_LENGTH, s.dim)
        self.ages = nn.Embedding(MAX_LENGTH, s.interests)  # 0 = the last item
        self.norm = nn.LayerNorm(s.dim)
        self.drop = nn.Dropout(s.dropout)
        self.interest_of = s.interest_of
        self.next_item_loss = NextItemLoss(s.loss)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        slot = torch.arange(batch.items.shape[1], device=batch.items.device)
        v = self.interests(batch.items, slot.expand(batch.items.shape))  # (B, T, I, d)
        real = batch.targets > 0
        v, targets = v[real], batch.targets[real]
        if self.interest_of == "item":
            return self.next_item_loss(v, self.table(), targets, generator)
        with torch.no_grad():
            fit = (v * self.items(targets)[:, None]).sum(dim=2)  # (N, I)
        h = v[torch.arange(len(v), device=v.device), fit.argmax(dim=1)]  # eq. 9
        return self.next_item_loss(h, self.table(), targets, generator)

    def encode(self, users: Tensor, items: Tensor) -> Tensor:
        return self.interests(items, last_slot(items)[:, None])[:, 0]  # (B, I, d)

    def interests(self, items: Tensor, ends: Tensor) -> Tensor:
        """The interests of the prefixes that end with slots `ends` (B, P): (B, P, I, d)."""
        slot = torch.arange(items.shape[1], device=items.device)
        x = self.drop(self.norm(self.items(items) + self.positions(slot)))  # (B, T, d)
        age = ends[:, :, None] - slot  # (B, P, T)
        weight = self.ages(age.clamp_min(0)).permute(0, 1, 3, 2)  # (B, P, I, T)
        return self.extract(x, weight.masked_fill((age < 0)[:, :, None], -torch.inf))

    def extract(self, x: Tensor, ages: Tensor) -> Tensor:
        """x (B, T, d); ages (B, P, I, T): log weights of the items, -inf for what a prefix does not hold."""
        raise NotImplementedError


class RoutingNetwork(ComiRecNetwork):
    """Dynamic routing (algorithm 1): items vote for interests, and votes that agree gain weight."""

    def __init__(self, n_items: int, settings: ComiRecSettings) -> None:
        super().__init__(n_items, settings)
        self.iterations = settings.iterations
        self.n_interests = settings.interests
        self.votes = nn.Linear(settings.dim, settings.interests * settings.dim, bias=False)
        initialise(self)

    def extract(self, x: Tensor, ages: Tensor) -> Tensor:
        votes = self.votes(x).unflatten(-1, (self.n_interests, -1)).transpose(1, 2)  # (B, I, T, d)
        fixed = votes.detach()
        volume = ages.exp()
        logits = torch.zeros_like(ages)
        for _ in range(self.iterations - 1):
            v = squash(_gather(logits.softmax(dim=2) * volume.detach(), fixed))  # (B, I, P, d)
            logits = logits + (v @ fixed.transpose(2, 3)).transpose(1, 2)
        v = squash(_gather(logits.softmax(dim=2) * volume, votes))
        return v.transpose(1, 2) * x.shape[-1] ** 0.5


class AttentiveNetwork(ComiRecNetwork):
    """Self-attentive extraction (eq. 5): each interest has its own attention over the items."""

    def __init__(self, n_items: int, settings: ComiRecSettings) -> None:
        super().__init__(n_items, settings)
        self.hidden = nn.Linear(settings.dim, 4 * settings.dim, bias=False)
        self.attention = nn.Linear(4 * settings.dim, settings.interests, bias=False)
        initialise(self)

    def extract(self, x: Tensor, ages: Tensor) -> Tensor:
        logits = self.attention(torch.tanh(self.hidden(x))).transpose(1, 2)[:, None] + ages  # (B, P, I, T)
        weights = logits.softmax(dim=3)
        v = weights.flatten(1, 2) @ x  # (B, P I, d)
        return v.unflatten(1, weights.shape[1:3])


class ComiRec(SequentialRecommender):
    """ComiRec-DR. With `categories` (n_items + 1 numbers) and settings.diversity > 0 the list maximises,
    greedily and among the best 100 items, the sum of scores + diversity * pairs of different categories
    (algorithm 2)."""

    name = "comirec"
    settings_type = ComiRecSettings
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            ComiRecSettings(interest_of="target", loss=LossSettings("sampled", 1280)),
            TrainingSettings(epochs=200, max_targets=None, lr=1e-3, patience=10),
            "section 4.1 of the paper: 64 dimensions, 4 interests, ten negatives for each of 128 users",
        ),
        "best": Preset(
            ComiRecSettings(dropout=0.5, loss=LossSettings("sampled", 1024)),
            replace(BEST_TRAINING, lr=4e-3, epochs=24, patience=24),
            "twice SASRec's epochs and rate, and more dropout (validation NDCG@10 on Beauty .073; at its "
            "rate .069, with its epochs and dropout too .062); a full softmax over the best of four "
            "interests costs four times as much",
        ),
    }
    network_type: type[ComiRecNetwork] = RoutingNetwork

    def __init__(
        self,
        settings: ComiRecSettings | None = None,
        training: TrainingSettings | None = None,
        categories: Ids | None = None,
    ) -> None:
        super().__init__(settings, training)
        self.categories = categories

    def build(self, n_users: int, n_items: int) -> ComiRecNetwork:
        self._check_categories(n_items)
        return self.network_type(n_items, self.settings)

    def recommend(self, users: Ids, histories: Ids, k: int, exclude: Ids) -> Ids:
        state = self._state(users, histories, exclude, max(k, POOL) if self._diverse else k)
        return self.retrieve(state, k, np.zeros((len(users), 0), np.int64))

    def encode(self, users: Ids, histories: Ids, exclude: Ids) -> State:
        if not self._diverse:
            return super().encode(users, histories, exclude)
        return self._state(users, histories, exclude, POOL + MAX_SINCE)

    def retrieve(self, state: State, k: int, since: Ids) -> Ids:
        if not self._diverse or self.categories is None:
            return super().retrieve(state, k, since)
        pool = max(k, POOL)
        check_reach(state[0], pool, since)
        gone = (state[0] == 0) | (state[0][:, :, None] == since[:, None, :]).any(axis=2)
        left = np.argsort(gone, axis=1, kind="stable")[:, :pool]  # what may be shown comes first
        items = np.take_along_axis(np.where(gone, 0, state[0]), left, axis=1)
        scores = np.take_along_axis(np.where(gone, -np.inf, state[1]), left, axis=1)
        return aggregate(items, scores, self.categories, self.settings.diversity, k)

    @property
    def lists_by_score(self) -> bool:
        return not self._diverse

    def extra(self) -> dict[str, Any]:
        return {} if self.categories is None else {"categories": np.asarray(self.categories).tolist()}

    def restore_extra(self, extra: dict[str, Any]) -> None:
        if "categories" in extra:
            self.categories = np.array(extra["categories"], np.int64)

    def _state(self, users: Ids, histories: Ids, exclude: Ids, depth: int) -> State:
        items, scores = self.top(users, histories, exclude, depth)
        return (items, scores) if self._diverse else (items,)

    @property
    def _diverse(self) -> bool:
        return self.settings.diversity > 0

    def _check_categories(self, n_items: int) -> None:
        if self._diverse and self.categories is None:
            raise ValueError(f"diversity is {self.settings.diversity} without categories; give one an item")
        if self.categories is not None and len(self.categories) != n_items + 1:
            raise ValueError(f"{len(self.categories)} categories for {n_items} items; give n_items + 1")


class ComiRecSA(ComiRec):
    name = "comirec-sa"
    network_type = AttentiveNetwork
    presets: ClassVar[Mapping[str, Preset]] = {
        **ComiRec.presets,
        "best": Preset(
            ComiRecSettings(dropout=0.5, loss=LossSettings("sampled", 1024)),
            replace(BEST_TRAINING, epochs=24, patience=24),
            "twice SASRec's epochs, more dropout (validation NDCG@10 on Beauty .065; at twice the rate .064)",
        ),
    }


def squash(z: Tensor) -> Tensor:
    """The same direction, length |z|^2 / (1 + |z|^2)."""
    square = (z * z).sum(dim=-1, keepdim=True)
    return z * (square / (1 + square) / (square + 1e-9).sqrt())


def aggregate(items: Ids, scores: NDArray[np.floating], categories: Ids, diversity: float, k: int) -> Ids:
    """Greedily k of each row's items: each time the largest score + diversity * (items chosen already that
    are of other categories). items (n, P) best first, 0 = none, with score -inf."""
    n = len(items)
    category = np.asarray(categories)[items]
    value = np.asarray(scores, np.float64).copy()
    chosen = np.zeros((n, k), np.int64)
    row = np.arange(n)
    for place in range(min(k, items.shape[1])):
        best = value.argmax(axis=1)
        left = value[row, best] > -np.inf
        chosen[left, place] = items[row, best][left]
        value[row, best] = -np.inf
        value += diversity * (category != category[row, best][:, None])
    return chosen


def _gather(weights: Tensor, votes: Tensor) -> Tensor:
    """weights (B, P, I, T), votes (B, I, T, d) -> (B, I, P, d)."""
    return weights.transpose(1, 2) @ votes

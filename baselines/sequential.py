"""SequentialRecommender: a network that turns a history into vectors gets fit, recommend, save and load.

Serving is batch-invariant: a user's list does not depend on who shares the batch. Scores are computed in
blocks of exactly 64 rows (filled up with empty ones), histories are padded to a width that depends on their
own length alone, the number of threads is fixed, and ties go to the smaller item id.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.base import Ids, Interactions, Progress, State, recent, silent, without
from baselines.batches import Batch, windows
from baselines.checkpoint import load_checkpoint, restore, save_checkpoint, settings_of
from baselines.cooccurrence import item_vectors
from baselines.data import Validation, hold_out
from baselines.distributed import local_device, usable_device
from baselines.evaluate import validator
from baselines.layers import last_slot
from baselines.losses import NextItemLoss
from baselines.toplist import padded_width, top_items
from baselines.training import Epoch, Loss, TrainingRun, TrainingSettings, seeded, torch_threads, train

BLOCK = 64
"""Rows of a scoring block."""

WIDTHS = (12, 50)
"""Columns of a history in a block; a history takes the first width that holds it."""

HEADER = ("settings", "training", "n_users", "n_items", "data_hash", "extra")
"""What the header of a checkpoint must tell to load it."""

START_LENGTH, START_NOISE = 0.3, 0.3
"""Of the first item vectors from co-occurrence, and of the random ones that are added."""

MAX_K = 50
MAX_SINCE = 100
"""What a state can answer: lists of MAX_K items after MAX_SINCE items were shown."""


class SequenceNetwork(nn.Module):
    """What a subclass of SequentialRecommender builds.

    `items` is the item embedding, (n_items + 1, d), row 0 padding; users are scored against it.
    """

    items: nn.Embedding

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The mean loss over the batch's targets."""
        raise NotImplementedError

    def encode(self, users: Tensor, items: Tensor) -> Tensor:
        """A user's vectors, (B, d) or (B, I, d), in eval mode. users (B,), -1 = unknown; items (B, L),
        left-aligned, 0 after the end, L up to 50; a row may be empty."""
        raise NotImplementedError

    def table(self) -> Tensor:
        return self.items.weight


class PrefixNetwork(SequenceNetwork):
    """A network that looks back over a whole prefix from its last slot: a subclass gives `prefixes`."""

    next_item_loss: NextItemLoss

    def prefixes(self, items: Tensor, ends: Tensor) -> Tensor:
        """The vectors of the prefixes that end with slots `ends` (B, P): (B, P, d)."""
        raise NotImplementedError

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        slot = torch.arange(batch.items.shape[1], device=batch.items.device)
        h = self.prefixes(batch.items, slot.expand(batch.items.shape))  # (B, T, d)
        real = batch.targets > 0
        return self.next_item_loss(h[real], self.table(), batch.targets[real], generator)

    def encode(self, users: Tensor, items: Tensor) -> Tensor:
        return self.prefixes(items, last_slot(items)[:, None])[:, 0]  # (B, d)


class Preset(NamedTuple):
    """Settings of a model under a name: "paper" is the published configuration and loss, "best" what did best
    on validation. `source` says where the figures come from."""

    settings: Any
    training: TrainingSettings
    source: str


class SequentialRecommender:
    """A subclass names itself and its settings, and builds its network; the rest is here.

    A model with several stages overrides `learn`; one whose list is more than the top of the scores overrides
    `encode` and `retrieve`, on top of `top`. `extra` and `restore_extra` carry what it learned beside.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type]
    presets: ClassVar[Mapping[str, Preset]] = {}

    def __init__(self, settings: Any = None, training: TrainingSettings | None = None) -> None:
        self.settings = self.settings_type() if settings is None else settings
        self.training = TrainingSettings() if training is None else training
        self.n_users = self.n_items = 0
        self.data_hash = ""
        self.network: SequenceNetwork | None = None
        self._item_counts = np.zeros(1, np.int64)
        self._start: Mapping[str, Tensor] | None = None
        self.runs: list[TrainingRun] = []

    @classmethod
    def preset(cls, name: str, *, seed: int = 0, threads: int = 1, device: str = "cpu") -> Self:
        """An untrained model with the settings of a preset. Raises LookupError for an unknown one."""
        if name not in cls.presets:
            known = ", ".join(cls.presets) or "none"
            raise LookupError(f"unknown preset {name!r} of {cls.name}; known presets: {known}")
        settings, training, _ = cls.presets[name]
        return cls(settings, replace(training, seed=seed, threads=threads, device=device))

    def build(self, n_users: int, n_items: int) -> SequenceNetwork:
        raise NotImplementedError

    def extra(self) -> dict[str, Any]:
        """JSON values that a checkpoint keeps beside the weights."""
        return {}

    def restore_extra(self, extra: dict[str, Any]) -> None:
        """Take back what `extra` gave; called before `build`."""

    def fit(
        self, interactions: Interactions, progress: Progress = silent, *, validation: Validation | None = None
    ) -> Self:
        """Train from scratch. Without a `validation` the last item of a fixed sample of users is held out."""
        self.n_users, self.n_items = interactions.n_users, interactions.n_items
        self.data_hash = interactions.content_hash()
        self._item_counts = np.bincount(interactions.items, minlength=self.n_items + 1)
        if validation is None and self.training.validation_users:
            interactions, validation = hold_out(
                interactions, self.training.validation_users, self.training.seed
            )
        with torch_threads(self.training.threads), seeded(self.training.seed):
            network = self._built()
            if self._start is not None:
                network.load_state_dict(self._start)
            elif self.training.item_start == "cooccurrence":
                _start_items(network, interactions)
            self.runs = []
            self.learn(network, interactions, validation, progress)
        self._ready(network)
        return self

    def refit(
        self, interactions: Interactions, progress: Progress = silent, *, epochs: int | None = None
    ) -> Self:
        """Another model that `fit` trains on these interactions, starting from the weights of this one.

        `epochs`: how many at most, None for as many as a first fit. Users and items must be the same.
        """
        training = self.training if epochs is None else replace(self.training, epochs=epochs)
        model = type(self)(self.settings, training)
        model._start = {name: tensor.cpu().clone() for name, tensor in self._fitted().state_dict().items()}
        model.fit(interactions, progress)
        model._start = None
        return model

    def learn(
        self,
        network: SequenceNetwork,
        interactions: Interactions,
        validation: Validation | None,
        progress: Progress,
    ) -> None:
        """Train the network in place; one stage here."""
        self.stage(network, interactions, validation, network.loss, progress)

    def stage(
        self,
        network: SequenceNetwork,
        interactions: Interactions,
        validation: Validation | None,
        loss: Loss,
        progress: Progress,
        *,
        training: TrainingSettings | None = None,
        label: str | None = None,
        resume: str | Path | None = None,
    ) -> TrainingRun:
        """One call of `train` with exact full ranking as validation; recorded in `runs`."""
        training = training or self.training
        measure = None
        if validation is not None and len(validation.users):
            measure = validator(
                network.encode,
                network.table,
                validation,
                max_users=training.evaluate_users,
                device=local_device(training.device),
            )
        run = train(
            network,
            windows(interactions),
            loss,
            training,
            validate=measure,
            label=label or f"fit {self.name}",
            progress=progress,
            resume=resume,
            made_of=asdict(self.settings),
        )
        self.runs.append(run)
        return run

    def recommend(self, users: Ids, histories: Ids, k: int, exclude: Ids) -> Ids:
        return self.retrieve(
            self._state(users, histories, exclude, k), k, np.zeros((len(users), 0), np.int64)
        )

    def encode(self, users: Ids, histories: Ids, exclude: Ids) -> State:
        return self._state(users, histories, exclude, MAX_K + MAX_SINCE)

    def retrieve(self, state: State, k: int, since: Ids) -> Ids:
        check_reach(state[0], k, since)
        return without(state[0], since, k)

    def _state(self, users: Ids, histories: Ids, exclude: Ids, depth: int) -> State:
        return (self.top(users, histories, exclude, depth)[0],)

    def top(
        self, users: Ids, histories: Ids, exclude: Ids, depth: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(items, scores) of each user's best `depth` items that are not excluded: (n, depth), best first,
        0 and -inf after the end. `histories` and `exclude` of any width."""
        n = len(users)
        items = np.zeros((n, depth), np.int32)
        scores = np.full((n, depth), -np.inf, np.float32)
        exclude = np.where((exclude > 0) & (exclude <= self.n_items), exclude, 0)
        for rows, vectors in self.vectors(users, histories):
            items[rows], scores[rows] = self.top_of(vectors, exclude[rows], depth)
        for rows in self.cold(histories):
            items[rows], scores[rows] = self.popular(exclude[rows], depth)
        return items, scores

    def cold(self, histories: Ids) -> Iterator[Ids]:
        """Rows without any known item, in blocks: they get what is popular."""
        rows = np.flatnonzero(~np.any((histories > 0) & (histories <= self.n_items), axis=1))
        yield from (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))

    def popular(self, exclude: Ids, depth: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(items, training interactions of each) for users without a history: what `top` says about them."""
        counts = np.zeros((len(exclude), padded_width(self.n_items + 1)), np.float32)
        counts[:, : self.n_items + 1] = self._item_counts
        return top_items(self._masked(counts, exclude), depth)

    def vectors(self, users: Ids, histories: Ids) -> Iterator[tuple[Ids, Tensor]]:
        """Encode in blocks of 64: (rows, vectors (64, d) or (64, I, d)), the first len(rows) of them real.
        A row without a history yields a vector that means nothing."""
        network = self._fitted()
        known = self._known(histories)
        length = np.count_nonzero(known, axis=1)
        for width, rows in blocks(length):
            user = np.full(BLOCK, -1, np.int64)
            user[: len(rows)] = users[rows]
            history = np.zeros((BLOCK, width), np.int64)
            history[: len(rows)] = known[rows, :width]
            yield rows, self.encode_block(network, user, history)

    @torch.no_grad()
    def encode_block(self, network: SequenceNetwork, users: Ids, histories: Ids) -> Tensor:
        """network.encode of one block of exactly 64 rows."""
        device = network.items.weight.device
        users = np.where((users >= 0) & (users < self.n_users), users, -1)
        with torch_threads(self.training.threads):
            return network.encode(torch.from_numpy(users).to(device), torch.from_numpy(histories).to(device))

    @torch.no_grad()
    def top_of(
        self, vectors: Tensor, exclude: Ids, depth: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(items, scores) of the best items for a block of 64 vectors; the first len(exclude) rows count."""
        by_interest = vectors[:, None] if vectors.dim() == 2 else vectors
        best, other = self._buffers
        with torch_threads(self.training.threads):
            torch.mm(by_interest[:, 0], self._items_by_column, out=best)
            for interest in range(1, by_interest.shape[1]):
                torch.mm(by_interest[:, interest], self._items_by_column, out=other)
                torch.maximum(best, other, out=best)
        return top_items(self._masked(best[: len(exclude)].cpu().numpy(), exclude), depth)

    def _masked(self, scores: NDArray[np.float32], exclude: Ids) -> NDArray[np.float32]:
        """Write -inf over padding, what is past the catalogue, and excluded items."""
        scores[:, self.n_items + 1 :] = -np.inf
        scores[np.arange(len(exclude))[:, None], exclude] = -np.inf
        scores[:, 0] = -np.inf
        return scores

    def save(self, path: str | Path) -> None:
        header = {
            "model": self.name,
            "settings": asdict(self.settings),
            "training": asdict(self.training),
            "n_users": self.n_users,
            "n_items": self.n_items,
            "data_hash": self.data_hash,
            "runs": self.runs,
            "extra": self.extra(),
        }
        weights = {f"network.{name}": tensor for name, tensor in self._fitted().state_dict().items()}
        save_checkpoint(path, {**weights, "item_counts": torch.from_numpy(self._item_counts)}, header)

    @classmethod
    def load(cls, path: str | Path, *, device: str | None = None) -> Self:
        """The fitted model on a device: by default the one it was trained on, or the CPU where that is not
        there. Raises ValueError where the file is missing, damaged, foreign or of another version."""
        tensors, header = load_checkpoint(path, cls.name)
        absent = {*HEADER, "item_counts"} - {*header, *tensors}
        if absent:
            raise ValueError(
                f"{path} lacks {', '.join(sorted(absent))}, so another version of this program wrote it; "
                "train the model again"
            )
        training = settings_of(TrainingSettings, header["training"], path)
        model = cls(
            settings_of(cls.settings_type, header["settings"], path),
            replace(training, device=device or usable_device(training.device)),
        )
        model._item_counts = tensors.pop("item_counts").numpy()
        try:
            model.n_users, model.n_items = int(header["n_users"]), int(header["n_items"])
            if model._item_counts.shape != (model.n_items + 1,):
                raise ValueError(f"{len(model._item_counts) - 1} item counts for {model.n_items} items")
            model.data_hash = header["data_hash"]
            model.runs = [
                TrainingRun(tuple(Epoch(*e) for e in epochs), best) for epochs, best in header["runs"]
            ]
            model.restore_extra(header["extra"])
            with seeded(0):
                network = model._built()
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path} describes its model in a way that this version does not know ({error!r}); train the "
                "model again"
            ) from error
        restore(network, {name.removeprefix("network."): tensor for name, tensor in tensors.items()}, path)
        model._ready(network)
        return model

    def _built(self) -> SequenceNetwork:
        """The network with its first weights. ValueError where torch cannot make one of these sizes."""
        try:
            return self.build(self.n_users, self.n_items)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{self.name} cannot be built for {self.n_users} users and {self.n_items} items with these "
                f"settings ({reason}); change them, such as to a dim of 64"
            ) from error

    def _ready(self, network: SequenceNetwork) -> None:
        """Prepare serving: the item table by columns, and score buffers that every block reuses."""
        self.network = network.to(local_device(self.training.device)).eval()
        table = network.table().detach()
        width = padded_width(len(table))
        self._items_by_column = table.new_zeros(table.shape[1], width)
        self._items_by_column[:, : len(table)] = table.T
        self._buffers = table.new_empty(BLOCK, width), table.new_empty(BLOCK, width)

    def _fitted(self) -> SequenceNetwork:
        if self.network is None:
            raise ValueError(f"{self.name} has not learned anything yet; call fit or load first")
        return self.network

    def _known(self, histories: Ids) -> Ids:
        """The last 50 items that the model knows: an item that came after the fit says nothing to it."""
        known = histories <= self.n_items
        if not known.all():
            order = np.argsort(~(known & (histories > 0)), axis=1, kind="stable")
            histories = np.take_along_axis(np.where(known, histories, 0), order, axis=1)
        return recent(histories)


@torch.no_grad()
def _start_items(network: SequenceNetwork, interactions: Interactions) -> None:
    """Item vectors that know who goes with whom, with a little noise for those that are equal or 0."""
    table = network.items.weight
    vectors = torch.from_numpy(item_vectors(interactions, table.shape[1]))
    table[: len(vectors)] = START_NOISE * table[: len(vectors)] + START_LENGTH * vectors


def check_reach(items: NDArray[Any], k: int, since: Ids) -> None:
    """Raise ValueError where a state cannot be sure of k items after `since`."""
    shown = int(np.count_nonzero(np.any(since != 0, axis=0)))
    if items.shape[1] < k + shown and bool(np.any(items[:, -1:] != 0)):
        raise ValueError(
            f"{k} items after {shown} shown ones are out of reach; a state answers up to {MAX_K} items after "
            f"up to {MAX_SINCE}: call encode again with the shown items excluded"
        )


def blocks(lengths: Ids) -> Iterator[tuple[int, Ids]]:
    width_of = np.searchsorted(np.array(WIDTHS), lengths)
    for number, width in enumerate(WIDTHS):
        rows = np.flatnonzero(width_of == number)
        for start in range(0, len(rows), BLOCK):
            yield width, rows[start : start + BLOCK]

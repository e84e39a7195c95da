"""SequentialRecommender: a network that turns a history into vectors gets fit, recommend, save and load.

Serving is batch-invariant: a user's list does not depend on who shares the batch. Users are encoded and
scored in blocks of exactly 64 (filled up with empty rows), histories are padded to a width that depends on
their own length alone, and the number of threads is fixed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.base import Ids, Interactions, Progress, State, known_items, recent, silent, without
from baselines.batches import windows
from baselines.catalogue import BLOCK, Catalogue, blocks
from baselines.checkpoint import load_checkpoint, restore, save_checkpoint, settings_of
from baselines.cooccurrence import item_vectors
from baselines.data import Validation, hold_out
from baselines.distributed import local_device, usable_device
from baselines.evaluate import full_ranks, validator
from baselines.networks import SequenceNetwork
from baselines.settings import Preset, TrainingSettings
from baselines.training import Epoch, Loss, TrainingRun, seeded, torch_threads, train

HEADER = ("settings", "training", "n_users", "n_items", "data_hash", "extra")
"""What the header of a checkpoint must tell to load it."""

START_LENGTH, START_NOISE = 0.3, 0.3
"""Of the first item vectors from co-occurrence, and of the random ones that are added."""

MAX_K = 50
MAX_SINCE = 100
"""What a state can answer: lists of MAX_K items after MAX_SINCE items were shown."""


class SequentialRecommender:
    """A subclass names itself and its settings, and builds its network; the rest is here.

    A model with several stages overrides `learn`; one whose list is more than the top of the scores overrides
    `encode` and `retrieve`, on top of `top`, and `lists_by_score`. `extra` and `restore_extra` carry what it
    learned beside.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type]
    presets: ClassVar[Mapping[str, Preset]] = {}
    catalogue: Catalogue  # of the fitted network

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
                network.load_state_dict(_grown(self._start, network))
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

        `epochs`: how many at most, None for as many as a first fit. Users must be the same; items may have
        come in after the others, and begin as in a first fit.
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
            items[rows], scores[rows] = self.catalogue.top_of(vectors, exclude[rows], depth)
        for rows in self.cold(histories):
            items[rows], scores[rows] = self.catalogue.popular(exclude[rows], depth)
        return items, scores

    def target_ranks(self, users: Ids, histories: Ids, targets: Ids, exclude: Ids) -> Ids | None:
        """Where items stand in a user's list of all items, 0 where they are not in it: (n,). None where lists
        are more than the top of the scores."""
        if not self.lists_by_score:
            return None
        network, n_items = self._fitted(), self.n_items
        known = (targets > 0) & (targets <= n_items)
        asked = (
            np.where((users >= 0) & (users < self.n_users), users, -1),
            self._known(histories),
            np.where(known, targets, 0),
            np.where((exclude > 0) & (exclude <= n_items), exclude, 0),
        )
        device = network.items.weight.device
        with torch_threads(self.training.threads):
            ranks = full_ranks(network.encode, network.table(), *asked, device=device)
            for rows in self.cold(histories):  # by what is popular, as if by a vector of one number
                counts = torch.from_numpy(self._item_counts).float()[:, None]
                parts = (column[rows] for column in asked)
                ranks[rows] = full_ranks(lambda u, _: torch.ones(len(u), 1, device=u.device), counts, *parts)
        return np.where(known, ranks, 0)

    @property
    def lists_by_score(self) -> bool:
        """Whether a list is the top of the scores and nothing else."""
        return True

    def cold(self, histories: Ids) -> Iterator[Ids]:
        """Rows without any known item, in blocks: they get what is popular."""
        rows = np.flatnonzero(~np.any((histories > 0) & (histories <= self.n_items), axis=1))
        yield from (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))

    @torch.no_grad()
    def vectors(self, users: Ids, histories: Ids) -> Iterator[tuple[Ids, Tensor]]:
        """Encode in blocks of 64: (rows, vectors (64, d) or (64, I, d)), the first len(rows) of them real.
        A row without a history yields a vector that means nothing."""
        network = self._fitted()
        for rows, *inputs in self._blocks(users, histories):
            with torch_threads(self.training.threads):
                vectors = network.encode(*inputs)
            yield rows, vectors

    def _blocks(self, users: Ids, histories: Ids) -> Iterator[tuple[Ids, Tensor, Tensor]]:
        """(rows, users (64,), histories (64, width)) as a network takes them; empty rows fill a block up."""
        device = self._fitted().items.weight.device
        users = np.where((users >= 0) & (users < self.n_users), users, -1)
        known = self._known(histories)
        for width, rows in blocks(np.count_nonzero(known, axis=1)):
            user = np.full(BLOCK, -1, np.int64)
            user[: len(rows)] = users[rows]
            history = np.zeros((BLOCK, width), np.int64)
            history[: len(rows)] = known[rows, :width]
            yield rows, torch.from_numpy(user).to(device), torch.from_numpy(history).to(device)

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
        """Prepare serving."""
        self.network = network.to(local_device(self.training.device)).eval()
        self.catalogue = Catalogue(network.table().detach(), self._item_counts, self.training.threads)

    def _fitted(self) -> SequenceNetwork:
        if self.network is None:
            raise ValueError(f"{self.name} has not learned anything yet; call fit or load first")
        return self.network

    def _known(self, histories: Ids) -> Ids:
        """The last 50 items that the model knows: an item that came after the fit says nothing to it."""
        return recent(known_items(histories, self.n_items))


def _grown(start: Mapping[str, Tensor], network: SequenceNetwork) -> dict[str, Tensor]:
    """The weights to start from; rows of a network that has more of them (items) keep its own weights."""
    return {
        name: torch.cat((start[name], own[len(start[name]) :]))
        if own.dim() and len(own) > len(start[name])
        else start[name]
        for name, own in network.state_dict().items()
    }


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

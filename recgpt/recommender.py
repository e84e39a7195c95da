"""RecGPT: pre-training, prompt-tuning and two-step recall behind fit and recommend.

fit runs the three stages and chooses on validation: the best epoch of each stage by one-step NDCG@10, then
(m, n).
"""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from baselines.base import Ids, Interactions, Progress, State, silent
from baselines.data import Validation, hold_out
from baselines.distributed import rank
from baselines.networks import SequenceNetwork
from baselines.sequential import SequentialRecommender, check_reach
from baselines.settings import TrainingSettings
from baselines.training import Loss, seeded, torch_threads
from recgpt.model import Decoder, DecoderSettings, RecGPTConfig
from recgpt.pretrain import pretraining_loss
from recgpt.recall import CUTOFFS, Split, choose_splits, encode_twice, merge, split_for
from recgpt.settings import PRESETS, RecGPTSettings
from recgpt.tune import tuning_loss


class RecGPT(SequentialRecommender):
    """`splits` holds the chosen (m, n) for each length of list; empty means one step. `tuned` says which
    stages ran.

    Where `resume_folder` is set, training leaves its state there after every epoch and continues from it.
    """

    name = "recgpt"
    settings_type = RecGPTSettings
    presets = PRESETS

    def __init__(
        self, settings: RecGPTSettings | None = None, training: TrainingSettings | None = None
    ) -> None:
        super().__init__(settings, training)
        self.splits: dict[int, Split] = {}
        self.tuned = False
        self.resume_folder: Path | None = None

    def build(self, n_users: int, n_items: int) -> Decoder:
        network = {field.name: getattr(self.settings, field.name) for field in fields(DecoderSettings)}
        return Decoder(RecGPTConfig(n_items=n_items, n_users=n_users, **network))

    def fit(
        self, interactions: Interactions, progress: Progress = silent, *, validation: Validation | None = None
    ) -> Self:
        """All stages, from scratch. Without a `validation` the last item of some users is held out."""
        first, second = self.stages()
        if second is None:
            return self.pretrain(interactions, progress, validation=validation)
        share = first.epochs / (first.epochs + second.epochs)
        self.pretrain(interactions, _part(progress, 0, share), validation=validation)
        return self.tune(interactions, _part(progress, share, 1), validation=validation)

    def pretrain(
        self, interactions: Interactions, progress: Progress = silent, *, validation: Validation | None = None
    ) -> Self:
        """Stage 1 alone; `tune` goes on from there."""
        self.tuned, self.splits = False, {}
        return super().fit(interactions, progress, validation=validation)

    def learn(
        self,
        network: SequenceNetwork,
        interactions: Interactions,
        validation: Validation | None,
        progress: Progress,
    ) -> None:
        decoder = _decoder(network)
        loss = pretraining_loss(decoder, self.settings.loss)
        self._run("pretrain", decoder, interactions, validation, loss, self.stages()[0], progress)

    def tune(
        self,
        interactions: Interactions,
        progress: Progress = silent,
        *,
        validation: Validation | None = None,
    ) -> Self:
        """Stage 2 and the choice of (m, n) for a pre-trained model, on the interactions that it was
        pre-trained on. Raises ValueError for other interactions, or where the settings have no tuning."""
        network = _decoder(self._fitted())
        if interactions.content_hash() != self.data_hash:
            raise ValueError(
                "these are not the interactions that the model was pre-trained on; pre-train it on them"
            )
        training = self.stages()[1]
        if training is None:
            raise ValueError("these settings have no epochs of prompt-tuning; set tune_epochs or tune_share")
        if validation is None and training.validation_users:
            interactions, validation = hold_out(interactions, training.validation_users, training.seed)
        loss = tuning_loss(network, self.settings.tune_loss or self.settings.loss, self.settings)
        with torch_threads(training.threads), seeded(training.seed):
            self._run("tune", network, interactions, validation, loss, training, progress)
        self.tuned = True
        self._ready(network)
        if validation is not None and len(validation.users):
            self.splits = self._choose(validation)
        progress(f"recgpt recall: {_describe(self.splits)}", 1.0)
        return self

    def stages(self) -> tuple[TrainingSettings, TrainingSettings | None]:
        """The training settings of pre-training and of prompt-tuning. Each has an epoch or more; None where
        there is no tuning."""
        epochs, share, n_tune = self.training.epochs, self.settings.tune_share, self.settings.tune_epochs
        if n_tune is None:
            n_tune = min(max(1, round(epochs * share)), epochs - 1) if share > 0 else 0
            epochs -= n_tune
        first = replace(self.training, epochs=epochs)
        lr = self.training.lr * self.settings.tune_lr_factor
        return first, replace(self.training, epochs=n_tune, lr=lr) if n_tune else None

    def rankings(self, users: Ids, histories: Ids, exclude: Ids, depth: int) -> tuple[Ids, Ids]:
        """The rankings of step 1 and step 2: each (n, depth) item ids, best first, 0 after the end."""
        exclude = np.where((exclude > 0) & (exclude <= self.n_items), exclude, 0)
        first, second = np.zeros((2, len(users), depth), np.int64)
        for rows, before, after in self._both_vectors(users, histories):
            first[rows] = self.catalogue.top_of(before, exclude[rows], depth)[0]
            second[rows] = self.catalogue.top_of(after, exclude[rows], depth)[0]
        for rows in self.cold(histories):
            first[rows] = second[rows] = self.catalogue.popular(exclude[rows], depth)[0]
        return first, second

    def retrieve(self, state: State, k: int, since: Ids) -> Ids:
        first, second = (part.astype(np.int64) for part in state)
        m, n = self.split(k)
        check_reach(first, k, since)
        return merge(first, second, m, n, since)

    @property
    def lists_by_score(self) -> bool:
        return not self._has_two_steps()

    def split(self, k: int) -> tuple[int, int]:
        """How a list of k items is put together: m from step 1, n from step 2."""
        if self.settings.second_share is not None:
            n = round(k * self.settings.second_share)
            return k - n, n
        return split_for(k, self.splits)

    def fix_split(self, m: int, n: int) -> None:
        """From now on lists are put together as m + n items are: in this proportion at any length."""
        self.settings = replace(self.settings, second_share=n / (m + n))

    def extra(self) -> dict[str, Any]:
        return {
            "tuned": self.tuned,
            "splits": {str(length): list(split) for length, split in self.splits.items()},
        }

    def restore_extra(self, extra: dict[str, Any]) -> None:
        self.tuned = extra["tuned"]
        self.splits = {int(length): Split(*split) for length, split in extra["splits"].items()}

    def _run(
        self,
        stage: str,
        network: Decoder,
        interactions: Interactions,
        validation: Validation | None,
        loss: Loss,
        training: TrainingSettings,
        progress: Progress,
    ) -> None:
        resume = self.resume_folder / f"{stage}.resume" if self.resume_folder else None
        label = f"recgpt {stage}"
        self.stage(
            network, interactions, validation, loss, progress, training=training, label=label, resume=resume
        )
        if resume is not None and rank() == 0:
            resume.unlink(missing_ok=True)

    def _choose(self, validation: Validation) -> dict[int, Split]:
        hidden = (
            validation.histories
            if validation.exclude_history
            else np.zeros((len(validation.users), 0), np.int64)
        )
        rankings = self.rankings(validation.users, validation.histories, hidden, max(CUTOFFS))
        return choose_splits(*rankings, validation.targets)

    def _state(self, users: Ids, histories: Ids, exclude: Ids, depth: int) -> State:
        if not self._has_two_steps():
            return self.top(users, histories, exclude, depth)[0], np.zeros((len(users), 0), np.int32)
        first, second = self.rankings(users, histories, exclude, depth)
        return first.astype(np.int32), second.astype(np.int32)

    def _has_two_steps(self) -> bool:
        """Whether any list has items of step 2; half the work is spared where none has."""
        share = self.settings.second_share
        return any(split.n for split in self.splits.values()) if share is None else share > 0

    @torch.no_grad()
    def _both_vectors(self, users: Ids, histories: Ids) -> Iterator[tuple[Ids, Tensor, Tensor]]:
        """As `vectors`, in the same blocks: (rows, vectors of step 1 (64, D), vectors of step 2 (64, D))."""
        network, repeats = _decoder(self._fitted()), self.settings.prompt_repeats
        for rows, *inputs in self._blocks(users, histories):
            with torch_threads(self.training.threads):
                both = encode_twice(network, *inputs, repeats=repeats)
            yield (rows, *both)


def _decoder(network: SequenceNetwork) -> Decoder:
    assert isinstance(network, Decoder), f"RecGPT built a {type(network).__name__}"
    return network


def _describe(splits: dict[int, Split]) -> str:
    """(m, n) for each length of list.

    >>> _describe({5: Split(5, 0), 10: Split(9, 1)})
    '(5, 0) (9, 1)'
    """
    return " ".join(f"({split.m}, {split.n})" for split in splits.values()) or "one step"


def _part(progress: Progress, start: float, end: float) -> Progress:
    """The progress of a part of the work, as progress of the whole."""
    return lambda stage, fraction: progress(stage, start + (end - start) * fraction)

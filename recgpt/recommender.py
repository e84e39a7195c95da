"""RecGPT: pre-training, prompt-tuning and two-step recall behind fit and recommend.

fit runs the three stages and chooses on validation: the best epoch of each stage by one-step NDCG@10, then
(m, n).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from baselines.base import Ids, Interactions, Progress, State, silent
from baselines.data import Validation, hold_out
from baselines.sequential import (
    BLOCK,
    LossSettings,
    SequenceNetwork,
    SequentialRecommender,
    blocks,
    check_reach,
)
from baselines.training import Loss, TrainingSettings, seeded, torch_threads
from recgpt.model import Decoder, DecoderSettings, RecGPTConfig
from recgpt.pretrain import pretraining_loss
from recgpt.recall import CUTOFFS, Split, choose_splits, encode_twice, merge, split_for
from recgpt.tune import PromptSettings, tuning_loss


@dataclass(frozen=True)
class RecGPTSettings(DecoderSettings, PromptSettings):
    """The network, its losses and stages.

    tune_loss: the loss of prompt-tuning, None: as `loss`. tune_share: the part of the epochs of
    TrainingSettings that is prompt-tuning (0: none), at the rate lr * tune_lr_factor. second_share: the part
    of a list that step 2 fills, 0 to 1; None chooses it on validation for each length of list.
    """

    loss: LossSettings = LossSettings()  # noqa: RUF009 - frozen
    tune_loss: LossSettings | None = None
    tune_share: float = 0.15
    tune_lr_factor: float = 0.5
    second_share: float | None = None

    def __post_init__(self) -> None:
        DecoderSettings.__post_init__(self)
        PromptSettings.__post_init__(self)
        if isinstance(self.tune_loss, dict):  # from the header of a checkpoint
            object.__setattr__(self, "tune_loss", LossSettings(**self.tune_loss))
        if self.prompts != "last" and not self.append_only:
            raise ValueError(
                f"prompts {self.prompts!r} need attention 'softmax' and positions 'start', not "
                f"{self.attention!r} and {self.positions!r}; there take prompts 'last'"
            )
        if self.prompt_leak and (self.attention, self.positions) != ("flow", "end"):
            raise ValueError(
                "prompt_leak needs attention 'flow' and positions 'end', not "
                f"{self.attention!r} and {self.positions!r}; turn it off there"
            )
        if not 0 <= self.tune_share < 1:
            raise ValueError(f"tune_share is {self.tune_share}; it must be 0 (no tuning) to below 1")
        if self.tune_lr_factor <= 0:
            raise ValueError(f"tune_lr_factor is {self.tune_lr_factor}; it must be above 0")
        if self.second_share is not None and not 0 <= self.second_share <= 1:
            raise ValueError(
                f"second_share is {self.second_share}; give 0 to 1, or None to choose on validation"
            )


class RecGPT(SequentialRecommender):
    """`splits` holds the chosen (m, n) for each length of list; empty means one step. `tuned` says which
    stages ran.

    Where `resume_folder` is set, training leaves its state there after every epoch and continues from it.
    """

    name = "recgpt"
    settings_type = RecGPTSettings

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

    def learn(
        self,
        network: SequenceNetwork,
        interactions: Interactions,
        validation: Validation | None,
        progress: Progress,
    ) -> None:
        decoder = _decoder(network)
        self.tuned, self.splits = False, {}
        first, second = self.stages()
        half_time = first.epochs / self.training.epochs
        self._pretrain(decoder, interactions, validation, first, _part(progress, 0, half_time))
        if second is not None:
            self._tune(decoder, interactions, validation, second, _part(progress, half_time, 1))

    def stages(self) -> tuple[TrainingSettings, TrainingSettings | None]:
        """The training settings of a fit divided between pre-training and prompt-tuning. Each has an epoch or
        more; None where there is no tuning."""
        epochs, share = self.training.epochs, self.settings.tune_share
        n_tune = min(max(1, round(epochs * share)), epochs - 1) if share > 0 else 0
        first = replace(self.training, epochs=epochs - n_tune)
        lr = self.training.lr * self.settings.tune_lr_factor
        return first, replace(self.training, epochs=n_tune, lr=lr) if n_tune else None

    def tune(
        self,
        interactions: Interactions,
        progress: Progress = silent,
        *,
        validation: Validation | None = None,
    ) -> Self:
        """Stage 2 and the choice of (m, n) for a model that is fitted already, on the interactions that it
        was fitted on, for all epochs of `training`. Raises ValueError for other interactions."""
        network = _decoder(self._fitted())
        if interactions.content_hash() != self.data_hash:
            raise ValueError(
                "these are not the interactions that the model was pre-trained on; pre-train it on them"
            )
        if validation is None and self.training.validation_users:
            interactions, validation = hold_out(
                interactions, self.training.validation_users, self.training.seed
            )
        with torch_threads(self.training.threads), seeded(self.training.seed):
            self._tune(network, interactions, validation, self.training, progress)
        return self

    def rankings(self, users: Ids, histories: Ids, exclude: Ids, depth: int) -> tuple[Ids, Ids]:
        """The rankings of step 1 and step 2: each (n, depth) item ids, best first, 0 after the end."""
        exclude = np.where((exclude > 0) & (exclude <= self.n_items), exclude, 0)
        first, second = np.zeros((2, len(users), depth), np.int64)
        for rows, before, after in self._both_vectors(users, histories):
            first[rows] = self.top_of(before, exclude[rows], depth)[0]
            second[rows] = self.top_of(after, exclude[rows], depth)[0]
        for rows in self.cold(histories):
            first[rows] = second[rows] = self.popular(exclude[rows], depth)[0]
        return first, second

    def retrieve(self, state: State, k: int, since: Ids) -> Ids:
        first, second = (part.astype(np.int64) for part in state)
        m, n = self.split(k)
        check_reach(first, k, since)
        return merge(first, second, m, n, since)

    def split(self, k: int) -> tuple[int, int]:
        """How a list of k items is put together: m from step 1, n from step 2."""
        if self.settings.second_share is not None:
            n = round(k * self.settings.second_share)
            return k - n, n
        return split_for(k, self.splits)

    def extra(self) -> dict[str, Any]:
        return {
            "tuned": self.tuned,
            "splits": {str(length): list(split) for length, split in self.splits.items()},
        }

    def restore_extra(self, extra: dict[str, Any]) -> None:
        self.tuned = extra["tuned"]
        self.splits = {int(length): Split(*split) for length, split in extra["splits"].items()}

    def _pretrain(
        self,
        network: Decoder,
        interactions: Interactions,
        validation: Validation | None,
        training: TrainingSettings,
        progress: Progress,
    ) -> None:
        loss = pretraining_loss(network, self.settings.loss)
        self._run("pretrain", network, interactions, validation, loss, training, progress)

    def _tune(
        self,
        network: Decoder,
        interactions: Interactions,
        validation: Validation | None,
        training: TrainingSettings,
        progress: Progress,
    ) -> None:
        loss = tuning_loss(network, self.settings.tune_loss or self.settings.loss, self.settings)
        self._run("tune", network, interactions, validation, loss, training, progress)
        self.tuned = True
        self._ready(network)
        if validation is not None and len(validation.users):
            self.splits = self._choose(validation)
        progress(f"recgpt recall: {_describe(self.splits)}", 1.0)

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
        if resume is not None:
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
        network, device = _decoder(self._fitted()), self.training.device
        known = self._known(histories)
        for width, rows in blocks(np.count_nonzero(known, axis=1)):
            user = np.full(BLOCK, -1, np.int64)
            user[: len(rows)] = np.where(users[rows] < self.n_users, users[rows], -1)
            history = np.zeros((BLOCK, width), np.int64)
            history[: len(rows)] = known[rows, :width]
            with torch_threads(self.training.threads):
                yield (
                    rows,
                    *encode_twice(
                        network,
                        torch.from_numpy(user).to(device),
                        torch.from_numpy(history).to(device),
                        repeats=self.settings.prompt_repeats,
                    ),
                )


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

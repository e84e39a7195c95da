"""How a model is trained, and settings under a name; no torch here, so reading them costs nothing."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

SCHEDULES = ("constant", "linear", "cosine")
ITEM_STARTS = ("random", "cooccurrence")
MAX_THREADS = 256
"""torch falls over where it is to start tens of thousands of threads."""

LAST_RATE = 0.05
"""Where the linear and the cosine schedule end, as a part of lr."""


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how to train. The defaults are a bounded budget of minutes; the presets of a model are for
    the last digit on a benchmark."""

    epochs: int = 12
    max_targets: int | None = 100_000  # of an epoch, drawn anew each time; None = everything
    batch_targets: int = 512  # slots of a batch: rows times longest row
    lr: float = 1e-3
    weight_decay: float = 0.0
    patience: int = 3  # epochs without a better validation before training stops
    validation_users: int = 2000  # whose last item is held out when no validation is given; 0 = none
    seed: int = 0
    device: str = "cpu"
    threads: int = 2
    averaging: float = 0.0  # decay of a moving average of the weights, which is then what is kept; 0 = none
    schedule: str = "constant"  # of the rate, set once an epoch: one of SCHEDULES, down to LAST_RATE * lr
    warmup_steps: int = 0  # steps over which the rate rises linearly
    clip_norm: float | None = None  # the largest norm of a step's gradient; None = any
    evaluate_users: int = 5000  # validation users who measure an epoch, at most
    item_start: str = "random"  # first item vectors: "random", or from "cooccurrence" in the training data

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_targets", "patience", "threads", "lr", "evaluate_users"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("weight_decay", "validation_users", "seed", "warmup_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if not math.isfinite(self.lr):
            raise ValueError(f"lr is {self.lr}; give a finite rate, such as 0.001")
        if self.threads > MAX_THREADS:
            raise ValueError(f"threads is {self.threads}; it must be 1 to {MAX_THREADS}")
        if self.seed >= 2**63:
            raise ValueError(f"seed is {self.seed}; it must be below 2^63")
        if self.max_targets is not None and self.max_targets <= 0:
            raise ValueError(f"max_targets is {self.max_targets}; give a number above 0, or None for all")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm is {self.clip_norm}; give a number above 0, or None for no clipping")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"averaging is {self.averaging}; it must be 0 (none) to below 1, such as 0.999")
        if self.item_start not in ITEM_STARTS:
            known = ", ".join(ITEM_STARTS)
            raise ValueError(f"item_start {self.item_start!r} is unknown; known: {known}")
        if self.schedule not in SCHEDULES:
            known = ", ".join(SCHEDULES)
            raise ValueError(f"schedule {self.schedule!r} is unknown; known schedules: {known}")

    def rate(self, epoch: int, step: int) -> float:
        """The learning rate of a step: epochs count from 1, steps of the whole stage from 0.

        >>> [round(TrainingSettings(epochs=3, lr=1.0, schedule="linear").rate(e, 9), 3) for e in (1, 2, 3)]
        [1.0, 0.525, 0.05]
        """
        warm = self.lr * min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.schedule == "constant":
            return warm
        done = (epoch - 1) / max(1, self.epochs - 1)
        left = 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return warm * (LAST_RATE + (1 - LAST_RATE) * left)


BEST_TRAINING = TrainingSettings(
    epochs=12,
    max_targets=None,
    batch_targets=768,
    lr=2e-3,
    schedule="linear",
    patience=12,
    item_start="cooccurrence",
)
"""What did best on the validation part of Beauty (bench/RESULTS.md), the same for the models that are
compared under their preset "best". A rate that falls to its end within 12 epochs takes the place of early
stopping: it reaches in 12 what a small constant rate with averaged weights needed 30 to 46 for."""


class Preset(NamedTuple):
    """Settings of a model under a name: "paper" is the published configuration and loss, "best" what did best
    on validation. `source` says where the figures come from."""

    settings: Any
    training: TrainingSettings
    source: str

"""RecGPT's settings, and the three named sets of them.

`paper` is the method of the text, `authors` what the published code does, `best` the same three stages with
what validation showed to help. Where `paper` and `authors` differ is a setting each, so each difference can
be measured (`recgpt paper --parts ablation` measures those of `best`).
"""

from dataclasses import dataclass, replace

from baselines.losses import LossSettings
from baselines.settings import BEST_TRAINING, Preset, TrainingSettings
from recgpt.model import DecoderSettings
from recgpt.tune import PromptSettings


@dataclass(frozen=True)
class RecGPTSettings(DecoderSettings, PromptSettings):
    """The network, its losses and stages.

    tune_loss: the loss of prompt-tuning, None: as `loss`. tune_share: the part of the epochs of
    TrainingSettings that is prompt-tuning (0: none), at the rate lr * tune_lr_factor. tune_epochs: so many
    epochs of prompt-tuning after those of TrainingSettings instead of a part of them. second_share: the part
    of a list that step 2 fills, 0 to 1; None chooses it on validation for each length of list.
    """

    loss: LossSettings = LossSettings()  # noqa: RUF009 - frozen
    tune_loss: LossSettings | None = None
    tune_share: float = 0.15
    tune_epochs: int | None = None
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
        if self.tune_epochs is not None and self.tune_epochs < 0:
            raise ValueError(f"tune_epochs is {self.tune_epochs}; it must be 0 (no tuning) or more")
        if self.tune_lr_factor <= 0:
            raise ValueError(f"tune_lr_factor is {self.tune_lr_factor}; it must be above 0")
        if self.second_share is not None and not 0 <= self.second_share <= 1:
            raise ValueError(
                f"second_share is {self.second_share}; give 0 to 1, or None to choose on validation"
            )


_PUBLISHED = RecGPTSettings(
    dim=256,
    layers=1,
    heads=2,
    expand=2,
    dropout=0.1,
    attention_dropout=0.0,
    input_norm=False,
    user_vectors=True,
    user_dropout=0.0,
    loss=LossSettings("bce", 1),
    tune_loss=LossSettings("full"),
    tune_epochs=40,
    prompts="sequential",
    n_prompts=1,
    prompt_slot_loss="none",
    prompt_repeats=True,
)
"""The method of the text at the sizes of the published code."""

_PUBLISHED_TRAINING = TrainingSettings(
    epochs=300, max_targets=None, batch_targets=1536, lr=1e-3, patience=10, evaluate_users=100_000
)
"""Adam at .001 and about 256 users a batch, as published; epochs by validation instead of by hand."""

PRESETS = {
    "best": Preset(
        RecGPTSettings(dropout=0.3, loss=LossSettings("full"), tune_epochs=3, tune_lr_factor=0.1),
        BEST_TRAINING,
        "trials on the validation part of Beauty (bench/RESULTS.md)",
    ),
    "paper": Preset(_PUBLISHED, _PUBLISHED_TRAINING, "the method of the text"),
    "authors": Preset(
        replace(
            _PUBLISHED,
            attention="flow",
            positions="end",
            output="untied",
            attention_init="torch",
            prompts="last",
            prompt_slot_loss="skip",
            prompt_leak=True,
        ),
        _PUBLISHED_TRAINING,
        "the published commands for Beauty",
    ),
}

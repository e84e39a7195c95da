"""Stage 2: prompt-tuning, next-item prediction on sequences that hold the model's own prompts.

All weights train, as in the authors' code, and prompts come from the weights of the moment. Which slots learn
is `prompt_slot_loss`: in the paper real items only (`none`), although step 2 of the recall reads a prompt's
slot. On Beauty's validation (HR@10 after 5 epochs; fine-tuning without prompts .1078): parallel prompts with
`next` .1094, with `skip` .1089, sequential with `none` .1083, last with `skip` .1081; the standard error is
about .002. The list (9, 1) of two steps gained 86 users and lost 89 with `next`, 76 and 100 with `skip`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.batches import Batch
from baselines.losses import LossSettings, NextItemLoss
from baselines.training import Loss
from recgpt.model import Decoder
from recgpt.prompts import MAX_PROMPTS, PROMPTERS, SLOT_LOSSES, Augmented, generate_leaking


@dataclass(frozen=True)
class PromptSettings:
    """How sequences are augmented: `n_prompts` is the paper's K. A sequence's prompts are generated anew when
    they are `prompt_refresh` steps old; 1 is every time. `prompt_repeats`: a prompt may be an item of the
    history. `prompt_leak`: guesses of the last items are made from the authors' window, in which they can see
    the items that they replace."""

    prompts: str = "parallel"
    n_prompts: int = 1
    prompt_slot_loss: str = "next"
    prompt_refresh: int = 1
    prompt_repeats: bool = False
    prompt_leak: bool = False

    def __post_init__(self) -> None:
        if self.prompts not in PROMPTERS:
            raise ValueError(f"prompts {self.prompts!r} is unknown; known prompts: {', '.join(PROMPTERS)}")
        if not 0 <= self.n_prompts <= MAX_PROMPTS:
            raise ValueError(f"K = {self.n_prompts} prompts between two items; K must be 0 to {MAX_PROMPTS}")
        if self.prompt_slot_loss not in SLOT_LOSSES:
            known = ", ".join(SLOT_LOSSES)
            raise ValueError(f"prompt_slot_loss {self.prompt_slot_loss!r} is unknown; known: {known}")
        if self.prompt_refresh < 1:
            raise ValueError(f"prompt_refresh is {self.prompt_refresh} steps; it must be at least 1")
        if self.prompt_leak and self.prompts != "last":
            raise ValueError(f"prompt_leak is of prompts 'last', not {self.prompts!r}; turn it off")


def tuning_loss(decoder: Decoder, settings: LossSettings, prompts: PromptSettings) -> Loss:
    """The mean loss of a batch over the slots that learn. With K = 0 this is fine-tuning without prompts."""
    ranking = NextItemLoss(settings)
    source = PromptSource(decoder, prompts)

    def loss(batch: Batch, generator: torch.Generator) -> Tensor:
        made = source.augment(batch)
        h = decoder(made.items, batch.users, positions=made.positions, segments=made.segments, mask=made.mask)
        learning = made.targets > 0
        states, table = _guessing(decoder, h[learning])
        value = ranking(states, table, made.targets[learning], generator)
        penalty = decoder.user_penalty(batch.users)
        return value if penalty is None else value + penalty

    return loss


def _guessing(decoder: Decoder, h: Tensor) -> tuple[Tensor, Tensor]:
    """States and a table whose inner products are the logits of the guessing layer: a bias is one more
    column, against a 1."""
    weight, bias = decoder.guessing()
    if bias is None:
        return h, weight
    return torch.cat([h, torch.ones_like(h[:, :1])], 1), torch.cat([weight, bias[:, None]], 1)


class PromptSource:
    """Puts prompts into batches, and remembers a sequence's prompts for `prompt_refresh` steps."""

    def __init__(self, decoder: Decoder, settings: PromptSettings) -> None:
        self._decoder, self._settings = decoder, settings
        self._step = 0
        self._remembered: dict[tuple[int, bytes], tuple[int, Tensor]] = {}

    def augment(self, batch: Batch) -> Augmented:
        self._step += 1
        prompts = self._generate(batch) if self._settings.prompt_refresh == 1 else self._remember(batch)
        weave = PROMPTERS[self._settings.prompts].weave
        return weave(batch.items, batch.targets, prompts, slot_loss=self._settings.prompt_slot_loss)

    def _generate(self, batch: Batch) -> Tensor:
        leak = self._settings.prompt_leak
        generate = generate_leaking if leak else PROMPTERS[self._settings.prompts].generate
        return generate(
            self._decoder,
            batch.users,
            batch.items,
            self._settings.n_prompts,
            open_end=self._settings.prompt_slot_loss == "next",
            repeats=self._settings.prompt_repeats,
        )

    def _remember(self, batch: Batch) -> Tensor:
        """Prompts of the batch; only rows whose prompts are missing or too old are generated."""
        lengths = (batch.items > 0).sum(1).tolist()
        rows = batch.items.cpu().numpy()
        keys = [
            (user, row[:n].tobytes())
            for user, row, n in zip(batch.users.tolist(), rows, lengths, strict=True)
        ]
        too_old = self._step - self._settings.prompt_refresh
        never = (too_old, batch.items)
        stale = [i for i, key in enumerate(keys) if self._remembered.get(key, never)[0] <= too_old]
        if stale:
            made = self._generate(Batch(*(column[stale] for column in batch)))
            for i, row in zip(stale, made, strict=True):
                self._remembered[keys[i]] = (self._step, row[: lengths[i]])
        return torch.nn.utils.rnn.pad_sequence([self._remembered[key][1] for key in keys], batch_first=True)

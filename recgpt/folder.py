"""A folder of trained stages: what `recgpt pretrain` and `recgpt tune` leave, and the other commands read."""

from pathlib import Path

from baselines.data import Split, Validation
from recgpt.recommender import RecGPT
from recgpt.stages import Row, measure

PRETRAINED, TUNED = "pretrained.safetensors", "tuned.safetensors"

RecallSplit = tuple[int, int]
"""(m, n): the items of step 1 and of step 2."""


def newest(folder: Path) -> RecGPT:
    """The model of the last stage there is. Raises ValueError where there is none, or it cannot be read."""
    return RecGPT.load(folder / (TUNED if (folder / TUNED).exists() else PRETRAINED))


def measured(
    folder: Path, split: Split, held_out: Validation, *, recall: RecallSplit | None, device: str
) -> list[Row]:
    """Rows of all stages in the folder, with a given recall split or the ones that validation chose.

    Raises ValueError where a stage was trained on anything but split.train.
    """
    rows: list[Row] = []
    for name in (PRETRAINED, TUNED):
        if name == TUNED and not (folder / TUNED).exists():
            continue
        model = RecGPT.load(folder / name, device=device)
        if model.data_hash != split.train.content_hash():
            raise ValueError(f"{folder / name} was trained on other data than the training part of this file")
        if recall is not None:
            model.fix_split(*recall)
        rows += measure(model, held_out)
    return rows

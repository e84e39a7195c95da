"""Ablations: what each part of the preset `best` is worth, and each difference between the text and the
published code.

A variant is a preset with a few settings changed; it is compared with the preset itself, user by user.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from recgpt.cells import Cell
from recgpt.tables import COMPARED_COLUMNS, Seeds, Table, compare, compared, find, holm

Changes = tuple[tuple[str, Any], ...]

LONG_BCE: Changes = (("loss", "bce:1"), ("training.epochs", 60))
"""BCE learns more slowly: in the 12 epochs of `best` it is only half way."""

NO_PROMPTS: Changes = (("n_prompts", 0),)
AS_IT_IS = "as it is"
SECOND_STEP = "second step (at least one item)"
VARIANTS: dict[str, dict[str, Changes]] = {
    "best": {
        AS_IT_IS: (),
        "loss: BCE with one negative, 60 epochs": LONG_BCE,
        "loss: softmax over 1,024 shared negatives": (("loss", "sampled:1024"),),
        "item vectors start at random": (("training.item_start", "random"),),
        "rate: constant instead of falling": (("training.schedule", "constant"),),
        "user vectors": (("user_vectors", True),),
        "prompts: none (fine-tuning)": NO_PROMPTS,
        "prompts: parallel, slots learn nothing": (("prompt_slot_loss", "none"),),
        "prompts: parallel, slots learn the next": (("prompt_slot_loss", "next"),),
        "prompts: parallel, slots learn the one after": (("prompt_slot_loss", "skip"),),
        "prompts: sequential, slots learn nothing": (("prompts", "sequential"), ("prompt_slot_loss", "none")),
        "prompts: sequential, slots learn the next": (
            ("prompts", "sequential"),
            ("prompt_slot_loss", "next"),
        ),
        "prompts: replace the last, slots learn the one after": (
            ("prompts", "last"),
            ("prompt_slot_loss", "skip"),
        ),
    },
    "authors": {
        AS_IT_IS: (),
        "prompt slots learn nothing": (("prompt_slot_loss", "none"),),
        "guesses do not see what they replace": (("prompt_leak", False),),
        "a prompt is no item of the history": (("prompt_repeats", False),),
        "output tied to the item table": (("output", "tied"),),
        "attention starts as everything else": (("attention_init", "normal"),),
        "softmax attention, no guess sees what it replaces": (
            ("attention", "softmax"),
            ("prompt_leak", False),
        ),
        "positions from the start, no guess sees what it replaces": (
            ("positions", "start"),
            ("prompt_leak", False),
        ),
        "no user vectors": (("user_vectors", False),),
    },
}
"""By preset. Those of `authors` are settings as the text has them, or as `best` has."""

DATA_OF = {"best": ("Beauty", "Toys"), "authors": ("Beauty",)}


def variants(data: str, preset: str) -> Iterator[Cell]:
    """The cells of an ablation; none where it is not made on this data."""
    if data in DATA_OF.get(preset, ()):
        yield from (variant(data, preset, changes) for changes in VARIANTS[preset].values())


def variant(data: str, preset: str, changes: Changes) -> Cell:
    return Cell(data, "recgpt", preset, "tune", without_defaults(preset, changes))


def without_defaults(preset: str, changes: Changes) -> Changes:
    """Changes that are the preset's own settings are none, so that one cell is not run under two names."""
    from recgpt.recommender import RecGPT

    settings, training, _ = RecGPT.presets[preset]
    return tuple(
        (name, value)
        for name, value in changes
        if getattr(training if name.startswith("training.") else settings, name.rpartition(".")[2]) != value
    )


def ablation(cells: Mapping[str, Any], data: str, preset: str, n_seeds: int) -> Table:
    """Each variant against the preset itself: paired by user, two-way bootstrap, Holm over the rows."""
    found = {
        title: find(cells, variant(data, preset, changes), n_seeds)
        for title, changes in VARIANTS[preset].items()
    }
    base = found[AS_IT_IS]
    differences = {
        title: compare(seeds, base)
        for title, seeds in found.items()
        if without_defaults(preset, VARIANTS[preset][title])  # else it is the preset itself
    }
    differences[SECOND_STEP] = compare(base, base, "two_steps@10", "one_step")
    adjusted = holm(differences)
    rows = [
        _row(title, seeds, "one_step", (*compared(differences.get(title)), adjusted.get(title)))
        for title, seeds in found.items()
    ]
    second = (*compared(differences[SECOND_STEP]), adjusted.get(SECOND_STEP))
    rows.append(_row(SECOND_STEP, base, "two_steps_metrics", second))
    columns = ("variant", "validation NDCG@10", "HR@10", "NDCG@10", *COMPARED_COLUMNS)
    note = (
        "Difference: variant minus the preset as it is, paired by user; interval and p by a bootstrap of "
        "users and seeds, p adjusted by Holm over the rows of this table. Items of the history masked."
    )
    return Table(f"Ablation of {preset}, {data}", columns, rows, (note,))


def _row(title: str, seeds: Seeds, which: str, difference: tuple[Any, ...]) -> tuple[Any, ...]:
    values = (
        seeds.mean("ndcg@10", which, "valid"),
        seeds.mean("hr@10", which),
        seeds.mean("ndcg@10", which),
    )
    return (title, *values, *difference, len(seeds.results))

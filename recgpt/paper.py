"""The paper's tables and figures, made again: which cells each needs, and what is printed from them.

A part (`table2`, `figure4`, ...) names its cells; `plan` puts the cells of the wanted parts in the order in
which they are run. A table is built from whatever cells the store has: a missing one is shown as missing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recgpt.ablations import DATA_OF, LONG_BCE, NO_PROMPTS, ablation, variants, without_defaults
from recgpt.cells import Cell
from recgpt.published import DATA_FILES, PARTS, TABLE_2, TABLE_3
from recgpt.tables import COMPARED_COLUMNS, Seeds, Table, compare, compared, find, holm

BASELINES = {
    "PopRec": "poprec",
    "BPR": "bpr",
    "STAMP": "stamp",
    "GRU4Rec": "gru4rec",
    "NARM": "narm",
    "Caser": "caser",
    "S3-Rec": "s3rec",
    "BERT4Rec": "bert4rec",
    "SASRec": "sasrec",
    "ComiRec-DR": "comirec",
    "ComiRec-SA": "comirec-sa",
}
"""Rows of Table 2 that one model fills, and two of ComiRec, which the paper meets online."""

STAGE_ROWS = {
    "Pre-train": ("pretrain", (), "one_step"),
    "Fine-tuning": ("tune", NO_PROMPTS, "one_step"),
    "RecGPT_1": ("tune", (), "one_step"),
    "RecGPT": ("tune", (), "two_steps_metrics"),
}
"""Rows of Table 2 that RecGPT fills: stage, changes, and which list."""

VARIANTS = {
    "RecGPT": STAGE_ROWS["RecGPT"],
    "Variant 1": ("pretrain", (), "two_steps_metrics"),
    "Variant 2": STAGE_ROWS["RecGPT_1"],
    "Variant 3": STAGE_ROWS["Pre-train"],
}
SWEEP_DATA = ("Beauty", "Toys")
KS = range(7)


@dataclass(frozen=True)
class Wanted:
    """What to reproduce: parts, data sets, RecGPT's presets, and how many seeds on the sweep data."""

    parts: tuple[str, ...] = PARTS
    data: tuple[str, ...] = tuple(DATA_FILES)
    presets: tuple[str, ...] = ("best", "paper", "authors")
    n_seeds: int = 1


def plan(wanted: Wanted) -> list[Cell]:
    """Every cell that the parts need, each once: whole rows first, further seeds last."""
    cells: dict[Cell, None] = {}
    for seed in range(wanted.n_seeds):
        for part in wanted.parts:
            for cell in _cells(part, wanted):
                if seed == 0 or _has_seeds(cell, part):
                    cells.setdefault(cell.with_seed(seed))
    return list(cells)


def table_2(cells: Mapping[str, Any], wanted: Wanted, data: str, masking: str = "seen") -> Table:
    """Each row of Table 2: the paper's figures, and ours under each preset."""
    names = ("hr@5", "ndcg@5", "hr@10", "ndcg@10")
    rows: list[tuple[Any, ...]] = []
    for title in [*BASELINES, *STAGE_ROWS]:
        printed = TABLE_2.get((data, title))
        rows.append((title, "printed", *(printed[n] if printed else None for n in names), None, None))
        for cell, which in _row_cells(title, data, wanted):
            seeds = find(cells, cell, wanted.n_seeds)
            values = [seeds.mean(name, which, masking) for name in names]
            rows.append(
                (title, cell.preset, *values, seeds.spread("hr@10", which, masking), len(seeds.results))
            )
    how = (
        "items of the history masked" if masking == "seen" else "items of the history ranked like all others"
    )
    return Table(
        f"Table 2, {data} ({how})",
        ("model", "figures", "HR@5", "NDCG@5", "HR@10", "NDCG@10", "sd of HR@10", "seeds"),
        rows,
        (
            "printed: the paper's figures. RecGPT: two steps with at least one item of step 2, (m, n) chosen "
            "on validation for each length; RecGPT_1: one step.",
        ),
    )


def table_3(cells: Mapping[str, Any], wanted: Wanted, data: str) -> Table:
    rows: list[tuple[Any, ...]] = []
    for title, (stage, changes, which) in VARIANTS.items():
        printed = TABLE_3[data, title]
        rows.append((title, "printed", printed["hr@10"], printed["ndcg@10"], None, None, None))
        for preset in wanted.presets:
            seeds = find(cells, Cell(data, "recgpt", preset, stage, changes), wanted.n_seeds)
            moved = _discordant(seeds) if which == "two_steps_metrics" else None
            values = [seeds.mean(name, which) for name in ("hr@10", "ndcg@10")]
            rows.append((title, preset, *values, seeds.spread("hr@10", which), moved, len(seeds.results)))
    columns = ("variant", "figures", "HR@10", "NDCG@10", "sd of HR@10", "gained/lost by step 2", "seeds")
    notes = (
        "Variant 1: pre-trained, two steps. Variant 2: prompt-tuned, one step. Variant 3: pre-trained, one "
        "step. Items of the history masked. Gained and lost: users whose target is in the list of 10 of two "
        "steps only, and of one step only, summed over seeds.",
    )
    return Table(f"Table 3, {data}", columns, rows, notes)


def figure_4(cells: Mapping[str, Any], wanted: Wanted, data: str, preset: str) -> Table:
    """HR@10 by the number K of prompts between two items."""
    rows = []
    for K in KS:
        seeds = find(cells, Cell(data, "recgpt", preset, "tune", _with_k(K)), wanted.n_seeds)
        rows.append(
            (
                K,
                seeds.mean("hr@10", masking="valid"),
                seeds.mean("hr@10"),
                seeds.mean("ndcg@10"),
                seeds.mean("hr@10", "two_steps_metrics"),
                seeds.spread("hr@10"),
                len(seeds.results),
            )
        )
    columns = ("K", "validation HR@10", "HR@10", "NDCG@10", "HR@10, two steps", "sd of HR@10", "seeds")
    note = "The paper draws this figure without numbers: best between K = 1 and 3, then declining."
    return Table(f"Figure 4, {data}, preset {preset}", columns, rows, (note, "Items of the history masked."))


def figure_5(cells: Mapping[str, Any], wanted: Wanted, data: str, preset: str) -> Table:
    """HR@10 by (m, n), from (10, 0) to (5, 5)."""
    seeds = find(cells, Cell(data, "recgpt", preset, "tune"), wanted.n_seeds)
    rows: list[tuple[Any, ...]] = []
    for n in range(6):
        valid = [_at(result["valid"]["grid"], 10 - n, n) for result in seeds.results]
        test = [_at(result["test"]["seen"]["grid"], 10 - n, n) for result in seeds.results]
        moved = f"{sum(r['gained'] for r in test)}/{sum(r['lost'] for r in test)}" if test else None
        means = [float(np.mean([r[name] for r in part])) if part else None
                 for part, name in ((valid, "hr"), (test, "hr"), (test, "ndcg"))]  # fmt: skip
        rows.append((f"({10 - n}, {n})", *means, moved, len(test)))
    columns = ("(m, n)", "validation HR@10", "HR@10", "NDCG@10", "gained/lost", "seeds")
    note = "The paper draws this figure without numbers: best at (9, 1) and (8, 2)."
    return Table(f"Figure 5, {data}, preset {preset}", columns, rows, (note, "Items of the history masked."))


def loss_table(cells: Mapping[str, Any], wanted: Wanted) -> Table:
    """BCE with one negative against the softmax of the preset `best`, all else equal."""
    rows: list[tuple[Any, ...]] = []
    for data in [d for d in wanted.data if d in SWEEP_DATA]:
        for title, cell in _loss_cells(data).items():
            seeds = find(cells, cell, wanted.n_seeds)
            values = [seeds.mean(name) for name in ("hr@10", "ndcg@10")]
            rows.append((data, title, *values, seeds.spread("hr@10"), len(seeds.results)))
    columns = ("data", "model and loss", "HR@10", "NDCG@10", "sd of HR@10", "seeds")
    return Table("The loss alone", columns, rows, ("Items of the history masked; one step.",))


def comparison(cells: Mapping[str, Any], wanted: Wanted) -> Table:
    """RecGPT (one and two steps) against SASRec and ComiRec with the same loss, negatives and training."""
    pairs = [
        (data, rival, title, find(cells, ours, wanted.n_seeds), find(cells, theirs, wanted.n_seeds))
        for data in wanted.data
        for rival, (ours, theirs) in _rivals(data).items()
        for title in ("RecGPT_1", "RecGPT")
    ]
    of = {"RecGPT_1": "one_step", "RecGPT": "two_steps@10"}
    differences = {pair[:3]: compare(pair[3], pair[4], of[pair[2]], "one_step") for pair in pairs}
    adjusted = holm(differences)
    rows: list[tuple[Any, ...]] = []
    for data, rival, title, ours, theirs in pairs:
        key = (data, rival, title)
        which = "one_step" if title == "RecGPT_1" else "two_steps_metrics"
        values = (ours.mean("hr@10", which), theirs.mean("hr@10"))
        n_seeds = f"{len(ours.results)}/{len(theirs.results)}"
        rows.append((data, title, rival, *values, *compared(differences[key]), adjusted.get(key), n_seeds))
    columns = ("data", "ours", "rival", "HR@10, ours", "HR@10, rival", *COMPARED_COLUMNS)
    note = (
        "Preset best: the same start of the item vectors and batch. SASRec has RecGPT's full softmax, rate "
        "and epochs; ComiRec has 1,024 shared negatives (as RecGPT has against it) and twice the epochs, "
        "ComiRec-DR twice the rate too. "
        "Bootstrap of users and seeds, p adjusted by Holm over the rows. Items of the history masked."
    )
    return Table("RecGPT against its rivals", columns, rows, (note,))


def tables(cells: Mapping[str, Any], wanted: Wanted) -> dict[str, list[Table]]:
    """The tables of each wanted part."""
    swept = [data for data in wanted.data if data in SWEEP_DATA]
    made: dict[str, list[Table]] = {}
    for part in wanted.parts:
        if part == "table2":
            made[part] = [table_2(cells, wanted, data) for data in wanted.data]
            if "Yelp" in wanted.data:
                made[part].append(table_2(cells, wanted, "Yelp", "none"))
        elif part == "table3":
            made[part] = [table_3(cells, wanted, data) for data in wanted.data]
        elif part in ("figure4", "figure5"):
            draw = figure_4 if part == "figure4" else figure_5
            made[part] = [draw(cells, wanted, d, preset) for d in swept for preset in _sweep_presets(wanted)]
        elif part == "loss":
            made[part] = [loss_table(cells, wanted)]
        elif part == "ablation":
            made[part] = [
                ablation(cells, data, preset, wanted.n_seeds)
                for preset, places in DATA_OF.items()
                for data in wanted.data
                if preset in wanted.presets and data in places
            ]
        else:
            made[part] = [comparison(cells, wanted)]
    return made


def missing(cells: Mapping[str, Any], wanted: Wanted) -> list[Cell]:
    return [cell for cell in plan(wanted) if cell.key not in cells]


def _cells(part: str, wanted: Wanted) -> Iterable[Cell]:
    swept = [data for data in wanted.data if data in SWEEP_DATA]
    if part == "loss":
        yield from (cell for data in swept for cell in _loss_cells(data).values())
    elif part == "table2":
        titles = [*STAGE_ROWS, *BASELINES]
        yield from (c for t in titles for data in wanted.data for c, _ in _row_cells(t, data, wanted))
    elif part == "table3":
        for preset in wanted.presets:
            yield from (
                Cell(data, "recgpt", preset, stage, changes)
                for data in wanted.data
                for stage, changes, _ in VARIANTS.values()
            )
    elif part in ("figure4", "figure5"):
        ks = KS if part == "figure4" else (1,)
        yield from (
            Cell(data, "recgpt", preset, "tune", _with_k(K) if part == "figure4" else ())
            for preset in _sweep_presets(wanted)
            for data in swept
            for K in ks
        )
    elif part == "ablation":
        yield from (c for preset in wanted.presets for data in wanted.data for c in variants(data, preset))
    elif part == "comparison":
        for data in wanted.data:
            yield from (cell for pair in _rivals(data).values() for cell in pair)
    else:
        raise LookupError(f"unknown part {part!r}; known parts: {', '.join(PARTS)}")


def _row_cells(title: str, data: str, wanted: Wanted) -> list[tuple[Cell, str]]:
    if title in STAGE_ROWS:
        stage, changes, which = STAGE_ROWS[title]
        return [(Cell(data, "recgpt", preset, stage, changes), which) for preset in wanted.presets]
    presets = (
        ("best",) if BASELINES[title] == "poprec" else tuple(p for p in wanted.presets if p != "authors")
    )
    return [(Cell(data, BASELINES[title], preset), "one_step") for preset in presets]


def _loss_cells(data: str) -> dict[str, Cell]:
    short = (("loss", "bce:1"),)
    return {
        "SASRec, BCE with one negative": Cell(data, "sasrec", "best", changes=short),
        "SASRec, BCE with one negative, 60 epochs": Cell(data, "sasrec", "best", changes=LONG_BCE),
        "SASRec, softmax": Cell(data, "sasrec", "best"),
        "RecGPT pre-trained, BCE with one negative": Cell(data, "recgpt", "best", "pretrain", short),
        "RecGPT pre-trained, BCE, 60 epochs": Cell(data, "recgpt", "best", "pretrain", LONG_BCE),
        "RecGPT pre-trained, softmax": Cell(data, "recgpt", "best", "pretrain"),
    }


def _rivals(data: str) -> dict[str, tuple[Cell, Cell]]:
    """RecGPT's cell and the rival's, which have the same loss."""
    ours = Cell(data, "recgpt", "best", "tune")
    sampled = replace(ours, changes=without_defaults("best", (("loss", "sampled:1024"),)))
    return {
        "SASRec": (ours, Cell(data, "sasrec")),
        "ComiRec-DR": (sampled, Cell(data, "comirec")),
        "ComiRec-SA": (sampled, Cell(data, "comirec-sa")),
    }


def _with_k(K: int) -> tuple[tuple[str, Any], ...]:
    return without_defaults("best", (("n_prompts", K),))


def _sweep_presets(wanted: Wanted) -> tuple[str, ...]:
    return tuple(preset for preset in wanted.presets if preset == "best")


def _has_seeds(cell: Cell, part: str) -> bool:
    """Several seeds are for RecGPT under `best`, its ablations, and SASRec, on the data of the sweeps."""
    repeated = cell.preset == "best" and cell.model in ("recgpt", "sasrec")
    return repeated and cell.data in SWEEP_DATA and part not in ("table2", "figure4")


def _discordant(seeds: Seeds) -> str | None:
    rows = [_at(result["test"]["seen"]["grid"], *result["two_steps"]["10"]) for result in seeds.results]
    return f"{sum(row['gained'] for row in rows)}/{sum(row['lost'] for row in rows)}" if rows else None


def _at(grid: Sequence[Mapping[str, Any]], m: int, n: int) -> Mapping[str, Any]:
    return next(row for row in grid if (row["m"], row["n"]) == (m, n))

"""Run the cells that are missing, several at a time, and write the paper's tables and figures from them.

Cells that start from the same pre-training are one queue, so that it is trained once. Each finished cell is
in the store at once: an interrupted run continues with the next one, and within a training of RecGPT with the
next epoch.
"""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from baselines.data import Split, leave_one_out, read_sequences
from recgpt.cells import Cell, Store, head_commit, run_cell
from recgpt.paper import Table, Wanted, missing, plan, tables, to_markdown
from recgpt.published import DATA_FILES

Say = Callable[[str], None]


@dataclass(frozen=True)
class Workplace:
    """Where the data files lie, which store is filled, where checkpoints are kept, and what may be used.
    After `minutes` no further cell is begun (None: no limit)."""

    data: Path
    store: Path
    home: Path
    workers: int = 1
    threads: int = 1
    device: str = "cpu"
    minutes: float | None = None


def fill(wanted: Wanted, place: Workplace, say: Say) -> list[Cell]:
    """Run what is missing; the cells that still are. Raises ValueError for a missing data file."""
    for data in wanted.data:
        if not (place.data / DATA_FILES[data]).is_file():
            raise ValueError(f"no file {place.data / DATA_FILES[data]}; give the folder that holds it")
    store = Store(place.store)
    todo = missing(store.cells(), wanted)
    say(f"{len(todo)} of {len(plan(wanted))} cells to run")
    deadline = None if place.minutes is None else time.time() + 60 * place.minutes
    commit = head_commit()
    with ProcessPoolExecutor(place.workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_run_queue, queue, place, deadline, commit) for queue in _queues(todo)]
        for job in as_completed(jobs):
            for line in job.result():
                say(line)
    return missing(store.cells(), wanted)


def write(wanted: Wanted, store: Path, out: Path) -> dict[str, list[Table]]:
    """paper.md, paper.json and a PNG for each figure, into the folder `out`; the tables."""
    from recgpt.plots import figure

    made = tables(Store(store).cells(), wanted)
    out.mkdir(parents=True, exist_ok=True)
    everything = [table for part in made.values() for table in part]
    text = "\n\n".join(to_markdown(table) for table in everything)
    (out / "paper.md").write_text(text + "\n", encoding="utf-8")
    document = {part: [table._asdict() for table in found] for part, found in made.items()}
    (out / "paper.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for part in ("figure4", "figure5"):
        if part in made and any(row[1] is not None for table in made[part] for row in table.rows):
            (out / f"{part}.png").write_bytes(figure(made[part]))
    return made


def _queues(todo: Sequence[Cell]) -> list[list[Cell]]:
    """Cells by their pre-training, in the order of the plan; a baseline is a queue of its own."""
    queues: dict[Cell, list[Cell]] = {}
    for cell in todo:
        queues.setdefault(cell if cell.stage == "fit" else cell.first_stage, []).append(cell)
    return list(queues.values())


def _run_queue(queue: list[Cell], place: Workplace, deadline: float | None, commit: str) -> list[str]:
    """In a worker: run and store cells one after the other; what to say of each."""
    said = []
    store = Store(place.store)
    splits: dict[str, Split] = {}
    for cell in queue:
        if deadline is not None and time.time() > deadline:
            break
        if cell.data not in splits:
            splits[cell.data] = leave_one_out(read_sequences(place.data / DATA_FILES[cell.data]))
        result = run_cell(
            cell,
            splits[cell.data],
            place.home,
            threads=place.threads,
            device=place.device,
            commit=commit,
        )
        store.put(cell, result)
        valid = result["valid"]["one_step"]["ndcg@10"]
        said.append(f"{cell.key}: validation NDCG@10 {valid:.4f}, {result['cpu_s']:.0f} CPU s")
    return said

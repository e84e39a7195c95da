"""Run the cells that are missing, several at a time, and write the paper's tables and figures from them.

Cells that start from the same pre-training are one queue, so that it is trained once. Each finished cell is
in the store at once: an interrupted run continues with the next one, and within a training of RecGPT with the
next epoch.
"""

import json
import time
from collections.abc import Callable, Container, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from baselines.data import Split, leave_one_out, read_sequences
from recgpt.cells import Cell, current, head_commit, run_cell
from recgpt.paper import Wanted, missing, plan, tables
from recgpt.published import DATA_FILES
from recgpt.store import Store
from recgpt.tables import Table, to_markdown

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

    def __post_init__(self) -> None:
        if self.minutes is not None and not self.minutes >= 0:
            raise ValueError(f"minutes is {self.minutes}; give 0 (run none) or more")


def fill(wanted: Wanted, place: Workplace, say: Say) -> list[Cell]:
    """Run what is missing; the cells that still are. Raises ValueError for a missing data file."""
    for data in wanted.data:
        if not (place.data / DATA_FILES[data]).is_file():
            raise ValueError(f"no file {place.data / DATA_FILES[data]}; give the folder that holds it")
    store = Store(place.store)
    held = current(store.cells())
    todo = missing(held, wanted)
    say(f"{len(todo)} of {len(plan(wanted))} cells to run")
    if not todo or place.minutes == 0:
        return todo
    deadline = None if place.minutes is None else time.time() + 60 * place.minutes
    commit = head_commit()
    spawn = get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(place.workers, mp_context=spawn) as pool:
        lines = manager.Queue()
        jobs = {
            pool.submit(_run_queue, queue, place, deadline, commit, lines.put)
            for queue in _queues(todo, held)
        }
        while jobs:
            done, jobs = wait(jobs, timeout=0.5, return_when=FIRST_COMPLETED)
            while not lines.empty():
                say(lines.get())
            for job in done:
                job.result()  # raises what the worker raised
    return missing(current(store.cells()), wanted)


def write(wanted: Wanted, store: Path, out: Path) -> dict[str, list[Table]]:
    """paper.md, paper.json and a PNG for each figure, into the folder `out`; the tables."""
    from recgpt.plots import figure

    made = tables(current(Store(store).cells()), wanted)
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


def _queues(todo: Sequence[Cell], done: Container[str]) -> list[list[Cell]]:
    """Cells by their pre-training, in the order of the plan, but first those whose pre-training has been run;
    a baseline is a queue of its own."""
    queues: dict[Cell, list[Cell]] = {}
    for cell in todo:
        queues.setdefault(cell if cell.stage == "fit" else cell.first_stage, []).append(cell)
    return [queue for _, queue in sorted(queues.items(), key=lambda item: item[0].key not in done)]


def _run_queue(queue: list[Cell], place: Workplace, deadline: float | None, commit: str, say: Say) -> None:
    """In a worker: run and store cells one after the other."""
    store = Store(place.store)
    splits: dict[str, Split] = {}
    for cell in queue:
        if deadline is not None and time.time() > deadline:
            break
        if cell.data not in splits:
            splits[cell.data] = leave_one_out(read_sequences(place.data / DATA_FILES[cell.data]))
        say(f"{cell.key}: begun")
        result = run_cell(
            cell,
            splits[cell.data],
            place.home,
            threads=place.threads,
            device=place.device,
            commit=commit,
            progress=_Every(60, cell.key, say),
        )
        store.put(cell, result)
        valid = result["valid"]["one_step"]["ndcg@10"]
        say(f"{cell.key}: done, validation NDCG@10 {valid:.4f}, {result['cpu_s']:.0f} CPU s")


class _Every:
    """A Progress that speaks once in so many seconds."""

    def __init__(self, seconds: float, name: str, say: Say) -> None:
        self._seconds, self._name, self._say = seconds, name, say
        self._next = time.monotonic() + seconds

    def __call__(self, stage: str, fraction: float) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._seconds
            self._say(f"{self._name}: {fraction:.0%} {stage}")

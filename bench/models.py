"""Every model of the comparison: trials on validation, and a table of the cells that were run since.

    python bench/models.py trials BEAUTY.txt --out bench/models.json --workers 2
    python bench/models.py table --store bench/paper.json --out bench/models.json

`trials` gives each model of MODELS, RecGPT's pre-training and SASRec included, the same three short trainings
around its preset `best`, measured on validation alone; what is in the file is not run again. `table` puts the
test figures of the cells beside the paper's, with the gates: 90 % of the printed row for `paper`, and the
upper 95 % bound of `paper` minus `best` in NDCG@10.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from baselines import MODELS
from baselines.data import leave_one_out, read_sequences
from baselines.evaluate import gains, two_way_comparison
from recgpt.cells import Cell, configured, current, head_commit
from recgpt.measure import measure
from recgpt.paper import BASELINES
from recgpt.published import TABLE_2
from recgpt.store import Store
from recgpt.tables import Seeds

EPOCHS = 6
TRIALS: tuple[dict[str, float], ...] = ({"dropout": 0.2}, {"dropout": 0.4}, {"training.lr": 4e-3})
"""What differs from dropout .3 and lr .002."""

TRIED = ("recgpt", *(model for model in MODELS if model != "poprec"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    trials = commands.add_parser("trials")
    trials.add_argument("data", type=Path)
    trials.add_argument("--models", type=_models, help="with commas; all by default")
    trials.add_argument("--workers", type=int, default=1)
    trials.set_defaults(run=run_trials)
    table = commands.add_parser("table")
    table.add_argument("--store", type=Path, required=True)
    table.set_defaults(run=write_table)
    for command in (trials, table):
        command.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.run(arguments)


def _models(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in TRIED:
            raise argparse.ArgumentTypeError(f"no model {name!r}; known models: {', '.join(TRIED)}")
    return names


def run_trials(arguments: argparse.Namespace) -> None:
    models = arguments.models or TRIED
    held = {(row["model"], json.dumps(row["trial"])) for row in _read(arguments.out)["trials"]}
    todo = [(m, t) for m in models for t in TRIALS if (m, json.dumps(t)) not in held]
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(trial, arguments.data, model, changes) for model, changes in todo]
        for job in as_completed(jobs):
            row = job.result()
            document = _read(arguments.out)
            document["trials"].append(row)
            _write(arguments.out, document)
            print(
                f"{row['model']:12} {row['trial']}: NDCG@10 {row['ndcg@10']:.4f}, {row['cpu_s']} CPU s",
                flush=True,
            )


def trial(data: Path, model: str, changes: dict[str, float]) -> dict[str, Any]:
    """Train for EPOCHS with the rate falling to its end; validation figures of all users, and CPU seconds."""
    split = leave_one_out(read_sequences(data))
    shorter = {"dropout": 0.3, "training.epochs": EPOCHS, "training.lr": 2e-3, **changes}
    stage = "pretrain" if model == "recgpt" else "fit"
    untrained = configured(Cell(data.stem, model, "best", stage, tuple(shorter.items())))
    train = untrained.pretrain if model == "recgpt" else untrained.fit
    train(split.train, validation=split.valid)
    cpu_s = sum(epoch.cpu_s for run in untrained.runs for epoch in run.epochs)
    figures = measure(untrained, split.valid)["one_step"]
    line = {"model": model, "trial": changes, "epochs": shorter["training.epochs"], "commit": head_commit()}
    return {**line, **{n: round(figures[n], 5) for n in ("hr@10", "ndcg@10")}, "cpu_s": round(cpu_s)}


def write_table(arguments: argparse.Namespace) -> None:
    cells = current(Store(arguments.store).cells())
    titles = {name: title for title, name in BASELINES.items()}
    rows: list[dict[str, Any]] = []
    for data in sorted({result["cell"]["data"] for result in cells.values()}):
        for model in MODELS:
            printed = TABLE_2.get((data, titles.get(model, "")))
            of_presets = [_row(cells, data, model, preset, printed) for preset in ("paper", "best")]
            rows += [row for row in of_presets if row is not None]
            rows += _gate(cells, data, model)
    document = _read(arguments.out)
    document["table"] = rows
    _write(arguments.out, document)
    for row in rows:
        print(json.dumps(row))


def _row(
    cells: dict[str, Any], data: str, model: str, preset: str, printed: dict[str, float] | None
) -> dict[str, Any] | None:
    """The test figures of a cell; None where it has not been run."""
    result = cells.get(Cell(data, model, preset).key)
    if result is None:
        return None
    figures = result["test"]["seen"]["one_step"]
    row = {"data": data, "model": model, "preset": preset, "cpu_s": result["train_cpu_s"]}
    row |= {name: round(figures[name], 4) for name in ("hr@10", "ndcg@10")}
    row["of printed hr@10"] = round(figures["hr@10"] / printed["hr@10"], 2) if printed else None
    return row


def _gate(cells: dict[str, Any], data: str, model: str) -> list[dict[str, Any]]:
    """How far `paper` can be above `best` in NDCG@10, as a share of `paper`: the upper 95 % bound."""
    found = [cells.get(Cell(data, model, preset).key) for preset in ("paper", "best")]
    if None in found:
        return []
    paper, best = (gains(Seeds([result]).ranks(), 10) for result in found if result is not None)
    difference = two_way_comparison(paper, best)
    share = round(difference.high / float(paper.mean()), 4)
    return [{"data": data, "model": model, "upper bound of paper - best, of paper": share, "allowed": 0.02}]


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {"trials": [], "table": [], **found}


def _write(path: Path, document: dict[str, Any]) -> None:
    parts = [
        f'"{name}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]"
        for name, rows in document.items()
    ]
    path.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

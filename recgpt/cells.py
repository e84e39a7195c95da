"""A cell of the reproduction: which model on which data, how it is trained and measured, where it is kept.

A cell is run once: it trains (or takes a pre-trained checkpoint that another cell left), chooses on
validation and ranks all items for every test user. The store keeps settings, seconds, metrics and each user's
rank, so that any two cells can be compared user by user later, and logs every evaluation on test: where a
cell is run again under the same settings, the first result stays.
"""

import base64
import fcntl
import hashlib
import json
import os
import platform
import resource
import subprocess
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from baselines.base import Ids, Progress, silent
from baselines.data import Split, Validation
from baselines.evaluate import evaluate_split, gains, hits
from baselines.losses import LossSettings
from baselines.sequential import SequentialRecommender
from recgpt.recall import split_ranks
from recgpt.recommender import RecGPT
from recgpt.stages import untrained
from recgpt.tune import PromptSettings

LENGTHS = (5, 10, 20)
DEPTH = max(LENGTHS)
STAGES = ("fit", "pretrain", "tune")
MASKINGS = ("seen", "none")
"""Whether items of the history are ranked: `seen` masks them with minus infinity, `none` ranks everything."""

TUNING_FIELDS = {field.name for field in fields(PromptSettings)} | {
    "tune_share",
    "tune_epochs",
    "tune_lr_factor",
    "tune_loss",
    "second_share",
}
"""Settings of RecGPT that pre-training does not depend on."""


@dataclass(frozen=True, order=True)
class Cell:
    """`changes` are settings that differ from the preset; `training.x` is a field of TrainingSettings, and a
    loss is written kind:negatives. Stage `fit` is a whole baseline, `pretrain` and `tune` are RecGPT's."""

    data: str
    model: str
    preset: str = "best"
    stage: str = "fit"
    changes: tuple[tuple[str, Any], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.stage not in STAGES or (self.stage == "fit") == (self.model == "recgpt"):
            raise ValueError(f"stage {self.stage!r} is none of {self.model}; recgpt has pretrain and tune")

    @property
    def key(self) -> str:
        """
        >>> Cell("Beauty", "recgpt", stage="tune", changes=(("n_prompts", 2),)).key
        'Beauty recgpt best tune n_prompts=2 seed=0'
        """
        changes = [f"{name}={value}" for name, value in self.changes]
        return " ".join([self.data, self.model, self.preset, self.stage, *changes, f"seed={self.seed}"])

    @property
    def first_stage(self) -> "Cell":
        """The pre-training that a tuning starts from."""
        kept = tuple(change for change in self.changes if change[0] not in TUNING_FIELDS)
        return replace(self, stage="pretrain", changes=kept)

    def with_seed(self, seed: int) -> "Cell":
        return replace(self, seed=seed)


class Store:
    """The cells that have been run, in one JSON file; several processes may add to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cells(self) -> dict[str, dict[str, Any]]:
        """Results by the key of their cell. Raises ValueError for a file that is no store."""
        found: dict[str, dict[str, Any]] = self._read()["cells"]
        return found

    def log(self) -> list[dict[str, Any]]:
        """Every evaluation on test that was ever put, in order."""
        found: list[dict[str, Any]] = self._read()["log"]
        return found

    def put(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """Keep a result; one of the same cell and settings stays as it is, and the new one is only logged."""
        with self._locked():
            document = self._read()
            before = document["cells"].get(cell.key)
            counts = before is None or before["settings_hash"] != result["settings_hash"]
            line = {name: result[name] for name in ("settings_hash", "commit")}
            hr = result["test"]["seen"]["one_step"]["hr@10"]
            document["log"].append({"cell": cell.key, **line, "test hr@10": hr, "counts": counts})
            if counts:
                document["cells"][cell.key] = dict(result)
            self._write(document)

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {"cells": {}, "log": []}
        try:
            document: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            if not {"cells", "log"} <= set(document):
                raise ValueError("it has no cells and log")
            if not all(isinstance(cell, dict) for cell in document["cells"].values()):
                raise ValueError("not all of its cells are objects")
        except ValueError as error:
            raise ValueError(f"{self.path} is no store of cells ({error}); name another file") from error
        return document

    def _write(self, document: dict[str, Any]) -> None:
        """A line a cell, so that a change of one is a change of one line."""
        cells = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(document["cells"].items()))
        log = ",\n".join(json.dumps(line) for line in document["log"])
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        partial.write_text(f'{{"cells": {{\n{cells}\n}},\n"log": [\n{log}\n]}}\n', encoding="utf-8")
        partial.replace(self.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(self.path.name + ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def run_cell(
    cell: Cell,
    split: Split,
    home: Path,
    *,
    threads: int = 1,
    device: str = "cpu",
    commit: str = "",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train, choose and measure. `split` masks seen items; `home` keeps pre-trained checkpoints, and the
    state of a training that was interrupted."""
    started, wall = time.process_time(), time.perf_counter()
    model = configured(cell, threads=threads, device=device)
    before_s = 0.0
    if cell.stage == "fit":
        _fit(model, split, progress)
    else:
        before_s = _stage(model, cell, split, home, progress)
    trained = time.process_time()
    valid = measure(model, split.valid)
    two_steps = valid.pop("two_steps", None)
    valid.pop("ranks")
    test = {}
    for masking in MASKINGS[: 2 if _has_repeats(split.test) else 1]:
        held_out = split.test._replace(exclude_history=masking == "seen")
        test[masking] = measure(model, held_out, two_steps=two_steps)
        test[masking].pop("two_steps", None)
    runs = getattr(model, "runs", [])
    settings = _settings(model, cell)
    return {
        "cell": asdict(cell),
        "settings": settings,
        "settings_hash": _hash(settings),
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {device}",
        "epochs": [[len(run.epochs), run.best] for run in runs],
        "train_cpu_s": round(before_s + trained - started, 1),
        "cpu_s": round(before_s + time.process_time() - started, 1),
        "wall_s": round(time.perf_counter() - wall, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "two_steps": {str(k): split for k, split in (two_steps or {}).items()},
        "valid": valid,
        "test": test,
    }


def configured(cell: Cell, *, threads: int = 1, device: str = "cpu") -> Any:
    """The untrained model of a cell. Raises LookupError for an unknown model, preset or setting."""
    training: dict[str, Any] = {"seed": cell.seed, "threads": threads, "device": device}
    settings: dict[str, Any] = {}
    for name, value in cell.changes:
        if name.startswith("training."):
            training[name.removeprefix("training.")] = value
        else:
            settings[name] = _loss(value) if name in ("loss", "tune_loss") else value
    return untrained(cell.model, cell.preset, training=training, settings=settings)


def current(cells: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The results that were run under what their presets are now; those of an earlier preset are as good as
    missing (the log keeps their test figures)."""
    return {key: result for key, result in cells.items() if _is_current(result)}


def measure(
    model: Any, held_out: Validation, *, two_steps: Mapping[int, tuple[int, int]] | None = None
) -> dict[str, Any]:
    """Metrics at 5, 10 and 20 by full ranking. For RecGPT also the (m, n) of every list length, and the lists
    of two steps proper: `two_steps`, or what finds most here (meant for validation)."""
    if not isinstance(model, RecGPT):
        ranks = evaluate_split(model, held_out, LENGTHS).ranks
        return {"n_users": len(ranks), "one_step": metrics(ranks), "ranks": {"one_step": pack(ranks)}}
    hidden = held_out.histories if held_out.exclude_history else held_out.histories[:, :0]
    first, second = model.rankings(held_out.users, held_out.histories, hidden, DEPTH)
    found: dict[tuple[int, int], Ids] = {
        (length - n, n): split_ranks(first, second, held_out.targets, length - n, n)
        for length in LENGTHS
        for n in range(length // 2 + 1)
    }
    if two_steps is None:
        two_steps = {length: _best_with_two(found, length) for length in LENGTHS}
    one_step = found[(DEPTH, 0)]
    ranks_of = {f"two_steps@{k}": pack(found[split]) for k, split in two_steps.items()}
    return {
        "n_users": len(one_step),
        "one_step": metrics(one_step),
        "two_steps_metrics": {
            f"{name}@{k}": value(found[split], k)
            for k, split in two_steps.items()
            for name, value in (("hr", _hr), ("ndcg", _ndcg))
        },
        "grid": [_grid_row(split, ranks, one_step) for split, ranks in sorted(found.items())],
        "ranks": {"one_step": pack(one_step), **ranks_of},
        "two_steps": dict(two_steps),
    }


def metrics(ranks: Ids) -> dict[str, float]:
    """hr@k and ndcg@k for the three lengths, from ranks in one list of 20 or more."""
    values = {f"hr@{k}": _hr(ranks, k) for k in LENGTHS}
    return values | {f"ndcg@{k}": _ndcg(ranks, k) for k in LENGTHS}


def pack(ranks: Ids) -> str:
    """Ranks of up to 255 as text: a byte each, compressed (about 4 kB for 20,000 users).

    >>> unpack(pack(np.array([0, 3, 20]))).tolist()
    [0, 3, 20]
    """
    small = np.where(ranks > 255, 0, ranks).astype(np.uint8)
    return base64.b85encode(zlib.compress(small.tobytes(), 9)).decode()


def unpack(text: str) -> Ids:
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8).astype(np.int64)


def described(model: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """Settings (but those named in `without`) and training of a model as JSON values, without what does not
    change its lists."""
    if not isinstance(model, SequentialRecommender):
        return {}
    training = {k: v for k, v in asdict(model.training).items() if k not in ("threads", "device")}
    settings = {k: v for k, v in asdict(model.settings).items() if k not in without}
    return {"settings": settings, "training": training}


def _settings(model: Any, cell: Cell) -> dict[str, Any]:
    return described(model, without=TUNING_FIELDS if cell.stage == "pretrain" else ())


def _is_current(result: Mapping[str, Any]) -> bool:
    cell = result["cell"]
    named = Cell(**{**cell, "changes": tuple((name, value) for name, value in cell["changes"])})
    try:
        meant = _settings(configured(named), named)
    except (LookupError, ValueError):  # a preset or a setting that is no more
        return False
    return _without_tuning(result["settings"], named) == json.loads(json.dumps(meant))


def _without_tuning(settings: Mapping[str, Any], cell: Cell) -> dict[str, Any]:
    """Settings as they are kept, without those of a later stage."""
    if cell.stage != "pretrain":
        return dict(settings)
    kept = {name: value for name, value in settings["settings"].items() if name not in TUNING_FIELDS}
    return {**settings, "settings": kept}


def head_commit() -> str:
    """The short hash of the checkout this code runs from, with + where files differ; empty outside one."""
    where = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short", "HEAD")
    return (
        commit + "+"
        if commit and git("status", "--porcelain", "--untracked-files=no", "--", ".", "../baselines")
        else commit
    )


def _fit(model: Any, split: Split, progress: Progress) -> None:
    if isinstance(model, SequentialRecommender):
        model.fit(split.train, progress, validation=split.valid)
    else:
        model.fit(split.train, progress)


def _stage(model: RecGPT, cell: Cell, split: Split, home: Path, progress: Progress) -> float:
    """Leave `model` trained up to the cell's stage; the CPU seconds that its checkpoint had cost before."""
    settings, training = model.settings, model.training
    first = asdict(model.stages()[0]) | {"threads": 0, "device": ""}
    kept = described(model, without=TUNING_FIELDS)["settings"]
    name = f"{cell.data}-{_hash({'settings': kept, 'first': first, 'data': split.train.content_hash()})}"
    checkpoint = home / f"{name}.safetensors"
    before_s = 0.0
    if checkpoint.exists():
        model.__dict__.update(RecGPT.load(checkpoint).__dict__)
        before_s = sum(epoch.cpu_s for run in model.runs for epoch in run.epochs)
    else:
        model.resume_folder = home / name
        model.pretrain(split.train, progress, validation=split.valid)
        model.save(checkpoint)
    model.settings, model.training = settings, training
    if cell.stage == "tune":
        model.resume_folder = home / f"{name}-{_hash(asdict(settings))}"
        model.tune(split.train, progress, validation=split.valid)
    return before_s


def _best_with_two(found: Mapping[tuple[int, int], Ids], length: int) -> tuple[int, int]:
    """The (m, n) with n of 1 or more that finds most targets; of equal ones the smallest n."""
    splits = [(length - n, n) for n in range(1, length // 2 + 1)]
    return max(splits, key=lambda split: (int((found[split] > 0).sum()), split[0]))


def _grid_row(split: tuple[int, int], ranks: Ids, one_step: Ids) -> dict[str, Any]:
    k = sum(split)
    here, there = ranks > 0, (one_step > 0) & (one_step <= k)
    moved = {"gained": int((here & ~there).sum()), "lost": int((there & ~here).sum())}
    return {"m": split[0], "n": split[1], "hr": _hr(ranks, k), "ndcg": _ndcg(ranks, k), **moved}


def _hr(ranks: Ids, k: int) -> float:
    return float(hits(ranks, k).mean())


def _ndcg(ranks: Ids, k: int) -> float:
    return float(gains(ranks, k).mean())


def _has_repeats(held_out: Validation) -> bool:
    return bool((held_out.histories == held_out.targets[:, None]).any())


def _loss(text: str) -> LossSettings:
    kind, _, n_negatives = text.partition(":")
    return LossSettings(kind, int(n_negatives or 1))


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]

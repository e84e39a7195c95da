"""A cell of the reproduction: which model on which data, and how it is trained and measured.

A cell is run once: it trains (or takes a pre-trained checkpoint that another cell left), chooses on
validation and ranks all items for every test user. Where a cell is run again under the same settings, the
first result stays in the store.
"""

import hashlib
import json
import os
import platform
import resource
import subprocess
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from baselines.base import Progress, silent
from baselines.data import Split, Validation
from baselines.losses import LossSettings
from baselines.sequential import SequentialRecommender
from recgpt.measure import measure
from recgpt.recommender import RecGPT
from recgpt.stages import untrained
from recgpt.tune import PromptSettings

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


def _has_repeats(held_out: Validation) -> bool:
    return bool((held_out.histories == held_out.targets[:, None]).any())


def _loss(text: str) -> LossSettings:
    kind, _, n_negatives = text.partition(":")
    return LossSettings(kind, int(n_negatives or 1))


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]

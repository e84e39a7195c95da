"""What `abtest run` can be told, and the checks that come before anything is written."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from abtest.arms import STAGES, parse_arms
from abtest.executor import check as check_executor
from abtest.experiment import Arm, Experiment
from abtest.metrics import METRICS, Metric, check_first_days, metrics_from, with_method
from abtest.population import Holdout, Layer, check_disjoint, parse_layer, parse_phases, parse_split
from abtest.toml_file import NUMBER, TEXT, WHOLE, Kind, read_toml
from abtest.world import read_source
from simulator.constants import constants_of
from simulator.uploads import check_uploads

RETRAIN = ("frozen", "own", "pooled")
"""What arms learn from at the midnights of an experiment: nothing, their own users' days, everybody's."""


@dataclass(frozen=True)
class RunSettings:
    """What `abtest run` can be told; a TOML file uses these names, the command line has dashes in them."""

    arms: str = "comirec,recgpt"
    days: int = 5
    users: int = 10_000
    warmup_days: int = 5
    log: str | None = None
    sequences: str | None = None
    family: str = "factors"
    profile: str = "default"
    seed: int = 0
    split: str | None = None
    control: str | None = None
    name: str = "experiment"
    out: str | None = None
    stage: str = "retrieval"
    device: str = "cpu"
    epochs: int = 12
    max_targets: int = 100_000
    threads: int = 2
    checkpoints: str | None = None
    looks: str = "daily"
    sequential: str = "obf"
    correction: str = "holm"
    retrain: str = "frozen"
    retrain_epochs: int = 2
    explore: int = 0
    uploads: float = 0.0
    workers: int = 1
    executor: str = "local"
    metrics: tuple[Metric, ...] | None = None
    hashing: str = "blake2b"
    layer: str = ""
    beside: str = ""
    holdout: float = 0.0
    holdout_salt: str = "global"
    phases: str | list[dict[str, Any]] = ""


KEYS = {
    field.name: {int: WHOLE, float: NUMBER}.get(type(field.default), TEXT) for field in fields(RunSettings)
} | {
    "phases": Kind(list | str, "tables, each under [[phases]], or text such as 1:10,3:100"),
    "metrics": Kind(list, "tables, each under [[metrics]]"),
    "method": TEXT,
}


@dataclass(frozen=True)
class Plan:
    """A run whose settings have been checked, and the log that it starts from, read."""

    settings: RunSettings
    experiment: Experiment
    log: Any


def settings_from(path: Path | None, flags: Mapping[str, Any]) -> RunSettings:
    """Defaults, overlaid by the TOML file, overlaid by the flags that were given (those not None)."""
    found = {} if path is None else read_config(path)
    return replace(RunSettings(), **{**found, **{key: v for key, v in flags.items() if v is not None}})


def read_config(path: Path) -> dict[str, Any]:
    """The settings that a TOML file names. ValueError where one is unknown or of another type."""
    found = read_toml(path, KEYS)
    metrics = _declared_metrics(found, path)
    return found if metrics is None else {**found, "metrics": metrics}


def _declared_metrics(found: dict[str, Any], path: Path) -> tuple[Metric, ...] | None:
    """The metrics that a file declares, taken out of what was found in it; with a method for all of them."""
    declared, method = found.pop("metrics", None), found.pop("method", None)
    metrics = None if declared is None else metrics_from(declared, str(path))
    return metrics if method is None else with_method(metrics or METRICS, method, str(path))


def prepare(settings: RunSettings) -> Plan:
    """Check the settings and read the log. ValueError or LookupError names the first thing that is wrong."""
    for key, least in (
        ("days", 1),
        ("users", 2),
        ("warmup_days", 1),
        ("epochs", 1),
        ("max_targets", 1),
        ("threads", 1),
        ("retrain_epochs", 2),
        ("workers", 1),
    ):
        value = getattr(settings, key)
        if value < least:
            raise ValueError(f"{key.replace('_', '-')} is {value}; it must be {least} or more")
    _check_metrics(settings)
    if settings.retrain not in RETRAIN:
        raise ValueError(f"unknown retrain {settings.retrain!r}; allowed: {', '.join(RETRAIN)}")
    if not 0 <= settings.explore <= 100:
        raise ValueError(f"explore is {settings.explore}; it is a percentage from 0 to 100")
    _check_uploads(settings)
    if settings.workers > settings.users:
        raise ValueError(f"workers is {settings.workers}; with {settings.users} users it can be that at most")
    check_executor(settings.executor)
    if not 0 <= settings.seed < 2**63:
        raise ValueError(f"seed is {settings.seed}; it must be a whole number from 0 to 2^63 - 1")
    if not settings.name or not all(c.isalnum() or c in "._-" for c in settings.name):
        raise ValueError(f"name {settings.name!r} is not usable; use letters, digits, '.', '_' and '-'")
    if settings.stage not in STAGES:
        raise ValueError(f"unknown stage {settings.stage!r}; known stages: {', '.join(STAGES)}")
    specs = parse_arms(settings.arms)
    control = settings.control or specs[0].name
    weights = (
        parse_split(settings.split, len(specs))
        if settings.split is not None
        else [1 / len(specs)] * len(specs)
    )
    _check_device(settings.device)
    experiment = Experiment(
        name=settings.name,
        arms=tuple(Arm(spec.name, spec.model, weight) for spec, weight in zip(specs, weights, strict=True)),
        control=control,
        days=settings.days,
        salt=f"{settings.name}-{settings.seed}",
        looks=settings.looks,
        sequential=settings.sequential,
        correction=settings.correction,
        hashing=settings.hashing,
        layer=_layer(settings),
        holdout=Holdout(settings.holdout / 100, settings.holdout_salt) if settings.holdout else None,
        phases=parse_phases(settings.phases, len(specs)),
    )
    constants_of(settings.profile, settings.family)
    return Plan(settings, experiment, read_source(settings.log, settings.sequences, settings.users))


def claim_folder(settings: RunSettings) -> Path:
    """Make the run folder: `--out`, or the next free runs/NAME-N. It must be new or empty."""
    if settings.checkpoints is not None:
        try:
            Path(settings.checkpoints).mkdir(parents=True, exist_ok=True)
            _probe(Path(settings.checkpoints))
        except OSError as error:
            raise ValueError(f"cannot write to {settings.checkpoints}: {error.strerror}") from error
    if settings.out is None:
        parent = Path("runs")
        n = 1
        while True:
            folder = parent / f"{settings.name}-{n}"
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                n += 1
            except OSError as error:
                raise ValueError(f"cannot write run folder {folder}: {error.strerror}") from error
    folder = Path(settings.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ValueError(f"run folder {folder} is in use (not empty); give a new --out or remove it")
        _probe(folder)
    except OSError as error:
        raise ValueError(f"cannot write run folder {folder}: {error.strerror}; give another --out") from error
    return folder


def _probe(folder: Path) -> None:
    """OSError where nothing can be written in a folder."""
    probe = folder / ".writable"
    probe.touch()
    probe.unlink()


def _layer(settings: RunSettings) -> Layer | None:
    """The experiment's part of its layer, which those beside it must leave alone."""
    if not settings.layer:
        if settings.beside:
            raise ValueError(
                f"beside is {settings.beside!r} and no layer is named; name it, layer = 'feed:0-50'"
            )
        return None
    layer = parse_layer(settings.layer)
    others = [parse_layer(text.strip()) for text in settings.beside.split(",")] if settings.beside else []
    names = [settings.name, *(other.name for other in others)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"experiment {name!r} is named twice in layer {layer.name!r}; names must differ")
    check_disjoint(layer, {other.name: other for other in others}, settings.name)
    return layer


def _check_uploads(settings: RunSettings) -> None:
    check_uploads(settings.uploads)
    source = "log" if settings.log is not None else "sequences" if settings.sequences is not None else None
    if settings.uploads and source is not None:
        raise ValueError(
            f"uploads is {settings.uploads:g} and the world is built from --{source}, whose videos are all"
            " there from the start; leave one of the two out"
        )


def _check_metrics(settings: RunSettings) -> None:
    """What can be wrong with declared metrics is found now, not when the run is over and they are summed."""
    from warehouse.queries import DURATIONS, TOTALS

    metrics = settings.metrics or ()
    check_first_days(metrics, settings.days)
    for metric in metrics:
        unknown = [name for name in (*metric.columns, *metric.past) if name not in TOTALS]
        if unknown:
            raise LookupError(
                f"metric {metric.name!r} reads {unknown[0]!r}, which is no total of a run's users; these are:"
                f" {', '.join(TOTALS)}"
            )
        if metric.over == "events" and metric.numerator not in DURATIONS:
            raise LookupError(
                f"metric {metric.name!r} is of single events; those of {metric.numerator!r} hold no value;"
                f" allowed: {', '.join(DURATIONS)}"
            )


def _check_device(device: str) -> None:
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise ValueError(f"unknown device {device!r}; allowed: cpu, cuda, cuda:N")
    if kind == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ValueError(
                f"device {device!r} is not there; this machine has no CUDA GPU, use --device cpu"
            )

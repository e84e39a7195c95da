"""The true lifts of a simulated run: its users live the days of the experiment under each arm (twins).

All lives begin at the same midnight, with the users as the warm-up left them, and have the same luck: draws
are keyed by user, video and day, never by arm. So users are compared with themselves, and far smaller effects
show than between different users. Models are those of the first day and stay as they are (an arm that learned
from its own life would see more of it than in the experiment), and everybody is in from day 1.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from abtest.days import Days, Midnight, Nowhere
from abtest.executor import opened
from abtest.experiment import OUTSIDE, Experiment
from abtest.manifest import write_json
from abtest.metrics import Metric
from abtest.progress import Progress
from abtest.recorded import TRUTH, kept_truth, recorded_metrics
from abtest.resume import finished
from abtest.run import fit_arms, warm_up, world_of
from abtest.settings import Plan
from abtest.stats.certificate import REPLICATES, certify
from abtest.stats.paired import Life, Paired, compare_lives
from simulator.behavior import EXPECTED
from warehouse.events import DAY_MS, Kind

if TYPE_CHECKING:
    from abtest.serving import Serving
    from simulator.shards import Service
    from simulator.world import World
    from warehouse.store import Warehouse

ALPHA = 0.01
"""Intervals of the truth hold at 99 %."""

LIVES, KEPT = "lives-", "lives"
"""How folders begin in which lives are lived until they have been compared, and the one where they stay."""

BY_CHANCE = tuple(f"n_{action}" for action in EXPECTED)
"""Columns of users' totals that are taken from chances."""

Amounts = Mapping[str, NDArray[np.float64]]
"""(n,) of each user, by column of the totals; under "" whether they came."""

NO_TWINS = "caps and quantiles are of all users of an arm together, which twins do not compare"
NO_FIRST_DAYS = "twins are compared in days of the experiment, not in days since exposure"


class Asked(NamedTuple):
    """A finished run whose truth is wanted; `known` is what was found before."""

    folder: Path
    workers: int = 1
    keep: bool = False
    plan: Plan | None = None
    known: dict[str, Any] | None = None


def prepare(folder: Path, workers: int | None = None, *, keep: bool = False) -> Asked:
    """Check what a user can get wrong. ValueError where there is no finished run, or where its code, data or
    versions have changed.

    With `keep` the events of each life stay in the run's folder: lives/arm-1.duckdb and so on, as arms are
    ordered.
    """
    known = kept_truth(folder)
    if known is not None and keep and not (folder / KEPT).is_dir():
        raise ValueError(
            f"the truth of {folder} is known and its lives were not kept; remove {folder / TRUTH} to live"
            " them again"
        )
    if known is not None:
        return Asked(folder, known=known)
    plan = finished(folder)
    for name in ("events.duckdb", "report.json"):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} has no {name} any more, which its truth is held against; run it again"
            )
    n = plan.settings.workers if workers is None else workers
    if not 1 <= n <= plan.settings.users:
        raise ValueError(f"workers is {n}; 1 to {plan.settings.users}, the users of the run, are allowed")
    return Asked(folder, n, keep, plan)


def find_truth(asked: Asked, progress: Progress) -> dict[str, Any]:
    """The truth of a run as plain values: kept in its folder and written into its reports.

    What was found before is returned as it is. What was cut off goes on from its latest midnight.
    """
    folder, workers, keep, plan, known = asked
    if known is not None:
        return known
    assert plan is not None, "prepare gives a plan where nothing is known"
    home = _made(folder / f"{LIVES}{workers}")  # midnights are kept by shard
    found = _live_and_compare(plan, folder, home, progress, workers)
    if keep:
        for i in range(len(plan.experiment.arms)):
            (home / f"life-{i}" / "events.duckdb").replace(_made(folder / KEPT) / f"arm-{i + 1}.duckdb")
    _into_reports(folder, found)
    write_json(folder / TRUTH, found)
    for place in folder.glob(f"{LIVES}*"):
        shutil.rmtree(place)
    return found


def _into_reports(folder: Path, found: Mapping[str, Any]) -> None:
    from abtest.report.document import from_json, write_document

    document = from_json((folder / "report.json").read_text(encoding="utf-8"))
    write_document({**document, "truth": found}, folder)


def _live_and_compare(
    plan: Plan, folder: Path, home: Path, progress: Progress, workers: int
) -> dict[str, Any]:
    from warehouse.store import Warehouse

    frozen = replace(plan, settings=replace(plan.settings, retrain="frozen"))
    settings, experiment = frozen.settings, frozen.experiment
    with ExitStack() as stack:
        recorded = stack.enter_context(
            Warehouse.open(folder / "events.duckdb", threads=settings.threads, read_only=True)
        )
        executor = stack.enter_context(opened(settings.executor, workers, home))
        with progress.stage("world"):
            world = world_of(frozen)
        with progress.stage("warm-up, again"):
            days = Days(_made(home / "warm-up"), Nowhere(), executor, workers, progress.simulated)
            start = warm_up(world, days, settings)
        with progress.stage("models"):
            serving = fit_arms(frozen, world, recorded, folder, progress)
        lives = []
        for i, arm in enumerate(experiment.arms):
            with progress.stage(f"life under {arm.name}"):
                place = _made(home / f"life-{i}")
                warehouse = stack.enter_context(
                    Warehouse.open(place / "events.duckdb", threads=settings.threads)
                )
                days = Days(place, warehouse, executor, workers, progress.simulated)
                end = live(days, service_under(serving, world, experiment, i), experiment, start)
                lives.append(Lived(warehouse, experiment, end, world.n_items))
        with progress.stage("comparison"):
            return document(experiment, recorded_metrics(recorded.experiment(experiment.name)), lives)


def live(
    days: Days, service_of: "Callable[[int], Service]", experiment: Experiment, start: Midnight
) -> Midnight:
    """The days of the experiment, from the midnight before it."""
    return days.live("live", service_of, range(start.day, start.day + experiment.days), start)


def service_under(
    serving: "Serving", world: "World", experiment: Experiment, arm: int
) -> "Callable[[int], Service]":
    """The service by day that gives everybody one arm."""
    from simulator.shards import Service

    everyone = np.zeros(world.n_users, dtype=np.int64)
    kept: list[Service] = []

    def service(day: int) -> Service:
        if not kept or serving.explores:
            feed = serving.feeds_on(day)[arm]
            names = [experiment.arms[arm].name]
            kept[:] = [Service(world, [feed], everyone, experiment.name, names, expects=True)]
        return kept[0]

    return service


class Lived:
    """What users did in the life under one arm; rows are the users who can be in the experiment.

    Of what changes nothing in a life (`simulator.behavior.EXPECTED`), the chances of the life count in the
    place of the events: their mean is the same, without the luck of rare events.
    """

    def __init__(self, warehouse: "Warehouse", experiment: Experiment, end: Midnight, n_items: int) -> None:
        self._expected = end.expected() / 1e9  # (days, users, columns)
        self._n_users = self._expected.shape[1]
        self._warehouse, self._name, self._n_items = warehouse, experiment.name, n_items
        start_ts = (end.day - experiment.days) * DAY_MS
        warehouse.register(experiment.name, {"start_ts": start_ts, "days": experiment.days})
        last_phase = len(experiment.phases) - 1
        self.users = np.flatnonzero(experiment.assign(np.arange(self._n_users), last_phase) != OUTSIDE)

    def amounts(self, last_day: int, columns: Sequence[str]) -> Amounts:
        """(n,) each user's total of each column in days 1 to `last_day`, and under "" whether they came."""
        table = self._warehouse.totals(self._name, (1, last_day))
        who = table["user"].to_numpy()
        found = {}
        for name in ("", *columns):
            of_all = np.zeros(self._n_users)
            of_all[who] = table[name].to_numpy() if name else 1.0
            found[name] = of_all[self.users]
        for i, column in enumerate(BY_CHANCE):
            if column in found:
                found[column] = self._expected[:last_day, self.users, i].sum(0)
        return found

    @cached_property
    def shown(self) -> NDArray[np.int64]:
        """Pairs of user and video that met, as sorted numbers."""
        pairs = self._warehouse.sql(
            f"SELECT DISTINCT user * {self._n_items + 1} + item AS pair FROM events"
            f" WHERE kind = {int(Kind.impression)} ORDER BY pair"
        )["pair"].to_numpy()
        return pairs[np.isin(pairs // (self._n_items + 1), self.users)]


def document(experiment: Experiment, metrics: Sequence[Metric], lives: Sequence[Lived]) -> dict[str, Any]:
    """All treatments against the control, in days 1 to d for each d: values ready for JSON."""
    names = [arm.name for arm in experiment.arms]
    control = names.index(experiment.control)
    treatments = [i for i in range(len(names)) if i != control]
    columns = sorted({column for metric in metrics for column in metric.columns})
    effects = []
    for last_day in range(1, experiment.days + 1):
        amounts = [lived.amounts(last_day, columns) for lived in lives]
        for i in treatments:
            head = {"control": names[control], "treatment": names[i], "window": {"from": 1, "to": last_day}}
            found = [_compared(metric, amounts[control], amounts[i]) for metric in metrics]
            effects += [
                {"metric": metric.name, **head, "from": _source(metric), **_values(one)}
                for metric, one in zip(metrics, found, strict=True)
            ]
    last = amounts  # of all days
    overlaps = [
        {"arms": [names[control], names[i]], "share": overlap(lives[control].shown, lives[i].shown)}
        for i in treatments
    ]
    return {
        "experiment": experiment.name,
        "users": len(lives[0].users),
        "level": 1 - ALPHA,
        "effects": effects,
        "splits": [found for i in treatments for found in _splits(metrics, last[control], last[i], names[i])],
        "feeds": overlaps,
    }


def _splits(
    metrics: Sequence[Metric], control: Amounts, treatment: Amounts, name: str
) -> list[dict[str, Any]]:
    """What splits of the users would have found in all days (`stats.certificate`), metric by metric."""
    pairs = [
        (metric.name, _life(metric, control), _life(metric, treatment), _compared(metric, control, treatment))
        for metric in metrics
    ]
    known = [pair for pair in pairs if pair[3].lift is not None]
    if not known:
        return []
    certificates = certify(
        [pair[1] for pair in known], [pair[2] for pair in known], [pair[3].lift or 0.0 for pair in known]
    )
    return [
        {"metric": pair[0], "treatment": name, "splits": REPLICATES, **found._asdict()}
        for pair, found in zip(known, certificates, strict=True)
    ]


def overlap(first: NDArray[np.int64], second: NDArray[np.int64]) -> float | None:
    """Of the videos that users met in two lives, the share that they met in both (Dice)."""
    both = len(np.intersect1d(first, second, assume_unique=True))
    return 2 * both / (len(first) + len(second)) if len(first) + len(second) else None


def _compared(metric: Metric, control: Amounts, treatment: Amounts) -> Paired:
    if metric.cap is not None or metric.cap_value is not None or metric.quantile is not None:
        return Paired(reason=NO_TWINS)
    if metric.first_days is not None:
        return Paired(reason=NO_FIRST_DAYS)
    return compare_lives(_life(metric, control), _life(metric, treatment), alpha=ALPHA)


def _life(metric: Metric, amounts: Amounts) -> Life:
    return Life(amounts[metric.numerator] / metric.scale, amounts[metric.denominator or ""])


def _source(metric: Metric) -> str:
    return "chances" if {*BY_CHANCE} & {*metric.columns} else "events"


def _values(found: Paired) -> dict[str, Any]:
    """`resolved`: whether the sign of the lift is beyond chance. Equal lives are: they differ by nothing."""
    intervals = {"difference_ci": found.difference_ci, "lift_ci": found.lift_ci}
    return {
        "control_mean": found.control,
        "treatment_mean": found.treatment,
        "difference": found.difference,
        "lift": found.lift,
        **{name: None if ends is None else list(ends) for name, ends in intervals.items()},
        "p": found.p,
        "less_variance": found.less_variance,
        "resolved": found.p is not None and found.p < ALPHA,
        "reason": found.reason,
    }


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder

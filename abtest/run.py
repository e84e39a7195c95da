"""The story of `abtest run`: a world, a warm-up, trained arms, an experiment, a report.

`abtest.settings.prepare` has checked all that a user can get wrong; nothing was written before.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from abtest.arms import ArmFeed, candidate_overlap
from abtest.checkpoints import fit_model
from abtest.experiment import OUTSIDE, Experiment
from abtest.manifest import manifest, versions, write_json
from abtest.progress import Progress
from abtest.settings import Plan, RunSettings
from warehouse.events import DAY_MS

if TYPE_CHECKING:
    from abtest.analysis import Analysis, Check, PhaseRows
    from abtest.logs import LogRequest
    from baselines.ranker import Ranker
    from simulator.world import World
    from warehouse.store import Cohort, Warehouse

OVERLAP_USERS = 512
ALL_TIME = range(-(2**62), 2**62)


def execute(plan: Plan, folder: Path, progress: Progress) -> "Analysis":
    """Run the experiment in `folder` (which exists and is empty) and leave its reports there."""
    from abtest.report import write_reports
    from warehouse.store import Warehouse

    settings, experiment = plan.settings, plan.experiment
    write_json(folder / "manifest.json", manifest(plan))
    with Warehouse.open(folder / "events.duckdb", threads=settings.threads) as warehouse:
        with progress.stage("world"):
            world = build_world(plan)
            warehouse.record("world", items=world.items_table(), users=world.users_table())
            record_histories(world, warehouse)
        with progress.stage("warm-up"):
            state = warm_up(world, warehouse, settings, progress)
        with progress.stage("training"):
            feeds = fit_arms(plan, world, warehouse, folder, progress)
        with progress.stage("experiment"):
            start_ts = settings.warmup_days * DAY_MS
            warehouse.register(experiment.name, describe(plan, start_ts))
            overlap = measure_overlap(feeds, experiment, state, start_ts)
            live(world, state, warehouse, feeds, plan, progress)
        with progress.stage("analysis"):
            analysis = analyse_warehouse(warehouse, experiment.name)
            event_hash = warehouse.event_hash()
    analysis = replace(analysis, candidate_overlap=overlap, versions=versions(), timings=progress.timings)
    write_reports(analysis, folder)
    write_json(folder / "manifest.json", {**manifest(plan), "event_hash": event_hash, "finished": True})
    return analysis


def build_world(plan: Plan) -> "World":
    """The synthetic world of the seed, or the world of the log."""
    from simulator.world import World

    if plan.log is None:
        return World.synthetic(plan.settings.users, seed=plan.settings.seed)
    log = plan.log
    return World.from_log(
        log.users,
        log.videos,
        log.impressions,
        log.histories,
        log.exposures,
        seed=plan.settings.seed,
        n_users=plan.settings.users,
    )


def record_histories(world: "World", warehouse: "Warehouse") -> None:
    """Write the logged histories of a world from a log as plays before the start, in their order.

    The log gives their order but no times: play j of n is dated n - j minutes before the run begins.
    """
    import pyarrow as pa

    from warehouse.events import Event, Kind
    from warehouse.schema import arrow_schema

    user, rank = np.nonzero(world.history)
    if not len(user):
        return
    length = (world.history > 0).sum(axis=1)
    ts = -60_000 * (length[user] - rank)
    columns = {
        "ts": ts,
        "ingest_ts": ts,
        "user": user,
        "session": np.full(len(user), -1),
        "request": rank,
        "item": world.history[user, rank],
        "position": np.zeros(len(user)),
        "kind": np.full(len(user), Kind.play),
        "value": np.ones(len(user)),
    }
    schema = arrow_schema(Event)
    arrays = [pa.array(columns[field.name].astype(field.type.to_pandas_dtype())) for field in schema]
    warehouse.record("histories", events=pa.Table.from_arrays(arrays, schema=schema))


def warm_up(world: "World", warehouse: "Warehouse", settings: RunSettings, progress: Progress) -> Any:
    """Days under the logging policy, recorded like any others: training data for the arms and the ranker."""
    from simulator.platform import Platform
    from simulator.policies import LoggingPolicy

    def everyone_together(users: np.ndarray) -> np.ndarray:
        return np.zeros(len(users), dtype=np.int64)

    platform = Platform(
        world,
        [LoggingPolicy(world)],
        everyone_together,
        Recorder(warehouse, "warm-up"),
        progress=progress.simulated,
    )
    return platform.run(settings.warmup_days)


class Recorder:
    """Gives the blocks of a phase their batch ids: `warm-up-0`, `warm-up-1`, ..."""

    def __init__(self, warehouse: "Warehouse", phase: str) -> None:
        self._warehouse, self._phase, self._n = warehouse, phase, 0

    def __call__(self, **tables: Any) -> None:
        self._warehouse.record(f"{self._phase}-{self._n}", **tables)
        self._n += 1


def fit_arms(
    plan: Plan, world: "World", warehouse: "Warehouse", folder: Path, progress: Progress
) -> list[ArmFeed]:
    """Train each model once on what the warehouse recorded, and put it before the shared ranker."""
    from baselines.base import Interactions

    settings = plan.settings
    log = warehouse.interactions()
    interactions = Interactions.from_arrays(
        log["user"].to_numpy(), log["item"].to_numpy(), log["ts"].to_numpy(), world.n_users, world.n_items
    )
    ranker = fit_ranker(world, warehouse)
    names = list(dict.fromkeys(arm.model for arm in plan.experiment.arms))
    fitted = {}
    for i, model in enumerate(names):

        def report(detail: str, fraction: float, done: int = i) -> None:
            progress.update(detail, (done + fraction) / len(names))

        fitted[model] = fit_model(model, interactions, settings, folder, report)
        report(f"{model} is trained", 1.0)
    return [ArmFeed(fitted[arm.model], ranker, stage=settings.stage) for arm in plan.experiment.arms]


def fit_ranker(world: "World", warehouse: "Warehouse") -> "Ranker":
    """The ranking stage that all arms share, from the impressions of the warm-up alone."""
    from baselines.ranker import ItemFeatures, Ranker

    seen = warehouse.impressions()
    return Ranker().fit(
        seen["user"].to_numpy(),
        seen["item"].to_numpy(),
        seen["ts"].to_numpy(),
        seen["play"].to_numpy(),
        n_users=world.n_users,
        features=ItemFeatures(
            world.item_tag.astype(np.int64), world.item_author, world.item_duration_ms, world.item_uploaded_ts
        ),
    )


def measure_overlap(
    feeds: list[ArmFeed], experiment: Experiment, state: Any, start_ts: int
) -> dict[str, Any]:
    """How alike the arms' candidates are for the same users at the start of the experiment."""
    users = np.arange(min(OVERLAP_USERS, len(state.n_plays)), dtype=np.int64)
    histories = state.histories(users)
    shares = candidate_overlap(
        feeds, users, histories, state.recently_shown(users), np.full(len(users), start_ts)
    )
    names = [arm.name for arm in experiment.arms]
    pairs = [
        {"arms": [names[i], names[j]], "share": shares[i][j]}
        for i in range(len(names))
        for j in range(i + 1, len(names))
    ]
    return {"candidates": 50, "users": len(users), "pairs": pairs}


def live(
    world: "World", state: Any, warehouse: "Warehouse", feeds: list[ArmFeed], plan: Plan, progress: Progress
) -> None:
    """The days of the experiment: users are assigned by hash and served by their arm, those who are not in
    it by the control's model. With a new phase more users come in; who was exposed keeps the arm."""
    from simulator.platform import Platform

    settings, experiment = plan.settings, plan.experiment
    names = [arm.name for arm in experiment.arms]
    starts = [phase.start_ms // DAY_MS for phase in experiment.phases]
    platform = Platform(
        world,
        [*feeds, feeds[names.index(experiment.control)]],
        feed_of(experiment, 0),
        Recorder(warehouse, "live"),
        state=state,
        start_day=settings.warmup_days,
        experiment=experiment.name,
        arm_names=[*names, None],
        progress=progress.simulated,
    )
    for phase, (start, end) in enumerate(pairwise([*starts, settings.days])):
        platform.reassign(feed_of(experiment, phase))
        platform.run(end - start)


def feed_of(experiment: Experiment, phase: int) -> Callable[[np.ndarray], np.ndarray]:
    """Which feed serves each user: the arms', in their order, and the last one for who is not in."""

    def assign(users: np.ndarray) -> np.ndarray:
        arms = experiment.assign(users, phase)
        return np.where(arms == OUTSIDE, len(experiment.arms), arms)

    return assign


def describe(plan: Plan, start_ts: int) -> dict[str, Any]:
    """What the warehouse keeps of an experiment: all that a later analysis needs."""
    settings = plan.settings
    return {
        **plan.experiment.settings(),
        "seed": settings.seed,
        "n_users": settings.users,
        "stage": settings.stage,
        "start_ts": start_ts,
        "pre_days": settings.warmup_days,
        "population": plan.experiment.population(np.arange(settings.users)),
    }


def analyse_warehouse(warehouse: "Warehouse", name: str | None = None) -> "Analysis":
    """Moments from the database, then checks, effects, correction and verdict; needs no simulator."""
    from abtest.analysis import analyse_phases

    settings = warehouse.experiment(name)
    return analyse_phases(
        settings,
        [phase_rows(warehouse, settings, cohort) for cohort in cohorts_of(settings)],
        crossovers=warehouse.crossovers(settings["name"]),
        more_checks=health_of_run(warehouse, settings),
    )


def cohorts_of(settings: dict[str, Any]) -> "list[str | Cohort]":
    """The users first exposed in each phase; in an experiment of one phase, all of them."""
    from warehouse.store import Cohort

    name, start_ts = settings["name"], settings["start_ts"]
    phases = Experiment.from_settings(settings).phases
    if len(phases) == 1:
        return [name]
    bounds = [ALL_TIME.start, *(start_ts + phase.start_ms for phase in phases[1:]), ALL_TIME.stop]
    return [Cohort(name, from_ts, until_ts) for from_ts, until_ts in pairwise(bounds)]


def phase_rows(warehouse: "Warehouse", settings: dict[str, Any], cohort: "str | Cohort") -> "PhaseRows":
    """What the database knows of the users of a phase."""
    from abtest.analysis import PhaseRows, windows
    from abtest.metrics import METRICS, columns_of, covariate_products, look_products

    days, pre_days = settings["days"], settings.get("pre_days", 0)
    daily = Experiment.from_settings(settings).design != "none"
    sums = warehouse.looks(
        cohort,
        days,
        covariates=covariate_products(METRICS) if pre_days else (),
        pairs=look_products(METRICS) if daily else (),
        pre_days=pre_days,
    )
    moments = warehouse.moments(cohort, windows(days), columns=columns_of(METRICS))
    return PhaseRows(
        [sums.extended(row) for row in moments], warehouse.exposed(cohort), list(sums.pairs(days))
    )


def health_of_run(warehouse: "Warehouse", settings: dict[str, Any]) -> "list[Check]":
    """The checks of a recorded run beyond its totals: assignment, each day's users and events."""
    from abtest import health
    from abtest.checks import check_sample_ratio

    experiment, start_ts = Experiment.from_settings(settings), settings["start_ts"]
    slices, weights = health.slices_of(experiment, [warehouse.daily_exposed(c) for c in cohorts_of(settings)])
    exposures = warehouse.sql("SELECT experiment, user, arm, first_ts FROM exposures ORDER BY ALL")
    mine = np.array(exposures["experiment"].to_pylist()) == experiment.name
    users, recorded = exposures["user"].to_numpy()[mine], np.array(exposures["arm"].to_pylist())[mine]
    names = np.array([arm.name for arm in experiment.arms])
    counts = {name: int((recorded == name).sum()) for name in names.tolist()}
    given = experiment.assign_at(users, exposures["first_ts"].to_numpy()[mine] - start_ts)
    wrong = int(((given == OUTSIDE) | (names[given] != recorded)).sum()) if len(users) else 0
    found = []
    if settings.get("n_users"):
        last = len(experiment.phases) - 1
        arms = experiment.assign(np.arange(settings["n_users"]), last)
        assigned = np.bincount(arms[arms != OUTSIDE], minlength=len(names))
        counted = dict(zip(names.tolist(), assigned.tolist(), strict=True))
        check = check_sample_ratio(experiment, counted, phase=last)
        found.append(replace(check, name="sample_ratio_assigned"))
    found.append(health.check_recorded_arms(counts, wrong))
    found.append(health.check_slices(experiment, slices, {}, weights)[0])
    rows = warehouse.sql(
        f"SELECT (ts - {start_ts}) // {DAY_MS} + 1 AS day, count(*) AS n, max(ts) AS last FROM events"
        f" WHERE ts >= {start_ts} AND ts < {start_ts + experiment.days * DAY_MS} GROUP BY ALL ORDER BY day"
    ).to_pylist()
    events = {row["day"]: row["n"] for row in rows}
    found.append(health.check_days(experiment, events, start_ts))
    last_ts = max((row["last"] for row in rows), default=None)
    found.append(health.check_watermark(experiment, events, last_ts, start_ts))
    return found


def analyse_place(place: Path, name: str | None = None) -> "Analysis":
    """Analyse a run folder or a database file again. LookupError where there is no such experiment."""
    from warehouse.store import Warehouse

    database = place / "events.duckdb" if place.is_dir() else place
    if not database.exists():
        raise LookupError(f"no database at {database}; give a run folder or an events.duckdb file")
    with Warehouse.open(database, read_only=True) as warehouse:
        return replace(analyse_warehouse(warehouse, name), versions=versions())


def analyse_any(request: "LogRequest", name: str | None, out: Path | None) -> "Analysis":
    """Analyse a log that a mapping describes, or, without one, a recorded run; write reports to `out`."""
    from abtest.logs import analyse_log
    from abtest.report import write_reports

    if request.mapping is not None or request.config is not None:
        analysis = analyse_log(request)
    elif len(request.places) > 1 or "://" in request.places[0]:
        raise ValueError("an event log needs its columns named, such as --map user=uid,ts=time,arm=variant")
    else:
        analysis = analyse_place(Path(request.places[0]), name)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_reports(analysis, out)
    return analysis

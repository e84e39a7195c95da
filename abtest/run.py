"""The story of `abtest run`: a world, a warm-up, trained arms, an experiment, a report.

`abtest.settings.prepare` has checked all that a user can get wrong; nothing was written before.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from abtest.arms import ArmFeed, candidate_overlap
from abtest.checkpoints import fit_model, fit_side_by_side
from abtest.days import Days, Midnight, forget
from abtest.executor import opened
from abtest.experiment import Experiment
from abtest.manifest import manifest, versions, write_json
from abtest.progress import Progress
from abtest.recorded import analyse_warehouse
from abtest.serving import Serving, as_interactions
from abtest.settings import Plan, RunSettings
from abtest.world import build_world
from warehouse.events import DAY_MS

if TYPE_CHECKING:
    from abtest.analysis import Analysis
    from baselines.ranker import Ranker
    from simulator.world import World
    from warehouse.store import Warehouse

OVERLAP_USERS = 512


def execute(plan: Plan, folder: Path, progress: Progress) -> "Analysis":
    """Run the experiment in `folder` and leave its reports there; a run that was cut off there goes on.

    OSError where something cannot be written, a full disk for instance: what is there is whole, so the run
    can go on later.
    """
    try:
        return _execute(plan, folder, progress)
    except OSError as error:
        raise OSError(
            f"{error}; what {folder} holds is whole: once it can be written, go on with"
            f" abtest run --resume {folder}"
        ) from error


def _execute(plan: Plan, folder: Path, progress: Progress) -> "Analysis":
    from abtest.report import write_reports
    from warehouse.store import Warehouse

    settings, experiment = plan.settings, plan.experiment
    write_json(folder / "manifest.json", manifest(plan))
    with (
        Warehouse.open(folder / "events.duckdb", threads=settings.threads) as warehouse,
        opened(settings.executor, settings.workers, folder) as executor,
    ):
        days = Days(folder, warehouse, executor, settings.workers, progress.simulated)
        with progress.stage("world"):
            world = world_of(plan)
            warehouse.record("world", items=world.items_table(), users=world.users_table())
            record_histories(world, warehouse)
        with progress.stage("warm-up"):
            start = warm_up(world, days, settings)
        with progress.stage("training"):
            serving = fit_arms(plan, world, warehouse, folder, progress)
        with progress.stage("experiment"):
            start_ts = settings.warmup_days * DAY_MS
            warehouse.register(experiment.name, describe(plan, start_ts))
            overlap = measure_overlap(serving.feeds(), experiment, start.state(world), start_ts)
            days.live("live", serving.service, range(start.day, start.day + experiment.days), start)
        with progress.stage("analysis"):
            analysis = analyse_warehouse(warehouse, experiment.name)
            event_hash = warehouse.event_hash()
    analysis = replace(analysis, candidate_overlap=overlap, versions=versions(), timings=progress.timings)
    write_reports(analysis, folder)
    learned = {"world": world.origin, "event_hash": event_hash, "trainings": serving.trainings}
    write_json(folder / "manifest.json", {**manifest(plan), **learned, "finished": True})
    forget(folder)
    return analysis


def world_of(plan: Plan) -> "World":
    """The world of a run, with the videos that are uploaded in its days."""
    settings = plan.settings
    return build_world(
        plan.log,
        users=settings.users,
        seed=settings.seed,
        profile=settings.profile,
        family=settings.family,
        uploads=settings.uploads,
        days=settings.warmup_days + settings.days,
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


def warm_up(world: "World", days: Days, settings: RunSettings) -> Midnight:
    """Days under the logging policy, recorded like any others: training data for the arms and the ranker."""
    from simulator.policies import LoggingPolicy
    from simulator.shards import Service

    everyone_together = np.zeros(world.n_users, dtype=np.int64)
    service = Service(world, [LoggingPolicy(world)], everyone_together)
    return days.live("warm-up", lambda day: service, range(settings.warmup_days))


def fit_arms(plan: Plan, world: "World", warehouse: "Warehouse", folder: Path, progress: Progress) -> Serving:
    """Train each model once on what the warehouse recorded, and put it before the shared ranker."""
    settings = plan.settings
    start_ts = settings.warmup_days * DAY_MS
    interactions = as_interactions(warehouse.interactions(start_ts), world, settings.warmup_days)
    ranker = fit_ranker(world, warehouse, start_ts)
    names = list(dict.fromkeys(arm.model for arm in plan.experiment.arms))
    fit_side_by_side(names, interactions, settings, folder, progress.update)
    fitted = {}
    for i, model in enumerate(names):

        def report(detail: str, fraction: float, done: int = i) -> None:
            progress.update(detail, (done + fraction) / len(names))

        fitted[model] = fit_model(model, interactions, settings, folder, report)
        report(f"{model} is trained", 1.0)
    return Serving(plan, world, warehouse, folder, ranker, fitted)


def fit_ranker(world: "World", warehouse: "Warehouse", start_ts: int) -> "Ranker":
    """The ranking stage that all arms share, from the impressions of the warm-up alone."""
    from baselines.ranker import ItemFeatures, Ranker

    seen = warehouse.impressions(start_ts)
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


def describe(plan: Plan, start_ts: int) -> dict[str, Any]:
    """What the warehouse keeps of an experiment: all that a later analysis needs."""
    from abtest.metrics import table_of

    settings = plan.settings
    return {
        **plan.experiment.settings(),
        "seed": settings.seed,
        "n_users": settings.users,
        "stage": settings.stage,
        "retrain": settings.retrain,
        "explore_share": settings.explore / 100,
        "uploads_share": settings.uploads / 100,
        "start_ts": start_ts,
        "pre_days": settings.warmup_days,
        **(
            {} if settings.metrics is None else {"metrics": [table_of(metric) for metric in settings.metrics]}
        ),
        "population": plan.experiment.population(np.arange(settings.users)),
    }

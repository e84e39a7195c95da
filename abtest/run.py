"""The story of `abtest run`: a world, a warm-up, trained arms, an experiment, a report.

`abtest.settings.prepare` has checked all that a user can get wrong; nothing was written before.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from abtest.arms import ArmFeed, candidate_overlap
from abtest.checkpoints import fit_model
from abtest.days import Days, Midnight, forget
from abtest.executor import opened
from abtest.experiment import OUTSIDE, Experiment
from abtest.manifest import manifest, versions, write_json
from abtest.progress import Progress
from abtest.serving import Serving, as_interactions
from abtest.settings import Plan, RunSettings
from abtest.world import build_world
from warehouse.events import DAY_MS

if TYPE_CHECKING:
    from abtest.analysis import Analysis, Check
    from abtest.declaration import Declaration
    from abtest.logs import LogRequest
    from abtest.metrics import Metric
    from baselines.ranker import Ranker
    from simulator.world import World
    from warehouse.store import Cohort, Cuts, Moments, PanelSums, Warehouse

OVERLAP_USERS = 512
ACTIVITY = "n_play"
"""What users are called light, middle or heavy by: its total before the experiment."""
ALL_TIME = range(-(2**62), 2**62)


def execute(plan: Plan, folder: Path, progress: Progress) -> "Analysis":
    """Run the experiment in `folder` and leave its reports there; a run that was cut off there goes on."""
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
            world = build_world(
                plan.log,
                users=settings.users,
                seed=settings.seed,
                profile=settings.profile,
                family=settings.family,
            )
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
    interactions = as_interactions(warehouse.interactions(start_ts), world)
    ranker = fit_ranker(world, warehouse, start_ts)
    names = list(dict.fromkeys(arm.model for arm in plan.experiment.arms))
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
        "start_ts": start_ts,
        "pre_days": settings.warmup_days,
        **(
            {} if settings.metrics is None else {"metrics": [table_of(metric) for metric in settings.metrics]}
        ),
        "population": plan.experiment.population(np.arange(settings.users)),
    }


def analyse_warehouse(
    warehouse: "Warehouse", name: str | None = None, metrics: "Sequence[Metric] | None" = None
) -> "Analysis":
    """Sums from the database, then checks, effects, correction and verdict; needs no simulator.

    Where the events end before the last full day it is an interim analysis of the days that are over.
    `metrics`: those declared for the run where None.
    """
    from abtest.analysis import analyse_phases, rows_of_phases
    from abtest.metrics import by_moments
    from abtest.sources import RunSource

    recorded = warehouse.experiment(name)
    metrics = recorded_metrics(recorded) if metrics is None else metrics
    summed = by_moments(metrics)
    name, pre_days = recorded["name"], recorded.get("pre_days", 0)
    experiment = _as_far_as_recorded(warehouse, recorded)
    settings = {**recorded, **experiment.settings()}
    settings.pop("metrics", None)
    cohorts = cohorts_of(settings)
    cuts = warehouse.activity_cuts(name, pre_days, ACTIVITY) if pre_days else None
    sums = [panel_of(warehouse, cohort, experiment.days, pre_days, cuts, summed) for cohort in cohorts]
    daily = [
        [row for row in warehouse.daily_exposed(cohort) if row[0] <= experiment.days] for cohort in cohorts
    ]
    segments = _activity(sums, cuts) if cuts else [{} for _ in sums]
    return analyse_phases(
        settings,
        rows_of_phases(sums, [_by_arm(exposed) for exposed in daily], segments, experiment),
        crossovers=warehouse.crossovers(name),
        metrics=metrics,
        more_checks=health_of_run(warehouse, settings, daily, segments),
        source=RunSource(warehouse, name, pre_days=pre_days),
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


def panel_of(
    warehouse: "Warehouse",
    cohort: "str | Cohort",
    days: int,
    pre_days: int,
    cuts: "Cuts | None" = None,
    metrics: "Sequence[Metric] | None" = None,
) -> "PanelSums":
    """What the metrics (the built-in ones by default) need of the users of an experiment or of a phase."""
    from abtest.metrics import METRICS, columns_of, past_products, products_of

    metrics = METRICS if metrics is None else metrics
    return warehouse.panel(
        cohort,
        days,
        columns=columns_of(metrics),
        products=[*products_of(metrics), *(past_products(metrics) if pre_days else ())],
        pre_days=pre_days,
        activity=cuts,
    )


def recorded_metrics(settings: dict[str, Any]) -> "Sequence[Metric]":
    """The metrics that were declared for a run, or the built-in ones."""
    from abtest.metrics import METRICS, metrics_from

    declared = settings.get("metrics")
    return METRICS if declared is None else metrics_from(declared, f"experiment {settings['name']!r}")


def _as_far_as_recorded(warehouse: "Warehouse", settings: dict[str, Any]) -> Experiment:
    """The experiment up to the last day that is over; ValueError where none is."""
    from abtest.health import last_full_day

    experiment = Experiment.from_settings(settings)
    rows = _events_by_day(warehouse, experiment.days, settings["start_ts"])
    last_ts = max((last for _, last in rows.values()), default=None)
    if last_ts is None:
        return experiment
    last = last_full_day({day: n for day, (n, _) in rows.items()}, last_ts, settings["start_ts"])
    if not last and experiment.days > 1:
        raise ValueError(
            f"experiment {experiment.name!r} is in its first day; analyse it when the day is over"
        )
    return experiment.until(last or 1)


def _activity(sums: "list[PanelSums]", cuts: "Cuts") -> "list[dict[str, dict[str, list[Moments]]]]":
    """The users of each phase by their plays before the experiment, the least active first, named with the
    numbers."""
    names = {
        "new": "new (no plays before)",
        "light": f"light ({_plays(1, cuts.light)})",
        "middle": f"middle ({_plays(cuts.light + 1, cuts.middle)})",
        "heavy": f"heavy ({cuts.middle + 1:,} plays or more)",
    }
    groups = [found for (found,) in (of_phase.by_group() for of_phase in sums)]
    known = {key: name for key, name in names.items() if any(key in found for found in groups)}
    return [{"activity": {name: found.get(key, []) for key, name in known.items()}} for found in groups]


def _by_arm(daily: list[tuple[int, str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for _, arm, n in daily:
        found[arm] = found.get(arm, 0) + n
    return found


def _plays(low: int, high: int) -> str:
    return f"{low:,} plays" if low == high else f"{low:,}-{high:,} plays"


def _events_by_day(warehouse: "Warehouse", days: int, start_ts: int) -> dict[int, tuple[int, int]]:
    """(events, last ts) of each day of an experiment that holds any."""
    rows = warehouse.sql(
        f"SELECT (ts - {start_ts}) // {DAY_MS} + 1 AS day, count(*) AS n, max(ts) AS last FROM events"
        f" WHERE ts >= {start_ts} AND ts < {start_ts + days * DAY_MS} GROUP BY ALL ORDER BY day"
    ).to_pylist()
    return {row["day"]: (row["n"], row["last"]) for row in rows}


def health_of_run(
    warehouse: "Warehouse",
    settings: dict[str, Any],
    daily: list[list[tuple[int, str, int]]],
    segments: "list[dict[str, dict[str, list[Moments]]]]",
) -> "list[Check]":
    """The checks of a recorded run beyond its totals: assignment, users by day and segment, days' events.

    `daily` and `segments` are of each phase.
    """
    from abtest import health
    from abtest.checks import check_sample_ratio

    experiment, start_ts = Experiment.from_settings(settings), settings["start_ts"]
    slices, weights = health.slices_of(experiment, daily)
    exposures = warehouse.sql("SELECT experiment, user, arm, first_ts FROM exposures ORDER BY ALL")
    mine = np.array(exposures["experiment"].to_pylist()) == experiment.name
    users, recorded = exposures["user"].to_numpy()[mine], np.array(exposures["arm"].to_pylist())[mine]
    names = np.array([arm.name for arm in experiment.arms])
    counts = {name: int((recorded == name).sum()) for name in names.tolist()}
    given = experiment.assign_at(users, exposures["first_ts"].to_numpy()[mine] - start_ts)
    wrong = int(((given == OUTSIDE) | (names[given] != recorded)).sum()) if len(users) else 0
    found = []
    if settings.get("n_users"):
        last = int(experiment.phase_at(experiment.days * DAY_MS - 1)[0])
        arms = experiment.assign(np.arange(settings["n_users"]), last)
        assigned = np.bincount(arms[arms != OUTSIDE], minlength=len(names))
        counted = dict(zip(names.tolist(), assigned.tolist(), strict=True))
        check = check_sample_ratio(experiment, counted, phase=last)
        found.append(replace(check, name="sample_ratio_assigned"))
    found.append(health.check_recorded_arms(counts, wrong))
    by_segment = {}
    for i, of_phase in enumerate(segments):
        suffix = f", phase {i + 1}" if len(segments) > 1 else ""
        for label, of_arms in ((n, rows) for found_in in of_phase.values() for n, rows in found_in.items()):
            by_segment[label + suffix] = {row.arm: row.n for row in of_arms}
            weights[label + suffix] = experiment.weights(i)
    found += health.check_slices(experiment, slices, by_segment, weights)[: 2 if by_segment else 1]
    rows = _events_by_day(warehouse, experiment.days, start_ts)
    events = {day: n for day, (n, _) in rows.items()}
    found.append(health.check_days(experiment, events, start_ts))
    last_ts = max((last for _, last in rows.values()), default=None)
    found.append(health.check_watermark(experiment, events, last_ts, start_ts))
    return found


def analyse_place(
    place: Path, name: str | None = None, metrics: "Sequence[Metric] | None" = None
) -> "Analysis":
    """Analyse a run folder or a database file again. LookupError where there is no such experiment."""
    from warehouse.store import Warehouse

    database = place / "events.duckdb" if place.is_dir() else place
    if not database.exists():
        raise LookupError(f"no database at {database}; give a run folder or an events.duckdb file")
    with Warehouse.open(database, read_only=True) as warehouse:
        return replace(analyse_warehouse(warehouse, name, metrics), versions=versions())


def metrics_of_run(request: "LogRequest", declaration: "Declaration") -> "Sequence[Metric] | None":
    """What metrics a file asks of a recorded run. ValueError where it declares what the run keeps itself."""
    from abtest.declaration import Declaration
    from abtest.metrics import METRICS, with_method

    blank = Declaration(control=request.control, name=request.name)
    own = [
        field.name
        for field in fields(Declaration)
        if field.name not in ("metrics", "method", "map")
        and getattr(declaration, field.name) != getattr(blank, field.name)
    ]
    if own:
        raise ValueError(
            f"{request.config} declares {', '.join(own)}; of a recorded run only metrics and their method can"
            " be declared anew (for an event log, name its columns under [map])"
        )
    if declaration.method is None:
        return declaration.metrics
    return with_method(declaration.metrics or METRICS, declaration.method, str(request.config))


def analyse_any(request: "LogRequest", name: str | None, out: Path | None) -> "Analysis":
    """Analyse a log that a mapping describes, or, without one, a recorded run; write reports to `out`."""
    from abtest.logs import analyse_log, declared
    from abtest.report import write_reports

    declaration = declared(request)
    if set(declaration.map) - {"segment"}:
        analysis = analyse_log(request)
    elif request.segments is not None:
        raise ValueError(
            "--segments are columns of an event log, which needs --map; a run has its own segments"
        )
    elif len(request.places) > 1 or "://" in request.places[0]:
        raise ValueError("an event log needs its columns named, such as --map user=uid,ts=time,arm=variant")
    else:
        analysis = analyse_place(Path(request.places[0]), name, metrics_of_run(request, declaration))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_reports(analysis, out)
    return analysis

"""The analysis of a recorded run: sums from its database, the checks that only a run can answer, the effects.

Needs the database alone, not the simulator: `abtest run` ends with it, `abtest analyze RUN` is it again.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abtest.experiment import Experiment
from abtest.manifest import versions
from abtest.new_videos import new_videos_of

if TYPE_CHECKING:
    from abtest.analysis import Analysis
    from abtest.metrics import Metric
    from warehouse.store import Cohort, Cuts, Moments, PanelSums, Warehouse

ACTIVITY = "n_play"
"""What users are called light, middle or heavy by: its total before the experiment."""
ALL_TIME = range(-(2**62), 2**62)

TRUTH = "truth.json"
"""What `abtest truth` leaves in the folder of a run."""


def analyse_place(
    place: Path, name: str | None = None, metrics: "Sequence[Metric] | None" = None
) -> "Analysis":
    """Analyse a run folder or a database file again. LookupError where there is no such experiment."""
    from warehouse.store import Warehouse

    database = place / "events.duckdb" if place.is_dir() else place
    if not database.exists():
        raise LookupError(f"no database at {database}; give a run folder or an events.duckdb file")
    with Warehouse.open(database, read_only=True) as warehouse:
        found = analyse_warehouse(warehouse, name, metrics)
    truth = kept_truth(database.parent)
    if truth is not None and truth["experiment"] != found.settings["name"]:
        truth = None
    return replace(found, truth=truth, versions=versions())


def kept_truth(folder: Path) -> dict[str, Any] | None:
    """What `abtest truth` found of the run in a folder; None where it was not asked. ValueError for a file
    that is none."""
    path = folder / TRUTH
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); remove it, and abtest truth finds it again"
        ) from error
    if not isinstance(found, dict) or "effects" not in found:
        raise ValueError(f"{path} holds no truth of a run; remove it, and abtest truth finds it again")
    return found


def analyse_warehouse(
    warehouse: "Warehouse", name: str | None = None, metrics: "Sequence[Metric] | None" = None
) -> "Analysis":
    """Sums from the database, then checks, effects, correction and verdict; needs no simulator.

    Where the events end before the last full day it is an interim analysis of the days that are over.
    `metrics`: those declared for the run where None.
    """
    from abtest.analysis import analyse_phases, rows_of_phases
    from abtest.metrics import by_moments
    from abtest.run_health import check_warm_up, health_of_run
    from abtest.sources import RunSource, Sources

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
    phases = rows_of_phases(
        sums, [_by_arm(exposed) for exposed in daily], segments, experiment, metrics=metrics
    )
    found = analyse_phases(
        settings,
        phases,
        crossovers=warehouse.crossovers(name),
        metrics=metrics,
        more_checks=[
            *health_of_run(warehouse, settings, daily, segments),
            *([check_warm_up(experiment, phases, summed, pre_days)] if pre_days else []),
        ],
        sources=Sources(
            RunSource(warehouse, name, pre_days=pre_days),
            tuple(
                RunSource(
                    warehouse,
                    cohort,
                    pre_days=pre_days,
                    cuts=cuts,
                    names=_activity_names(cuts) if cuts else {},
                )
                for cohort in cohorts
            ),
        ),
    )
    return replace(found, new_videos=new_videos_of(warehouse, settings))


def recorded_metrics(settings: dict[str, Any]) -> "Sequence[Metric]":
    """The metrics that were declared for a run, or the built-in ones."""
    from abtest.metrics import METRICS, metrics_from

    declared = settings.get("metrics")
    return METRICS if declared is None else metrics_from(declared, f"experiment {settings['name']!r}")


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


def _as_far_as_recorded(warehouse: "Warehouse", settings: dict[str, Any]) -> Experiment:
    """The experiment up to the last day that is over; ValueError where none is."""
    from abtest.run_health import events_by_day
    from abtest.silence import last_full_day

    experiment = Experiment.from_settings(settings)
    rows = events_by_day(warehouse, experiment.days, settings["start_ts"])
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
    names = _activity_names(cuts)
    groups = [found for (found,) in (of_phase.by_group() for of_phase in sums)]
    known = {key: name for key, name in names.items() if any(key in found for found in groups)}
    return [{"activity": {name: found.get(key, []) for key, name in known.items()}} for found in groups]


def _activity_names(cuts: "Cuts") -> dict[str, str]:
    """What the segments of activity are called, with the numbers."""
    return {
        "new": "new (no plays before)",
        "light": f"light ({_plays(1, cuts.light)})",
        "middle": f"middle ({_plays(cuts.light + 1, cuts.middle)})",
        "heavy": f"heavy ({cuts.middle + 1:,} plays or more)",
    }


def _plays(low: int, high: int) -> str:
    return f"{low:,} plays" if low == high else f"{low:,}-{high:,} plays"


def _by_arm(daily: list[tuple[int, str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for _, arm, n in daily:
        found[arm] = found.get(arm, 0) + n
    return found

"""What there is before a plan: each metric's mean and variance over days 1 to d, of a log or a recorded run.

The variances are those of the control's users (of all users where a log has no arms), of the totals of days
1 to d; where the log holds a pre-period, what it takes out of them (CUPED) is measured, and so is what lies
between strata that are named (`stratify`).

Over several phases the control's users are weighed by phase, so that each counts as its share of all users:
pooled as they are, they would be those of the phases in which the control had most weight.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abtest.detectable import Seen
from abtest.experiment import Experiment
from abtest.metrics import METRICS, Metric, spans_of_days
from abtest.request import LogRequest, declared

if TYPE_CHECKING:
    from abtest.logs import MomentsBySpan
    from abtest.stats.moments import Moments


@dataclass(frozen=True)
class Past:
    """What there is: a name, its metrics, each metric in days 1 to d, the covariates of each, and how many
    users were exposed."""

    name: str
    metrics: Sequence[Metric]
    seen: Mapping[str, Sequence[Seen]]
    covariates: Mapping[str, tuple[str, ...]]
    n_users: int
    n_phases: int = 1
    stratify: str | None = None


def past_of(request: LogRequest) -> Past:
    """From a log or a recorded run."""
    if request.mapping is not None or request.config is not None:
        from abtest.logs import moments_of, open_log, phases_of
        from abtest.study import study_of

        declaration = declared(request)
        with open_log(request, declaration, needs_arm=False) as log:
            study = study_of(log, declaration, request, needs_arms=False)
            windows = [(1, day) for day in range(1, study.span.days + 1)]
            phases = [(view, view.exposed(study.span)) for view in phases_of(log, study)]
            parts = moments_of(phases, study, windows)
            control = study.experiment.control if log.mapping.arm else None
            found = _seen(log.name, parts, windows, study.metrics, control, study.unusable)
            return replace(found, stratify=study.stratify)
    if request.stratify is not None:
        raise ValueError("--stratify is a column of an event log, which needs --map")
    return _of_run(request)


def _of_run(request: LogRequest) -> Past:
    from abtest.recorded import cohorts_of, panel_of
    from warehouse.store import Warehouse

    place = Path(request.places[0])
    database = place / "events.duckdb" if place.is_dir() else place
    if len(request.places) > 1 or "://" in request.places[0] or not database.exists():
        raise LookupError(
            f"no run at {request.places[0]}; give a run folder, or a log with --map user=uid,ts=time"
        )
    with Warehouse.open(database, read_only=True) as warehouse:
        settings = warehouse.experiment(None)
        experiment = Experiment.from_settings(settings)
        windows = [(1, day) for day in range(1, experiment.days + 1)]
        pre_days = settings.get("pre_days", 0)
        runs: list[tuple[dict[int | None, list[Any]], dict[str, Any]]] = [
            ({None: panel_of(warehouse, cohort, experiment.days, pre_days).moments(windows)}, {})
            for cohort in cohorts_of(settings)
        ]
        return _seen(str(place), runs, windows, METRICS, experiment.control, {})


def _seen(
    name: str,
    phases: "Sequence[tuple[MomentsBySpan, Mapping[str, MomentsBySpan]]]",
    windows: Sequence[tuple[int, int]],
    metrics: Sequence[Metric],
    control: str | None,
    unusable: Mapping[str, str],
) -> Past:
    """From the moments of each phase's users, and those by stratum."""
    from abtest.estimates import NOBODY, measure, measure_phases

    seen: dict[str, list[Seen]] = {metric.name: [] for metric in metrics}
    covariates: dict[str, tuple[str, ...]] = {}
    strata = sorted({stratum for _, parts in phases for stratum in parts})
    everyone = 0
    for window, (span, of_span) in product(windows, _by_span(metrics).items()):
        users = [
            sum(row.n for row in rows.get(span, ()) if tuple(row.window) == window) for rows, _ in phases
        ]
        everyone = sum(users) if span is None else everyone
        own = [_control_of(rows.get(span, ()), window, control) for rows, _ in phases]
        factors = _factors(own, users)
        mine = _together(own, factors)
        by_stratum = {
            stratum: {
                "control": _together(
                    [
                        _control_of(parts.get(stratum, {}).get(span, ()), window, control)
                        for _, parts in phases
                    ],
                    factors,
                )
                or NOBODY
            }
            for stratum in strata
        }
        for metric in of_span:
            if mine is None or metric.needs_values or set(metric.columns) & set(unusable):
                seen[metric.name].append(Seen(window[1], sum(users)))
                continue
            found = measure({"control": mine}, metric)
            parted = measure_phases([{"control": mine}], metric, [by_stratum]).stratified if strata else None
            estimates = [found.plain["control"], found.adjusted["control"]]
            estimates += [parted.alone["control"], parted.adjusted["control"]] if parted else []
            variances = [None if e.variance is None else float(e.variance * e.n) for e in estimates]
            seen[metric.name].append(Seen(window[1], sum(users), estimates[0].value, *variances))
            covariates[metric.name] = () if found.reason else found.covariates
    return Past(name, metrics, seen, covariates, everyone, len(phases))


def _by_span(metrics: Sequence[Metric]) -> dict[int | None, list[Metric]]:
    """The metrics by the first days since exposure that they are of; those of all days, None, first."""
    spans = [None, *(span for span in spans_of_days(metrics) if span is not None)]
    return {span: [metric for metric in metrics if metric.first_days == span] for span in spans}


def _control_of(rows: Sequence[Any], window: tuple[int, int], control: str | None) -> Any:
    """The moments of the control's users (of all users for None); None without any."""
    mine = (row for row in rows if row.window == window and (control is None or row.arm == control) and row.n)
    return next(mine, None)


def _factors(own: Sequence[Any], users: Sequence[int]) -> list[Fraction]:
    """What a control's user counts in each phase, so that phases count as their shares of all users; none
    where a phase has no user of the control, whose users cannot be told from the others'."""
    seen = [(row, n) for row, n in zip(own, users, strict=True) if n]
    if not seen or any(row is None for row, _ in seen):
        return []
    in_control = sum(row.n for row, _ in seen)
    return [
        Fraction(n * in_control, sum(users) * row.n) if n else Fraction(0)
        for row, n in zip(own, users, strict=True)
    ]


def _together(rows: Sequence[Any], factors: Sequence[Fraction]) -> "Moments | None":
    """The moments of users that count by phase; None where there are none."""
    from abtest.stats.moments import Moments

    parts = [(row, factor) for row, factor in zip(rows, factors, strict=False) if row is not None]
    if not parts:
        return None
    if len(parts) == 1 and parts[0][1] == 1:
        row, _ = parts[0]
        return Moments(row.n, row.sums, row.products)
    first = parts[0][0]
    return Moments(
        sum((factor * row.n for row, factor in parts), Fraction(0)),  # type: ignore[arg-type]
        {name: sum(factor * row.sums[name] for row, factor in parts) for name in first.sums},
        {pair: sum(factor * row.products[pair] for row, factor in parts) for pair in first.products},
    )

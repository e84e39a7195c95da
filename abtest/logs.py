"""The story of `abtest analyze` on somebody's own log: declare, look at the log, count users, sum, judge.

The events stay where they are: the database computes counts and moments, and the same analysis as for a run
follows. What is not declared is read off the log: its arms, the first and last day, the metrics.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abtest.declaration import Declaration, read_declaration
from abtest.experiment import Arm, Experiment
from abtest.metrics import Metric, columns_of
from abtest.population import Phase

if TYPE_CHECKING:
    from abtest.analysis import Analysis, Check
    from warehouse.logs.log import EventLog, Span, UserCounts
    from warehouse.logs.totals import Total

DAY_MS = 86_400_000
PRE = "pre_"
"""Before the name of a total: the same total before the start, a covariate."""
MOST_DEFAULT_METRICS = 10
MOST_ROWS_COMPARED = 5_000_000
"""Rows up to which duplicates are looked for without an id: all mapped columns are compared."""


@dataclass(frozen=True)
class LogRequest:
    """What `abtest analyze` and `abtest plan` are told about a log."""

    places: tuple[str, ...]
    mapping: str | None = None
    config: Path | None = None
    table: str | None = None
    assignment: str | None = None
    control: str | None = None
    name: str | None = None
    threads: int = 2


@dataclass(frozen=True)
class Study:
    """An experiment as it stands in a log: what is tested, when, on which totals of its users."""

    experiment: Experiment
    span: "Span"
    metrics: tuple[Metric, ...]
    totals: tuple["Total", ...]
    unusable: Mapping[str, str]
    pre_days: int


def analyse_log(request: LogRequest) -> "Analysis":
    """Analyse an experiment from its event log. ValueError, LookupError or OSError says what is wrong."""
    from abtest.analysis import PhaseRows, analyse_phases, windows
    from abtest.manifest import versions

    declaration = declared(request)
    with open_log(request, declaration) as log:
        study = study_of(log, declaration, request)
        phases = [(view, view.exposed(study.span)) for view in phases_of(log, study)]
        rows = [
            PhaseRows(usable_moments(view, study, windows(study.experiment.days), exposed), exposed.by_arm())
            for view, exposed in phases
        ]
        analysis = analyse_phases(
            {
                **study.experiment.settings(),
                "start_ts": study.span.start_ts,
                "log": log.name,
                "ignored": log.ignored(study.span),
            },
            rows,
            crossovers=sum(exposed.crossed for _, exposed in phases),
            metrics=study.metrics,
            more_checks=health(log, study, phases),
            unusable=study.unusable,
        )
    return replace(analysis, versions=versions())


def declared(request: LogRequest) -> Declaration:
    """The declaration of the file, with the mapping and the names of the command line over it."""
    from warehouse.logs.columns import parse_mapping

    declaration = read_declaration(request.config) if request.config else Declaration()
    mapping = {**declaration.map, **(parse_mapping(request.mapping) if request.mapping else {})}
    return replace(
        declaration,
        map=mapping,
        control=request.control or declaration.control,
        name=request.name or declaration.name,
    )


def open_log(request: LogRequest, declaration: Declaration, *, needs_arm: bool = True) -> "EventLog":
    """The log, opened, its columns checked against the mapping."""
    from warehouse.logs.columns import LogMapping
    from warehouse.logs.log import EventLog

    return EventLog.open(
        request.places,
        LogMapping.from_keys(declaration.map, needs_arm=needs_arm),
        table=request.table,
        assignment=request.assignment,
        ignored_arms=declaration.ignore,
        exposure_event=declaration.exposure,
        threads=request.threads,
    )


def study_of(
    log: "EventLog", declaration: Declaration, request: LogRequest, *, needs_arms: bool = True
) -> Study:
    """What is tested: as declared, the rest read off the log. A plan needs no arms: one stands for all."""
    from warehouse.logs.totals import Total

    extent = log.extent()
    if not extent.rows:
        raise ValueError(f"{log.name} holds no rows, so there is nothing to analyse")
    seen = log.arms()
    span = _span(log, declaration, seen)
    arms = _arms(seen, declaration, log) if needs_arms or len(seen) > 1 else (*map(Arm, seen), Arm("(none)"))
    experiment = Experiment(
        name=declaration.name or Path(request.places[0].split("?")[0]).stem or "log",
        arms=arms,
        control=_control(seen, declaration),
        days=span.days,
        salt=declaration.salt,
        alpha=declaration.alpha,
        phases=_phases(declaration, span, arms),
    )
    kinds = log.kinds() if log.mapping.event else {}
    metrics = declaration.metrics or _default_metrics(log, kinds)
    named = {name: Total.declared(name, given) for name, given in declaration.totals.items()}
    totals = tuple(log.total(name, named) for name in columns_of(metrics))
    for total in totals:
        if total.event is not None and total.event not in kinds:
            shown = ", ".join(list(kinds)[:20])
            raise LookupError(f"total {total.name!r} is of event {total.event!r}; the log holds: {shown}")
    if log.exposure_event is not None and log.exposure_event not in kinds:
        raise LookupError(
            f"exposure is event {log.exposure_event!r}; the log holds: {', '.join(list(kinds)[:20])}"
        )
    counts = log.values(total.column for total in totals if total.how == "sum" and total.column)
    unusable = {
        total.name: f"{counts[total.column].not_finite:,} values of {total.column!r} are NaN or infinite"
        for total in totals
        if total.column in counts and counts[total.column].not_finite
    }
    return Study(experiment, span, tuple(metrics), totals, unusable, declaration.pre_days)


def phases_of(log: "EventLog", study: Study) -> list["EventLog"]:
    """The log as each phase has it: with the users who got their arm in it."""
    phases = study.experiment.phases
    if len(phases) == 1:
        return [log]
    if not log.knows_draws:
        raise ValueError(
            "phases are declared and it is not known when users got their arm; map assignment_ts="
        )
    span = study.span
    bounds = [span.start_ts + phase.start_ms for phase in phases]
    return [log.of_phase(*between) for between in pairwise([*bounds, span.end_ts])]


def usable_moments(
    log: "EventLog", study: Study, windows: Sequence[tuple[int, int]], exposed: "UserCounts"
) -> list[Any]:
    """Moments of the study's totals; unusable ones are 0 and are withheld from the effects."""
    good = [total for total in study.totals if total.name not in study.unusable]
    past = [replace(total, name=PRE + total.name) for total in good] if has_past(log, study) else []
    found = log.moments(
        study.span,
        windows,
        good,
        [*product_pairs(study.metrics, good), *(past_pairs(study.metrics, good) if past else [])],
        exposed,
        past=past,
        pre_days=study.pre_days,
    )
    return [_filled(row, study) for row in found]


def has_past(log: "EventLog", study: Study) -> bool:
    """Whether the log holds events from before the start, from which covariates can be taken."""
    first = log.extent().first_ts
    return log.has_times and first is not None and first < study.span.start_ts and study.pre_days > 0


def product_pairs(metrics: Iterable[Metric], totals: Sequence["Total"]) -> list[tuple[str, str]]:
    """The pairs of totals whose products the metrics need: squares, and numerator by denominator."""
    names = {total.name for total in totals}
    pairs = [
        pair
        for metric in metrics
        for pair in combinations_with_replacement(dict.fromkeys(metric.columns), 2)
        if set(pair) <= names
    ]
    return list({frozenset(pair): pair for pair in pairs}.values())


def past_pairs(metrics: Iterable[Metric], totals: Sequence["Total"]) -> list[tuple[str, str]]:
    """The pairs that covariates need: a metric's totals before the start, with each other and those since."""
    names = {total.name for total in totals}
    found: dict[tuple[str, str], None] = {}
    for metric in metrics:
        if set(metric.columns) <= names:
            before = [PRE + name for name in metric.columns]
            found |= dict.fromkeys(combinations_with_replacement(before, 2))
            found |= dict.fromkeys((a, b) for a in before for b in metric.columns)
    return list(found)


def health(log: "EventLog", study: Study, phases: Sequence[tuple["EventLog", "UserCounts"]]) -> list["Check"]:
    """The checks that only a log can answer; `phases` hold the log and the exposed users of each phase."""
    from abtest import health as checks

    experiment, span = study.experiment, study.span
    found = []
    if log.has_assignment and log.exposure_event is not None:
        from abtest.checks import check_ratios

        counted = [view.assigned(span).by_arm() for view, _ in phases]
        assigned = [{arm.name: counts.get(arm.name, 0) for arm in experiment.arms} for counts in counted]
        found.append(replace(check_ratios(experiment, assigned), name="sample_ratio_assigned"))
    daily = [[(day, arm, n) for (day, arm), n in sorted(of.by_day.items())] for _, of in phases]
    slices, weights = checks.slices_of(experiment, daily)
    segments = {}
    for i, (view, _) in enumerate(phases):
        suffix = f", phase {i + 1}" if len(phases) > 1 else ""
        for column, groups in view.segments(span).items():
            for value, counts in sorted(groups.items(), key=lambda item: -sum(item[1].values()))[:50]:
                label = f"{column} {value or '(none)'}{suffix}"
                segments[label], weights[label] = counts, experiment.weights(i)
    found += checks.check_slices(experiment, slices, segments, weights)
    found.append(_pre_period(log, study, phases))
    if log.has_times:
        days = log.days(span)
        rows = {day: n for day, (n, _) in days.items()}
        found.append(checks.check_days(experiment, rows, span.start_ts))
        found.append(
            checks.check_watermark(
                experiment,
                rows,
                days[max(days)][1] if days else None,
                span.start_ts,
                late=log.lateness(span) if log.mapping.ingest else None,
                last_ingest=log.extent().last_ingest,
                fine=log.has_day_times,
            )
        )
    by_id = log.mapping.id is not None
    few = log.extent().rows <= MOST_ROWS_COMPARED
    found.append(
        checks.check_duplicates(
            log.duplicates(span) if by_id or few else None, by_id=by_id, limit=MOST_ROWS_COMPARED
        )
    )
    extent = log.extent()
    values = log.values(total.column for total in study.totals if total.how == "sum" and total.column)
    found.append(
        checks.check_rows(extent.rows, extent.without_user, extent.without_ts if log.has_times else 0, values)
    )
    return found


def _pre_period(log: "EventLog", study: Study, phases: Sequence[tuple["EventLog", "UserCounts"]]) -> "Check":
    from abtest.checks import Check
    from abtest.health import check_pre_period
    from abtest.stats.moments import Moments

    if not has_past(log, study):
        return Check("pre_period", "not_run", None, "the log holds nothing before the start")
    good = [total for total in study.totals if total.name not in study.unusable]
    names = {total.name for total in good}
    pairs = product_pairs(study.metrics, good)
    rows = [view.pre_period(study.span, good, pairs, exposed, study.pre_days) for view, exposed in phases]
    before = [{row.arm: Moments(row.n, row.sums, row.products) for row in of_phase} for of_phase in rows]
    metrics = [metric for metric in study.metrics if set(metric.columns) <= names]
    return check_pre_period(study.experiment, before, metrics, study.pre_days)


def _span(log: "EventLog", declaration: Declaration, seen: Mapping[str, int | None]) -> "Span":
    from warehouse.logs.queries import Span

    if not log.has_times:
        for key in ("start", "days"):
            if getattr(declaration, key) not in (None, 1):
                raise ValueError(f"{key} is declared and no times are mapped; map the events' times, ts=")
        return Span(0, 1)
    extent = log.extent()
    if extent.first_ts is None or extent.last_ts is None:
        raise ValueError(f"no row of {log.name} has a time; map another column, ts=")
    first = min((ts for ts in seen.values() if ts), default=extent.first_ts)
    start = declaration.start if declaration.start is not None else first - first % DAY_MS
    if extent.last_ts < start:
        raise ValueError(
            f"the experiment starts at {_moment(start)}, after the log's end {_moment(extent.last_ts)}"
        )
    return Span(start, declaration.days or (extent.last_ts - start) // DAY_MS + 1)


def _arms(seen: Mapping[str, int | None], declaration: Declaration, log: "EventLog") -> tuple[Arm, ...]:
    if declaration.weights is None:
        if len(seen) < 2:
            raise ValueError(
                f"{log.name} holds {len(seen)} arms ({', '.join(seen) or 'none'}) in column"
                f" {log.mapping.arm!r}; an experiment needs two or more"
            )
        if len(seen) > 20:
            raise ValueError(
                f"column {log.mapping.arm!r} holds {len(seen)} values, too many for arms; map another column,"
                " or declare weights"
            )
        return tuple(Arm(name) for name in seen)
    unknown = [name for name in seen if name not in declaration.weights]
    if unknown:
        raise LookupError(
            f"the log holds arm {unknown[0]!r}, which weights do not name ({', '.join(declaration.weights)});"
            " give it a weight (0 for none), or list it under ignore"
        )
    return tuple(Arm(name, weight=float(weight)) for name, weight in declaration.weights.items())


def _phases(declaration: Declaration, span: "Span", arms: Sequence[Arm]) -> tuple[Phase, ...]:
    phases = []
    for declared in declaration.phases:
        named = declared.weights or {}
        unknown = [name for name in named if name not in {arm.name for arm in arms}]
        if unknown:
            raise LookupError(
                f"a phase gives a weight to {unknown[0]!r}; the arms are: {', '.join(a.name for a in arms)}"
            )
        weights = tuple(float(named.get(arm.name, 0)) for arm in arms) if named else ()
        start = declared.start if declared.start is not None else span.begin(declared.day)
        phases.append(Phase(start - span.start_ts, weights=weights))
    return tuple(phases) or (Phase(),)


def _control(seen: Mapping[str, int | None], declaration: Declaration) -> str:
    """As declared; else the arm called control, else the first in the order of weights or of names."""
    if declaration.control is not None:
        return declaration.control
    names = list(declaration.weights or seen)
    return next((name for name in names if name.lower() == "control"), names[0])


def _default_metrics(log: "EventLog", kinds: Mapping[str, int]) -> tuple[Metric, ...]:
    """Without a declaration: counts of the commonest kinds in a long log, each number of a wide one."""
    from warehouse.logs.columns import NUMBERS

    if kinds:
        names = [f"n_{kind}" for kind in sorted(list(kinds)[:MOST_DEFAULT_METRICS])]
        return tuple(Metric(name, name, role="goal", description="events") for name in names)
    m = log.mapping
    taken = {m.user, m.ts, m.arm, m.id, m.ingest, *m.segments}
    numbers = [c.name for c in log.columns.values() if c.kind in NUMBERS and c.name not in taken]
    if not numbers:
        return (Metric("rows", "n_rows", role="goal", description="rows of the log"),)
    return tuple(Metric(name, name, role="goal") for name in numbers[:MOST_DEFAULT_METRICS])


def _filled(row: Any, study: Study) -> Any:
    absent = dict.fromkeys(study.unusable, 0)
    pairs = {
        pair: 0
        for metric in study.metrics
        for pair in combinations_with_replacement(metric.columns, 2)
        if pair not in row.products and pair[::-1] not in row.products
    }
    return row._replace(sums={**absent, **row.sums}, products={**pairs, **row.products})


def _moment(ts: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ts / 1000, UTC).isoformat()

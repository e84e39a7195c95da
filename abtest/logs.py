"""The story of `abtest analyze` on somebody's own log: declare, look at the log, count users, sum, judge.

The events stay where they are: the database computes counts and moments, and the same analysis as for a run
follows. What is not declared is read off the log: its arms, the first and last day, the metrics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from abtest.declaration import Declaration, read_declaration
from abtest.experiment import Arm, Experiment
from abtest.metrics import Metric, columns_of, past_products, products_of, with_method
from abtest.population import Phase
from warehouse.events import DAY_MS, PRE

if TYPE_CHECKING:
    from abtest.analysis import Analysis, Check, PhaseRows
    from abtest.effects import MomentsRow
    from abtest.stats.moments import Moments as UserMoments
    from warehouse.logs.log import EventLog, Span, UserCounts
    from warehouse.logs.totals import Total
    from warehouse.sums import Moments, PanelSums

MOST_DEFAULT_METRICS = 10
MOST_SEGMENTS = 20
"""Segments of a column that are shown; the users of all others are together in one."""
OTHERS, NONE = "(others)", "(none)"
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
    segments: str | None = None
    threads: int = 2


@dataclass(frozen=True)
class Study:
    """An experiment as it stands in a log: what is tested, when, on which totals of its users.

    `past` are the covariates' totals: of before the start, or, in a log without times, columns that were
    declared as covariates. Where days are still to come, experiment and span end with the last that is over.
    """

    experiment: Experiment
    span: "Span"
    metrics: tuple[Metric, ...]
    totals: tuple["Total", ...]
    past: tuple["Total", ...]
    unusable: Mapping[str, str]
    pre_days: int


PhaseOfLog = tuple["EventLog", "UserCounts"]
"""The log as a phase has it, and its exposed users."""


def analyse_log(request: LogRequest) -> "Analysis":
    """Analyse an experiment from its event log. ValueError, LookupError or OSError says what is wrong."""
    from abtest.analysis import analyse_phases
    from abtest.manifest import versions
    from abtest.sources import LogSource

    declaration = declared(request)
    with open_log(request, declaration) as log:
        study = study_of(log, declaration, request)
        phases = [(view, view.exposed(study.span)) for view in phases_of(log, study)]
        counts = [view.segments(study.span) for view, _ in phases]
        rows, notes = rows_of(phases, study)
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
            more_checks=[*health(log, study, phases, counts, rows), *notes],
            unusable=study.unusable,
            source=LogSource(phases[0][0], study, phases[0][1]),
        )
    return replace(analysis, versions=versions())


def declared(request: LogRequest) -> Declaration:
    """The declaration of the file, with the mapping and the names of the command line over it."""
    from warehouse.logs.columns import parse_mapping

    declaration = read_declaration(request.config) if request.config else Declaration()
    mapping = {**declaration.map, **(parse_mapping(request.mapping) if request.mapping else {})}
    if request.segments is not None:
        mapping["segment"] = parse_segments(request.segments)
    return replace(
        declaration,
        map=mapping,
        control=request.control or declaration.control,
        name=request.name or declaration.name,
    )


def parse_segments(text: str) -> list[str]:
    """The columns of "country,platform".

    >>> parse_segments("country, platform")
    ['country', 'platform']
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(f"--segments {text!r} are no columns, each once; an example is country,platform")
    return names


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
    seen_days = _days_over(log, declaration, span)
    arms = _arms(seen, declaration, log) if needs_arms or len(seen) > 1 else (*map(Arm, seen), Arm("(none)"))
    experiment = Experiment(
        name=declaration.name or Path(request.places[0].split("?")[0]).stem or "log",
        arms=arms,
        control=_control(seen, declaration),
        days=seen_days,
        planned_days=span.days,
        salt=declaration.salt,
        alpha=declaration.alpha,
        phases=_phases(declaration, span, arms),
    )
    kinds = log.kinds() if log.mapping.event else {}
    metrics = declaration.metrics or _default_metrics(log, kinds)
    if declaration.method is not None:
        metrics = with_method(metrics, declaration.method, "the declaration")
    named = {name: Total.declared(name, given) for name, given in declaration.totals.items()}
    totals = tuple(log.total(name, named) for name in columns_of(metrics))
    past = _past(log, metrics, named, declaration.pre_days, span)
    for total in (*totals, *past):
        if total.event is not None and total.event not in kinds:
            shown = ", ".join(list(kinds)[:20])
            raise LookupError(f"total {total.name!r} is of event {total.event!r}; the log holds: {shown}")
    if log.exposure_event is not None and log.exposure_event not in kinds:
        raise LookupError(
            f"exposure is event {log.exposure_event!r}; the log holds: {', '.join(list(kinds)[:20])}"
        )
    counts = log.values(total.column for total in (*totals, *past) if total.how == "sum" and total.column)
    bad = {name: found.not_finite for name, found in counts.items() if found.not_finite}
    unusable = {
        total.name: f"{bad[total.column]:,} values of {total.column!r} are NaN or infinite"
        for total in totals
        if total.how == "sum" and total.column in bad
    }
    past = tuple(total for total in past if total.how != "sum" or total.column not in bad)
    return Study(
        experiment,
        replace(span, days=seen_days),
        tuple(metrics),
        totals,
        past,
        unusable,
        declaration.pre_days,
    )


def rows_of(phases: Sequence[PhaseOfLog], study: Study) -> tuple[list["PhaseRows"], list["Check"]]:
    """All that is summed of the users of each phase, and what is to be said of it. Unusable totals are 0 and
    are withheld from the effects.

    Where the database cannot sum exactly there are only moments.
    """
    from abtest.analysis import PhaseRows, rows_of_phases, windows
    from abtest.checks import Check

    experiment = study.experiment
    try:
        sums = [
            log.panel(
                study.span, _good(study), _products(study), exposed,
                past=study.past, pre_days=study.pre_days, by_segment=True,
            )
            for log, exposed in phases
        ]  # fmt: skip
    except OverflowError as error:
        reason = f"no segments, days since exposure and correlation of looks: {error}"
        days = windows(experiment.days)
        rows = [PhaseRows(usable_moments(log, study, days, of), of.by_arm()) for log, of in phases]
        return rows, [Check("exact_sums", "not_run", None, reason)]

    def filled(rows: list["Moments"]) -> list["Moments"]:
        return [_filled(row, study) for row in rows]

    segments = _segments(sums, study, phases[0][0].mapping.segments)
    counts = [exposed.by_arm() for _, exposed in phases]
    return rows_of_phases(sums, counts, segments, experiment, filled), []


def _segments(
    sums: Sequence["PanelSums"], study: Study, columns: Sequence[str]
) -> list[dict[str, dict[str, list["Moments"]]]]:
    """The segments of each phase by column."""
    found: list[dict[str, dict[str, list[Moments]]]] = [{} for _ in sums]
    groups = [of_phase.by_group() for of_phase in sums]
    for index, column in enumerate(columns):
        named = [
            {value: [_filled(row, study) for row in rows] for value, rows in of_phase[index].items()}
            for of_phase in groups
        ]
        for of_phase, shown in zip(found, _shown(named), strict=True):
            of_phase[column] = shown
    return found


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
) -> list["Moments"]:
    """Moments of the study's totals; unusable ones are 0 and are withheld from the effects."""
    found = log.moments(
        study.span, windows, _good(study), _products(study), exposed, past=study.past, pre_days=study.pre_days
    )
    return [_filled(row, study) for row in found]


def _good(study: Study) -> list["Total"]:
    return [total for total in study.totals if total.name not in study.unusable]


def _products(study: Study) -> list[tuple[str, str]]:
    """The pairs of totals whose products the metrics need, of those that can be summed."""
    names = {total.name for total in (*_good(study), *study.past)}
    pairs = [*products_of(study.metrics), *past_products(study.metrics)]
    return [pair for pair in pairs if set(pair) <= names]


def _past(
    log: "EventLog", metrics: Sequence[Metric], named: Mapping[str, "Total"], pre_days: int, span: "Span"
) -> tuple["Total", ...]:
    """The totals that covariates are, under their names; none where the log has nothing before the start."""
    if log.has_times:
        first = log.extent().first_ts
        if first is None or first >= span.start_ts or pre_days == 0:
            return ()
        names = [name for metric in metrics for name in metric.past]
    else:
        names = [name for metric in metrics for name in metric.covariates or ()]
    totals = [log.total(name, named) for name in dict.fromkeys(names)]
    return tuple(replace(total, name=PRE + total.name) for total in totals)


def _shown(phases: Sequence[Mapping[str, list["Moments"]]]) -> list[dict[str, list["Moments"]]]:
    """By phase the largest segments of all phases by name, the largest first, and all others in one."""
    sizes: dict[str, int] = {}
    for segments in phases:
        for name, rows in segments.items():
            sizes[name] = sizes.get(name, 0) + sum(row.n for row in rows)
    by_size = sorted(sizes, key=lambda name: (-sizes[name], name))
    found = []
    for segments in phases:
        shown = {name or NONE: segments.get(name, []) for name in by_size[:MOST_SEGMENTS]}
        if len(by_size) > MOST_SEGMENTS:
            others = [row for name in by_size[MOST_SEGMENTS:] for row in segments.get(name, ())]
            arms = sorted({row.arm for row in others})
            shown[OTHERS] = [_together([row for row in others if row.arm == arm]) for arm in arms]
        found.append(shown)
    return found


def _together(rows: Sequence["Moments"]) -> "Moments":
    first = rows[0]
    return first._replace(
        n=sum(row.n for row in rows),
        sums={name: sum(row.sums[name] for row in rows) for name in first.sums},
        products={pair: sum(row.products[pair] for row in rows) for pair in first.products},
    )


def health(
    log: "EventLog",
    study: Study,
    phases: Sequence[PhaseOfLog],
    segment_counts: Sequence[Mapping[str, Mapping[str, Mapping[str, int]]]],
    rows: Sequence["PhaseRows"],
) -> list["Check"]:
    """The checks that only a log can answer. `phases`, `segment_counts` and `rows` are of each phase."""
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
    for i, of_phase in enumerate(segment_counts):
        suffix = f", phase {i + 1}" if len(phases) > 1 else ""
        for column, groups in of_phase.items():
            for value, counts in sorted(groups.items(), key=lambda item: -sum(item[1].values()))[:50]:
                label = f"{column} {value or NONE}{suffix}"
                segments[label], weights[label] = counts, experiment.weights(i)
    found += checks.check_slices(experiment, slices, segments, weights)
    found.append(_pre_period(log, study, rows))
    if log.has_times:
        days = log.days(span)
        events = {day: n for day, (n, _) in days.items()}
        found.append(checks.check_days(experiment, events, span.start_ts))
        found.append(
            checks.check_watermark(
                experiment,
                events,
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


def _pre_period(log: "EventLog", study: Study, phases: Sequence["PhaseRows"]) -> "Check":
    from abtest.checks import Check
    from abtest.health import check_pre_period

    if not log.has_times or not study.past:
        return Check("pre_period", "not_run", None, "the log holds nothing before the start")
    last = (1, study.experiment.days)
    before = [{row.arm: _as_before(row) for row in phase.moments if row.window == last} for phase in phases]
    names = {total.name.removeprefix(PRE) for total in study.past}
    metrics = [metric for metric in study.metrics if set(metric.columns) <= names]
    return check_pre_period(study.experiment, before, metrics, study.pre_days)


def _as_before(row: "MomentsRow") -> "UserMoments":
    """The totals before the start under the names of those since."""
    from abtest.stats.moments import Moments

    return Moments(
        row.n,
        {name.removeprefix(PRE): value for name, value in row.sums.items() if name.startswith(PRE)},
        {
            (a.removeprefix(PRE), b.removeprefix(PRE)): value
            for (a, b), value in row.products.items()
            if a.startswith(PRE) and b.startswith(PRE)
        },
    )


def _span(log: "EventLog", declaration: Declaration, seen: Mapping[str, int | None]) -> "Span":
    from warehouse.logs.tables import Span

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


def _days_over(log: "EventLog", declaration: Declaration, span: "Span") -> int:
    """How many of the declared days are over as far as the log goes; of days read off the log all are."""
    from abtest.health import last_full_day

    if declaration.days is None or declaration.days == 1 or not log.has_times:
        return span.days
    days = log.days(span)
    rows = {day: n for day, (n, _) in days.items()}
    if not rows:
        return span.days
    last = last_full_day(rows, days[max(days)][1], span.start_ts, fine=log.has_day_times)
    if not last:
        raise ValueError(
            f"{log.name} ends on day 1 of {span.days}; analyse the experiment when a day is over, or declare"
            " days = 1"
        )
    return last


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


def _filled(row: "Moments", study: Study) -> "Moments":
    absent = dict.fromkeys(study.unusable, 0)
    pairs = dict.fromkeys(products_of(study.metrics), 0)
    return row._replace(sums={**absent, **row.sums}, products={**pairs, **row.products})


def _moment(ts: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ts / 1000, UTC).isoformat()

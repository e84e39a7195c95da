"""What a log is a study of: as declared, and what is not declared read off the log: its arms, the first and
last day, the metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from abtest.declaration import Declaration
from abtest.experiment import Arm, Experiment
from abtest.metrics import Metric, check_first_days, columns_of, with_method
from abtest.population import Phase
from abtest.request import LogRequest
from warehouse.events import DAY_MS, PRE

if TYPE_CHECKING:
    from warehouse.logs.log import EventLog, Span
    from warehouse.logs.totals import Total

MOST_DEFAULT_METRICS = 10
LATEST_MS = 253_402_300_799_999  # the end of the year 9999
MOST_DAYS = 1_000
SMALLEST, LARGEST = 1e-70, 1e70
"""Between these the largest value of a column of floats must lie, for variances and their squares."""


@dataclass(frozen=True)
class Study:
    """An experiment as it stands in a log: what is tested, when, on which totals of its users.

    `past` are the covariates' totals: of before the start, or, in a log without times, columns that were
    declared as covariates. Where days are still to come, experiment and span end with the last that is over.
    `segments` are the columns that are shown, `stratify` is the one that effects are post-stratified by.
    `left_out` says of columns that look like metrics why they are none, where no metrics were declared.
    """

    experiment: Experiment
    span: "Span"
    metrics: tuple[Metric, ...]
    totals: tuple["Total", ...]
    past: tuple["Total", ...]
    unusable: Mapping[str, str]
    pre_days: int
    stratify: str | None = None
    segments: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


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
        looks=declaration.looks,
        sequential=declaration.sequential,
        correction=declaration.correction,
        phases=_phases(declaration, span, arms),
    )
    kinds = log.kinds() if log.mapping.event else {}
    metrics = declaration.metrics or _default_metrics(log, kinds)
    if declaration.method is not None:
        metrics = with_method(metrics, declaration.method, "the declaration")
    check_first_days(metrics, span.days)
    named = {name: Total.declared(name, given) for name, given in declaration.totals.items()}
    totals = tuple(log.total(name, named) for name in columns_of(metrics))
    past = _past(log, metrics, named, declaration.pre_days, span)
    # a covariate that is not there is wrong also where nothing lies before the start
    declared = [log.total(name, named) for metric in metrics for name in metric.covariates or ()]
    _check_events(log, (*totals, *past, *declared), kinds)
    unusable = _unusable(log, (*totals, *past))
    return Study(
        experiment,
        replace(span, days=seen_days),
        tuple(metrics),
        totals,
        tuple(total for total in past if total.name not in unusable),
        {total.name: unusable[total.name] for total in totals if total.name in unusable},
        declaration.pre_days,
        declaration.stratify,
        _shown_segments(declaration, log),
        {} if declaration.metrics or kinds else _left_out(log),
    )


def _shown_segments(declaration: Declaration, log: "EventLog") -> tuple[str, ...]:
    """The segments of the mapping; a column that is only the stratum is no view."""
    declared = declaration.map.get("segment", ())
    named = [declared] if isinstance(declared, str) else list(declared)
    return tuple(name for name in log.mapping.segments if name in named)


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
    if extent.last_ts > LATEST_MS:
        raise ValueError(
            f"column {log.mapping.ts!r} holds times beyond the year 9999 ({extent.last_ts / 1000:.3g} s since"
            " 1970); say what they are with ts_unit=s, ms, us or ns in the mapping"
        )
    first = min((ts for ts in seen.values() if ts), default=extent.first_ts)
    start = declaration.start if declaration.start is not None else first - first % DAY_MS
    if extent.last_ts < start:
        raise ValueError(
            f"the experiment starts at {_moment(start)}, after the log's end {_moment(extent.last_ts)}"
        )
    days = declaration.days or (extent.last_ts - start) // DAY_MS + 1
    if days > MOST_DAYS:
        end = (
            "" if declaration.days else f" to the last time in {log.mapping.ts!r}, {_moment(extent.last_ts)}"
        )
        raise ValueError(
            f"the experiment would take {days:,} days, from {_moment(start)}{end}; at most {MOST_DAYS:,} are"
            " possible, so declare start and days, or leave out rows whose time is wrong"
        )
    return Span(start, days)


def _days_over(log: "EventLog", declaration: Declaration, span: "Span") -> int:
    """How many of the declared days are over as far as the log goes; of days read off the log all are."""
    from abtest.silence import last_full_day

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


def _control(seen: Mapping[str, int | None], declaration: Declaration) -> str:
    """As declared; else the arm called control, else the first in the order of weights or of names."""
    if declaration.control is not None:
        return declaration.control
    names = list(declaration.weights or seen)
    return next((name for name in names if name.lower() == "control"), names[0])


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


def _default_metrics(log: "EventLog", kinds: Mapping[str, int]) -> tuple[Metric, ...]:
    """Without a declaration: counts of the commonest kinds in a long log, each number of a wide one."""
    from warehouse.logs.columns import NUMBERS

    if kinds:
        names = [f"n_{kind}" for kind in sorted(list(kinds)[:MOST_DEFAULT_METRICS])]
        return tuple(Metric(name, name, role="goal", description="events") for name in names)
    numbers = [c.name for c in log.columns.values() if c.kind in NUMBERS and c.name not in _taken(log)]
    if not numbers:
        return (Metric("rows", "n_rows", role="goal", description="rows of the log"),)
    return tuple(Metric(name, name, role="goal") for name in numbers[:MOST_DEFAULT_METRICS])


def _taken(log: "EventLog") -> set[str | None]:
    """The columns that mean something else than a metric."""
    m = log.mapping
    return {m.user, m.ts, m.arm, m.id, m.ingest, *m.segments}


def _left_out(log: "EventLog") -> dict[str, str]:
    """Why columns are no metrics that may have been meant to be: text of which a quarter or more is written
    like numbers, columns that hold nothing, types that cannot be summed."""
    names = [c.name for c in log.columns.values() if c.kind == "text" and c.name not in _taken(log)]
    found = {
        c.name: f"{c.name} is of a type that cannot be summed"
        for c in log.columns.values()
        if c.kind == "other" and c.name not in _taken(log)
    }
    for name, (n, numbers, other) in log.texts(names).items():
        if not n:
            found[name] = f"{name} holds no values"
        elif numbers == n:
            found[name] = f"{name} is text, though all its values are written like numbers"
        elif 4 * numbers >= n:
            found[name] = (
                f"{name} is text: {n - numbers:,} of its {n:,} values are no numbers, such as {other!r}"
            )
    return found


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


def _check_events(log: "EventLog", totals: Sequence["Total"], kinds: Mapping[str, int]) -> None:
    """LookupError where a total or the exposure is of an event that the log does not hold."""
    shown = ", ".join(list(kinds)[:20])
    for total in totals:
        if total.event is not None and total.event not in kinds:
            raise LookupError(f"total {total.name!r} is of event {total.event!r}; the log holds: {shown}")
    if log.exposure_event is not None and log.exposure_event not in kinds:
        raise LookupError(f"exposure is event {log.exposure_event!r}; the log holds: {shown}")


def _unusable(log: "EventLog", totals: Sequence["Total"]) -> dict[str, str]:
    """Why a total cannot be summed, by the names of those that cannot."""
    summed = {total.name: total.column for total in totals if total.how == "sum" and total.column}
    bad = {name: found.not_finite for name, found in log.values(summed.values()).items()}
    sizes = log.magnitudes(total.column or "" for total in totals if log.is_float(total))
    reasons = {
        column: f"the largest value of {column!r} is {size:g}, too far out for floats to be squared;"
        " scale the column"
        for column, size in sizes.items()
        if size and not SMALLEST <= size <= LARGEST
    }
    reasons |= {column: f"{n:,} values of {column!r} are NaN or infinite" for column, n in bad.items() if n}
    return {name: reasons[column] for name, column in summed.items() if column in reasons}


def _moment(ts: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ts / 1000, UTC).isoformat()

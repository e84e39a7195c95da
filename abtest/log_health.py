"""The health checks that only a log can answer: of its rows, times, segments and users before the start."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from abtest.sources import NONE
from warehouse.events import PRE

if TYPE_CHECKING:
    from abtest.analysis import PhaseRows
    from abtest.checks import Check
    from abtest.study import Study
    from warehouse.logs.log import EventLog, UserCounts

MOST_ROWS_COMPARED = 5_000_000
"""Rows up to which duplicates are looked for without an id: all mapped columns are compared."""


def health(
    log: "EventLog",
    study: "Study",
    phases: Sequence[tuple["EventLog", "UserCounts"]],
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
    if study.left_out:
        from abtest.checks import Check

        detail = f"not taken as metrics: {'; '.join(study.left_out.values())}"
        found.append(Check("columns", "warning", None, detail))
    return found


def _pre_period(log: "EventLog", study: "Study", phases: Sequence["PhaseRows"]) -> "Check":
    from abtest.checks import Check
    from abtest.health import check_pre_period, totals_before

    if not log.has_times or not study.past:
        return Check("pre_period", "not_run", None, "the log holds nothing before the start")
    names = {total.name.removeprefix(PRE) for total in study.past}
    metrics = [metric for metric in study.metrics if set(metric.columns) <= names]
    before = totals_before(phases, study.experiment.days)
    return check_pre_period(study.experiment, before, metrics, study.pre_days)

"""The analysis of somebody's own log: find the study in it, count users, sum, judge.

The events stay where they are: the database computes counts and moments, and the same analysis as for a run
follows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from abtest.declaration import Declaration
from abtest.metrics import by_moments, past_products, products_of, spans_of_days
from abtest.request import LogRequest, declared
from abtest.sources import NONE, OTHERS
from abtest.study import Study, study_of

if TYPE_CHECKING:
    from abtest.analysis import Analysis, PhaseRows
    from abtest.checks import Check
    from warehouse.logs.log import EventLog, UserCounts
    from warehouse.logs.totals import Total
    from warehouse.panel.sums import Moments, PanelSums

MOST_SEGMENTS = 20
"""Segments of a column that are shown; the users of all others are together in one."""
MomentsBySpan = Mapping[int | None, list["Moments"]]
"""Moments of windows of all days (None), and of users' first k days since exposure in days 1 to d."""
PhaseOfLog = tuple["EventLog", "UserCounts"]
"""The log as a phase has it, and its exposed users."""


def analyse_log(request: LogRequest) -> "Analysis":
    """Analyse an experiment from its event log. ValueError, LookupError or OSError says what is wrong."""
    from abtest.manifest import versions
    from abtest.sources import LogSource, Sources

    declaration = declared(request)
    with open_log(request, declaration) as log:
        study = study_of(log, declaration, request)
        phases = [(view, view.exposed(study.span)) for view in phases_of(log, study)]
        _check_analysed(log, phases)
        counts = [view.segments(study.span) for view, _ in phases]
        rows, notes = rows_of(phases, study)
        from abtest.analysis import analyse_phases  # takes SciPy in, whose memory the sums need not wait for
        from abtest.log_health import health

        analysis = analyse_phases(
            {
                **study.experiment.settings(),
                "start_ts": study.span.start_ts,
                "log": log.name,
                "ignored": log.ignored(study.span),
                "stratify": study.stratify,
            },
            rows,
            crossovers=sum(exposed.crossed for _, exposed in phases),
            metrics=study.metrics,
            more_checks=[*health(log, study, phases, counts, rows), *notes],
            unusable=study.unusable,
            sources=Sources(
                LogSource(log, study, log.exposed(study.span)),
                tuple(LogSource(view, study, exposed) for view, exposed in phases),
                study.stratify,
            ),
        )
    return replace(analysis, versions=versions())


def _check_analysed(log: "EventLog", phases: Sequence[PhaseOfLog]) -> None:
    """ValueError where nobody is left to be analysed."""
    if any(exposed.by_day for _, exposed in phases):
        return
    crossed = sum(exposed.crossed for _, exposed in phases)
    why = f"all {crossed:,} users were in more than one arm" if crossed else "nobody was exposed in its days"
    raise ValueError(f"{log.name} has no user to analyse: {why}; check the columns of users, arms and times")


def open_log(request: LogRequest, declaration: Declaration, *, needs_arm: bool = True) -> "EventLog":
    """The log, opened, its columns checked against the mapping."""
    from warehouse.logs.columns import LogMapping
    from warehouse.logs.log import EventLog

    mapping = LogMapping.from_keys(declaration.map, needs_arm=needs_arm)
    stratum = declaration.stratify
    if stratum is not None and stratum not in mapping.segments:
        mapping = replace(mapping, segments=(*mapping.segments, stratum))
    return EventLog.open(
        request.places,
        mapping,
        table=request.table,
        assignment=request.assignment,
        ignored_arms=declaration.ignore,
        exposure_event=declaration.exposure,
        threads=request.threads,
    )


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


def rows_of(phases: Sequence[PhaseOfLog], study: Study) -> tuple[list["PhaseRows"], list["Check"]]:
    """All that is summed of the users of each phase, and what is to be said of it. Unusable totals are 0 and
    are withheld from the effects.

    Where the database cannot sum exactly there are only moments.
    """
    experiment = study.experiment
    try:
        sums, strata = sums_of(phases, study)
    except OverflowError as error:
        from abtest.analysis import PhaseRows, windows
        from abtest.checks import Check

        reason = f"no segments, strata, days since exposure and correlation of looks: {error}"
        days = windows(experiment.days)
        rows = [PhaseRows(usable_moments(log, study, days, of), of.by_arm()) for log, of in phases]
        return rows, [Check("exact_sums", "not_run", None, reason)]

    def filled(rows: list["Moments"]) -> list["Moments"]:
        return [_filled(row, study) for row in rows]

    segments = _segments(sums, study, phases[0][0].mapping.segments)
    counts = [exposed.by_arm() for _, exposed in phases]
    from abtest.analysis import rows_of_phases

    return rows_of_phases(sums, counts, segments, experiment, filled, strata, study.metrics), []


def moments_of(
    phases: Sequence[PhaseOfLog], study: Study, windows: Sequence[tuple[int, int]]
) -> list[tuple[MomentsBySpan, dict[str, MomentsBySpan]]]:
    """Of each phase's users the moments of the windows, and those by stratum where there are strata. Those of
    first days since exposure are left out where they cannot be summed exactly."""
    try:
        sums, strata = sums_of(phases, study)
    except OverflowError:
        return [({None: usable_moments(log, study, windows, of)}, {}) for log, of in phases]
    spans = spans_of_days(by_moments(study.metrics))

    def of_windows(of: "PanelSums") -> MomentsBySpan:
        rows: dict[int | None, list[Moments]] = {None: of.moments(windows)}
        rows |= {k: of.of_first_days(k) for k in spans if k is not None and of.has_cohorts}
        return {span: [_filled(row, study) for row in of_span] for span, of_span in rows.items()}

    return [
        (of_windows(of_phase), {name: of_windows(part) for name, part in (parts or {}).items()})
        for of_phase, parts in zip(sums, strata, strict=True)
    ]


def sums_of(
    phases: Sequence[PhaseOfLog], study: Study
) -> tuple[list["PanelSums"], list["dict[str, PanelSums] | None"]]:
    """The sums of each phase's users, and those by stratum where there are strata."""
    from warehouse.panel.reading import by_stratum

    found = [
        log.panel(
            study.span, _good(study), _products(study), exposed,
            past=study.past, pre_days=study.pre_days, by_segment=True, stratum=_stratum(log, study),
        )
        for log, exposed in phases
    ]  # fmt: skip
    if study.stratify is None:
        return found, [None] * len(found)
    parted = [by_stratum(sums) for sums in found]
    return [whole for whole, _ in parted], [parts for _, parts in parted]


def _stratum(log: "EventLog", study: Study) -> int | None:
    """The place of the stratum's column among the segments."""
    return None if study.stratify is None else log.mapping.segments.index(study.stratify)


def _segments(
    sums: Sequence["PanelSums"], study: Study, columns: Sequence[str]
) -> list[dict[str, dict[str, list["Moments"]]]]:
    """The segments of each phase by column."""
    found: list[dict[str, dict[str, list[Moments]]]] = [{} for _ in sums]
    groups = [of_phase.by_group() for of_phase in sums]
    for index, column in enumerate(columns):
        if column not in study.segments:
            continue
        named = [
            _named({value: [_filled(row, study) for row in rows] for value, rows in of_phase[index].items()})
            for of_phase in groups
        ]
        for of_phase, shown in zip(found, _shown(named), strict=True):
            of_phase[column] = shown
    return found


def _named(segments: Mapping[str, list["Moments"]]) -> dict[str, list["Moments"]]:
    """By name: users without a value are with those whose value is the name for that."""
    named: dict[str, list[Moments]] = {}
    for value, rows in segments.items():
        named.setdefault(value or NONE, []).extend(rows)
    return {name: _by_arm(rows) for name, rows in named.items()}


def _by_arm(rows: Sequence["Moments"]) -> list["Moments"]:
    """One row for each arm."""
    arms = sorted({row.arm for row in rows})
    return [_together([row for row in rows if row.arm == arm]) for arm in arms]


def _shown(phases: Sequence[Mapping[str, list["Moments"]]]) -> list[dict[str, list["Moments"]]]:
    """By phase the largest segments of all phases by name, the largest first, and all others in one."""
    sizes: dict[str, int] = {}
    for segments in phases:
        for name, rows in segments.items():
            sizes[name] = sizes.get(name, 0) + sum(row.n for row in rows)
    by_size = sorted(sizes, key=lambda name: (-sizes[name], name))
    if len(by_size) <= MOST_SEGMENTS:
        return [{name: segments.get(name, []) for name in by_size} for segments in phases]
    largest = [name for name in by_size[:MOST_SEGMENTS] if name != OTHERS]
    found = []
    for segments in phases:
        shown = {name: segments.get(name, []) for name in largest}
        rest = [row for name, rows in segments.items() if name not in shown for row in rows]
        found.append({**shown, OTHERS: _by_arm(rest)})
    return found


def _together(rows: Sequence["Moments"]) -> "Moments":
    first = rows[0]
    return first._replace(
        n=sum(row.n for row in rows),
        sums={name: sum(row.sums[name] for row in rows) for name in first.sums},
        products={pair: sum(row.products[pair] for row in rows) for pair in first.products},
    )


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


def _filled(row: "Moments", study: Study) -> "Moments":
    absent = dict.fromkeys(study.unusable, 0)
    pairs = dict.fromkeys(products_of(study.metrics), 0)
    return row._replace(sums={**absent, **row.sums}, products={**pairs, **row.products})

"""From moments to an Analysis: health checks first, then effects, correction and verdict.

`Analysis.document()` is report.json: the one document from which every report is made.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from abtest.checks import Check, run_checks
from abtest.effects import Effect, compare_all
from abtest.estimates import Measured
from abtest.experiment import Experiment
from abtest.goals import Goal, goals_tested
from abtest.health import failed_first
from abtest.looks import PairRow, Pairs, looks_at, pairs_of, pairs_of_first_days
from abtest.metrics import METRICS, Metric, by_moments, check_first_days, spans_of_days
from abtest.novelty import Novelty, novelty_of, trend_days
from abtest.report.details import (
    bayes_document,
    capping_document,
    cuped_document,
    equivalence_document,
    guardrail_document,
    sequential_document,
    strata_documents,
)
from abtest.segments import SegmentRows, Segments, names_of, segments_of
from abtest.sources import Source, Sources
from abtest.totals import MomentsRow, Totals, Window, added, measure_all, totals_of, windows
from abtest.value_views import value_courses, values_by_segment, values_since_exposure
from abtest.values import measure_values
from abtest.verdict import Verdict, decide

if TYPE_CHECKING:
    from warehouse.panel.sums import LookPair, PanelSums
    from warehouse.panel.sums import Moments as SummedMoments

__all__ = ["SCHEMA_VERSION", "Analysis", "Check", "Effect", "Verdict", "Window", "analyse", "windows"]

SCHEMA_VERSION = 2


class StratumRows(NamedTuple):
    """The users of a stratum: their moments of `windows(days)`, sums over pairs of looks, and the moments of
    their first k days since exposure, by k (`PanelSums.of_first_days`)."""

    moments: Iterable[MomentsRow]
    pairs: Iterable[PairRow] = ()
    first_days: Mapping[int, Iterable[MomentsRow]] = MappingProxyType({})


class PhaseRows(NamedTuple):
    """What is known of the users first exposed in one phase.

    `moments` of `windows(days)`, `exposed` users of each arm, `pairs`: sums over pairs of looks, for the
    correlation of daily looks (without them increments are taken as independent); `segments` are moments of
    all days by segment, `since_exposure` and `courses` those by days since exposure. `strata` part the users
    for post-stratification. `first_days` are as in `StratumRows`, for metrics of them.
    """

    moments: Iterable[MomentsRow]
    exposed: Mapping[str, int]
    pairs: Iterable[PairRow] = ()
    segments: SegmentRows = MappingProxyType({})
    since_exposure: Iterable[MomentsRow] = ()
    courses: Iterable[MomentsRow] = ()
    strata: Mapping[str, StratumRows] | None = None
    first_days: Mapping[int, Iterable[MomentsRow]] = MappingProxyType({})


@dataclass(frozen=True)
class Analysis:
    """All that is known about an experiment. `settings` are those that the warehouse keeps of it.

    New videos, overlap, truth, versions and timings come from whoever ran it or read what was recorded
    (`dataclasses.replace`).
    """

    settings: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    exposed: Mapping[str, int]
    checks: tuple[Check, ...]
    effects: tuple[Effect, ...]
    verdict: Verdict
    goals: tuple[Goal, ...] = ()
    segments: Segments = field(default_factory=Segments)
    novelty: Novelty = field(default_factory=Novelty)
    exposed_by_phase: tuple[Mapping[str, int], ...] = ()
    new_videos: Mapping[str, Any] | None = None
    candidate_overlap: Mapping[str, Any] | None = None
    truth: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The analysis as plain values, ready for JSON: absent values are None, lifts fractions."""
        unknown = dict.fromkeys(("seed", "n_users", "stage", "population"))
        return {
            "schema_version": SCHEMA_VERSION,
            "experiment": {**unknown, **self.settings},
            "verdict": self.verdict.document(),
            "exposed": dict(self.exposed),
            "exposed_by_phase": [dict(counts) for counts in self.exposed_by_phase],
            "checks": [check.document() for check in failed_first(self.checks)],
            "metrics": [_metric_document(metric) for metric in self.metrics],
            "effects": [effect.document() for effect in self.effects],
            "sequential": [sequential_document(goal) for goal in self.goals if goal.looks],
            "cuped": [cuped_document(effect) for effect in self.effects],
            "stratification": [
                found for effect in self.effects for found in strata_documents(effect, self.settings)
            ],
            "guardrails": [guardrail_document(e, self.metrics) for e in self.effects if e.margin_test],
            "segments": [found.document() for found in self.segments.effects],
            "heterogeneity": [test.document() for test in self.segments.tests],
            "since_exposure": self.novelty.document(),
            "equivalence": [
                equivalence_document(e, self.metrics) for e in self.effects if e.equivalence_test
            ],
            "bayes": [bayes_document(e, self.metrics) for e in self.effects if e.is_deciding],
            "caps": [capping_document(e, self.metrics) for e in self.effects if e.measured.caps],
            "new_videos": self.new_videos,
            "candidate_overlap": self.candidate_overlap,
            "truth": self.truth,
            "versions": dict(self.versions),
            "timings": dict(self.timings),
        }


def rows_of_phases(
    sums: "Sequence[PanelSums]",
    exposed: Sequence[Mapping[str, int]],
    segments: Sequence[SegmentRows],
    experiment: Experiment,
    filled: "Callable[[list[SummedMoments]], list[SummedMoments]]" = list,
    strata: "Sequence[Mapping[str, PanelSums] | None]" = (),
    metrics: Iterable[Metric] = (),
) -> list[PhaseRows]:
    """All that follows from each phase's sums. `filled` adds to moments what could not be summed. `strata`
    part each phase's sums, where metrics are to be post-stratified. Of `metrics` it is asked which first days
    since exposure they are of."""
    spans = [k for k in spans_of_days(by_moments(metrics)) if k is not None]

    def pairs(of: "PanelSums") -> "list[LookPair]":
        return list(of.pairs(looks_at(experiment))) if experiment.design != "none" else []

    def by_stratum(parts: "Mapping[str, PanelSums] | None") -> dict[str, StratumRows] | None:
        if parts is None:
            return None
        asked = windows(experiment.days)
        return {
            name: StratumRows(filled(of.moments(asked)), pairs(of), first_days(of))
            for name, of in parts.items()
        }

    def first_days(of: "PanelSums") -> dict[int, "list[SummedMoments]"]:
        return {k: filled(of.of_first_days(k)) for k in spans} if of.has_cohorts else {}

    since = [filled(found.since_exposure()) if experiment.days > 1 else [] for found in sums]
    n_days = trend_days(row for of_phase in since for row in of_phase)
    return [
        PhaseRows(
            filled(found.moments(windows(experiment.days))),
            of_arms,
            pairs(found),
            of_segments,
            of_days,
            found.courses(n_days) if of_days else [],
            by_stratum(parts),
            first_days(found),
        )
        for found, of_arms, of_segments, of_days, parts in zip(
            sums, exposed, segments, since, strata or [None] * len(sums), strict=True
        )
    ]


def analyse(
    settings: Mapping[str, Any],
    moments: Iterable[MomentsRow],
    *,
    exposed: Mapping[str, int],
    crossovers: int = 0,
    metrics: Sequence[Metric] = METRICS,
    pairs: Iterable[PairRow] = (),
    more_checks: Sequence[Check] = (),
    unusable: Mapping[str, str] | None = None,
    source: Source | None = None,
) -> Analysis:
    """Analyse an experiment of one phase; see `analyse_phases`."""
    phase = PhaseRows(moments, exposed, pairs)
    return analyse_phases(
        settings,
        [phase],
        crossovers=crossovers,
        metrics=metrics,
        more_checks=more_checks,
        unusable=unusable,
        sources=None if source is None else Sources(source, (source,)),
    )


def analyse_phases(
    settings: Mapping[str, Any],
    phases: Sequence[PhaseRows],
    *,
    crossovers: int = 0,
    metrics: Sequence[Metric] = METRICS,
    more_checks: Sequence[Check] = (),
    unusable: Mapping[str, str] | None = None,
    sources: Sources | None = None,
) -> Analysis:
    """Analyse an experiment from its settings (`Experiment.settings`, and what else the warehouse keeps).

    `phases` hold, for the users of each phase (one where weights and coverage never changed), the moments of
    `windows(days)`, the users analysed in each arm, and more (`PhaseRows`). Effects, those of segments and of
    days since exposure too, are found within phases and put together. Moments that hold `pre_` columns are
    adjusted for them. `crossovers` users were dropped because they were seen in more than one arm.
    `more_checks` come beside those of the counts; `unusable` holds columns whose sums mean nothing, with the
    reason (their moments are 0). `sources` give the values of single users to metrics that need them.

    Settings whose `planned_days` are more than `days` make it an interim analysis: phases to come are empty.
    """
    experiment = Experiment.from_settings(settings)
    check_first_days(metrics, experiment.planned_days)
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        raise ValueError(f"metrics {names} hold a name twice; names must differ")
    if len(phases) != len(experiment.phases):
        raise ValueError(f"rows of {len(phases)} phases for an experiment of {len(experiment.phases)}")
    summed = by_moments(metrics)
    sums = [_sums_of(phase, experiment, summed) for phase in phases]
    totals = added([of_phase[None][0] for of_phase in sums])
    if all(window != (1, experiment.days) for _, window in totals):
        raise LookupError(f"no moments of days 1 to {experiment.days}, which decide; ask for `windows(days)`")
    arms = [arm.name for arm in experiment.arms]
    counts = [{arm: phase.exposed.get(arm, 0) for arm in arms} for phase in phases]
    checks = [*run_checks(experiment, totals, counts, crossovers), *more_checks]
    strata = [
        {name: _sums_of(rows, experiment, summed) for name, rows in phase.strata.items()}
        for phase in phases
        if phase.strata is not None
    ]
    measured: dict[tuple[str, Window], Measured] = {}
    for span in dict.fromkeys(span for of_phase in sums for span in of_phase):
        measured |= measure_all(
            [of_phase[span][0] for of_phase in sums],
            experiment,
            [metric for metric in summed if metric.first_days == span],
            [{name: of[span][0] for name, of in of_phase.items()} for of_phase in strata],
        )
    single = [metric for metric in metrics if metric.needs_values or metric.first_days not in sums[0]]
    measured |= measure_values(sources, experiment, single, unusable or {})
    goals = goals_tested(sums, experiment, metrics, measured, strata)
    usable = [metric for metric in metrics if not set(metric.columns) & set(unusable or {})]
    own = [metric for metric in usable if metric.needs_values and metric.role == "goal"]
    own_days = [metric for metric in usable if metric.first_days is not None and metric.role == "goal"]
    of_segments = [phase.segments for phase in phases]
    since = [(phase.since_exposure, phase.courses) for phase in phases]
    has_since = any(rows for rows, _ in since)
    effects = _withheld(compare_all(experiment, metrics, measured, goals), metrics, unusable or {})
    return Analysis(
        settings=settings,
        metrics=tuple(metrics),
        exposed={arm: sum(count[arm] for count in counts) for arm in arms},
        checks=tuple(checks),
        effects=tuple(effects),
        verdict=decide(experiment, checks, effects, metrics),
        goals=tuple(goals),
        segments=segments_of(
            of_segments,
            experiment,
            usable,
            values_by_segment(
                sources, experiment, list(dict.fromkeys([*own, *own_days])), names_of(of_segments)
            ),
        ),
        novelty=novelty_of(
            since,
            experiment,
            usable,
            values_since_exposure(sources, experiment, own if has_since else []),
            value_courses(
                sources,
                experiment,
                own if has_since else [],
                trend_days(row for rows, _ in since for row in rows),
            ),
        ),
        exposed_by_phase=tuple(counts),
    )


def _sums_of(
    rows: PhaseRows | StratumRows, experiment: Experiment, metrics: Sequence[Metric]
) -> dict[int | None, tuple[Totals, Pairs]]:
    """Totals and pairs of looks of the users, of all days (None) and of their first k days since exposure."""
    found: dict[int | None, tuple[Totals, Pairs]] = {
        None: (totals_of(rows.moments, experiment, metrics), pairs_of(rows.pairs))
    }
    for k, of_days in rows.first_days.items():
        totals = totals_of(of_days, experiment, [metric for metric in metrics if metric.first_days == k])
        found[k] = totals, pairs_of_first_days(totals, looks_at(experiment))
    return found


def _withheld(
    effects: Sequence[Effect], metrics: Sequence[Metric], unusable: Mapping[str, str]
) -> list[Effect]:
    """The effects; those of metrics that read an unusable column are absent and say why."""
    reasons = {
        metric.name: unusable[column] for metric in metrics for column in metric.columns if column in unusable
    }
    absent: dict[str, Any] = {"control_mean": None, "treatment_mean": None, "difference": None, "lift": None}
    return [
        replace(effect, **absent, reason=reasons[effect.metric]) if effect.metric in reasons else effect
        for effect in effects
    ]


def _metric_document(metric: Metric) -> dict[str, Any]:
    return {
        "name": metric.name,
        "role": metric.role,
        "direction": metric.direction,
        "unit": metric.unit_shown,
        "margin": metric.margin,
        "margin_kind": metric.margin_kind,
        "first_days": metric.first_days,
        "description": metric.description,
    }

"""From moments to an Analysis: health checks first, then effects, correction and verdict.

`Analysis.document()` is report.json: the one document from which every report is made.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from abtest.checks import Check, run_checks
from abtest.effects import (
    Effect,
    Goal,
    MomentsRow,
    Window,
    compare_all,
    goals_tested,
    measure_all,
    totals_of,
    windows,
)
from abtest.experiment import Experiment
from abtest.health import failed_first
from abtest.looks import PairRow, pairs_of
from abtest.metrics import METRICS, Metric, by_moments
from abtest.novelty import Novelty, novelty_of
from abtest.report.details import (
    bayes_document,
    capping_document,
    cuped_document,
    equivalence_document,
    guardrail_document,
    sequential_document,
)
from abtest.segments import SegmentRows, Segments, segments_of
from abtest.sources import Source
from abtest.values import measure_values
from abtest.verdict import Verdict, decide

__all__ = ["SCHEMA_VERSION", "Analysis", "Check", "Effect", "Verdict", "Window", "analyse", "windows"]

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Analysis:
    """All that is known about an experiment. `settings` are those that the warehouse keeps of it.

    Overlap, truth, versions and timings come from whoever ran it (`dataclasses.replace`).
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
    candidate_overlap: Mapping[str, Any] | None = None
    truth: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The analysis as plain values, ready for JSON: absent values are None, lifts fractions."""
        unknown = dict.fromkeys(("seed", "n_users", "stage"))
        return {
            "schema_version": SCHEMA_VERSION,
            "experiment": {**unknown, **self.settings},
            "verdict": self.verdict.document(),
            "exposed": dict(self.exposed),
            "checks": [check.document() for check in failed_first(self.checks)],
            "metrics": [_metric_document(metric) for metric in self.metrics],
            "effects": [effect.document() for effect in self.effects],
            "sequential": [sequential_document(goal) for goal in self.goals if goal.looks],
            "cuped": [cuped_document(effect) for effect in self.effects],
            "guardrails": [guardrail_document(e, self.metrics) for e in self.effects if e.margin_test],
            "segments": [found.document() for found in self.segments.effects],
            "heterogeneity": [test.document() for test in self.segments.tests],
            "since_exposure": self.novelty.document(),
            "equivalence": [
                equivalence_document(e, self.metrics) for e in self.effects if e.equivalence_test
            ],
            "bayes": [bayes_document(e, self.metrics) for e in self.effects if e.is_deciding],
            "caps": [capping_document(e, self.metrics) for e in self.effects if e.measured.caps],
            "candidate_overlap": self.candidate_overlap,
            "truth": self.truth,
            "versions": dict(self.versions),
            "timings": dict(self.timings),
        }


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
    segments: SegmentRows | None = None,
    since_exposure: Iterable[MomentsRow] = (),
    courses: Iterable[MomentsRow] = (),
    source: Source | None = None,
) -> Analysis:
    """Analyse an experiment from its settings (`Experiment.settings`, and what else the warehouse keeps).

    `moments` are those of `windows(days)`, `exposed` the users analysed in each arm, `crossovers` the number
    of users that were dropped because they were seen in more than one arm. Moments that hold `pre_` columns
    are adjusted for them. `pairs` are sums over pairs of looks, for the correlation of daily looks;
    without them increments are taken as independent. `more_checks` come beside those of the counts;
    `unusable` holds columns whose sums mean nothing, with the reason (their moments are 0). `segments` are
    moments of all days by segment, `since_exposure` and `courses` those by days since exposure. `source`
    gives the values of single users to metrics that need them (which have no views by segment or day since
    exposure).

    Settings whose `planned_days` are more than `days` make it an interim analysis.
    """
    experiment = Experiment.from_settings(settings)
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        raise ValueError(f"metrics {names} hold a name twice; names must differ")
    summed = by_moments(metrics)
    totals = totals_of(moments, experiment, summed)
    checks = [*run_checks(experiment, totals, exposed, crossovers), *more_checks]
    single = [metric for metric in metrics if metric.needs_values]
    measured = {
        **measure_all(totals, experiment, summed),
        **measure_values(source, experiment, single, windows(experiment.days), unusable or {}),
    }
    goals = goals_tested(totals, experiment, metrics, measured, pairs_of(pairs))
    usable = [metric for metric in summed if not set(metric.columns) & set(unusable or {})]
    effects = _withheld(compare_all(experiment, metrics, measured, goals), metrics, unusable or {})
    return Analysis(
        settings=settings,
        metrics=tuple(metrics),
        exposed={arm.name: exposed.get(arm.name, 0) for arm in experiment.arms},
        checks=tuple(checks),
        effects=tuple(effects),
        verdict=decide(experiment, checks, effects, metrics),
        goals=tuple(goals),
        segments=segments_of(segments or {}, experiment, usable),
        novelty=novelty_of(since_exposure, courses, experiment, usable),
    )


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
        "description": metric.description,
    }

"""Effects by segment of users: each goal in each segment, all corrected together, and whether they differ.

A segment is known before the experiment (how active users were, their country), so that users are compared
with their like. Segments explain and decide nothing: with many of them some differ by chance, which is what
the correction and the test of heterogeneity are for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from abtest.effects import Effect, effect_of
from abtest.estimates import NOBODY, Measured, compare_arms, measure_phases
from abtest.experiment import Experiment
from abtest.metrics import Metric, by_moments
from abtest.stats.heterogeneity import cochran_q, lift_variance
from abtest.stats.moments import Moments
from abtest.stats.multiplicity import CORRECTIONS
from abtest.totals import MomentsRow, Window

TOO_FEW = "fewer than two segments have a lift with an interval"

SegmentRows = Mapping[str, Mapping[str, Iterable[MomentsRow]]]
"""By dimension (such as country) and segment (such as FI): the moments of all days, a row for each arm."""


@dataclass(frozen=True)
class SegmentEffect:
    """The effect on a goal in one segment; its `p_adjusted` is over all segments, goals and treatments."""

    dimension: str
    segment: str
    effect: Effect

    def document(self) -> dict[str, Any]:
        """The effect as report.json holds it."""
        return {"dimension": self.dimension, "segment": self.segment, **self.effect.document()}


@dataclass(frozen=True)
class SegmentTest:
    """Cochran's Q on the lifts of the `n_segments` segments of a dimension that have one with an interval."""

    dimension: str
    metric: str
    treatment: str
    n_segments: int
    q: float | None
    df: int | None
    p: float | None
    p_adjusted: float | None
    reason: str | None

    def document(self) -> dict[str, Any]:
        """The test as report.json holds it."""
        return {**self.__dict__, "method": "cochran q on lifts"}


@dataclass(frozen=True)
class Segments:
    """All segments' effects, in the order of the segments, and the tests of whether they differ."""

    effects: tuple[SegmentEffect, ...] = ()
    tests: tuple[SegmentTest, ...] = ()


def names_of(phases: Sequence[SegmentRows]) -> dict[str, list[str]]:
    """The segments of each dimension, of all phases."""
    return {
        dimension: list(dict.fromkeys(name for phase in phases for name in phase.get(dimension, ())))
        for dimension in dict.fromkeys(dimension for phase in phases for dimension in phase)
    }


def segments_of(
    phases: Sequence[SegmentRows],
    experiment: Experiment,
    metrics: Sequence[Metric],
    values: Mapping[tuple[str, str, str], Measured] = MappingProxyType({}),
) -> Segments:
    """Goals by segment over all days, compared within phases.

    `phases` hold the rows of each phase's users, in the order in which they are to be shown; `values` what
    was measured of metrics that need users' own values, by dimension, segment and metric. Those of first
    days since exposure are among them, or left out.
    """
    measured_apart = {name for _, _, name in values}
    goals = [
        metric
        for metric in metrics
        if metric.role == "goal" and (metric.first_days is None or metric.name in measured_apart)
    ]
    segments = names_of(phases)
    measured = {
        (dimension, segment, metric.name): measure_phases(of_phases, metric)
        for dimension, names in segments.items()
        for segment in names
        for of_phases in [_by_arm(phases, experiment, dimension, segment)]
        for metric in by_moments(goals)
    } | dict(values)
    cells = [
        (dimension, segment, metric, arm.name)
        for dimension, names in segments.items()
        for arm in experiment.treatments
        for metric in goals
        for segment in names
    ]
    p_values = [
        compare_arms(measured[dimension, segment, metric.name], experiment, arm, experiment.alpha).p
        for dimension, segment, metric, arm in cells
    ]
    corrected = CORRECTIONS[experiment.correction](p_values, experiment.alpha)
    effects = [
        SegmentEffect(
            dimension,
            segment,
            effect_of(
                experiment,
                metric,
                arm,
                Window(1, experiment.days),
                measured[dimension, segment, metric.name],
                adjusted.alpha,
                p_adjusted=adjusted.p_adjusted,
            ),
        )
        for (dimension, segment, metric, arm), adjusted in zip(cells, corrected, strict=True)
    ]
    return Segments(tuple(effects), tuple(_tests(effects, experiment)))


def _by_arm(
    phases: Sequence[SegmentRows], experiment: Experiment, dimension: str, segment: str
) -> list[dict[str, Moments]]:
    """The segment's moments in each phase."""
    found = []
    for phase in phases:
        rows = phase.get(dimension, {}).get(segment, ())
        of_arm = {row.arm: Moments(row.n, row.sums, row.products) for row in rows}
        found.append({arm.name: of_arm.get(arm.name, NOBODY) for arm in experiment.arms})
    return found


def _tests(effects: Sequence[SegmentEffect], experiment: Experiment) -> list[SegmentTest]:
    """One test for each dimension, treatment and goal, corrected together."""
    families: dict[tuple[str, str, str], list[Effect]] = {}
    for found in effects:
        key = found.dimension, found.effect.treatment, found.effect.metric
        families.setdefault(key, []).append(found.effect)
    tests = []
    for (dimension, treatment, metric), of_segments in families.items():
        lifts = [pair for pair in map(_lift, of_segments) if pair is not None]
        q = cochran_q(*zip(*lifts, strict=True)) if len(lifts) > 1 else None
        tests.append((dimension, metric, treatment, len(lifts), q))
    corrected = CORRECTIONS[experiment.correction]([q.p if q else None for *_, q in tests], experiment.alpha)
    return [
        SegmentTest(
            dimension,
            metric,
            treatment,
            n_segments,
            q.q if q else None,
            q.df if q else None,
            q.p if q else None,
            adjusted.p_adjusted,
            None if q else TOO_FEW,
        )
        for (dimension, metric, treatment, n_segments, q), adjusted in zip(tests, corrected, strict=True)
    ]


def _lift(effect: Effect) -> tuple[float, float] | None:
    """The lift and its variance, where the lift has an interval."""
    arms = effect.measured.adjusted
    variance = lift_variance(arms[effect.control], arms[effect.treatment])
    if effect.lift is None or effect.lift_ci is None or not variance:
        return None
    return effect.lift, variance

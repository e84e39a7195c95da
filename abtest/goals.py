"""The tests of goals: by their looks, and corrected together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from abtest.estimates import NOBODY, Measured, compare_arms
from abtest.experiment import Experiment
from abtest.looks import Looks, Pairs, PhaseSums, looks_at, looks_of
from abtest.metrics import Metric
from abtest.stats.multiplicity import CORRECTIONS, Adjusted
from abtest.totals import Totals, Window

Sums = Mapping[int | None, tuple[Totals, Pairs]]
"""Users' totals and those of pairs of looks, of all days (None) and of the first k days since exposure."""


@dataclass(frozen=True)
class Goal:
    """The test of a goal in one treatment: its looks (None: only the last window decides) and correction."""

    treatment: str
    metric: Metric
    looks: Looks | None
    adjusted: Adjusted

    @property
    def levels(self) -> Mapping[int, float]:
        """The two-sided level of each look by its day, at this goal's part of alpha."""
        return self.looks.levels(self.adjusted.alpha) if self.looks else {}


def goals_tested(
    phases: Sequence[Sums],
    experiment: Experiment,
    metrics: Sequence[Metric],
    measured: Mapping[tuple[str, Window], Measured],
    strata: Sequence[Mapping[str, Sums]] = (),
) -> list[Goal]:
    """All goals of all treatments, corrected together, on sequential p-values where there are looks.

    `phases` hold the sums of each phase's users, `strata` those by stratum.
    """
    deciding = Window(1, experiment.days)
    looks, p_values = [], []
    tests = [(arm.name, m) for arm in experiment.treatments for m in metrics if m.role == "goal"]
    for arm, metric in tests:
        found = _looks(phases, experiment, metric, arm, measured, strata)
        last = compare_arms(measured[metric.name, deciding], experiment, arm, experiment.alpha)
        looks.append(found)
        may_decide = experiment.design != "none" or not experiment.is_interim
        p_values.append(found.p_so_far[-1] if found else last.p if may_decide else None)
    corrected = CORRECTIONS[experiment.correction](p_values, experiment.alpha)
    return [
        Goal(arm, metric, found, adjusted)
        for (arm, metric), found, adjusted in zip(tests, looks, corrected, strict=True)
    ]


def _looks(
    phases: Sequence[Sums],
    experiment: Experiment,
    metric: Metric,
    treatment: str,
    measured: Mapping[tuple[str, Window], Measured],
    strata: Sequence[Mapping[str, Sums]],
) -> Looks | None:
    if experiment.design == "none":
        return None
    arms = (experiment.control, treatment)
    by_day = {day: measured[metric.name, Window(1, day)] for day in looks_at(experiment)}
    found = {day: compare_arms(by_day[day], experiment, treatment, experiment.alpha) for day in by_day}

    def of_looks(sums: Sums) -> PhaseSums:
        totals, pairs = sums.get(metric.first_days, ({}, {}))
        moments = {(arm, day): totals.get((arm, Window(1, day)), NOBODY) for arm in arms for day in by_day}
        return moments, {} if metric.needs_values else pairs  # those are of whole totals, and of means

    return looks_of(
        experiment.design,
        metric,
        arms,
        by_day,
        found,
        [of_looks(sums) for sums in phases],
        [{name: of_looks(sums) for name, sums in of_phase.items()} for of_phase in strata],
        alpha=experiment.alpha,
        planned_days=experiment.planned_days,
    )

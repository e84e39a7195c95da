"""What was summed, by arm and window, and every metric measured of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from abtest.estimates import NOBODY, Measured, measure_phases
from abtest.experiment import Experiment
from abtest.metrics import Metric
from abtest.stats.moments import Moments


class Window(NamedTuple):
    """Days of the experiment, counted from 1, both ends included."""

    first_day: int
    last_day: int


class MomentsRow(Protocol):
    """What the warehouse gives for an arm and a window: exact integer sums over the arm's exposed users."""

    @property
    def arm(self) -> str: ...
    @property
    def window(self) -> tuple[int, int]: ...
    @property
    def n(self) -> int: ...
    @property
    def sums(self) -> Mapping[str, int]: ...
    @property
    def products(self) -> Mapping[tuple[str, str], int]: ...


Totals = Mapping[tuple[str, Window], Moments]


def windows(days: int) -> list[Window]:
    """Each day by itself, then days 1 to d. The last one decides."""
    return [Window(day, day) for day in range(1, days + 1)] + [Window(1, day) for day in range(2, days + 1)]


def windows_of(metric: Metric, days: int) -> list[Window]:
    """Those in which a metric is measured. One of the first days since exposure has no single days: days 1 to
    d are the users who have had their days by then."""
    return windows(days) if metric.first_days is None else [Window(1, day) for day in range(1, days + 1)]


def added(phases: Sequence[Totals]) -> Totals:
    """The totals of all phases' users together."""
    found: dict[tuple[str, Window], Moments] = {}
    for totals in phases:
        for key, moments in totals.items():
            found[key] = found[key] + moments if key in found else moments
    return found


def totals_of(rows: Iterable[MomentsRow], experiment: Experiment, metrics: Sequence[Metric]) -> Totals:
    """The rows by arm and window. LookupError where an arm or a column is not there."""
    names = [arm.name for arm in experiment.arms]
    totals = {}
    for row in rows:
        if row.arm not in names:
            raise LookupError(f"moments of an unknown arm {row.arm!r}; the arms are: {', '.join(names)}")
        for metric in metrics:
            missing = [column for column in metric.columns if row.n and column not in row.sums]
            if missing:
                raise LookupError(
                    f"metric {metric.name!r} needs column {missing[0]!r}, which the moments do not have; "
                    f"they have: {', '.join(row.sums)}"
                )
        totals[row.arm, Window(*row.window)] = Moments(row.n, row.sums, row.products)
    return totals


def measure_all(
    phases: Sequence[Totals],
    experiment: Experiment,
    metrics: Sequence[Metric],
    strata: Sequence[Mapping[str, Totals]] = (),
) -> dict[tuple[str, Window], Measured]:
    """Every metric in every window and arm, within phases. An arm without a row had no exposed users.

    `strata` hold the totals of each phase's users by stratum, where metrics are to be post-stratified.
    """

    def arms(totals: Totals, window: Window) -> dict[str, Moments]:
        return {arm.name: totals.get((arm.name, window), NOBODY) for arm in experiment.arms}

    return {
        (metric.name, window): measure_phases(
            [arms(totals, window) for totals in phases],
            metric,
            [{name: arms(totals, window) for name, totals in of_phase.items()} for of_phase in strata],
        ).within(metric.first_days)
        for metric in metrics
        for window in windows_of(metric, experiment.days)
    }

"""Does an effect wear off or grow? Goals by day since each user's first exposure, and a test of the trend.

Day 1 is the rest of the day of a user's first exposure, days are those of the calendar. Day k and the first k
days are those of the users who can have had k days, so that early and late comers are not mixed up.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from abtest.effects import Effect, effect_of
from abtest.estimates import NOBODY, Measured, measure_phases, plain_estimate
from abtest.experiment import Experiment
from abtest.metrics import Metric
from abtest.stats.cuped import form_covariance, linearised
from abtest.stats.means import Comparison, Estimate, compare
from abtest.stats.moments import Moments
from abtest.stats.multiplicity import CORRECTIONS
from abtest.stats.strata import combined
from abtest.totals import MomentsRow, Window
from warehouse.events import day_name

ONE_DAY = "fewer than half of the users can have had two days"
NO_LIFT = "the lift of day {k} since exposure has no interval"
NO_QUANTILE = "the errors of a quantile on several days are not known together"
NO_DRAWS = "the metric is tested by draws, a trend by the delta method"

Arms = Mapping[str, Moments]


@dataclass(frozen=True)
class Trend:
    """The slope of a goal's lift over days 1 to `days` since exposure, of the users who can have had all.

    `slope` is the change of the lift from a day to the next, by least squares, as a fraction. Lifts, as day 1
    is a shorter day. The standard error is of the delta method, with the correlation of a user's days.
    """

    metric: str
    treatment: str
    days: int
    n_control: int
    n_treatment: int
    slope: float | None
    slope_ci: tuple[float, float] | None
    p: float | None
    p_adjusted: float | None
    level: float
    reason: str | None

    def document(self) -> dict[str, Any]:
        """The test as report.json holds it."""
        return {**self.__dict__, "slope_ci": None if self.slope_ci is None else list(self.slope_ci)}


@dataclass(frozen=True)
class Novelty:
    """Goals' effects by days since exposure (windows (k, k) and (1, k)), and the trends."""

    effects: tuple[Effect, ...] = ()
    trends: tuple[Trend, ...] = ()

    def document(self) -> dict[str, Any]:
        """The view as report.json holds it."""
        return {
            "effects": [effect.document() for effect in self.effects],
            "trends": [trend.document() for trend in self.trends],
        }


def trend_days(rows: Iterable[MomentsRow]) -> int:
    """Over how many days since exposure a trend is tested: all that half of the users can have had."""
    users: dict[int, int] = {}
    for row in rows:
        if row.window[0] == 1:
            users[row.window[1]] = users.get(row.window[1], 0) + row.n
    return max((k for k, n in users.items() if 2 * n >= max(users.values(), default=0)), default=1)


def novelty_of(
    phases: Sequence[tuple[Iterable[MomentsRow], Iterable[MomentsRow]]],
    experiment: Experiment,
    metrics: Sequence[Metric],
    values: Mapping[tuple[str, tuple[int, int]], Measured] = MappingProxyType({}),
    value_courses: Mapping[str, Sequence[Arms]] = MappingProxyType({}),
) -> Novelty:
    """From each phase's moments by days since exposure, and each day's beside the others
    (`PanelSums.courses`); `values` hold what was measured of metrics that need users' own values, by metric
    and window, `value_courses` their own courses by metric and phase. Arms are compared within phases."""
    by_window = [_by_window(rows, experiment) for rows, _ in phases]
    courses = [_by_window(rows, experiment) for _, rows in phases]
    nobody = {arm.name: NOBODY for arm in experiment.arms}
    goals = [metric for metric in metrics if metric.role == "goal"]
    effects = [
        effect_of(
            experiment,
            metric,
            arm.name,
            window,
            values[metric.name, window]
            if metric.needs_values
            else measure_phases([of_phase.get(window, nobody) for of_phase in by_window], metric),
            experiment.alpha,
        )
        for arm in experiment.treatments
        for metric in goals
        for window in dict.fromkeys(window for of_phase in by_window for window in of_phase)
    ]
    return Novelty(tuple(effects), tuple(_trends(courses, experiment, goals, value_courses)))


def _by_window(rows: Iterable[MomentsRow], experiment: Experiment) -> dict[Window, dict[str, Moments]]:
    found: dict[Window, dict[str, Moments]] = {}
    for row in rows:
        arms = found.setdefault(Window(*row.window), {arm.name: NOBODY for arm in experiment.arms})
        arms[row.arm] = Moments(row.n, row.sums, row.products)
    return found


def no_trend(metric: Metric) -> str | None:
    """Why a metric has no test of a trend; None where it has one."""
    if metric.quantile is not None:
        return NO_QUANTILE
    return None if metric.method is None else NO_DRAWS


def _trends(
    courses: Sequence[Mapping[Window, Arms]],
    experiment: Experiment,
    goals: Sequence[Metric],
    value_courses: Mapping[str, Sequence[Arms]],
) -> list[Trend]:
    """Of the one window of the courses, from the phases that have users in it."""
    windows = dict.fromkeys(window for of_phase in courses for window in of_phase)
    if not windows:
        return []
    (window,) = windows
    phases = [of_phase[window] for of_phase in courses if window in of_phase]
    days = window.last_day
    users = {arm.name: sum(arms[arm.name].n for arms in phases) for arm in experiment.arms}
    control = experiment.control
    tests = [(arm.name, metric) for arm in experiment.treatments for metric in goals]
    slopes = [
        no_trend(metric) or _slope(value_courses.get(metric.name, phases), control, arm, metric, days)
        for arm, metric in tests
    ]
    p_values = [None if isinstance(slope, str) else compare(*slope).p for slope in slopes]
    corrected = CORRECTIONS[experiment.correction](p_values, experiment.alpha)
    found = []
    for (arm, metric), slope, adjusted in zip(tests, slopes, corrected, strict=True):
        tested = Comparison(reason=slope) if isinstance(slope, str) else compare(*slope, alpha=adjusted.alpha)
        found.append(
            Trend(
                metric.name,
                arm,
                days,
                users[control],
                users[arm],
                tested.difference,
                tested.difference_ci,
                tested.p,
                adjusted.p_adjusted,
                1 - adjusted.alpha,
                tested.reason if tested.p is None else None,
            )
        )
    return found


def _slope(
    phases: Sequence[Arms], control: str, treatment: str, metric: Metric, days: int
) -> tuple[Estimate, Estimate] | str:
    """The slope of the lifts T_k / C_k - 1 as the difference of two independent parts, or why there is none.

    T_k and C_k, sums over phases by their shares of users, vary with weights w_k / C_k and -w_k T_k / C_k^2
    around their values.
    """
    if days == 1:
        return ONE_DAY
    sizes = [sum(moments.n for moments in arms.values()) for arms in phases]
    seen = [arms for arms, n in zip(phases, sizes, strict=True) if n] or phases[:1]
    shares = [n / sum(sizes) for n in sizes if n] or [1.0]
    centre = (days + 1) / 2
    total = sum((k - centre) ** 2 for k in range(1, days + 1))
    slope = 0.0
    weights: tuple[list[float], list[float]] = [], []
    for k in range(1, days + 1):
        of_day, weight = _of_day(metric, k), (k - centre) / total
        c, t = (
            combined([plain_estimate(arms[arm], of_day) for arms in seen], shares)
            for arm in (control, treatment)
        )
        if c.value is None or t.value is None or compare(c, t).lift_ci is None:
            return NO_LIFT.format(k=k)
        slope += weight * t.value / c.value
        weights[0].append(weight * t.value / c.value**2)
        weights[1].append(weight / c.value)
    of_control, of_treated = (
        [Estimate(arms[arm].n, value, _variance(arms[arm], metric, of_arm)) for arms in seen]
        for arm, value, of_arm in zip((control, treatment), (0.0, slope), weights, strict=True)
    )
    return combined(of_control, shares), combined(of_treated, shares)


def _variance(course: Moments, metric: Metric, weights: Sequence[float]) -> float:
    """Of the weighted sum of an arm's values of its days."""
    form: dict[str, Fraction] = {}
    for k, weight in enumerate(weights, start=1):
        of_day = _of_day(metric, k)
        for name, factor in linearised(course, of_day.numerator, of_day.denominator, metric.scale).items():
            form[name] = form.get(name, Fraction(0)) + Fraction(weight) * factor
    return float(form_covariance(course, form, form) / course.n)


def _of_day(metric: Metric, k: int) -> Metric:
    """The metric of the k-th day since exposure, over the columns of a course."""
    denominator = None if metric.denominator is None else day_name(metric.denominator, k)
    return Metric(metric.name, day_name(metric.numerator, k), denominator, metric.scale)

"""Does an effect wear off or grow? Goals by day since each user's first exposure, and a test of the trend.

Day 1 is the rest of the day of a user's first exposure, days are those of the calendar. Day k and the first k
days are those of the users who can have had k days, so that early and late comers are not mixed up.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from abtest.effects import Effect, MomentsRow, Window, effect_of
from abtest.estimates import NOBODY, measure, plain_estimate
from abtest.experiment import Experiment
from abtest.metrics import Metric
from abtest.stats.cuped import form_covariance, linearised
from abtest.stats.means import Estimate, compare
from abtest.stats.moments import Moments
from abtest.stats.multiplicity import CORRECTIONS
from warehouse.events import day_name

ONE_DAY = "no user can have had two days"
NO_VALUE = "the metric has no value on a day since exposure"


@dataclass(frozen=True)
class Trend:
    """The slope of a goal's difference over days 1 to `days` since exposure, of the users who can have had all.

    `slope` is the change of the difference from a day to the next, by least squares, `slope_lift` the same over
    the control's mean of a day. The standard error takes the correlation of a user's days into account.
    """

    metric: str
    treatment: str
    days: int
    n_control: int
    n_treatment: int
    slope: float | None
    slope_ci: tuple[float, float] | None
    slope_lift: float | None
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
    rows: Iterable[MomentsRow],
    courses: Iterable[MomentsRow],
    experiment: Experiment,
    metrics: Sequence[Metric],
) -> Novelty:
    """From the moments by days since exposure and each day's beside the others (`PanelSums.courses`)."""
    of_window: dict[Window, dict[str, Moments]] = {}
    for row in rows:
        of_window.setdefault(Window(*row.window), {})[row.arm] = Moments(row.n, row.sums, row.products)
    course = {row.arm: row for row in courses}
    goals = [metric for metric in metrics if metric.role == "goal"]
    effects = [
        effect_of(
            experiment,
            metric,
            arm.name,
            window,
            measure({a.name: arms.get(a.name, NOBODY) for a in experiment.arms}, metric),
            experiment.alpha,
        )
        for arm in experiment.treatments
        for metric in goals
        for window, arms in of_window.items()
    ]
    return Novelty(tuple(effects), tuple(_trends(course, experiment, goals)))


def _trends(
    course: dict[str, MomentsRow], experiment: Experiment, goals: Sequence[Metric]
) -> list[Trend]:
    if not course:
        return []
    days = next(iter(course.values())).window[1]
    nobody = Moments(0, {}, {})
    arms = {
        arm.name: Moments(course[arm.name].n, course[arm.name].sums, course[arm.name].products)
        if arm.name in course
        else nobody
        for arm in experiment.arms
    }
    tests = [(arm.name, metric) for arm in experiment.treatments for metric in goals]
    slopes = {
        (arm, metric.name): _slope(moments, metric, days) for arm, moments in arms.items() for metric in goals
    }
    pairs = [(slopes[experiment.control, metric.name], slopes[arm, metric.name]) for arm, metric in tests]
    p_values = [compare(*pair).p if days > 1 else None for pair in pairs]
    corrected = CORRECTIONS[experiment.correction](p_values, experiment.alpha)
    found = []
    for (arm, metric), pair, adjusted in zip(tests, pairs, corrected, strict=True):
        slope = compare(*pair, alpha=adjusted.alpha)
        mean = _mean_of_a_day(arms[experiment.control], metric, days)
        reason = ONE_DAY if days == 1 else None if slope.p is not None else slope.reason or NO_VALUE
        is_known = reason is None and slope.difference is not None
        found.append(
            Trend(
                metric.name,
                arm,
                days,
                pair[0].n,
                pair[1].n,
                slope.difference if is_known else None,
                slope.difference_ci if is_known else None,
                slope.difference / abs(mean) if is_known and mean and slope.difference is not None else None,
                slope.p if is_known else None,
                adjusted.p_adjusted,
                1 - adjusted.alpha,
                reason,
            )
        )
    return found


def _slope(course: Moments, metric: Metric, days: int) -> Estimate:
    """The least-squares slope of an arm's metric over its days, and its variance from the users' days."""
    centre = Fraction(days + 1, 2)
    total = sum((k - centre) ** 2 for k in range(1, days + 1)) or Fraction(1)
    value, form = Fraction(0), dict[str, Fraction]()
    for k in range(1, days + 1):
        weight = (k - centre) / total
        of_day = _of_day(metric, k)
        estimate = plain_estimate(course, of_day) if course.n else None
        if estimate is None or estimate.value is None:
            return Estimate(course.n, None, None)
        value += weight * Fraction(estimate.value)
        for name, factor in linearised(course, of_day.numerator, of_day.denominator, metric.scale).items():
            form[name] = form.get(name, Fraction(0)) + weight * factor
    variance = float(form_covariance(course, form, form) / course.n) if course.n > 1 else None
    return Estimate(course.n, float(value), variance)


def _mean_of_a_day(course: Moments, metric: Metric, days: int) -> float | None:
    values = [plain_estimate(course, _of_day(metric, k)).value for k in range(1, days + 1)] if course.n else []
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _of_day(metric: Metric, k: int) -> Metric:
    """The metric of the k-th day since exposure, over the columns of a course."""
    denominator = None if metric.denominator is None else day_name(metric.denominator, k)
    return Metric(metric.name, day_name(metric.numerator, k), denominator, metric.scale)

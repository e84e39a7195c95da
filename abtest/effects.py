"""Metrics x treatments x windows: each compared with the control, the deciding ones corrected together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from abtest.experiment import Experiment
from abtest.metrics import Metric, Role
from abtest.stats.means import Comparison, Estimate, compare, mean_estimate, ratio_estimate
from abtest.stats.moments import Moments
from abtest.stats.multiplicity import Adjusted, holm
from abtest.stats.power import detectable_difference

NON_INFERIORITY_ALPHA = 0.05
"""Guardrails are tested one-sided at .025, which is an end of the two-sided 95 % interval."""


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


@dataclass(frozen=True)
class Effect:
    """Treatment minus control for one metric and window. Lifts are fractions of the control mean.

    `level` is the confidence level really used for both intervals, `p` the two-sided p of Welch's test of the
    difference, `p_adjusted` Holm's, for goals in the deciding window only. `mde` is the smallest lift that a
    single two-sided test at the experiment's alpha, without correction, finds with power .8, given the
    variances seen. Status `not_computable`: some values are None and `reason` says why; the others stand.
    """

    metric: str
    role: Role
    window: Window
    control: str
    treatment: str
    method: str
    control_mean: float | None
    treatment_mean: float | None
    difference: float | None
    difference_ci: tuple[float, float] | None
    lift: float | None
    lift_ci: tuple[float, float] | None
    p: float | None
    p_adjusted: float | None
    level: float
    mde: float | None
    n_control: int
    n_treatment: int
    reason: str | None = field(default=None)

    @property
    def status(self) -> str:
        """`ok`, or `not_computable` where a value is absent."""
        return "ok" if self.reason is None else "not_computable"

    def document(self) -> dict[str, Any]:
        """The effect as report.json holds it."""
        return {
            "metric": self.metric,
            "role": self.role,
            "window": {"from": self.window.first_day, "to": self.window.last_day},
            "control": self.control,
            "treatment": self.treatment,
            "method": self.method,
            "control_mean": self.control_mean,
            "treatment_mean": self.treatment_mean,
            "difference": self.difference,
            "difference_ci": _listed(self.difference_ci),
            "lift": self.lift,
            "lift_ci": _listed(self.lift_ci),
            "p": self.p,
            "p_adjusted": self.p_adjusted,
            "level": self.level,
            "mde": self.mde,
            "n_control": self.n_control,
            "n_treatment": self.n_treatment,
            "status": self.status,
            "reason": self.reason,
        }


def windows(days: int) -> list[Window]:
    """Each day by itself, then days 1 to d. The last one decides."""
    return [Window(day, day) for day in range(1, days + 1)] + [Window(1, day) for day in range(2, days + 1)]


def totals_of(rows: Iterable[MomentsRow], experiment: Experiment, metrics: Sequence[Metric]) -> Totals:
    """The rows by arm and window. LookupError where an arm, a column or the deciding window is not there."""
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
    if all(window != (1, experiment.days) for _, window in totals):
        raise LookupError(f"no moments of days 1 to {experiment.days}, which decide; ask for `windows(days)`")
    return totals


def compare_all(totals: Totals, experiment: Experiment, metrics: Sequence[Metric]) -> list[Effect]:
    """Effects by treatment, metric and window. An arm without a row had no exposed users."""
    deciding = Window(1, experiment.days)
    treatments = [arm.name for arm in experiment.treatments]
    tests = [(arm, metric) for arm in treatments for metric in metrics if metric.role == "goal"]
    p_values = [_compare(totals, experiment, metric, arm, deciding)[2].p for arm, metric in tests]
    corrected = dict(zip(tests, holm(p_values, experiment.alpha), strict=True))
    return [
        _effect(totals, experiment, metric, arm, window, corrected.get((arm, metric)))
        if window == deciding
        else _effect(totals, experiment, metric, arm, window, None)
        for arm in treatments
        for metric in metrics
        for window in windows(experiment.days)
    ]


def _effect(
    totals: Totals,
    experiment: Experiment,
    metric: Metric,
    treatment: str,
    window: Window,
    adjusted: Adjusted | None,
) -> Effect:
    alpha = NON_INFERIORITY_ALPHA if metric.role == "guardrail" else experiment.alpha
    alpha = adjusted.alpha if adjusted else alpha
    control, treated, found = _compare(totals, experiment, metric, treatment, window, alpha)
    return Effect(
        metric=metric.name,
        role=metric.role,
        window=window,
        control=experiment.control,
        treatment=treatment,
        method="delta" if metric.denominator else "welch",
        control_mean=control.value,
        treatment_mean=treated.value,
        difference=found.difference,
        difference_ci=found.difference_ci,
        lift=found.lift,
        lift_ci=found.lift_ci,
        p=found.p,
        p_adjusted=adjusted.p_adjusted if adjusted else None,
        level=1 - alpha,
        mde=_mde(found, control, experiment.alpha),
        n_control=control.n,
        n_treatment=treated.n,
        reason=found.reason,
    )


def _compare(
    totals: Totals,
    experiment: Experiment,
    metric: Metric,
    treatment: str,
    window: Window,
    alpha: float = 0.05,
) -> tuple[Estimate, Estimate, Comparison]:
    nobody = Moments(0, {}, {})
    control = _estimate(totals.get((experiment.control, window), nobody), metric)
    treated = _estimate(totals.get((treatment, window), nobody), metric)
    return control, treated, compare(control, treated, alpha=alpha)


def _estimate(moments: Moments, metric: Metric) -> Estimate:
    if metric.denominator is None:
        return mean_estimate(moments, metric.numerator, scale=metric.scale)
    return ratio_estimate(moments, metric.numerator, metric.denominator, scale=metric.scale)


def _mde(found: Comparison, control: Estimate, alpha: float) -> float | None:
    if found.lift_ci is None or found.standard_error is None or found.df is None or not control.value:
        return None
    return detectable_difference(found.standard_error, found.df, alpha=alpha) / abs(control.value)


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)

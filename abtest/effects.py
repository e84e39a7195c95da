"""Metrics x treatments x windows: each compared with the control, the deciding ones corrected together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from abtest.estimates import Measured, compare_arms
from abtest.experiment import Experiment
from abtest.goals import Goal
from abtest.metrics import Metric, Role
from abtest.stats.guardrails import (
    EQUIVALENCE_ALPHA,
    NON_INFERIORITY_ALPHA,
    MarginTest,
    equivalence,
    non_inferiority,
)
from abtest.stats.means import Comparison, Estimate
from abtest.stats.power import detectable_difference
from abtest.totals import Window, windows_of


@dataclass(frozen=True)
class Effect:
    """Treatment minus control for one metric and window. Lifts are fractions of the control mean.

    The means are those observed. With method `cuped` (adjusted for the pre-period) difference, lift,
    intervals and p are those of the adjusted estimates, the lift over the adjusted control mean.
    `level` is the confidence level really used for both intervals, `p` the two-sided p of Welch's test of the
    difference, `p_adjusted` the corrected one, of goals, in the window that decides only. `mde` is the
    smallest lift that a single two-sided test at the experiment's alpha, without correction, finds with power
    .8, given the variances seen. Status `not_computable`: some values are None and `reason` says why; the
    others stand.
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
    reason: str | None
    is_deciding: bool
    measured: Measured = field(repr=False)
    margin_test: MarginTest | None = None
    equivalence_test: MarginTest | None = None
    is_early: bool = False

    @property
    def status(self) -> str:
        """`ok`, or `not_computable` where a value is absent."""
        return "ok" if self.reason is None else "not_computable"

    @property
    def equivalence(self) -> Literal["equivalent", "not shown"] | None:
        """Whether the effect is shown to lie within +- the margin, at .05. None without a margin."""
        test = self.equivalence_test
        if test is None:
            return None
        return "equivalent" if test.p is not None and test.p < EQUIVALENCE_ALPHA else "not shown"

    @property
    def guardrail(self) -> Literal["passed", "broken", "inconclusive"] | None:
        """One-sided at .025, outside the correction. Inconclusive is not a pass. None for other roles."""
        test = self.margin_test
        if test is None:
            return None
        if test.p is not None and test.p < NON_INFERIORITY_ALPHA:
            return "passed"
        is_worse = test.p_worse is not None and test.p_worse < NON_INFERIORITY_ALPHA
        return "broken" if is_worse else "inconclusive"

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


def compare_all(
    experiment: Experiment,
    metrics: Sequence[Metric],
    measured: Mapping[tuple[str, Window], Measured],
    goals: Sequence[Goal],
) -> list[Effect]:
    """Effects by treatment, metric and window."""
    tests = {(goal.treatment, goal.metric.name): goal for goal in goals}
    return [
        effect
        for arm in experiment.treatments
        for metric in metrics
        for effect in _effects(experiment, metric, arm.name, measured, tests.get((arm.name, metric.name)))
    ]


def _effects(
    experiment: Experiment,
    metric: Metric,
    treatment: str,
    measured: Mapping[tuple[str, Window], Measured],
    goal: Goal | None,
) -> list[Effect]:
    """The effects of one metric and treatment in all windows; one of them decides."""
    deciding = Window(1, experiment.days)
    levels: Mapping[int, float] = {}
    if goal and goal.looks:
        levels = goal.levels
        if goal.adjusted.rejected:
            deciding = Window(1, goal.looks.first_crossed(levels))
    effects = []
    for window in windows_of(metric, experiment.days):
        alpha = NON_INFERIORITY_ALPHA * 2 if metric.role == "guardrail" else experiment.alpha
        if goal and goal.looks is None and window == deciding:
            alpha = goal.adjusted.alpha
        if window.first_day == 1:
            alpha = levels.get(window.last_day, alpha)
        p_adjusted = goal.adjusted.p_adjusted if goal and window == deciding else None
        found = measured[metric.name, window]
        effects.append(
            effect_of(
                experiment,
                metric,
                treatment,
                window,
                found,
                alpha,
                p_adjusted=p_adjusted,
                is_deciding=window == deciding,
            )
        )
    return effects


def effect_of(
    experiment: Experiment,
    metric: Metric,
    treatment: str,
    window: Window,
    measured: Measured,
    alpha: float,
    *,
    p_adjusted: float | None = None,
    is_deciding: bool = False,
) -> Effect:
    """One metric of one treatment, measured in one window, with intervals at level 1 - alpha."""
    control, treated = measured.adjusted[experiment.control], measured.adjusted[treatment]
    found = compare_arms(measured, experiment, treatment, alpha)
    plain = "delta" if metric.denominator else "welch"
    return Effect(
        metric=metric.name,
        role=metric.role,
        window=window,
        control=experiment.control,
        treatment=treatment,
        method=measured.method or (plain if measured.reason else "cuped"),
        control_mean=measured.plain[experiment.control].value,
        treatment_mean=measured.plain[treatment].value,
        difference=found.difference,
        difference_ci=found.difference_ci,
        lift=found.lift,
        lift_ci=found.lift_ci,
        p=found.p,
        p_adjusted=p_adjusted,
        level=1 - alpha,
        mde=_mde(compare_arms(measured, experiment, treatment, experiment.alpha), control, experiment.alpha),
        n_control=control.n,
        n_treatment=treated.n,
        reason=found.reason,
        is_deciding=is_deciding,
        is_early=is_deciding and _stops_early(experiment, window, p_adjusted),
        measured=measured,
        margin_test=_margin_test(metric, control, treated) if is_deciding else None,
        equivalence_test=_equivalence_test(metric, control, treated) if is_deciding else None,
    )


def _stops_early(experiment: Experiment, window: Window, p_adjusted: float | None) -> bool:
    rejected = p_adjusted is not None and p_adjusted < experiment.alpha
    return window.last_day < experiment.days or (experiment.is_interim and rejected)


def _margin_test(metric: Metric, control: Estimate, treated: Estimate) -> MarginTest | None:
    if metric.role != "guardrail" or metric.margin is None:
        return None
    return non_inferiority(
        control,
        treated,
        metric.margin,
        relative=metric.margin_kind == "lift",
        higher_is_better=metric.direction == "up",
    )


def _equivalence_test(metric: Metric, control: Estimate, treated: Estimate) -> MarginTest | None:
    if metric.margin is None:
        return None
    return equivalence(control, treated, metric.margin, relative=metric.margin_kind == "lift")


def _mde(found: Comparison, control: Estimate, alpha: float) -> float | None:
    if found.lift_ci is None or found.standard_error is None or found.df is None or not control.value:
        return None
    return detectable_difference(found.standard_error, found.df, alpha=alpha) / abs(control.value)


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)

"""Parts of report.json beside the effects: daily looks, adjustment for the pre-period, guardrails."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from abtest.metrics import Metric

if TYPE_CHECKING:
    from abtest.effects import Effect
    from abtest.goals import Goal

NO_STRATA = "the database could not sum users by stratum"


def sequential_document(goal: "Goal") -> dict[str, Any]:
    """The looks at one goal: information, alpha spent at the goal's part of alpha, bound, p so far.

    `decided_on` is the day of the look that crossed its bound, or null; the estimate there is `biased` (away
    from 0) where it is not the last one: a look is chosen because its effect looks large.
    """
    from scipy.special import ndtri

    looks = goal.looks
    assert looks is not None, goal
    levels = goal.levels
    rejected = goal.adjusted.rejected
    decided_on = looks.first_crossed(levels) if rejected else None
    spent = looks.alpha_spent(goal.adjusted.alpha)
    rows = [
        {
            "day": day,
            "information": information,
            "alpha_spent": alpha_spent,
            "level": levels[day],
            "bound": float(-ndtri(levels[day] / 2)) if levels[day] > 0 else None,
            "p": p,
            "p_sequential": so_far,
            "crossed": p <= levels[day],
        }
        for day, information, alpha_spent, p, so_far in zip(
            looks.days, looks.information, spent, looks.p, looks.p_so_far, strict=True
        )
    ]
    return {
        "metric": goal.metric.name,
        "treatment": goal.treatment,
        "method": looks.method,
        "alpha": goal.adjusted.alpha,
        "correlation": "estimated" if looks.is_estimated else "independent increments",
        "looks": rows,
        "decided_on": decided_on,
        "biased": decided_on is not None and decided_on < looks.planned_days,
    }


def cuped_document(effect: "Effect") -> dict[str, Any]:
    """What the pre-period did for one effect; status `off` with a reason where it did nothing."""
    measured = effect.measured
    control, treatment = measured.plain[effect.control].value, measured.plain[effect.treatment].value
    difference = None if control is None or treatment is None else treatment - control
    return {
        "metric": effect.metric,
        "treatment": effect.treatment,
        "window": {"from": effect.window.first_day, "to": effect.window.last_day},
        "status": "off" if measured.reason else "ok",
        "reason": measured.reason,
        "covariates": list(measured.covariates),
        "adjusted_control_mean": None if measured.reason else measured.adjusted[effect.control].value,
        "adjusted_treatment_mean": None if measured.reason else measured.adjusted[effect.treatment].value,
        "variance_reduction": measured.variance_reduction(effect.control, effect.treatment),
        "unadjusted_difference": difference,
        "unadjusted_lift": None if difference is None or not control else difference / control,
    }


def strata_documents(effect: "Effect", settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What post-stratification did for one effect, in each phase; `off` with a reason where it did nothing.

    `variance_reduction` is what strata alone take out of the difference.
    """
    column = settings.get("stratify")
    if column is None:
        return []
    found = []
    arms = effect.control, effect.treatment
    for phase, (_, measured) in sorted(effect.measured.parts.items()):
        by_strata = measured.stratified
        reason = None if by_strata else measured.unstratified or NO_STRATA
        found.append(
            {
                "metric": effect.metric,
                "treatment": effect.treatment,
                "window": {"from": effect.window.first_day, "to": effect.window.last_day},
                "phase": phase + 1,
                "column": column,
                "status": "ok" if by_strata else "off",
                "reason": reason,
                "n_strata": len(by_strata.cells) if by_strata else None,
                "pooled": [name for cell in by_strata.cells if len(cell.names) > 1 for name in cell.names]
                if by_strata
                else [],
                "variance_reduction": _reduction(
                    [measured.plain[arm].variance for arm in arms],
                    [by_strata.alone[arm].variance for arm in arms if arm in by_strata.alone],
                )
                if by_strata
                else None,
            }
        )
    return found


def _reduction(before: Sequence[float | None], after: Sequence[float | None]) -> float | None:
    total, left = sum(v or 0.0 for v in before), sum(v or 0.0 for v in after)
    return 1 - left / total if total > 0 and None not in before and len(after) == len(before) else None


def guardrail_document(effect: "Effect", metrics: Sequence[Metric]) -> dict[str, Any]:
    """The non-inferiority test of one guardrail. Inconclusive is not a pass."""
    test = effect.margin_test
    assert test is not None, effect
    return {
        **_margin_of(effect, metrics),
        "p_non_inferior": test.p,
        "p_worse": test.p_worse,
        "result": effect.guardrail,
        "reason": None if test.p is not None else effect.reason or test.reason,
    }


def equivalence_document(effect: "Effect", metrics: Sequence[Metric]) -> dict[str, Any]:
    """Two one-sided tests at .05 each: is the effect shown to lie within +- the margin?"""
    test = effect.equivalence_test
    assert test is not None, effect
    return {
        **_margin_of(effect, metrics),
        "p_equivalent": test.p,
        "result": effect.equivalence,
        "reason": None if test.p is not None else effect.reason or test.reason,
    }


def _margin_of(effect: "Effect", metrics: Sequence[Metric]) -> dict[str, Any]:
    metric = next(metric for metric in metrics if metric.name == effect.metric)
    return {
        "metric": effect.metric,
        "treatment": effect.treatment,
        "margin": metric.margin,
        "margin_kind": metric.margin_kind,
    }


def bayes_document(effect: "Effect", metrics: Sequence[Metric]) -> dict[str, Any]:
    """The posterior of the lift, beside the test: chance to win and the loss expected from each choice."""
    from abtest.stats.bayes import Prior, posterior_of_lift

    metric = next(metric for metric in metrics if metric.name == effect.metric)
    estimates = effect.measured.adjusted
    prior = Prior(metric.prior_mean, metric.prior_sd)
    found = posterior_of_lift(
        estimates[effect.control],
        estimates[effect.treatment],
        prior,
        higher_is_better=metric.direction == "up",
    )
    return {
        "metric": effect.metric,
        "treatment": effect.treatment,
        "window": {"from": effect.window.first_day, "to": effect.window.last_day},
        "prior": {"mean": prior.mean, "sd": prior.sd} if prior.sd is not None else None,
        "lift": found.mean,
        "lift_sd": found.sd,
        "lift_interval": None if found.interval is None else list(found.interval),
        "chance_to_win": found.chance_to_win,
        "loss_if_shipped": found.loss_if_shipped,
        "loss_if_kept": found.loss_if_kept,
        "reason": None if found.mean is not None else effect.reason or found.reason,
    }


def capping_document(effect: "Effect", metrics: Sequence[Metric]) -> dict[str, Any]:
    """Where a metric's totals were cut in a window, and how many users, of all arms, lay above."""
    metric = next(metric for metric in metrics if metric.name == effect.metric)
    return {
        "metric": effect.metric,
        "treatment": effect.treatment,
        "window": {"from": effect.window.first_day, "to": effect.window.last_day},
        "quantile": metric.cap,
        "caps": [
            {"column": cap.column, "value": cap.value, "n_above": cap.n_above} for cap in effect.measured.caps
        ],
    }

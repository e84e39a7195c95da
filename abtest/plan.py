"""The story of `abtest plan`: from what there is (`past`), users, days and detectable lifts.

What the pre-period takes out of the variances (CUPED) is counted on, and so is what lies between strata that
are named (`stratify`). The plan is of an experiment with one split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any

from abtest.detectable import PlannedTest, Seen, drifts_of_looks, level_and_power
from abtest.metrics import Metric
from abtest.past import Past, past_of
from abtest.population import parse_split
from abtest.request import LogRequest

PAPER_LIFTS: Mapping[str, float] = {
    "comments": 0.00772,
    "shares": 0.00336,
    "plays": 0.00143,
    "follows": 0.00027,
    "watch_s": 0.00017,
}
"""Lifts of RecGPT over ComiRec that its paper reports from production, as fractions."""

DESIGNS = ("fixed", "obf", "pocock", "always-valid")
STEPS = (1, 2, 5)
MOST_LIFTS = 8


@dataclass(frozen=True)
class Design:
    """What is planned: users of all arms (None: as many as were seen), their split, alpha and power.

    `design` is fixed, or the bounds of daily looks: obf, pocock or always-valid. `cuped`: whether what the
    pre-period takes out of the variance is counted on.
    """

    users: int | None = None
    split: tuple[float, ...] = (0.5, 0.5)
    alpha: float = 0.05
    power: float = 0.8
    design: str = "fixed"
    cuped: bool = True

    def __post_init__(self) -> None:
        if self.users is not None and self.users < 4:
            raise ValueError(f"users is {self.users}; a plan needs 4 or more")
        if len(self.split) < 2 or min(self.split) <= 0:
            raise ValueError(f"split {list(self.split)} is none; give two or more shares above 0")
        if not 0 < self.alpha <= 0.5 or not 0.5 <= self.power < 1:
            raise ValueError(
                f"alpha is {self.alpha} and power {self.power}; alpha lies above 0 and is at most .5, power"
                " is at least .5 and below 1"
            )
        if self.design not in DESIGNS:
            raise ValueError(f"unknown design {self.design!r}; known: {', '.join(DESIGNS)}")


@dataclass(frozen=True)
class Planned:
    """A metric's plan. Lifts are fractions; None where the past cannot tell.

    `deviation` is a user's as observed; `rho` the correlation with the pre-period's best prediction, and
    `variance_reduction` its square; `strata_reduction` is what lies between strata. `mde_plain` counts on no
    reduction. `mde_by_day`: (day, users by then,
    detectable lift). `target` is the lift asked about, with the power to see it at this size, the users that
    it takes, and the day by which this size sees it. Curves hold (lift, power at this size) and (users, power
    at the target).
    """

    metric: str
    role: str
    mean: float | None
    deviation: float | None
    covariates: tuple[str, ...]
    rho: float | None
    variance_reduction: float | None
    strata_reduction: float | None
    alpha: float
    power: float
    inflation: float
    mde: float | None
    mde_plain: float | None
    mde_by_day: tuple[tuple[int, int, float | None], ...]
    target: float | None
    target_from: str | None
    power_at_target: float | None
    is_seen: bool | None
    users_needed: int | None
    days_needed: int | None
    power_by_lift: tuple[tuple[float, float | None], ...] = ()
    power_by_users: tuple[tuple[int, float | None], ...] = ()


def plan(request: LogRequest, design: Design, lifts: Mapping[str, float]) -> dict[str, Any]:
    """The plan as a document. `lifts` asks about lifts by metric; metrics of the paper have its lifts, and
    guardrails their margins."""
    past = past_of(request)
    unknown = [key for key in lifts if key not in past.seen]
    if unknown:
        raise LookupError(f"a lift is asked of {unknown[0]!r}; the metrics are: {', '.join(past.seen)}")
    users = design.users or past.n_users
    spans = {metric.name: _spans(metric, past, design) for metric in past.metrics}
    tests = {metric.name: _test(metric, past, design, spans[metric.name]) for metric in past.metrics}
    planned = [
        _planned(metric, past, tests[metric.name], spans[metric.name], users, lifts)
        for metric in past.metrics
    ]
    ladder = lift_ladder([one.mde for one in planned if one.mde is not None])
    sizes = user_ladder([users, *(one.users_needed for one in planned if one.users_needed)])
    curves = [
        _with_curves(one, tests[one.metric], spans[one.metric][-1], past, users, ladder, sizes)
        for one in planned
    ]
    return {
        "source": past.name,
        "design": {**asdict(design), "users": users, "split": list(design.split)},
        "days": max(spans[-1].day for spans in past.seen.values()),
        "tests": _n_tests(past.metrics, design),
        "phases": past.n_phases,
        "stratify": past.stratify,
        "metrics": [asdict(one) for one in curves],
    }


def parse_lifts(texts: Sequence[str]) -> dict[str, float]:
    """Lifts from "comments=1.5", in percent.

    >>> parse_lifts(["comments=1.5"])
    {'comments': 0.015}
    """
    found = {}
    for text in texts:
        name, separator, value = text.rpartition("=")
        try:
            found[name] = float(value.removesuffix("%")) / 100
        except ValueError:
            found[name] = 0.0
        if not separator or not found[name] > 0:
            raise ValueError(
                f"lift {text!r} is not METRIC=PERCENT with a percent above 0, such as comments=1"
            )
    return found


def shares_of(split: str | None) -> tuple[float, ...]:
    """Shares from percents such as "80,20", the control first; halves for None.

    >>> shares_of("80,20")
    (0.8, 0.2)
    """
    if split is None:
        return (0.5, 0.5)
    return parse_split(split, max(2, split.count(",") + 1))


def lift_ladder(mdes: Sequence[float]) -> list[float]:
    """Round lifts (1, 2, 5, 10, ...) around the detectable ones: from half the smallest to twice the largest,
    at most 8 of them, evenly thinned.

    >>> lift_ladder([0.004, 0.03])
    [0.002, 0.005, 0.01, 0.02, 0.05]
    """
    if not mdes:
        return []
    low, high = min(mdes) / 2, 2 * max(mdes)
    steps = [float(f"{step}e{power}") for power in range(-8, 3) for step in STEPS]
    inside = [lift for lift in steps if low <= lift <= high]
    return inside[:: -(-len(inside) // MOST_LIFTS) or 1]


def user_ladder(sizes: Sequence[int]) -> list[int]:
    """Powers of ten from below the smallest size to beyond the largest.

    >>> user_ladder([40_000, 3_000_000])
    [10000, 100000, 1000000, 10000000]
    """
    first, last = len(str(min(sizes))) - 1, len(str(max(sizes) - 1))
    return [10**power for power in range(max(first, 1), last + 1)]


# Steps


def _n_tests(metrics: Sequence[Metric], design: Design) -> int:
    return max(1, sum(metric.role == "goal" for metric in metrics)) * (len(design.split) - 1)


def _spans(metric: Metric, past: Past, design: Design) -> list[Seen]:
    """The metric's days, with the variance that is counted on."""
    return [span.counted(cuped=design.cuped) for span in past.seen[metric.name]]


def _test(metric: Metric, past: Past, design: Design, spans: Sequence[Seen]) -> PlannedTest:
    alpha, power = level_and_power(
        metric,
        alpha=design.alpha,
        power=design.power,
        n_tests=_n_tests(past.metrics, design),
        n_guardrails=sum(m.role == "guardrail" for m in past.metrics) * (len(design.split) - 1),
    )
    fixed = design.design == "fixed" or metric.role != "goal"
    needed = None if fixed else drifts_of_looks(design.design, alpha, spans)
    return PlannedTest(design.split[0], min(design.split[1:]), alpha, power, needed)


def _planned(
    metric: Metric,
    past: Past,
    test: PlannedTest,
    spans: Sequence[Seen],
    users: int,
    lifts: Mapping[str, float],
) -> Planned:
    last = spans[-1]
    by_day = tuple(
        (span.day, n, test.mde(span.value, span.variance, n))
        for span in spans
        for n in [_counted(users, span, past)]
    )
    _, counted, mde = by_day[-1]
    target, source = _target(metric, lifts)
    asked = target is not None and mde is not None
    less = past.seen[metric.name][-1].variance_reduction
    adjusts = bool(past.covariates.get(metric.name))
    return Planned(
        metric=metric.name,
        role=metric.role,
        mean=last.value,
        deviation=None if last.plain_variance is None else last.plain_variance**0.5,
        covariates=past.covariates.get(metric.name, ()),
        rho=max(less, 0.0) ** 0.5 if adjusts and less is not None else None,
        variance_reduction=less if adjusts else None,
        strata_reduction=past.seen[metric.name][-1].strata_reduction,
        alpha=test.alpha,
        power=test.power,
        inflation=test.inflation,
        mde=mde,
        mde_plain=test.mde(last.value, last.plain_variance, counted),
        mde_by_day=by_day,
        target=target,
        target_from=source,
        power_at_target=test.power_at(target, last, counted) if target is not None else None,
        is_seen=mde <= target if target is not None and mde is not None else None,
        users_needed=_exposed(test.users_for(target, last), last, past) if target and asked else None,
        days_needed=next(
            (day for day, _, least in by_day if target is not None and least is not None and least <= target),
            None,
        ),
    )


def _target(metric: Metric, lifts: Mapping[str, float]) -> tuple[float | None, str | None]:
    """The lift asked about, and where it comes from."""
    if metric.name in lifts:
        return lifts[metric.name], "asked"
    if metric.role == "guardrail":
        return (metric.margin, "its margin") if metric.margin_kind == "lift" else (None, None)
    return (PAPER_LIFTS[metric.name], "the paper") if metric.name in PAPER_LIFTS else (None, None)


def _with_curves(
    one: Planned,
    test: PlannedTest,
    last: Seen,
    past: Past,
    users: int,
    ladder: Sequence[float],
    sizes: Sequence[int],
) -> Planned:
    target, counted = one.target, _counted(users, last, past)
    return replace(
        one,
        power_by_lift=tuple((lift, test.power_at(lift, last, counted)) for lift in ladder),
        power_by_users=tuple((n, test.power_at(target, last, _counted(n, last, past))) for n in sizes)
        if target
        else (),
    )


def _counted(users: int, seen: Seen, past: Past) -> int:
    """How many of so many users a metric counts: the share of those exposed in the past that it did."""
    return round(users * seen.users / max(past.n_users, 1))


def _exposed(counted: int | None, seen: Seen, past: Past) -> int | None:
    """How many users there must be so that a metric counts so many."""
    return None if counted is None or not seen.users else ceil(counted * past.n_users / seen.users)

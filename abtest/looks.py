"""The daily looks at a goal as one sequential test: information, correlation, bounds, p so far.

Look d is the estimate of days 1..d. Information is that of the lift, (control mean / standard error)^2, as a
share of the last look's: totals of the same users are correlated over days, so it grows slower than days do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from operator import add
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from abtest.estimates import Measured
from abtest.experiment import Experiment
from abtest.metrics import Metric
from abtest.stats.cuped import Form, form_covariance, linearised
from abtest.stats.means import Comparison
from abtest.stats.moments import Moments
from abtest.stats.sequential import (
    SPENDING,
    as_correlation,
    canonical_correlation,
    nominal_levels,
    sequential_p,
    spent,
)
from abtest.totals import Totals
from warehouse.events import LATE, PRE

MOST_LOOKS = 14
"""Longer experiments are looked at on as many days, evenly spread, the last one among them."""
LEAST_STEP = 0.01
"""A look before the last has at most 1 minus this share of information for each look to come, so that some
alpha is left for the last one when information stops growing."""


class PairRow(Protocol):
    """What the warehouse gives for an arm and two looks: sums over the users of the earlier look."""

    @property
    def arm(self) -> str: ...
    @property
    def early(self) -> int: ...
    @property
    def late(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def sums(self) -> Mapping[str, int]: ...
    @property
    def products(self) -> Mapping[tuple[str, str], int]: ...


Pairs = Mapping[tuple[str, int, int], Moments]
PhaseSums = tuple[Mapping[tuple[str, int], Moments], Pairs]
"""The moments of one phase's (or stratum's) users by arm and day of the look, and those of pairs of looks."""


@dataclass(frozen=True)
class Looks:
    """The looks at a goal of one treatment that could be computed; lists hold one value a look.

    `days`: the last day of each look (of `planned_days`); `p`: its own two-sided p; `p_so_far`: the
    sequential p after it.
    """

    method: str
    alpha: float
    days: tuple[int, ...]
    information: tuple[float, ...]
    correlation: tuple[tuple[float, ...], ...]
    is_estimated: bool
    p: tuple[float, ...]
    p_so_far: tuple[float, ...]
    planned_days: int

    def levels(self, alpha: float) -> dict[int, float]:
        """The two-sided level of each look, by day, where the whole test has level `alpha`."""
        found = nominal_levels(self.method, alpha, self.information, self.correlation, tuned_alpha=self.alpha)
        return dict(zip(self.days, found, strict=True))

    def first_crossed(self, levels: Mapping[int, float]) -> int:
        """The day of the first look beyond its bound; of the one nearest to it where none is."""
        crossed = [day for day, p in zip(self.days, self.p, strict=True) if p <= levels[day]]
        nearest = min(
            zip(self.p, self.days, strict=True), key=lambda look: look[0] / max(levels[look[1]], 1e-300)
        )
        return crossed[0] if crossed else nearest[1]

    def alpha_spent(self, alpha: float) -> list[float | None]:
        """Alpha spent by each look; None for always-valid bounds, which do not spend."""
        if self.method not in SPENDING:
            return [None] * len(self.days)
        return [spent(self.method, alpha, t) for t in self.information]


def look_days(days: int) -> list[int]:
    """The days after which goals are tested.

    >>> look_days(5), look_days(28)[:3]
    ([1, 2, 3, 4, 5], [2, 4, 6])
    """
    n = min(days, MOST_LOOKS)
    return [days * (i + 1) // n for i in range(n)]


def looks_at(experiment: Experiment) -> list[int]:
    """The days after which goals are tested, up to the last one seen, which is always among them."""
    days = [day for day in look_days(experiment.planned_days) if day < experiment.days]
    return [*days, experiment.days]


def pairs_of(rows: Iterable[PairRow]) -> Pairs:
    """The rows by arm and days."""
    return {(row.arm, row.early, row.late): Moments(row.n, row.sums, row.products) for row in rows}


def pairs_of_first_days(totals: Totals, days: Sequence[int]) -> Pairs:
    """Of totals of the first days since exposure, which do not change from a look to the next: the later
    total of a user of the earlier look is the earlier one."""
    return {
        (arm, day, late): _unchanged(moments)
        for (arm, (first, day)), moments in totals.items()
        for late in days
        if first == 1 and late > day and day in days
    }


def looks_of(
    method: str,
    metric: Metric,
    arms: tuple[str, str],
    measured: Mapping[int, Measured],
    found: Mapping[int, Comparison],
    phases: Sequence[PhaseSums],
    strata: Sequence[Mapping[str, PhaseSums]] = (),
    *,
    alpha: float,
    planned_days: int,
) -> Looks | None:
    """The looks of a metric at control and treatment (`arms`), from what was found by each day.

    None where the last look has no p. Looks without one are left out. Where the phases' pairs do not hold the
    looks' co-moments, increments are taken as independent. Before the last of the `planned_days` its
    information is not known: alpha is then spent by days, which is less than by information, as that grows
    fast at first. `strata` hold each phase's sums by stratum, where looks are post-stratified.
    """
    last = max(found)
    days = [day for day in sorted(found) if found[day].p is not None]
    if last not in days:
        return None
    wait = (metric.first_days or 1) - 1  # days until a user counts
    information = (
        _information(days, [found[day] for day in days], [measured[d].adjusted[arms[0]].value for d in days])
        if last == planned_days
        else [(day - wait) / (planned_days - wait) for day in days]
    )
    estimated = _correlation(metric, arms, days, measured, phases, strata)
    correlation = canonical_correlation(information) if estimated is None else estimated
    p_values = [p for p in (found[day].p for day in days) if p is not None]
    return Looks(
        method,
        alpha,
        tuple(days),
        tuple(information),
        tuple(map(tuple, correlation.tolist())),
        estimated is not None,
        tuple(p_values),
        tuple(sequential_p(method, p_values, information, correlation, tuned_alpha=alpha)),
        planned_days,
    )


def _unchanged(moments: Moments) -> Moments:
    def later(name: str) -> str:
        return name if name.startswith(PRE) else LATE + name

    return Moments(
        moments.n,
        {**moments.sums, **{later(name): value for name, value in moments.sums.items()}},
        {
            pair: value
            for (a, b), value in moments.products.items()
            for pair in ((a, b), (a, later(b)), (later(a), b), (b, later(a)))
        },
    )


def _information(
    days: Sequence[int], found: Sequence[Comparison], controls: Sequence[float | None]
) -> list[float]:
    """Shares of the last look's information, above 0 and increasing. Days count where it has none."""
    k = len(days)
    raw = [
        (value or 0.0) ** 2 / look.standard_error**2 if look.standard_error else 0.0
        for value, look in zip(controls, found, strict=True)
    ]
    shares = [value / raw[-1] for value in raw] if raw[-1] > 0 else [day / days[-1] for day in days]
    capped = [min(share, 1 - LEAST_STEP * (k - 1 - i)) for i, share in enumerate(shares)]
    return [float(share) for share in np.maximum.accumulate(np.maximum(capped, 1e-6))]


def _correlation(
    metric: Metric,
    arms: tuple[str, str],
    days: Sequence[int],
    measured: Mapping[int, Measured],
    phases: Sequence[PhaseSums],
    strata: Sequence[Mapping[str, PhaseSums]],
) -> NDArray[np.float64] | None:
    """The correlation of the looks' differences. None where a pair of looks is not known, or where two looks
    pooled other strata.

    The covariance is that within phases, weighed by the phases' shares at both looks.
    """
    r = np.eye(len(days))
    errors = [sum(measured[day].adjusted[arm].variance or 0.0 for arm in arms) ** 0.5 for day in days]
    for j, late in enumerate(days):
        for i, early in enumerate(days[:j]):
            covariance = 0.0
            for phase, (share_early, at_early) in measured[early].parts.items():
                share_late, at_late = measured[late].parts[phase]
                for arm in arms:
                    if (arm, early, late) not in phases[phase][1]:
                        return None
                    if at_early.stratified is None or at_late.stratified is None:
                        found = _covariance(metric, phases[phase], (arm, early, late), at_early, at_late)
                    elif at_early.stratified.names == at_late.stratified.names:
                        found = _within_strata(strata[phase], (arm, early, late), at_early, at_late)
                    else:
                        return None
                    covariance += share_early * share_late * found
            r[i, j] = r[j, i] = np.clip(covariance / (errors[i] * errors[j]), -1.0, 1.0)
    return as_correlation(r)


def _covariance(
    metric: Metric, sums: PhaseSums, looks: tuple[str, int, int], at_early: Measured, at_late: Measured
) -> float:
    """Of the estimates of one arm at two looks: that of the values of the earlier users, over the later n."""
    moments, pairs = sums
    arm, early, late = looks
    if pairs[looks].n < 2:
        return 0.0
    forms = [
        linearised(moments[arm, day], metric.numerator, metric.denominator, metric.scale)
        for day in (early, late)
    ]
    together = (forms[0], at_early.theta), (forms[1], at_late.theta)
    return _pair_covariance(pairs[looks], *together) / moments[arm, late].n


def _within_strata(
    strata: Mapping[str, PhaseSums], looks: tuple[str, int, int], at_early: Measured, at_late: Measured
) -> float:
    """The same of post-stratified estimates, weighed by the strata's shares at both looks."""
    arm, _, late = looks
    one, other = at_early.stratified, at_late.stratified
    assert one is not None
    assert other is not None
    total = 0.0
    for names, *shares in zip(one.names, one.shares, other.shares, strict=True):
        pairs = [strata[name][1][looks] for name in names if looks in strata[name][1]]
        users = [pair for pair in pairs if pair.n]
        n_late = sum(strata[name][0][arm, late].n for name in names)
        if sum(pair.n for pair in users) < 2:
            continue
        pair = reduce(add, users)
        together = (one.forms[arm], at_early.theta), (other.forms[arm], at_late.theta)
        total += shares[0] * shares[1] * _pair_covariance(pair, *together) / n_late
    return total


def _pair_covariance(
    pair: Moments, early: tuple[Form, Mapping[str, float]], late: tuple[Form, Mapping[str, float]]
) -> float:
    """Of a user's linearised values at two looks, less theta's part of the past."""
    forms: list[Form] = []
    for (form, theta), prefix in ((early, ""), (late, LATE)):
        renamed = {prefix + name: weight for name, weight in form.items()}
        forms.append({**renamed, **{name: -Fraction(weight) for name, weight in theta.items()}})
    return float(form_covariance(pair, *forms))

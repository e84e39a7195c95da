"""A metric in one window, in every arm: its plain estimates, and those adjusted for the pre-period."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from abtest.experiment import Experiment
from abtest.metrics import Metric
from abtest.stats.cuped import adjust
from abtest.stats.means import Comparison, Estimate, compare, mean_estimate, ratio_estimate
from abtest.stats.moments import Moments
from abtest.stats.poststratify import LEAST_USERS, Arms, PostStratified, cells_of, post_stratify
from abtest.stats.reference import Reference, compare_by_draws
from abtest.stats.strata import combined
from warehouse.events import PRE

NO_PRE_PERIOD = "no pre-period is known"
NO_COVARIATES = "the metric has no covariates"
FEW_STRATA = f"fewer than two strata with {LEAST_USERS} users in each arm"
NOT_YET = "nobody has had {days} since exposure"
NOBODY = Moments(0, {}, {})
SMALLEST_LEVEL = 1e-300
NOTHING_TO_SPEND = "no alpha is left to spend at this look"


class CapUsed(NamedTuple):
    """A column that was capped: at which value, in its own unit, and how many users lay above it."""

    column: str
    value: float
    n_above: int


@dataclass(frozen=True)
class Measured:
    """By arm: `plain`, and `adjusted`, which equals it where `reason` says why nothing could be adjusted.

    `method` names another than the default one. `references` are draws of the test statistic by treatment,
    `problems` say by arm why an estimate has no variance, `caps` what was cut.

    Over several phases `by_phase` holds each phase's share of users and its own measurement (with its theta),
    by the phase's index; phases without users are not in it. It is empty where there is one phase.

    With strata `adjusted` is post-stratified, `stratified` says by what; `unstratified` says why it is not.
    """

    plain: Mapping[str, Estimate]
    adjusted: Mapping[str, Estimate]
    theta: Mapping[str, float]
    covariates: tuple[str, ...]
    reason: str | None
    method: str | None = None
    references: Mapping[str, Reference] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    caps: tuple[CapUsed, ...] = ()
    by_phase: Mapping[int, tuple[float, "Measured"]] = field(default_factory=dict)
    stratified: PostStratified | None = None
    unstratified: str | None = None

    @property
    def parts(self) -> Mapping[int, tuple[float, "Measured"]]:
        """`by_phase`; one phase is a part of share 1."""
        return self.by_phase or {0: (1.0, self)}

    def with_caps(self, caps: Sequence[CapUsed]) -> "Measured":
        """The same, measured with these caps."""
        return replace(self, caps=tuple(caps))

    def within(self, first_days: int | None) -> "Measured":
        """The same, with its own reason where nobody has had the first days that the metric is of."""
        if first_days is None or any(estimate.n for estimate in self.plain.values()):
            return self
        reason = NOT_YET.format(days="a day" if first_days == 1 else f"{first_days} days")
        return replace(self, problems=dict.fromkeys(self.plain, reason))

    def compare(self, control: str, treatment: str, *, alpha: float = 0.05) -> Comparison:
        """Treatment against control, as adjusted, by the draws where there are some."""
        pair = self.adjusted[control], self.adjusted[treatment]
        reference = self.references.get(treatment)
        if reference is not None:
            return compare_by_draws(*pair, reference, alpha=alpha)
        found = compare(*pair, alpha=alpha)
        problem = next((self.problems[arm] for arm in (control, treatment) if arm in self.problems), None)
        return found if problem is None else found._replace(reason=problem)

    def variance_reduction(self, control: str, treatment: str) -> float | None:
        """The share of the difference's variance that the covariates took out; None without adjustment."""
        if self.reason is not None:
            return None
        before, after = (
            sum(estimates[arm].variance or 0.0 for arm in (control, treatment))
            for estimates in (self.plain, self.adjusted)
        )
        return 1 - after / before if before > 0 else None


def measure(arms: Mapping[str, Moments], metric: Metric) -> Measured:
    """The metric in all arms; theta is pooled over them. Moments without the metric's past leave it plain."""
    plain = {arm: plain_estimate(moments, metric) for arm, moments in arms.items()}
    covariates = tuple(PRE + column for column in metric.past)
    held = [moments.sums for moments in arms.values() if moments.n]
    if not covariates:
        return Measured(plain, plain, {}, (), NO_COVARIATES)
    if not held or any(name not in sums for sums in held for name in covariates):
        return Measured(plain, plain, {}, (), NO_PRE_PERIOD)
    found = adjust(arms, metric.numerator, metric.denominator, covariates=covariates, scale=metric.scale)
    return Measured(plain, found.estimates, found.theta, covariates, found.reason)


def measure_phases(
    phases: Sequence[Arms], metric: Metric, strata: Sequence[Mapping[str, Arms]] = ()
) -> Measured:
    """The metric in all arms, measured within phases and put together by the phases' shares of users; with
    `strata` of each phase's users post-stratified in each."""
    sizes = {i: sum(moments.n for moments in arms.values()) for i, arms in enumerate(phases)}
    seen = {i: _measure(phases[i], metric, strata[i] if strata else None) for i, n in sizes.items() if n}
    if len(phases) == 1 or not seen:
        return seen[0] if 0 in seen else measure(phases[0], metric)
    shares = {i: sizes[i] / sum(sizes.values()) for i in seen}
    first = next(iter(seen.values()))
    reasons = [found.reason for found in seen.values()]
    plain, adjusted = (
        {arm: combined([e[arm] for e in estimates], list(shares.values())) for arm in phases[0]}
        for estimates in ([m.plain for m in seen.values()], [m.adjusted for m in seen.values()])
    )
    reason = first.reason if all(reasons) else None
    by_phase = {i: (shares[i], found) for i, found in seen.items()}
    method = next((found.method for found in seen.values() if found.method), None)
    return Measured(
        plain, adjusted, {}, first.covariates, reason, method, by_phase=by_phase,
        unstratified=next((found.unstratified for found in seen.values() if found.unstratified), None),
    )  # fmt: skip


def _measure(arms: Arms, metric: Metric, strata: Mapping[str, Arms] | None) -> Measured:
    """In one phase. Post-stratified where there are strata enough; then theta is that within strata."""
    found = measure(arms, metric)
    if strata is None:
        return found
    cells = cells_of(strata)
    if len(cells) < 2:
        return replace(found, unstratified=FEW_STRATA)
    by_strata = post_stratify(
        cells,
        metric.numerator,
        metric.denominator,
        covariates=() if found.reason else found.covariates,
        scale=metric.scale,
    )
    if by_strata is None:
        return replace(found, unstratified="the ratio divides by 0 in an arm")
    return replace(
        found,
        adjusted={**found.plain, **by_strata.adjusted},
        theta=by_strata.theta,
        reason=found.reason or (None if by_strata.theta else "no covariate varies within strata"),
        method="post-stratified, cuped" if by_strata.theta else "post-stratified",
        stratified=by_strata,
    )


def plain_estimate(moments: Moments, metric: Metric) -> Estimate:
    """The metric's mean or ratio as it was observed."""
    if metric.denominator is None:
        return mean_estimate(moments, metric.numerator, scale=metric.scale)
    return ratio_estimate(moments, metric.numerator, metric.denominator, scale=metric.scale)


def compare_arms(measured: Measured, experiment: Experiment, treatment: str, alpha: float) -> Comparison:
    """At a look where no alpha may be spent there are no intervals."""
    if alpha > SMALLEST_LEVEL:
        return measured.compare(experiment.control, treatment, alpha=alpha)
    found = measured.compare(experiment.control, treatment)
    return found._replace(difference_ci=None, lift_ci=None, reason=found.reason or NOTHING_TO_SPEND)

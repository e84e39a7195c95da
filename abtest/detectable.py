"""What a planned test of one metric can see: detectable lift, power at a lift, users that a lift takes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

from abtest.metrics import Metric

MOST_LOOKS = 14
LEAST_STEP = 0.01


@dataclass(frozen=True)
class Seen:
    """A metric in days 1 to `day`: users of all arms exposed by then, its value and a user's variance, as
    observed and with the pre-period taken out (CUPED; the same where it is not known). Of strata that were
    asked about, `strata_variance` is a user's variance within them, `both_variance` with CUPED as well."""

    day: int
    users: int
    value: float | None = None
    plain_variance: float | None = None
    variance: float | None = None
    strata_variance: float | None = None
    both_variance: float | None = None

    @property
    def strata_reduction(self) -> float | None:
        """The share of the variance that lies between strata."""
        if not self.plain_variance or self.strata_variance is None:
            return None
        return 1 - self.strata_variance / self.plain_variance

    def counted(self, *, cuped: bool) -> "Seen":
        """With the variance that a plan counts on, `variance`."""
        within = self.both_variance if cuped else self.strata_variance
        return replace(self, variance=within or (self.variance if cuped else self.plain_variance))

    @property
    def variance_reduction(self) -> float | None:
        """The share of the variance that the pre-period takes out."""
        if not self.plain_variance or self.variance is None:
            return None
        return 1 - self.variance / self.plain_variance


@dataclass(frozen=True)
class PlannedTest:
    """A two-sided test at `alpha` between the control's share of users and the smallest treatment's.

    `power` is that wanted at the detectable lift. `needed` (`stats.planning.drifts_needed`) stands for the
    bounds of daily looks; None is one look at the end.
    """

    control_share: float
    treatment_share: float
    alpha: float
    power: float
    needed: Any = None

    @property
    def inflation(self) -> float:
        """By how much looks make the detectable lift larger."""
        from abtest.stats.planning import looks_inflation

        return (
            1.0 if self.needed is None else looks_inflation(self.needed, alpha=self.alpha, power=self.power)
        )

    def mde(self, value: float | None, variance: float | None, users: int) -> float | None:
        """The smallest lift seen with the wanted power. None where the past cannot tell."""
        from abtest.stats.power import detectable_lift

        n_control, n_treatment = self._users(users)
        if not value or not variance or min(n_control, n_treatment) < 2:
            return None
        fixed = detectable_lift(
            abs(value), variance, n_control, n_treatment, alpha=self.alpha, power=self.power
        )
        return self.inflation * fixed

    def power_at(self, lift: float, seen: Seen, users: int) -> float | None:
        """The power to see a true lift with so many users of all arms."""
        from abtest.stats.planning import power_at_drift
        from abtest.stats.power import power_of_lift

        n_control, n_treatment = self._users(users)
        if not seen.value or not seen.variance or min(n_control, n_treatment) < 2:
            return None
        value = abs(seen.value)
        if self.needed is None:
            return power_of_lift(lift, value, seen.variance, n_control, n_treatment, alpha=self.alpha)
        error = sqrt(seen.variance / n_control + seen.variance / n_treatment)
        return power_at_drift(self.needed, abs(lift) * value / error)

    def users_for(self, lift: float, seen: Seen) -> int | None:
        """Users of all arms that it takes to see a lift with the wanted power."""
        from abtest.stats.power import users_needed

        if not seen.value or not seen.variance:
            return None
        pair = self.control_share + self.treatment_share
        for_two = users_needed(
            abs(seen.value),
            seen.variance,
            lift / self.inflation,
            alpha=self.alpha,
            power=self.power,
            control_share=self.control_share / pair,
        )
        return round(for_two / pair)

    def _users(self, users: int) -> tuple[int, int]:
        return round(users * self.control_share), round(users * self.treatment_share)


def level_and_power(
    metric: Metric, *, alpha: float, power: float, n_tests: int, n_guardrails: int
) -> tuple[float, float]:
    """The level at which a metric is tested and the power that it needs.

    Goals share alpha in equal parts, the least that Holm's method gives. A guardrail is shown to stay within
    its margin by a one-sided test at .025, and needs 1 - beta / G, so that all G pass together with the power
    wanted.
    """
    if metric.role == "goal":
        return alpha / n_tests, power
    if metric.role == "guardrail":
        return 0.05, 1 - (1 - power) / n_guardrails
    return alpha, power


def drifts_of_looks(method: str, alpha: float, spans: Sequence[Seen]) -> Any:
    """`drifts_needed` of daily looks at level alpha, with information as the past has it."""
    from abtest.stats.planning import drifts_needed
    from abtest.stats.sequential import nominal_levels

    information = _information(spans)
    return drifts_needed(nominal_levels(method, alpha, information, tuned_alpha=alpha), information)


def _information(spans: Sequence[Seen]) -> list[float]:
    """Shares of the last day's information, growing; days that add less than 1 % are no look of their own."""
    raw = [s.users * s.value**2 / s.variance if s.value and s.variance else 0.0 for s in spans]
    shares = [value / raw[-1] for value in raw] if raw[-1] else []
    kept: list[float] = []
    for share in shares[:-1]:
        if 0 < share < 1 - LEAST_STEP and (not kept or share > kept[-1] + LEAST_STEP):
            kept.append(share)
    information = [*kept, 1.0]
    return information[:: -(len(information) // MOST_LOOKS + 1)][::-1]

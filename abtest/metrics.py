"""What is measured, and which way is good: each metric is a line in METRICS.

A metric reads columns of a user's totals, as the warehouse sums them: `n_<kind>` for each kind of event,
`watch_ms`, `session_ms`, `panel_ms`, `profile_ms` and `active_days`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Literal

Role = Literal["goal", "guardrail", "diagnostic"]
Direction = Literal["up", "down"]


@dataclass(frozen=True)
class Metric:
    """The mean of a column over users, or, with a denominator, total over total.

    The value is divided by `scale` (1000 turns milliseconds into seconds). `direction` is the good way. Goals
    decide, corrected together. A guardrail may not get worse than by the `margin` (above 0, fixed before the
    start): a lift as a fraction, or, with `margin_kind` absolute, a difference in the metric's unit.
    Diagnostics explain and decide nothing. `covariates` are columns whose totals before the experiment take
    variance out (CUPED): its own ones where None, nothing where empty.
    """

    name: str
    numerator: str
    denominator: str | None = None
    scale: int = 1
    unit: str = "per user"
    direction: Direction = "up"
    role: Role = "diagnostic"
    margin: float | None = None
    description: str = ""
    margin_kind: Literal["lift", "absolute"] = "lift"
    covariates: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.role not in ("goal", "guardrail", "diagnostic"):
            raise ValueError(
                f"metric {self.name!r} has role {self.role!r}; allowed: goal, guardrail, diagnostic"
            )
        if self.direction not in ("up", "down"):
            raise ValueError(f"metric {self.name!r} has direction {self.direction!r}; allowed: up, down")
        if self.scale < 1:
            raise ValueError(f"metric {self.name!r} has scale {self.scale}; it must be 1 or more")
        if (self.role == "guardrail") != (self.margin is not None):
            raise ValueError(
                f"metric {self.name!r} has role {self.role} and margin {self.margin}; "
                "guardrails need a margin, other metrics have none"
            )
        if self.margin_kind not in ("lift", "absolute"):
            raise ValueError(
                f"metric {self.name!r} has margin_kind {self.margin_kind!r}; allowed: lift, absolute"
            )
        if self.margin is not None and self.margin_kind == "absolute" and not self.margin > 0:
            raise ValueError(
                f"metric {self.name!r} has margin {self.margin}; a difference above 0 is allowed"
            )
        if self.margin is not None and self.margin_kind == "lift" and not 0 < self.margin < 1:
            raise ValueError(
                f"metric {self.name!r} has margin {self.margin}; a lift between 0 and 1 is allowed, e.g. 0.02"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the totals that it reads."""
        return (self.numerator,) if self.denominator is None else (self.numerator, self.denominator)

    @property
    def past(self) -> tuple[str, ...]:
        """The columns whose totals before the experiment are its covariates."""
        return self.columns if self.covariates is None else self.covariates


def columns_of(metrics: Iterable[Metric]) -> list[str]:
    """The columns that these metrics read, each once: what to ask the warehouse for."""
    return list(dict.fromkeys(column for metric in metrics for column in metric.columns))


def covariate_products(metrics: Iterable[Metric]) -> list[tuple[str, str]]:
    """Pairs of (column before the experiment, column during it) whose products CUPED needs, each once."""
    return list(dict.fromkeys(pair for metric in metrics for pair in product(metric.past, metric.columns)))


def look_products(metrics: Iterable[Metric]) -> list[tuple[str, str]]:
    """Pairs of columns whose products over two looks the goals' sequential test needs, each once."""
    goals = [metric for metric in metrics if metric.role == "goal"]
    return list(dict.fromkeys(pair for metric in goals for pair in product(metric.columns, metric.columns)))


def _goal(name: str, numerator: str, description: str, *, scale: int = 1, unit: str = "per user") -> Metric:
    return Metric(name, numerator, scale=scale, unit=unit, role="goal", description=description)


METRICS: tuple[Metric, ...] = (
    _goal("comments", "n_comment", "comments written"),
    _goal("shares", "n_share", "videos shared"),
    _goal("plays", "n_play", "videos watched for more than 7 s"),
    _goal("follows", "n_follow", "authors followed"),
    _goal("watch_s", "watch_ms", "watch time", scale=1000, unit="s per user"),
    Metric("likes", "n_like", description="videos liked"),
    Metric("long_views", "n_long_view", description="videos watched long or to the end"),
    Metric("impressions", "n_impression", description="videos shown"),
    Metric("sessions", "n_session", description="times that the app was opened"),
    Metric("active_days", "active_days", unit="days per user", description="days with an impression"),
    Metric("hates", "n_hate", direction="down", description="videos marked as not interesting"),
    Metric("play_rate", "n_play", "n_impression", unit="per impression", description="plays per impression"),
    Metric("watch_s_per_play", "watch_ms", "n_play", 1000, "s per play", description="watch time per play"),
)
"""The metrics of a report. No guardrail by default: a small experiment cannot pass one (inconclusive is no
pass), which would withhold every `ship`. Declare those that were agreed on, with their margins."""

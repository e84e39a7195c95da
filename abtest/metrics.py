"""What is measured, and which way is good: a metric is a table in metrics.toml or in an experiment's file.

A metric reads columns of a user's totals, as the warehouse sums them: `n_<kind>` for each kind of event,
`watch_ms`, `session_ms`, `panel_ms`, `profile_ms` and `active_days`.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import combinations_with_replacement, product
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal, cast

from warehouse.events import PRE

Role = Literal["goal", "guardrail", "diagnostic"]
Direction = Literal["up", "down"]
Engine = Literal["bootstrap", "permutation"]
ENGINES = ("bootstrap", "permutation")


@dataclass(frozen=True)
class Metric:
    """The mean of a column over users, or, with a denominator, total over total.

    The value is divided by `scale` (1000 turns milliseconds into seconds). `direction` is the good way. Goals
    decide, corrected together. A guardrail may not get worse than by the `margin` (above 0, fixed before the
    start): a lift as a fraction, or, with `margin_kind` absolute, a difference in the metric's unit. For any
    role a margin asks for a test of equivalence. Diagnostics explain and decide nothing. `covariates` are
    columns whose totals before the experiment take variance out (CUPED): its own ones where None, nothing
    where empty.

    Users' totals are capped at their `cap` quantile over all arms (.999), or the numerator at `cap_value`, in
    the metric's unit. With `quantile` (.9) the metric is that quantile `over` users' totals or over the
    numerator's single events. With `first_days` k it is of each user's first k days since exposure, over the
    users who can have had them all, so that it means the same at every look while users arrive. `method`
    asks for another engine than the default, with so many `draws`. `prior_mean` and `prior_sd` are what is
    believed of the lift before, for the Bayesian view; flat without `prior_sd`.
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
    cap: float | None = None
    cap_value: float | None = None
    quantile: float | None = None
    over: Literal["users", "events"] = "users"
    first_days: int | None = None
    method: Engine | None = None
    draws: int = 2000
    prior_mean: float = 0.0
    prior_sd: float | None = None

    def __post_init__(self) -> None:
        if self.role not in ("goal", "guardrail", "diagnostic"):
            raise ValueError(
                f"metric {self.name!r} has role {self.role!r}; allowed: goal, guardrail, diagnostic"
            )
        if self.direction not in ("up", "down"):
            raise ValueError(f"metric {self.name!r} has direction {self.direction!r}; allowed: up, down")
        if self.scale < 1:
            raise ValueError(f"metric {self.name!r} has scale {self.scale}; it must be 1 or more")
        if self.role == "guardrail" and self.margin is None:
            raise ValueError(
                f"metric {self.name!r} has role guardrail and no margin; guardrails need a margin"
            )
        if self.margin_kind not in ("lift", "absolute"):
            raise ValueError(
                f"metric {self.name!r} has margin_kind {self.margin_kind!r}; allowed: lift, absolute"
            )
        if self.margin is not None and self.margin_kind == "absolute" and not 0 < self.margin < inf:
            raise ValueError(
                f"metric {self.name!r} has margin {self.margin}; a difference above 0 is allowed"
            )
        if self.margin is not None and self.margin_kind == "lift" and not 0 < self.margin < 1:
            raise ValueError(
                f"metric {self.name!r} has margin {self.margin}; a lift between 0 and 1 is allowed, e.g. 0.02"
            )
        if self.first_days is not None and self.first_days < 1:
            raise ValueError(
                f"metric {self.name!r} has first_days {self.first_days}; days since exposure are 1 or more"
            )
        _check_caps(self)
        _check_quantile(self)
        _check_engine(self)

    @property
    def test_shown(self) -> str | None:
        """How it is tested, where that is not Welch's t on means or ratios."""
        if self.quantile is None:
            return self.method
        return "quantile" if self.method is None else f"quantile, {self.method}"

    @property
    def unit_shown(self) -> str:
        """The unit, or of what it is a quantile where no unit was declared, and of which days."""
        is_named = self.quantile is None or self.unit != "per user"
        unit = self.unit if is_named else f"quantile {self.quantile:g} of {self.over}"
        if self.first_days is None:
            return unit
        return f"{unit}, first {'day' if self.first_days == 1 else f'{self.first_days} days'}"

    @property
    def needs_values(self) -> bool:
        """Whether moments of totals are not enough: what each user did must be looked at."""
        own = (self.cap, self.cap_value, self.quantile, self.method)
        return any(value is not None for value in own)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the totals that it reads."""
        return (self.numerator,) if self.denominator is None else (self.numerator, self.denominator)

    @property
    def past(self) -> tuple[str, ...]:
        """The columns whose totals before the experiment are its covariates."""
        return self.columns if self.covariates is None else self.covariates


def with_method(metrics: Iterable[Metric], method: str, source: str) -> tuple[Metric, ...]:
    """The metrics, tested by this method where they can be and name none themselves.

    Guardrails keep the default one, and quantiles under a permutation test.
    """
    if method not in ENGINES:
        raise ValueError(f"{source}: method = {method!r} is unknown; allowed: {', '.join(ENGINES)}")
    return tuple(
        replace(metric, method=cast(Engine, method))
        if metric.method is None
        and metric.role != "guardrail"
        and not (metric.quantile is not None and method == "permutation")
        else metric
        for metric in metrics
    )


def by_moments(metrics: Iterable[Metric]) -> tuple[Metric, ...]:
    """The metrics for which moments of totals are enough; the others are measured by `abtest.values`."""
    return tuple(metric for metric in metrics if not metric.needs_values)


def check_first_days(metrics: Iterable[Metric], days: int) -> None:
    """ValueError where a metric is of more days since exposure than an experiment has."""
    for metric in metrics:
        if metric.first_days is not None and metric.first_days > days:
            raise ValueError(
                f"metric {metric.name!r} is of users' first {metric.first_days} days, and the experiment has"
                f" {days}; give fewer first_days, or a longer experiment"
            )


def spans_of_days(metrics: Iterable[Metric]) -> list[int | None]:
    """Which days since exposure metrics are of, each `first_days` once; None is all days."""
    return list(dict.fromkeys(metric.first_days for metric in metrics))


def columns_of(metrics: Iterable[Metric]) -> list[str]:
    """The columns that these metrics read, each once: what to ask the warehouse for."""
    return list(dict.fromkeys(column for metric in metrics for column in metric.columns))


def products_of(metrics: Iterable[Metric]) -> list[tuple[str, str]]:
    """Pairs of columns whose products variances need, each once: squares, and numerator by denominator."""
    pairs = [
        pair for metric in metrics for pair in combinations_with_replacement(dict.fromkeys(metric.columns), 2)
    ]
    return list({frozenset(pair): pair for pair in pairs}.values())


def past_products(metrics: Iterable[Metric]) -> list[tuple[str, str]]:
    """Pairs that CUPED needs, each once: totals before the start with each other and with those since."""
    found: dict[frozenset[str], tuple[str, str]] = {}
    for metric in metrics:
        before = [PRE + column for column in dict.fromkeys(metric.past)]
        pairs = [*combinations_with_replacement(before, 2), *product(before, metric.columns)]
        found |= {frozenset(pair): pair for pair in pairs}
    return list(found.values())


def metrics_from(tables: Any, source: str) -> tuple[Metric, ...]:
    """The metrics of a list of tables (`[[metrics]]` of a TOML file); `source` is named in errors."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"{source}: metrics is no list of tables; write [[metrics]] before each metric")
    found = tuple(_metric(table, source) for table in tables)
    names = [metric.name for metric in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{source}: metric {name!r} is declared twice; names must differ")
    return found


def table_of(metric: Metric) -> dict[str, Any]:
    """The metric as a table that `metrics_from` reads."""
    table = {field.name: getattr(metric, field.name) for field in fields(Metric)}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in table.items()
        if value is not None
    }


def _metric(table: Mapping[str, Any], source: str) -> Metric:
    known = {field.name: field for field in fields(Metric)}
    name = table.get("name")
    for key in ("name", "numerator"):
        if not isinstance(table.get(key), str) or not table[key]:
            raise ValueError(f"{source}: metric {name!r} has {key} = {table.get(key)!r}; give text")
    for key, value in table.items():
        if key not in known:
            raise ValueError(f"{source}: metric {name!r} has unknown key {key!r}; known: {', '.join(known)}")
        wanted = str(known[key].type)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = (
            number and (isinstance(value, int) or "float" in wanted)
            if "int" in wanted or "float" in wanted
            else isinstance(value, str) or "tuple" in wanted
        )
        if not fits:
            raise ValueError(f"{source}: metric {name!r} has {key} = {value!r}, which is no {_word(wanted)}")
    covariates = table.get("covariates", [])
    if not isinstance(covariates, list) or not all(isinstance(c, str) and c for c in covariates):
        raise ValueError(
            f"{source}: metric {name!r} has covariates = {covariates!r}; give a list of columns, such as"
            ' ["past_plays"]'
        )
    declared: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    return Metric(**declared)


def _check_caps(metric: Metric) -> None:
    cap, value = metric.cap, metric.cap_value
    if cap is not None and value is not None:
        raise ValueError(f"metric {metric.name!r} has cap {cap} and cap_value {value}; give one of them")
    if cap is not None and not 0 < cap < 1:
        raise ValueError(
            f"metric {metric.name!r} has cap {cap}; a quantile between 0 and 1 is allowed, e.g. 0.999;"
            " a value goes into cap_value"
        )
    if value is not None and not (value > 0 and isfinite(value)):
        raise ValueError(f"metric {metric.name!r} has cap_value {value}; a value above 0 is allowed")


def _check_quantile(metric: Metric) -> None:
    if metric.over not in ("users", "events"):
        raise ValueError(f"metric {metric.name!r} has over {metric.over!r}; allowed: users, events")
    if metric.quantile is None:
        if metric.over != "users":
            raise ValueError(f"metric {metric.name!r} has over = {metric.over} and no quantile; give one")
        return
    if not 0 < metric.quantile < 1:
        raise ValueError(
            f"metric {metric.name!r} has quantile {metric.quantile}; between 0 and 1 is allowed, e.g. 0.9"
        )
    for key in ("denominator", "cap", "cap_value", "covariates"):
        if getattr(metric, key) is not None:
            raise ValueError(f"metric {metric.name!r} has a quantile and {key}; a quantile has no {key}")
    if metric.method == "permutation":
        raise ValueError(f"metric {metric.name!r} has a quantile; its methods: the default, or bootstrap")


def _check_engine(metric: Metric) -> None:
    if metric.method not in (None, *ENGINES):
        raise ValueError(
            f"metric {metric.name!r} has method {metric.method!r}; allowed: {', '.join(ENGINES)}"
        )
    if metric.method is not None and metric.role == "guardrail" and metric.quantile is None:
        raise ValueError(
            f"metric {metric.name!r} is a guardrail with method {metric.method}; margins are tested by the"
            " default method, so leave it out"
        )
    if metric.draws < 100:
        raise ValueError(f"metric {metric.name!r} has draws {metric.draws}; it must be 100 or more")
    if not isfinite(metric.prior_mean):
        raise ValueError(
            f"metric {metric.name!r} has prior_mean {metric.prior_mean}; a lift is allowed, e.g. 0"
        )
    if metric.prior_sd is not None and not (metric.prior_sd > 0 and isfinite(metric.prior_sd)):
        raise ValueError(
            f"metric {metric.name!r} has prior_sd {metric.prior_sd}; above 0 is allowed, or none (flat)"
        )


def _word(wanted: str) -> str:
    return "number" if "float" in wanted else "whole number" if "int" in wanted else "text"


def _built_in() -> tuple[Metric, ...]:
    path = Path(__file__).with_name("metrics.toml")
    return metrics_from(tomllib.loads(path.read_text(encoding="utf-8"))["metrics"], path.name)


METRICS: tuple[Metric, ...] = _built_in()
"""The metrics of a report, as `metrics.toml` declares them."""

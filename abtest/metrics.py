"""What is measured, and which way is good: a metric is a table in metrics.toml or in an experiment's file.

A metric reads columns of a user's totals, as the warehouse sums them: `n_<kind>` for each kind of event,
`watch_ms`, `session_ms`, `panel_ms`, `profile_ms` and `active_days`.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import combinations_with_replacement, product
from pathlib import Path
from typing import Any, Literal

from warehouse.events import PRE

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
    declared: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    return Metric(**declared)


def _word(wanted: str) -> str:
    return "number" if "float" in wanted else "whole number" if "int" in wanted else "text"


def _built_in() -> tuple[Metric, ...]:
    path = Path(__file__).with_name("metrics.toml")
    return metrics_from(tomllib.loads(path.read_text(encoding="utf-8"))["metrics"], path.name)


METRICS: tuple[Metric, ...] = _built_in()
"""The metrics of a report, as `metrics.toml` declares them."""

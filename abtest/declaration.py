"""An experiment on somebody's own log, as a TOML file declares it: arms, days, metrics, what columns mean.

name = "checkout"
control = "old"
weights = { old = 0.5, new = 0.5 }
start = 2026-03-02
days = 14

[map]
user = "user_id"
ts = "time"
arm = "variant"
event = "kind"
value = "amount"

[totals]
revenue = { event = "purchase", sum = "value" }
bought = { event = "purchase", any = true }

[[metrics]]
name = "revenue"
numerator = "revenue"
role = "goal"
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from abtest.metrics import Metric, metrics_from, with_method

KEYS = {
    "name": (str, "text"),
    "control": (str, "text"),
    "weights": (dict, "a table such as { old = 0.5, new = 0.5 }"),
    "start": (date | int, "a date, a time or whole milliseconds"),
    "days": (int, "a whole number"),
    "alpha": (float | int, "a number"),
    "salt": (str, "text"),
    "pre_days": (int, "a whole number"),
    "exposure": (str, "the kind of an event"),
    "ignore": (list, "a list of arms"),
    "map": (dict, "a table of columns"),
    "totals": (dict, "a table of totals"),
    "metrics": (list, "tables, each under [[metrics]]"),
    "method": (str, "bootstrap or permutation"),
}


@dataclass(frozen=True)
class Declaration:
    """What is declared of an experiment; what is None is read off the log.

    `start` is in Unix milliseconds (a day, or a time without a zone, is UTC), `map` and `totals` are as
    written. Users of the arms in `ignore`, such as a holdout, are in no count. `exposure` is the kind of
    event at which a user is exposed. `method` is that of all metrics that name none (`with_method`).
    """

    name: str | None = None
    control: str | None = None
    weights: Mapping[str, float] | None = None
    start: int | None = None
    days: int | None = None
    alpha: float = 0.05
    salt: str = ""
    pre_days: int = 14
    exposure: str | None = None
    ignore: tuple[str, ...] = ()
    map: Mapping[str, Any] = field(default_factory=dict)
    totals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    metrics: tuple[Metric, ...] | None = None
    method: str | None = None


def read_declaration(path: Path) -> Declaration:
    """The declaration in a TOML file. ValueError names the key that is wrong."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    for key, value in found.items():
        if key not in KEYS:
            raise ValueError(f"{path}: unknown key {key!r}; known keys: {', '.join(KEYS)}")
        kind, words = KEYS[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{path}: {key} = {value!r} is not {words}")
    for arm, weight in found.get("weights", {}).items():
        if not isinstance(weight, int | float) or isinstance(weight, bool):
            raise ValueError(f"{path}: the weight of {arm!r} is {weight!r}, no number")
    for name, total in found.get("totals", {}).items():
        if not isinstance(total, dict):
            raise ValueError(f"{path}: total {name!r} is {total!r}; write {{ event = KIND, sum = COLUMN }}")
    if not all(isinstance(arm, str) for arm in found.get("ignore", [])):
        raise ValueError(f"{path}: ignore = {found['ignore']!r} is not a list of arms, which are texts")
    if found.get("days", 1) < 1 or found.get("pre_days", 0) < 0:
        raise ValueError(f"{path}: days is 1 or more and pre_days 0 or more")
    if "metrics" in found:
        found["metrics"] = metrics_from(found["metrics"], str(path))
    if "method" in found:
        found["metrics"] = with_method(found.get("metrics", ()), found["method"], str(path)) or None
    if "start" in found:
        found["start"] = start_ms(found["start"])
    found["ignore"] = tuple(found.get("ignore", ()))
    assert found.keys() <= {key.name for key in fields(Declaration)}, found.keys()
    return Declaration(**found)


def start_ms(start: date | int) -> int:
    """A date, a time or milliseconds as Unix milliseconds; without a zone it is UTC.

    >>> start_ms(date(1970, 1, 2))
    86400000
    """
    if isinstance(start, int):
        return start
    moment = start if isinstance(start, datetime) else datetime(start.year, start.month, start.day)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)

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

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from abtest.metrics import Metric, metrics_from, with_method
from abtest.toml_file import NUMBER, TEXT, WHOLE, Kind, read_toml

KEYS = {
    "name": TEXT,
    "control": TEXT,
    "weights": Kind(dict, "a table such as { old = 0.5, new = 0.5 }"),
    "start": Kind(date | int, "a date, a time or whole milliseconds"),
    "days": WHOLE,
    "alpha": NUMBER,
    "looks": Kind(str, "daily or final"),
    "sequential": Kind(str, "obf, pocock, always-valid or none"),
    "correction": Kind(str, "holm, hochberg or bh"),
    "salt": TEXT,
    "pre_days": WHOLE,
    "exposure": Kind(str, "the kind of an event"),
    "ignore": Kind(list, "a list of arms"),
    "phases": Kind(list, "tables, each under [[phases]]"),
    "map": Kind(dict, "a table of columns"),
    "totals": Kind(dict, "a table of totals"),
    "metrics": Kind(list, "tables, each under [[metrics]]"),
    "method": Kind(str, "bootstrap or permutation"),
    "stratify": Kind(str, "a column of users' attributes"),
}


@dataclass(frozen=True)
class DeclaredPhase:
    """From when on other weights hold (None: the experiment's): a time in Unix milliseconds, or a day."""

    start: int | None
    day: int
    weights: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Declaration:
    """What is declared of an experiment; what is None is read off the log.

    `start` is in Unix milliseconds (a day, or a time without a zone, is UTC), `map` and `totals` are as
    written. `looks`, `sequential` and `correction` are those of `Experiment`. Users of the arms in `ignore`,
    such as a holdout, are in no count. `exposure` is the kind of event at which a user is exposed. `phases`
    say from when on other weights hold. `method` is that of all metrics that name none (`with_method`).
    `stratify` is the column, of the users' attributes as segments are, by which effects are post-stratified.
    """

    name: str | None = None
    control: str | None = None
    weights: Mapping[str, float] | None = None
    start: int | None = None
    days: int | None = None
    alpha: float = 0.05
    looks: str = "daily"
    sequential: str = "obf"
    correction: str = "holm"
    salt: str = ""
    pre_days: int = 14
    exposure: str | None = None
    ignore: tuple[str, ...] = ()
    phases: tuple[DeclaredPhase, ...] = ()
    map: Mapping[str, Any] = field(default_factory=dict)
    totals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    metrics: tuple[Metric, ...] | None = None
    method: str | None = None
    stratify: str | None = None


def read_declaration(path: Path) -> Declaration:
    """The declaration in a TOML file. ValueError names the key that is wrong."""
    found = read_toml(path, KEYS)
    _check_weights(found.get("weights", {}), path)
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
    found["phases"] = tuple(_phase(table, path) for table in found.get("phases", ()))
    assert found.keys() <= {key.name for key in fields(Declaration)}, found.keys()
    return Declaration(**found)


def _check_weights(weights: Mapping[str, Any], path: Path) -> None:
    for arm, weight in weights.items():
        if not isinstance(weight, int | float) or isinstance(weight, bool):
            raise ValueError(f"{path}: the weight of {arm!r} is {weight!r}, no number")


def _phase(table: Any, path: Path) -> DeclaredPhase:
    if not isinstance(table, dict) or not table.keys() <= {"start", "day", "weights"}:
        raise ValueError(f"{path}: phase {table!r} has other keys than start, day and weights")
    start, day, weights = table.get("start"), table.get("day"), table.get("weights")
    if (start is None) == (day is None):
        raise ValueError(f"{path}: phase {table!r} needs a start (a date or time) or a day, one of them")
    if isinstance(day, bool) or not isinstance(day, int | None) or (day is not None and day < 1):
        raise ValueError(f"{path}: a phase starts on day {day!r}; days are whole numbers from 1")
    if isinstance(start, bool) or not isinstance(start, date | int | None):
        raise ValueError(f"{path}: a phase starts at {start!r}; give a date, a time or whole milliseconds")
    if not isinstance(weights, dict | None):
        raise ValueError(
            f"{path}: a phase has weights {weights!r}; give a table such as {{ old = 0.5, new = 0.5 }}"
        )
    _check_weights(weights or {}, path)
    return DeclaredPhase(None if start is None else start_ms(start), day or 0, weights)


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

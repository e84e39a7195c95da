"""Would the health checks have noticed? Faults of known kinds, put into copies of a recorded run.

Each fault changes what was recorded of the treatment's users (of the first treatment, where there are
several), as a broken logger, assignment or pipeline would, and the copy is analysed like any run. What fires
is told beside how far the estimates moved: a fault that moves them and fires nothing is one to know of.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from abtest.experiment import Experiment
from abtest.progress import Progress
from abtest.recorded import analyse_place
from warehouse.events import DAY_MS, Kind

CAUGHT = ("failed", "warning")


class Fault(NamedTuple):
    """`sql` changes the tables events and exposures of a run. It may name {arm} and {control} (quoted),
    {start} and {end} (of the experiment, in milliseconds), {day} (a day's length), {in_arm} (its users)."""

    name: str
    what: str
    sql: tuple[str, ...]


FAULTS = (
    Fault(
        "crash",
        "the app crashes at the first feed of every fifth treated user: they are in no table",
        (
            "DELETE FROM events WHERE ts >= {start} AND user IN {in_arm} AND hash(user) % 5 = 0",
            "DELETE FROM exposures WHERE arm = {arm} AND hash(user) % 5 = 0",
        ),
    ),
    Fault(
        "wrong salt",
        "every tenth treated user was assigned by another salt and is recorded under the control",
        ("UPDATE exposures SET arm = {control} WHERE arm = {arm} AND hash(user) % 10 = 0",),
    ),
    Fault(
        "two arms",
        "every twentieth treated user is seen in the control too",
        (
            "INSERT INTO exposures SELECT * REPLACE ({control} AS arm) FROM exposures"
            " WHERE arm = {arm} AND hash(user) % 20 = 0",
        ),
    ),
    Fault(
        "late exposures",
        "exposures of every third treated user are logged a day late, so their first day counts for nothing",
        ("UPDATE exposures SET first_ts = first_ts + {day} WHERE arm = {arm} AND hash(user) % 3 = 0",),
    ),
    Fault(
        "lost day",
        "the last day of all arms has not arrived",
        ("DELETE FROM events WHERE ts >= {end} - {day} AND ts < {end}",),
    ),
    Fault(
        "lost events",
        "every tenth event of the treatment is lost",
        ("DELETE FROM events WHERE ts >= {start} AND user IN {in_arm} AND hash(user, ts, kind) % 10 = 0",),
    ),
    Fault(
        "doubled events",
        "every twentieth event of the treatment is sent twice, under another request",
        (
            "INSERT INTO events SELECT * REPLACE (100000 + request AS request) FROM events"
            " WHERE ts >= {start} AND user IN {in_arm} AND hash(user, ts, kind) % 20 = 0",
        ),
    ),
    Fault(
        "clock skew",
        "clocks of every second treated user are three hours slow",
        (
            "UPDATE events SET ts = ts - {day} // 8"
            " WHERE ts >= {start} AND user IN {in_arm} AND hash(user) % 2 = 0",
        ),
    ),
    Fault(
        "carry-over",
        "treated users were better off before the start: every fifth of their plays then counts twice",
        (
            "INSERT INTO events SELECT * REPLACE (100000 + request AS request) FROM events"
            f" WHERE ts < {{start}} AND kind = {int(Kind.play)} AND user IN {{in_arm}}"
            " AND hash(user, ts) % 5 = 0",
        ),
    ),
    Fault(
        "bots",
        "ten treated users play 2,000 videos each, one after the other",
        (
            "INSERT INTO events SELECT e.* REPLACE (100000 + n.range AS request, n.range + 1 AS item,"
            " e.ts + n.range AS ts, k.kind AS kind, CASE k.kind WHEN 1 THEN 8000 ELSE 1 END AS value)"
            " FROM (SELECT DISTINCT ON (user) * FROM events"
            f" WHERE kind = {int(Kind.impression)} AND ts >= {{start}} AND user IN {{in_arm}}"
            " ORDER BY user, ts DESC, position) e, range(2000) n,"
            f" (VALUES ({int(Kind.impression)}), ({int(Kind.play)})) k(kind)"
            " WHERE e.user IN (SELECT user FROM exposures WHERE arm = {arm} ORDER BY hash(user) LIMIT 10)",
        ),
    ),
)
"""What may break. Hashes are DuckDB's own, for which users it is does not matter."""


def try_faults(place: Path, progress: Progress) -> dict[str, Any]:
    """All faults, each in a copy of its own: what fires, the verdict, and the goals' lifts before and after.

    The run is not changed. LookupError where there is none.
    """
    before = _analysed(place)
    treatment = next(arm["name"] for arm in before["experiment"]["arms"] if arm["role"] == "treatment")
    found = []
    with progress.stage("faults"):
        for number, fault in enumerate(FAULTS):
            found.append(_tried(fault, place, before, treatment))
            progress.update(fault.name, (number + 1) / len(FAULTS))
    return {"experiment": before["experiment"]["name"], "treatment": treatment, "faults": found}


def _tried(fault: Fault, place: Path, before: Mapping[str, Any], treatment: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "events.duckdb"
        shutil.copy(_database(place), copy)
        _break(copy, fault, before["experiment"], treatment)
        row: dict[str, Any] = {"fault": fault.name, "what": fault.what}
        try:
            after = _analysed(copy)
        except ValueError as error:  # refused: the loudest way to notice
            return {**row, "fired": [], "decision": None, "refused": str(error), "lifts": []}
    usual = {check["name"]: check["status"] for check in before["checks"]}
    fired = [
        {"check": check["name"], "status": check["status"], "detail": check["detail"]}
        for check in after["checks"]
        if check["status"] in CAUGHT and usual.get(check["name"]) != check["status"]
    ]
    lifts = [
        {"metric": name, "before": lift, "after": _lifts(after, treatment).get(name)}
        for name, lift in _lifts(before, treatment).items()
    ]
    return {**row, "fired": fired, "decision": after["verdict"]["decision"], "refused": None, "lifts": lifts}


def _break(database: Path, fault: Fault, experiment: Mapping[str, Any], treatment: str) -> None:
    import duckdb

    start = experiment["start_ts"]
    arm, control = _quoted(treatment), _quoted(Experiment.from_settings(experiment).control)
    names = {
        "arm": arm,
        "control": control,
        "start": start,
        "end": start + experiment["days"] * DAY_MS,
        "day": DAY_MS,
        "in_arm": f"(SELECT user FROM exposures WHERE arm = {arm})",
    }
    with duckdb.connect(str(database)) as connection:
        for statement in fault.sql:
            connection.execute(statement.format(**names))


def _lifts(document: Mapping[str, Any], treatment: str) -> dict[str, float | None]:
    """The goals' lifts of all days, as observed without covariates: treatment over control less 1."""
    days = document["experiment"]["days"]
    goals = {metric["name"] for metric in document["metrics"] if metric["role"] == "goal"}
    return {
        e["metric"]: e["treatment_mean"] / e["control_mean"] - 1 if e["control_mean"] else None
        for e in document["effects"]
        if e["metric"] in goals and e["treatment"] == treatment and e["window"] == {"from": 1, "to": days}
    }


def _analysed(place: Path) -> dict[str, Any]:
    return analyse_place(place).document()


def _database(place: Path) -> Path:
    return place / "events.duckdb" if place.is_dir() else place


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"

"""A recorded run as logged bandit data: one Parquet row for each feed, with propensities and rewards.

For off-policy evaluation and learning with other tools. A row tells who was served when, in which context,
the slate as it was shown, how likely each choice was, and what came of it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from abtest.arms import is_deterministic
from warehouse.events import DAY_MS, Kind

if TYPE_CHECKING:
    import pyarrow as pa

    from warehouse.store import Warehouse

HISTORY = 50
"""Last plays before a feed, the most that models see."""

REWARDS = tuple(kind.name for kind in Kind if kind not in (Kind.impression, Kind.session))
"""Columns of 0 and 1 beside `watch_s`, one value for each video of the slate."""


def export(place: Path, out: Path) -> int:
    """Write the feeds of a run folder or database to a Parquet file; returns how many.

    Columns: user, session, request, served_ms, day, hour, arm (null before the user's exposure), history (the
    last 50 plays, oldest first, 0 before the first), and a list each, by position: slate, propensity, watch_s
    and REWARDS. A propensity is the chance of this video at its position, given the positions before it and
    the user's past; the product over a slate is the slate's. Under the logging policy of the warm-up it is
    recorded. An arm of this project chooses with certainty, 1; with `--explore` the share of new videos makes
    it less, and it is recorded. It is null where somebody's own model chose: that may be random. Of a feed
    during which the run ended, the views that were over are there. Raises LookupError without a database,
    ValueError where `out` is there already.
    """
    from warehouse.store import Warehouse

    database = place / "events.duckdb" if place.is_dir() else place
    if not database.exists():
        raise LookupError(f"no database at {database}; give a run folder or an events.duckdb file")
    if out.exists():
        raise ValueError(f"{out} is there already; give another --out or remove it")
    if not out.parent.is_dir():
        raise ValueError(f"no folder {out.parent} for {out.name}; create it first")
    partial = out.with_name(out.name + ".partial")
    try:
        with Warehouse.open(database, read_only=True) as warehouse:
            n_rows = _write(warehouse, partial)
        if not n_rows:
            raise LookupError(f"{database} has no impressions; run an experiment first")
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return n_rows


def _write(warehouse: "Warehouse", path: Path) -> int:
    """Write the feeds of all days, if there are any, to a file; returns how many."""
    import pyarrow.parquet as pq

    n_rows, writer = 0, None
    certain = _certain(warehouse)
    try:
        for table in _days(warehouse, certain):
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
            n_rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    return n_rows


def _certain(warehouse: "Warehouse") -> str:
    """The SQL condition under which a feed without recorded propensities was certain to be as it is: the
    user's arm, or the control for who is not in the experiment, is deterministic and does not explore."""
    known = warehouse.counts()["experiments"]
    settings = warehouse.experiment() if known == 1 else {}
    if settings.get("explore_share", 1.0):
        return "false"
    arms = {arm["name"]: arm["role"] for arm in settings["arms"] if is_deterministic(arm["model"])}
    names = ", ".join(f"'{name}'" for name in arms) or "NULL"
    outside = "true" if "control" in arms.values() else "false"
    return f"served_ms >= {settings['start_ts']} AND coalesce(in_arm IN ({names}), {outside})"


def _days(warehouse: "Warehouse", certain: str) -> "Iterator[pa.Table]":
    """The feeds of each day that has any."""
    impression = int(Kind.impression)
    first, last = (
        warehouse.sql(
            f"SELECT min(ts - value) // {DAY_MS} AS first, max(ts - value) // {DAY_MS} AS last "
            f"FROM events WHERE kind = {impression}"
        )[name][0].as_py()
        for name in ("first", "last")
    )
    if first is None:
        return
    plays = _Plays(warehouse)
    for day in range(int(first), int(last) + 1):
        table = warehouse.sql(_feeds(day, certain))
        if table.num_rows:
            history = plays.before(table["user"].to_numpy(), table["served_ms"].to_numpy())
            yield table.add_column(table.column_names.index("slate"), "history", _lists(history))


def _feeds(day: int, certain: str) -> str:
    """The SELECT of a day's feeds; where they are `certain`, with propensities of 1. A feed lasts less than a
    day, so rows of two days are looked at; of a feed of the day before, the first view is not among them."""
    kinds = ", ".join(f'CAST(bool_or(kind = {int(Kind[name])}) AS TINYINT) AS "{name}"' for name in REWARDS)
    lists = ", ".join(f'list("{name}" ORDER BY position) AS "{name}"' for name in ("watch_s", *REWARDS))
    begin, end = day * DAY_MS, (day + 1) * DAY_MS
    key = '"user", session, request'
    return f"""
        WITH views AS (
            SELECT {key}, position, max(item) AS item,
                   max(ts - value) FILTER (WHERE kind = {int(Kind.impression)}) AS begin_ms,
                   max(value) FILTER (WHERE kind = {int(Kind.impression)}) / 1000 AS watch_s, {kinds}
            FROM events WHERE position >= 0 AND session >= 0 AND ts >= {begin} AND ts < {end + DAY_MS}
            GROUP BY {key}, position
        ), feeds AS (
            SELECT {key}, min(begin_ms) AS served_ms, list(item ORDER BY position) AS slate,
                   list(ppb / 1e9 ORDER BY position) AS logged,
                   list(CAST(1 AS DOUBLE) ORDER BY position) AS ones, {lists}
            FROM views LEFT JOIN propensities USING ({key}, position, item)
            WHERE begin_ms IS NOT NULL GROUP BY {key} HAVING min(position) = 0
        ), first AS (
            SELECT "user", min(arm) AS arm, min(first_ts) AS first_ts FROM exposures GROUP BY "user"
        ), placed AS (
            SELECT feeds.*, CASE WHEN served_ms >= first_ts THEN arm END AS in_arm
            FROM feeds LEFT JOIN first USING ("user")
        )
        SELECT "user", session, request, served_ms, served_ms // {DAY_MS} AS day,
               CAST(served_ms % {DAY_MS} // 3600000 AS TINYINT) AS hour, in_arm AS arm, slate,
               CASE WHEN {certain} THEN ones ELSE logged END AS propensity,
               placed.* EXCLUDE ({key}, served_ms, in_arm, slate, logged, ones)
        FROM placed WHERE served_ms >= {begin} AND served_ms < {end} ORDER BY served_ms, "user"
    """


class _Plays:
    """All plays, by user and time."""

    def __init__(self, warehouse: "Warehouse") -> None:
        log = warehouse.interactions()
        self._users, self._items, ts = (log[name].to_numpy() for name in ("user", "item", "ts"))
        self._first, self._last = (int(ts.min()), int(ts.max())) if len(ts) else (0, 0)
        self._keys = self._key(self._users, ts)

    def before(self, users: Any, ts: Any) -> Any:
        """(n, HISTORY) the last plays of each user before a moment, oldest first, 0 before the first."""
        end = np.searchsorted(self._keys, self._key(users, ts))
        place = end[:, None] - HISTORY + np.arange(HISTORY)
        known = place >= np.searchsorted(self._users, users)[:, None]
        return np.where(known, self._items[np.where(known, place, 0)], 0).astype(np.int32)

    def _key(self, users: Any, ts: Any) -> Any:
        """One number for a user and a time, in their order."""
        span = self._last - self._first + 1
        return users * (span + 1) + np.clip(ts - self._first, 0, span)


def _lists(rows: Any) -> "pa.Array":
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])

"""The platform writes down what happens: watched feeds become rows of events, exposures and propensities.

Feeds are kept as they were served until a block is due; then all of them turn into rows at once. Only what
happened before the clock is handed on: a day's last flush completes what lies before midnight.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simulator.feed import Ids
from warehouse.events import Event, Exposure, Kind, Propensity
from warehouse.schema import arrow_schema

Record = Callable[..., Any]
"""Called with Arrow tables `events`, `exposures` and `propensities`: those that have rows."""

Flags = NDArray[np.bool_]

VIEW_KINDS = (
    Kind.impression,
    Kind.play,
    Kind.long_view,
    Kind.like,
    Kind.comment,
    Kind.share,
    Kind.follow,
    Kind.hate,
    Kind.panel_open,
    Kind.profile_enter,
)
"""What can happen at a view, in this order: each a millisecond after the one before, from the view's end."""

ROWS_PER_VIEW = 2  # 1.9 measured under the reference policy; only says when a block is due


class Watched(NamedTuple):
    """Feeds that were watched, one row a request; all but the first three are (n, k)."""

    users: Ids
    sessions: Ids
    requests: Ids
    items: Ids
    end_ts: Ids  # the end of each view
    happened: tuple[Flags, ...]  # for each of VIEW_KINDS
    watch_ms: Ids
    panel_ms: Ids
    profile_ms: Ids
    ppb: Ids  # 0 = the feed told no propensity


class Block(NamedTuple):
    """Rows of one record, and the moment of each: it may be handed on when the clock is past it."""

    ts: Ids
    columns: dict[str, NDArray[Any]]


class Journal:
    """Collects what happens and hands it to `record` in blocks of about `flush_rows` rows."""

    def __init__(
        self,
        record: Record,
        *,
        flush_rows: int,
        experiment: str | None = None,
        arm_names: Sequence[str | None] = (),
    ) -> None:
        self._record = record
        self._flush_rows = flush_rows
        self._experiment = experiment
        self._arm_names = np.array(arm_names, dtype=object)
        self._watched: list[Watched] = []
        self._rows: dict[type, list[Block]] = {Event: [], Exposure: [], Propensity: []}
        self._waiting = 0

    def watch(self, watched: Watched) -> None:
        """These feeds were served and watched."""
        self._watched.append(watched)
        self._waiting += ROWS_PER_VIEW * watched.items.size

    def end(self, users: Ids, sessions: Ids, start_ts: Ids, end_ts: Ids) -> None:
        """These sessions are over."""
        self._rows[Event].append(
            _event_rows(Kind.session, users, sessions, -1, 0, -1, end_ts, end_ts - start_ts)
        )

    def expose(self, users: Ids, arms: Ids, ts: Ids) -> None:
        """These users are served by their arm for the first time; written down only in an experiment."""
        if self._experiment is not None:
            columns = {
                "experiment": np.full(len(users), self._experiment, dtype=object),
                "user": users,
                "arm": self._arm_names[arms],
                "first_ts": ts,
            }
            self._rows[Exposure].append(Block(ts, columns))

    def pending(self) -> dict[str, NDArray[Any]]:
        """What `flush` has kept because it ends later: NAME.COLUMN and NAME:ts of events and propensities."""
        assert not self._watched, "flush before you ask what is pending"
        assert not self._rows[Exposure], "an exposure ends when it begins"
        arrays = {}
        for record in (Event, Propensity):
            blocks = self._rows[record]
            for name in blocks[0].columns if blocks else ():
                joined = np.concatenate([block.columns[name] for block in blocks])
                arrays[f"{record.__name__}.{name}"] = joined
            if blocks:
                arrays[f"{record.__name__}:ts"] = np.concatenate([block.ts for block in blocks])
        return arrays

    def take_back(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what another journal had pending."""
        for record in (Event, Propensity):
            name = record.__name__
            if f"{name}:ts" in arrays:
                columns = {f.name: arrays[f"{name}.{f.name}"] for f in fields(record)}
                self._rows[record] = [Block(arrays[f"{name}:ts"], columns)]

    def flush_if_due(self, now: int) -> None:
        """Hand on a block if there is enough for one."""
        if self._waiting >= self._flush_rows:
            self.flush(now)

    def flush(self, now: int) -> None:
        """Hand on everything that happened before `now`, and keep what ends later."""
        if self._watched:
            watched = _joined(self._watched)
            self._rows[Event].extend(_view_rows(watched))
            self._rows[Propensity].extend(_propensity_rows(watched))
        self._watched, self._waiting = [], 0
        tables = {
            "events": self._past(Event, now),
            "exposures": self._past(Exposure, now),
            "propensities": self._past(Propensity, now),
        }
        if any(table is not None for table in tables.values()):
            self._record(**{name: table for name, table in tables.items() if table is not None})

    def _past(self, record: type, now: int) -> pa.Table | None:
        """The rows before `now` as a table, None if there are none; the others stay."""
        rows = self._rows[record]
        past = [part for ts, columns in rows if (part := _where(columns, ts < now))]
        self._rows[record] = [
            Block(ts[ts >= now], part) for ts, columns in rows if (part := _where(columns, ts >= now))
        ]
        if not past:
            return None
        schema = arrow_schema(record)
        arrays = [np.concatenate([part[field.name] for part in past]) for field in schema]
        return pa.table(
            [pa.array(array, type=field.type) for array, field in zip(arrays, schema, strict=True)],
            schema=schema,
        )


def _view_rows(watched: Watched) -> list[Block]:
    """The events at the views, kind by kind."""
    values = {
        Kind.impression: watched.watch_ms.ravel(),
        Kind.panel_open: watched.panel_ms.ravel(),
        Kind.profile_enter: watched.profile_ms.ravel(),
    }
    items, end_ts = watched.items.ravel(), watched.end_ts.ravel()
    rows = []
    for delay, (kind, happened) in enumerate(zip(VIEW_KINDS, watched.happened, strict=True)):
        place = np.flatnonzero(happened)
        row, position = np.divmod(place.astype(np.int32), np.int32(watched.items.shape[1]))
        value = values[kind][place] if kind in values else 1
        rows.append(
            _event_rows(
                kind,
                watched.users[row],
                watched.sessions[row],
                watched.requests[row],
                items[place],
                position,
                end_ts[place] + delay,
                value,
            )
        )
    return rows


def _event_rows(
    kind: Kind,
    users: Ids,
    sessions: Ids,
    requests: Ids | int,
    items: Ids | int,
    positions: NDArray[np.int32] | int,
    ts: Ids,
    values: Ids | int,
) -> Block:
    def column(value: NDArray[Any] | int, dtype: type) -> NDArray[Any]:
        if isinstance(value, np.ndarray):
            return value.astype(dtype, copy=False)
        return np.full(len(users), value, dtype)

    return Block(
        ts,
        {
            "ts": ts,
            "ingest_ts": ts,
            "user": users,
            "session": sessions,
            "request": column(requests, np.int32),
            "item": column(items, np.int32),
            "position": column(positions, np.int32),
            "kind": column(int(kind), np.int16),
            "value": column(values, np.int64),
        },
    )


def _propensity_rows(watched: Watched) -> list[Block]:
    """What is known of the chance with which each shown video was chosen, ready when its view has ended."""
    place = np.flatnonzero(watched.happened[0] & (watched.ppb > 0))
    row, position = np.divmod(place, watched.items.shape[1])
    columns: dict[str, NDArray[Any]] = {
        "user": watched.users[row],
        "session": watched.sessions[row],
        "request": watched.requests[row].astype(np.int32),
        "position": position.astype(np.int32),
        "item": watched.items.ravel()[place].astype(np.int32),
        "ppb": watched.ppb.ravel()[place],
    }
    return [Block(watched.end_ts.ravel()[place], columns)]


def _joined(blocks: list[Watched]) -> Watched:
    """Many feeds as one."""
    happened = tuple(np.concatenate(kind) for kind in zip(*(block.happened for block in blocks), strict=True))
    fields = {
        name: np.concatenate([getattr(block, name) for block in blocks])
        for name in Watched._fields
        if name != "happened"
    }
    return Watched(happened=happened, **fields)


def _where(columns: dict[str, NDArray[Any]], chosen: Flags) -> dict[str, NDArray[Any]] | None:
    """The chosen rows, None if there are none."""
    if chosen.all():
        return columns if len(chosen) else None
    return {name: column[chosen] for name, column in columns.items()} if chosen.any() else None

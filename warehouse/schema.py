"""The tables of a warehouse, built from the records of `warehouse.events`: no second list of columns.

The same records give the Arrow schemas in which rows travel and the ranges that a stored value must keep.
"""

from dataclasses import fields
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from warehouse.events import EVENT_KEY, Event, Exposure, Item, Kind, Propensity, User

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 1
"""Raised by every change of the tables that an older reader would misread."""

RECORDS: dict[str, type] = {
    "events": Event,
    "exposures": Exposure,
    "propensities": Propensity,
    "items": Item,
    "users": User,
}
"""What `Warehouse.record` takes: the name of each table and the record that its rows are."""

KEYS: dict[str, tuple[str, ...]] = {
    "events": EVENT_KEY,
    "exposures": ("experiment", "user", "arm"),
    "propensities": ("user", "session", "request", "position"),
    "items": ("item",),
    "users": ("user",),
}
"""What makes a row the same row. Only small tables carry it as a primary key: on events it would cost more
than half of the loading speed, so `Warehouse.record` keeps their keys unique."""


class Range(NamedTuple):
    """The values that a column may take, both ends included."""

    low: int
    high: int


_LONG = Range(-(2**63), 2**63 - 1)
_ID = Range(0, _LONG.high)
_NUMBER = Range(-1, _LONG.high)

RANGES: dict[str, Range] = {
    "user": _ID,
    "item": _ID,
    "author": _ID,
    "source_id": _NUMBER,
    "tag": _NUMBER,
    "session": _NUMBER,
    "request": _NUMBER,
    "position": _NUMBER,
    "kind": Range(min(Kind), max(Kind)),
    "value": _ID,
    "duration_ms": _ID,
    "ppb": Range(0, 1_000_000_000),
}
"""By column name; a column that is not named here takes every integer. -1 stands for "does not apply"."""

_COLUMN_TYPES: dict[str, tuple[type[sa.types.TypeEngine], str]] = {
    **dict.fromkeys(("request", "position", "item", "author", "tag", "ppb"), (sa.Integer, "int32")),
    "kind": (sa.SmallInteger, "int16"),
}
_BY_FIELD_TYPE: dict[type, tuple[type[sa.types.TypeEngine], str]] = {
    int: (sa.BigInteger, "int64"),
    str: (sa.String, "string"),
}


def arrow_schema(record: type) -> "pa.Schema":
    """The Arrow schema of a record: its fields in order, none of them null.

    >>> arrow_schema(User).names
    ['user', 'source_id']
    """
    import pyarrow as pa

    return pa.schema(
        [
            pa.field(field.name, pa.type_for_alias(_column_types(field.name, field.type)[1]), nullable=False)
            for field in fields(record)
        ]
    )


def record_table(metadata: sa.MetaData, name: str, columns_of: str, *, primary_key: bool) -> sa.Table:
    """A table `name` with the columns of the record behind `columns_of`."""
    key = KEYS[columns_of] if primary_key else ()
    return sa.Table(
        name,
        metadata,
        *(
            sa.Column(
                field.name,
                _column_types(field.name, field.type)[0](),
                primary_key=field.name in key,
                nullable=False,
                autoincrement=False,
            )
            for field in fields(RECORDS[columns_of])
        ),
    )


def _column_types(name: str, field_type: type | str) -> tuple[type[sa.types.TypeEngine], str]:
    assert isinstance(field_type, type), (name, field_type)
    return _COLUMN_TYPES.get(name, _BY_FIELD_TYPE[field_type])


METADATA = sa.MetaData()

EVENTS = record_table(METADATA, "events", "events", primary_key=False)
EXPOSURES = record_table(METADATA, "exposures", "exposures", primary_key=True)
PROPENSITIES = record_table(METADATA, "propensities", "propensities", primary_key=False)
ITEMS = record_table(METADATA, "items", "items", primary_key=True)
USERS = record_table(METADATA, "users", "users", primary_key=True)

BATCHES = sa.Table(
    "batches",
    METADATA,
    sa.Column("batch_id", sa.String, primary_key=True),
    sa.Column("content_hash", sa.String, nullable=False),
    sa.Column("n_rows", sa.BigInteger, nullable=False),
    sa.Column("min_ts", sa.BigInteger),
    sa.Column("max_ts", sa.BigInteger),
    sa.Column("committed_at_ms", sa.BigInteger, nullable=False),
)
"""The ledger: one row for each batch that was recorded, in the same transaction as its rows. `n_rows` counts
the rows that were new; the times are those of its events, null without events; `committed_at_ms` is the wall
clock, for audit only."""

EXPERIMENTS = sa.Table(
    "experiments",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("settings", sa.String, nullable=False),
)
"""Registered experiments with their settings as JSON."""

FORMAT = sa.Table("warehouse_format", METADATA, sa.Column("version", sa.Integer, nullable=False))
"""One row, by which a database is known to be a warehouse."""

TABLES: dict[str, sa.Table] = {
    "events": EVENTS,
    "exposures": EXPOSURES,
    "propensities": PROPENSITIES,
    "items": ITEMS,
    "users": USERS,
}

STAGED: dict[str, sa.Table] = {
    name: record_table(sa.MetaData(), f"incoming_{name}", name, primary_key=False) for name in RECORDS
}
"""Rows on their way into a table: the name under which a batch is visible to SQL while it is recorded."""

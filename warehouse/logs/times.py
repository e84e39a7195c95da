"""Times of foreign logs as Unix milliseconds, computed in the database.

A time without a zone is taken as UTC. A column of text must be ISO 8601, all of it with one and the same UTC
offset or all without; anything else is refused, as a day would begin at different moments.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from warehouse.logs.columns import Column
from warehouse.logs.places import Database

EARLIEST_UNIX_S = 631_152_000  # 1990
LIMITS = {"s": 10**11, "ms": 10**14, "us": 10**17}
PER_MS = {"us": 1_000, "ns": 1_000_000}
ISO = (
    r"^ *[0-9]{4,}-[0-9]{1,2}-[0-9]{1,2}([T ]+[0-9]{1,2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?)?"
    r" *([Zz]|UTC|GMT|[+-][0-9]{2}(:?[0-9]{2})?)? *$"
)
"""What is read as a time: databases read more (names of zones, am and pm), and not as it is meant."""


class EpochMs(FunctionElement[int]):
    """A time as Unix milliseconds. `form` is the kind of its column, the unit of a whole number, or
    text_zoned for text with an offset. A text that is no time becomes NULL where the database can do that."""

    type = sa.BigInteger()
    inherit_cache = False

    def __init__(self, column: sa.ColumnElement, form: str) -> None:
        super().__init__(column)
        self.form = form


def _number(element: EpochMs, column: str, division: str) -> str | None:
    if element.form == "ms":
        return f"CAST({column} AS BIGINT)"
    if element.form == "s":
        return f"(CAST({column} AS BIGINT) * 1000)"
    if element.form == "float_s":
        return f"CAST(FLOOR(CAST({column} AS DOUBLE PRECISION) * 1000) AS BIGINT)"
    if element.form in PER_MS:
        return f"(CAST({column} AS BIGINT) {division} {PER_MS[element.form]})"
    return None


@compiles(EpochMs)
def _standard(element: EpochMs, compiler: Any, **keywords: Any) -> str:
    column = compiler.process(element.clauses, **keywords)
    casts = {"text": f"CAST({column} AS TIMESTAMP)", "text_zoned": f"CAST({column} AS TIMESTAMPTZ)"}
    moment = casts.get(element.form, column)
    return _number(element, column, "/") or f"CAST(FLOOR(EXTRACT(EPOCH FROM {moment}) * 1000) AS BIGINT)"


@compiles(EpochMs, "duckdb")
def _duckdb(element: EpochMs, compiler: Any, **keywords: Any) -> str:
    column = compiler.process(element.clauses, **keywords)
    casts = {"text_zoned": f"TRY_CAST({column} AS TIMESTAMPTZ)", "timestamptz": column}
    moment = casts.get(element.form, f"TRY_CAST({column} AS TIMESTAMP)")
    return _number(element, column, "//") or f"epoch_ms({moment})"


@compiles(EpochMs, "sqlite")
def _sqlite(element: EpochMs, compiler: Any, **keywords: Any) -> str:
    column = compiler.process(element.clauses, **keywords)
    moment = f"CAST(ROUND((julianday({column}) - 2440587.5) * 86400000.0) AS INTEGER)"
    return _number(element, column, "/") or moment


def form_of(database: Database, source: sa.FromClause, column: Column, unit: str | None) -> str:
    """How the times of a column are to be read; ValueError where they cannot."""
    c = source.c[column.name]
    if column.kind in ("timestamp", "timestamptz", "date"):
        return column.kind
    if column.kind == "text":
        return _text_form(database, source, c)
    if column.kind not in ("integer", "float"):
        raise ValueError(
            f"column {column.name!r} holds no times; map ts to a timestamp, a number or ISO text"
        )
    if column.kind == "float":
        if unit not in (None, "s"):
            raise ValueError(f"column {column.name!r} holds fractions; only ts_unit=s can be one, not {unit}")
        return "float_s"
    if unit is not None:
        return unit
    ((low, high),) = database.rows(sa.select(sa.func.min(c), sa.func.max(c)))
    if low is None:
        return "ms"
    largest = max(abs(int(low)), abs(int(high)))
    if largest < EARLIEST_UNIX_S:
        raise ValueError(
            f"column {column.name!r} holds times up to {largest}, which is no Unix time; say what they are"
            " with ts_unit=s, ms, us or ns in the mapping"
        )
    return next((name for name, limit in LIMITS.items() if largest < limit), "ns")


def _text_form(database: Database, source: sa.FromClause, column: sa.ColumnElement) -> str:
    has_offset = column.regexp_match(r"^.*[0-9]{2}:[0-9]{2}.*[+-][0-9]{2}:?([0-9]{2})?$")
    is_utc = column.regexp_match(r"^.*[0-9] *([Zz]|UTC|GMT) *$")
    length = sa.func.length(column)
    zone = sa.case(
        (is_utc, "Z"),
        (sa.not_(has_offset), ""),
        (sa.func.substr(column, length - 2, 1).in_(("+", "-")), sa.func.substr(column, length - 2)),
        (sa.func.substr(column, length - 4, 1).in_(("+", "-")), sa.func.substr(column, length - 4)),
        else_=sa.func.substr(column, length - 5),
    ).label("zone")
    zones = sa.select(zone).where(column.is_not(None)).distinct().subquery("zones")
    found = {_canonical(name) for (name,) in database.rows(sa.select(zones.c.zone).limit(50))}
    if len(found) > 1:
        shown = ", ".join(sorted(name or "none" for name in found)[:5])
        raise ValueError(
            f"times in column {column.name!r} mix time zones ({shown}); write all of them in one, such as UTC"
        )
    form = "text_zoned" if found - {""} else "text"
    is_read = sa.and_(column.regexp_match(ISO), EpochMs(column, form).is_not(None))
    rows = database.rows(sa.select(column).where(column.is_not(None), sa.not_(is_read)).limit(1))
    if rows:
        raise ValueError(
            f"{rows[0][0]!r} in column {column.name!r} is no time; ISO 8601 is read, such as"
            " 2024-05-01T12:30:00Z"
        )
    return form


def _canonical(zone: str) -> str:
    """One spelling of an offset: Z is +00:00, +0200 is +02:00."""
    if zone == "Z":
        return "+00:00"
    digits = zone[1:].replace(":", "")
    return f"{zone[0]}{digits[:2]}:{digits[2:] or '00'}" if zone else ""

"""A user's totals in a foreign log: rows of a kind counted, a column summed, days, or whether at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import sqlalchemy as sa

from warehouse.logs.columns import NUMBERS, Column, LogMapping, find_column

How = Literal["count", "sum", "days", "any"]


@dataclass(frozen=True)
class Total:
    """A value of each user. `event` restricts it to rows of a kind; `column` is what is summed.

    `days` counts days with such a row, `any` is 1 where there was one. A missing value (NULL) adds nothing.
    """

    name: str
    how: How = "count"
    event: str | None = None
    column: str | None = None

    @classmethod
    def declared(cls, name: str, given: Mapping[str, Any]) -> Self:
        """From `{ event = "purchase", sum = "value" }`, `{ any = true }`, `{ days = true }` or `{}`."""
        known = ("event", "sum", "days", "any")
        for key, value in given.items():
            if key not in known:
                raise ValueError(f"total {name!r} has unknown key {key!r}; known: {', '.join(known)}")
            wanted = bool if key in ("days", "any") else str
            if not isinstance(value, wanted):
                raise ValueError(f"total {name!r} has {key} = {value!r}; it must be {_word(wanted)}")
        hows = [key for key in ("sum", "days", "any") if given.get(key)]
        if len(hows) > 1:
            raise ValueError(f"total {name!r} has {' and '.join(hows)}; one way to total is allowed")
        how: Any = hows[0] if hows else "count"
        return cls(name, how, given.get("event"), given.get("sum"))


def default_total(name: str, mapping: LogMapping, columns: Mapping[str, Column]) -> Total:
    """What a metric's column means where no total of that name was declared.

    A column of the log is summed. `n_rows` counts rows, `active_days` days. In a long log `n_KIND` counts
    events of a kind, `sum_KIND` sums their values, and a bare KIND is as n_KIND.
    """
    if name in columns:
        return Total(name, "sum", column=name)
    if name == "n_rows":
        return Total(name)
    if name == "active_days":
        return Total(name, "days")
    if mapping.event is None:
        find_column(columns, name, "the log")
    if name.startswith("sum_"):
        return Total(name, "sum", name.removeprefix("sum_"), mapping.value)
    return Total(name, "count", name.removeprefix("n_"))


def check_total(total: Total, mapping: LogMapping, columns: Mapping[str, Column]) -> Column | None:
    """The column that a total sums, None where it sums none; ValueError or LookupError where it cannot be."""
    if total.event is not None and mapping.event is None:
        raise ValueError(f"total {total.name!r} is of event {total.event!r}; map the column of kinds, event=")
    if total.how != "sum":
        return None
    if total.column is None:
        raise ValueError(f"total {total.name!r} sums values; map the column that holds them, value=")
    name = mapping.value if total.column == "value" and "value" not in columns else total.column
    column = find_column(columns, name or total.column, "the log")
    if column.kind not in NUMBERS:
        raise ValueError(
            f"column {column.name!r} holds {_kind_words(column)}, no numbers, so {total.name!r} cannot sum it"
        )
    return column


def value_expression(column: sa.ColumnElement, kind: Column) -> sa.ColumnElement:
    """The column as an integer (a decimal times 10^scale, exactly), or as a double."""
    if kind.kind == "float":
        return sa.cast(column, sa.Double)
    if kind.kind == "boolean":
        return sa.case((column.is_(None), None), (column, 1), else_=0)
    if kind.kind == "decimal":
        return sa.cast(sa.func.round(column * 10**kind.scale), sa.BigInteger)
    return sa.cast(column, sa.BigInteger)


def _kind_words(column: Column) -> str:
    return "values of a type that is not known here" if column.kind == "other" else column.kind


def _word(kind: type) -> str:
    return "true or false" if kind is bool else "text"

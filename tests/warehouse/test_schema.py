"""The tables are those of the records, and every database gets the same text."""

from dataclasses import fields

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.base import PGDialect

from warehouse import queries
from warehouse.duck import compiled
from warehouse.events import Event, Kind
from warehouse.moments import day_sums
from warehouse.schema import KEYS, RANGES, RECORDS, TABLES, arrow_schema


@pytest.mark.parametrize("name", RECORDS)
def test_a_table_has_the_columns_of_its_record(name: str) -> None:
    names = [field.name for field in fields(RECORDS[name])]
    assert [column.name for column in TABLES[name].c] == arrow_schema(RECORDS[name]).names == names
    assert set(KEYS[name]) <= set(names)


def test_column_types_are_as_wide_as_their_meaning() -> None:
    types = {column.name: type(column.type).__name__ for column in TABLES["events"].c}
    narrow = {"request": "Integer", "item": "Integer", "position": "Integer", "kind": "SmallInteger"}
    assert types == {**dict.fromkeys(types, "BigInteger"), **narrow}
    assert [str(field.type) for field in arrow_schema(Event)][-2:] == ["int16", "int64"]


def test_every_range_belongs_to_a_column() -> None:
    assert set(RANGES) <= {field.name for record in RECORDS.values() for field in fields(record)}


def test_every_kind_is_counted() -> None:
    assert list(queries.COUNTS.values()) == list(Kind)
    assert len(set(queries.TOTALS)) == len(queries.TOTALS) == len(Kind) + 5


@pytest.mark.parametrize(
    "statement",
    [
        queries.interactions(5),
        queries.impressions(5),
        queries.ordered_events(),
        queries.crossovers("feed"),
        queries.exposed_by_day("feed", 0),
        queries.totals("feed", 0, queries.Window(1, 5)),
        day_sums(
            "feed",
            0,
            [queries.Window(1, 1), queries.Window(1, 2), queries.Window(2, 3)],
            ["n_play", "watch_ms"],
        ),
    ],
)
def test_databases_differ_in_wide_integers_only(statement: sa.Select) -> None:
    ours, _ = compiled(statement)
    postgres = PGDialect(paramstyle="numeric_dollar")
    theirs = statement.compile(dialect=postgres, compile_kwargs={"render_postcompile": True})
    assert ours.replace("HUGEINT", "NUMERIC") == str(theirs)

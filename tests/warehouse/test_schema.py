"""The tables are those of the records, and every database gets the same text."""

from dataclasses import fields

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.base import PGDialect

from warehouse import queries
from warehouse.duck import compiled
from warehouse.events import Event, Kind
from warehouse.panel import abreast
from warehouse.panel.ask import Ask
from warehouse.panel.statements import crossed, of_days, of_totals, totals_of
from warehouse.schema import KEYS, RANGES, RECORDS, TABLES, arrow_schema

COLUMNS = ("n_play", "watch_ms")
ASK = Ask(
    0,
    3,
    COLUMNS,
    (COLUMNS, ("pre_n_play", "n_play"), ("pre_n_play", "pre_n_play")),
    before=("pre_n_play",),
    wide=frozenset({"watch_ms"}),
    n_groups=1,
)
MEMBERS = queries.panel_members(
    "feed", 0, 3, pre_days=2, before=["n_play"], cuts=queries.Cuts("n_play", 3, 9)
)
WINDOWS = [queries.Window(1, 3), *(queries.Window(day, day) for day in (1, 2, 3))]
DAYS, *SINGLE_DAYS = (
    queries.panel_days(MEMBERS.subquery("members"), 0, window, COLUMNS) for window in WINDOWS
)
ROWS = abreast.rows_of(MEMBERS.cte("m"), SINGLE_DAYS, ASK).subquery("rows")


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
        MEMBERS,
        DAYS,
        of_days(MEMBERS.cte("m"), DAYS.cte("d"), ASK),
        crossed(MEMBERS.cte("m"), DAYS.cte("d"), ASK),
        ROWS.select(),
        abreast.sums_of(ROWS, ASK),
        of_totals(abreast.totals_of(ROWS, ASK).subquery(), ASK, ("g0", "arm")),
        of_totals(totals_of(MEMBERS.cte("m"), DAYS.cte("d"), ASK).subquery(), ASK, ("g0", "arm")),
    ],
)
def test_databases_differ_in_wide_integers_only(statement: sa.Select) -> None:
    ours, _ = compiled(statement)
    postgres = PGDialect(paramstyle="numeric_dollar")
    theirs = statement.compile(dialect=postgres, compile_kwargs={"render_postcompile": True})
    assert ours.replace("HUGEINT", "NUMERIC") == str(theirs)

"""From a place to a table that can be asked: DuckDB files, Parquet, CSV, and any database SQLAlchemy knows.

DuckDB files are attached read-only to a database in memory, in which Parquet and CSV files are views.
"""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import duckdb
import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from warehouse.duck import MEMORY, DuckConnection, compiled, first_line
from warehouse.logs.columns import NUMBERS, Column, Kind
from warehouse.opening import path_of

READERS = {
    ".parquet": "read_parquet", ".pq": "read_parquet", ".csv": "read_csv", ".tsv": "read_csv",
    ".gz": "read_csv", ".txt": "read_csv", ".zst": "read_csv",
}  # fmt: skip
DATABASES = (".duckdb", ".db", ".ddb")
EVENTS_VIEW, ASSIGNMENT_VIEW = "events of the files", "assignment of the files"


class Database(Protocol):
    """What a log asks of the database that holds it."""

    name: str
    reads_days_apart: bool
    """Whether reading the events once a day costs little more than reading them once."""

    def rows(self, statement: sa.Select | sa.CompoundSelect) -> list[tuple[Any, ...]]:
        """All rows. OverflowError where a number does not fit its type, ValueError for any other failure."""

    def arrays(self, statement: sa.Select) -> list[NDArray[np.generic]]:
        """All rows as a numeric array for each column; the same errors."""

    def kept(self, name: str, statement: sa.Select) -> AbstractContextManager[sa.FromClause]:
        """The answer to a SELECT, to be asked further inside the block. No place of a log is written to."""

    def table_names(self) -> list[str]: ...
    def columns(self, table: str) -> dict[str, Column]: ...
    def one_thread(self) -> None:
        """From now on sums of floats are repeatable."""

    def close(self) -> None: ...


class Place(NamedTuple):
    """An open database, its table of events, and of assignments where there is one."""

    database: Database
    events: str
    assignment: str | None


def open_place(
    places: Sequence[str],
    *,
    table: str | None = None,
    assignment: str | None = None,
    as_text: Sequence[str] = (),
    threads: int = 2,
) -> Place:
    """Open a URL, one DuckDB file, or Parquet or CSV files of one form.

    `table` names the events where a database holds several tables; `assignment` is a table or a file. The
    columns `as_text`, unless they hold numbers, are read from CSV as they stand, so that the zones of times
    are not lost.
    """
    if not places:
        raise ValueError("no log is given; give a database URL, a DuckDB file, or Parquet or CSV files")
    if "://" in places[0] and not places[0].startswith("duckdb:"):
        if len(places) > 1:
            raise ValueError(f"{len(places)} places are given; only files can be several, give one URL")
        from warehouse.logs.sql import SqlDatabase

        database: Database = SqlDatabase(places[0])
    else:
        database = LogDuck(threads=threads)
    try:
        return _opened(database, places, table, assignment, as_text)
    except BaseException:
        database.close()
        raise


def _opened(
    database: Database,
    places: Sequence[str],
    table: str | None,
    assignment: str | None,
    as_text: Sequence[str],
) -> Place:
    events = table
    if isinstance(database, LogDuck):
        path = _database_path(places)
        if path is None:
            database.view(EVENTS_VIEW, places, as_text)
            events = EVENTS_VIEW
        else:
            database.attach(path)
    tables = database.table_names()
    if assignment is not None and assignment not in tables and _looks_like_file(assignment):
        if not isinstance(database, LogDuck):
            raise ValueError(f"assignment {assignment!r} is a file; in {database.name} it must be a table")
        database.view(ASSIGNMENT_VIEW, [assignment], as_text)
        assignment = ASSIGNMENT_VIEW
    elif assignment is not None:
        assignment = _known(assignment, tables, database, "--assignment")
    if events is None:
        others = [name for name in tables if name != assignment]
        if len(others) != 1:
            shown = ", ".join(sorted(others)[:20]) or "none"
            raise LookupError(f"{database.name} has {len(others)} tables, so name one by --table: {shown}")
        events = others[0]
    elif events != EVENTS_VIEW:
        events = _known(events, tables, database, "--table")
    return Place(database, events, assignment)


class LogDuck(DuckConnection):
    """DuckDB over files; nothing is written into them."""

    overflows = (duckdb.OutOfRangeException, duckdb.ConversionException)

    def __init__(self, *, threads: int, memory_limit: str = "4GB") -> None:
        config: dict[str, Any] = {
            "threads": threads,
            "memory_limit": memory_limit,
            "allocator_bulk_deallocation_flush_threshold": "8MB",  # freed hash tables do not stay with it
        }
        super().__init__("the files", duckdb.connect(MEMORY, config=config))
        self._connection.execute("SET TimeZone = 'UTC'")
        self._attached = False

    def attach(self, path: str) -> None:
        """Make the tables of a DuckDB file visible."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"no database at {path}; give a DuckDB file that exists")
        try:
            self._connection.execute(f"ATTACH {_quoted_text(path)} AS log (READ_ONLY)")
            self._connection.execute("USE log")
        except duckdb.Error as error:
            raise ValueError(f"cannot open {path} as a DuckDB file: {first_line(error)}") from error
        self.name, self._attached = path, True

    def view(self, name: str, paths: Sequence[str], as_text: Sequence[str]) -> None:
        """Make files visible under a name. All must be of one form, with the same columns."""
        readers = {_reader(path) for path in paths}
        if len(readers) != 1:
            raise ValueError(f"{', '.join(paths)} are of different forms; give Parquet files or CSV files")
        for path in paths:
            if not any(mark in path for mark in "*?[") and not Path(path).is_file():
                raise FileNotFoundError(f"no file {path}; give files that exist")
        (reader,) = readers
        files = f"[{', '.join(map(_quoted_text, paths))}]"
        try:
            text = f"{reader}({files})"
            if reader == "read_csv":
                self.reads_days_apart = False
                header = self._connection.sql(f"SELECT * FROM {reader}({files}, sample_size=-1) LIMIT 0")
                self._check_header(header.columns, paths)
                kept = ", ".join(
                    f"{_quoted_text(column)}: 'VARCHAR'"
                    for column, kind in zip(header.columns, map(str, header.types), strict=True)
                    if column in as_text and _duck_column(column, kind).kind not in NUMBERS
                )
                text = f"{reader}({files}, sample_size=-1, types={{{kept}}})"
            self._connection.execute(f"CREATE TEMP VIEW {_quoted_name(name)} AS SELECT * FROM {text}")
            self._connection.sql(f"SELECT * FROM {_quoted_name(name)} LIMIT 1").fetchall()
        except duckdb.Error as error:
            raise ValueError(f"cannot read {', '.join(paths)}: {_reason(error)}") from error
        self.name = ", ".join(paths) if not self._attached else self.name

    def _check_header(self, columns: Sequence[str], paths: Sequence[str]) -> None:
        """ValueError where DuckDB had to name the columns itself."""
        if any(not re.fullmatch(r"column\d+", column) for column in columns):
            return
        empty = next((path for path in paths if Path(path).is_file() and not Path(path).stat().st_size), None)
        if empty is not None:
            raise ValueError(f"{empty} is empty; give a file whose first line names its columns")
        raise ValueError(
            f"the first line of {', '.join(paths)} does not name the columns, or other lines have more of"
            f" them ({len(columns)}); give a file whose first line names its columns, as many in each line"
        )

    def arrays(self, statement: sa.Select) -> list[NDArray[np.generic]]:
        with self._told():
            found = self._connection.execute(*compiled(statement)).fetchnumpy()
        return [np.asarray(column) for column in found.values()]

    def table_names(self) -> list[str]:
        found = self._connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = 'log' AND schema_name = 'main'"
            " UNION SELECT view_name FROM duckdb_views() WHERE database_name = 'log' AND NOT internal"
        ).fetchall()
        return sorted(name for (name,) in found)

    def columns(self, table: str) -> dict[str, Column]:
        relation = self._connection.sql(f"SELECT * FROM {_quoted_name(table)} LIMIT 0")
        types = zip(relation.columns, map(str, relation.types), strict=True)
        return {name: _duck_column(name, kind) for name, kind in types}

    def one_thread(self) -> None:
        self._connection.execute("SET threads = 1")

    def _failure(self, reason: str) -> Exception:
        return ValueError(f"{self.name} cannot be asked: {reason}")


def _database_path(places: Sequence[str]) -> str | None:
    """The path of a DuckDB file, or None where the places are data files."""
    first = places[0]
    if first.startswith("duckdb:") or Path(first).suffix in DATABASES:
        if len(places) > 1:
            raise ValueError(f"{len(places)} places are given, the first a database; give that one alone")
        return path_of(first)
    return None


def _looks_like_file(text: str) -> bool:
    return Path(text).suffix.lower() in READERS or Path(text).is_file()


def _reader(path: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in READERS:
        known = ", ".join((*READERS, *DATABASES))
        raise ValueError(f"{path} has no known form; known: {known}, or a database URL (with ://)")
    return READERS[suffix]


def _known(name: str, tables: Sequence[str], database: Database, option: str) -> str:
    if name not in tables:
        shown = ", ".join(tables[:20]) or "none"
        raise LookupError(f"no table {name!r} ({option}) in {database.name}; its tables: {shown}")
    return name


def _duck_column(name: str, text: str) -> Column:
    decimal = re.fullmatch(r"DECIMAL\(\d+,\s*(\d+)\)", text)
    if decimal:
        scale = int(decimal[1])
        return Column(name, "decimal" if scale else "integer", scale)
    kinds: list[tuple[str, Kind]] = [
        (r"U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER", "integer"),
        (r"FLOAT|DOUBLE", "float"),
        ("BOOLEAN", "boolean"),
        (r"VARCHAR|UUID|ENUM\(.*\)", "text"),
        ("TIMESTAMP WITH TIME ZONE", "timestamptz"),
        (r"TIMESTAMP(_S|_MS|_NS)?", "timestamp"),
        ("DATE", "date"),
    ]
    found = (kind for pattern, kind in kinds if re.fullmatch(pattern, text, re.DOTALL))
    return Column(name, next(found, "other"))


def _quoted_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quoted_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _reason(error: Exception) -> str:
    """What was wrong with a file: of a CSV file the line, then what is wrong with it."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if "CSV Error on Line" not in lines[0]:
        return lines[0]
    return "; ".join([lines[0], *(line for line in lines[1:] if not line.startswith("Original Line"))][:2])

"""DuckDB behind a warehouse: opens a file, runs SQLAlchemy statements, takes and gives Arrow tables.

Statements are compiled for PostgreSQL, whose SQL DuckDB speaks, and run on DuckDB's own connection: its
SQLAlchemy driver cannot hand over Arrow tables. A second database needs a class with the methods of this one.
"""

import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import duckdb
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.sql.compiler import SQLCompiler

if TYPE_CHECKING:
    import pyarrow as pa

MEMORY = ":memory:"


class _DuckDialect(PGDialect):
    name = "duckdb"
    supports_statement_cache = True


_DIALECT = _DuckDialect(paramstyle="numeric_dollar")


class DuckConnection:
    """What a warehouse and a foreign log have in common: statements run, and failures are one sentence.

    A number that does not fit its type is an OverflowError, a closed connection a ValueError, anything else
    what a subclass makes of it. Not to be shared between threads.
    """

    overflows: ClassVar[tuple[type[duckdb.Error], ...]] = (duckdb.OutOfRangeException,)
    reads_days_apart = True
    """Whether reading the events once a day costs little more than reading them once."""

    def __init__(self, name: str, connection: duckdb.DuckDBPyConnection) -> None:
        self.name = name
        self._connection = connection

    def close(self) -> None:
        self._connection.close()

    def rows(self, statement: sa.Executable) -> list[tuple[Any, ...]]:
        """All rows as Python values; integers of any size stay exact."""
        with self._told():
            return self._connection.execute(*compiled(statement)).fetchall()

    @contextmanager
    def kept(self, name: str, statement: sa.Select) -> Iterator[sa.FromClause]:
        """The answer to a SELECT as a table for further questions inside the block; no file holds it, so a
        read-only database may have it as well."""
        text, parameters = compiled(statement)
        with self._told():
            self._connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {text}", parameters)
        columns = [sa.column(column.name, column.type) for column in statement.selected_columns]
        try:
            yield sa.table(name, *columns, schema="temp")
        finally:
            self._connection.execute(f"DROP TABLE temp.{name}")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except duckdb.ConnectionException as error:
            raise ValueError(f"{self.name} is closed; open it again") from error
        except self.overflows as error:
            raise OverflowError(f"{self.name}: {first_line(error)}") from error
        except duckdb.Error as error:
            raise self._failure(first_line(error)) from error

    def _failure(self, reason: str) -> Exception:
        raise NotImplementedError


class Duck(DuckConnection):
    """One connection to one DuckDB file, or to a database in memory."""

    def __init__(self, path: str, *, memory_limit: str, threads: int, read_only: bool) -> None:
        connection = _connect(path, memory_limit=memory_limit, threads=threads, read_only=read_only)
        super().__init__(f"the warehouse {path}", connection)
        self.path = path
        self.read_only = read_only

    def write(self, statement: sa.Executable) -> int:
        """Run a statement that changes the database, and return how many rows it wrote."""
        with self._told():
            written = self._connection.execute(*compiled(statement)).fetchone()
        return written[0] if written else 0

    def table(self, statement: sa.Executable) -> "pa.Table":
        """All rows as an Arrow table. Integers wider than 64 bits would become floats: cast them first."""
        text, parameters = compiled(statement)
        with self._told():
            return self._connection.sql(text, params=parameters).to_arrow_table()

    def blocks(self, statement: sa.Executable, rows_per_block: int) -> "Iterator[pa.RecordBatch]":
        """The rows in Arrow blocks, read as they are asked for."""
        text, parameters = compiled(statement)
        with self._told():
            yield from self._connection.sql(text, params=parameters).to_arrow_reader(rows_per_block)

    @contextmanager
    def staged(self, name: str, table: "pa.Table") -> Iterator[None]:
        """Let SQL read `table` under this name inside the block."""
        self._connection.register(name, table)
        try:
            yield
        finally:
            self._connection.unregister(name)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written in the block, or nothing of it."""
        with self._told():
            self._connection.begin()
        try:
            yield
        except BaseException:
            self._connection.rollback()
            raise
        with self._told():
            self._connection.commit()

    def table_names(self) -> list[str]:
        """The tables of the file."""
        query = "SELECT table_name FROM duckdb_tables() WHERE NOT temporary ORDER BY table_name"
        return [name for (name,) in self._connection.execute(query).fetchall()]

    def ask(self, text: str) -> "pa.Table":
        """The answer to one SELECT in a user's own words; ValueError where it is none or does not run."""
        try:
            statements = self._connection.extract_statements(text)
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                raise ValueError(f"only one SELECT can be asked here, not {text.strip()[:60]!r}")
            return self._connection.sql(text).to_arrow_table()
        except duckdb.Error as error:
            raise ValueError(f"the query does not run: {first_line(error)}") from error

    def _failure(self, reason: str) -> Exception:
        """A full disk or too little memory, as a rule."""
        return OSError(f"the database {self.path} failed: {reason}")


def compiled(statement: sa.Executable) -> tuple[str, Sequence[Any]]:
    """The text of a statement for DuckDB, and its parameters in order."""
    assert isinstance(statement, sa.ClauseElement), type(statement)
    sql = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
    names = sql.positiontup if isinstance(sql, SQLCompiler) else ()  # CREATE TABLE takes none
    return str(sql), [sql.params[name] for name in names or ()]


def _connect(path: str, *, memory_limit: str, threads: int, read_only: bool) -> duckdb.DuckDBPyConnection:
    if threads < 1:
        raise ValueError(f"threads is {threads}; a database needs at least 1")
    if path != MEMORY:
        _check_path(Path(path), read_only=read_only)
    config: dict[str, Any] = {"memory_limit": memory_limit, "threads": threads}
    if path == MEMORY:
        # Made when memory runs out, and removed; by default that is .tmp in the working directory.
        config["temp_directory"] = f"{tempfile.gettempdir()}/warehouse-{uuid.uuid4().hex}.tmp"
    try:
        return duckdb.connect(path, read_only=read_only, config=config)
    except duckdb.ParserException as error:
        raise ValueError(f"memory limit {memory_limit!r} is no size: {first_line(error)}") from error
    except duckdb.Error as error:
        raise _opening_error(path, error) from error


def _check_path(path: Path, *, read_only: bool) -> None:
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder; give the database file in it, such as {path / 'events.duckdb'}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} for the database {path.name}; create it first")
    if read_only and not path.exists():
        raise FileNotFoundError(f"no database at {path}; give a file that a run has written")


def _opening_error(path: str, error: duckdb.Error) -> Exception:
    message = str(error)
    if "lock" in message:
        return BlockingIOError(
            f"{path} is in use by another process; wait for it to finish, or copy the file"
        )
    if "different configuration" in message:
        return BlockingIOError(f"{path} is already open in this process with other settings; close it first")
    if "not a valid DuckDB database" in message:
        return ValueError(
            f"{path} is not a DuckDB file; give a database that a run has written, or a new path"
        )
    if "version" in message:
        return ValueError(f"{path} was written by another version of DuckDB: {first_line(error)}")
    return OSError(f"cannot open {path}: {first_line(error)}")


def first_line(error: Exception) -> str:
    """What a database says, without its drawing of where in the statement."""
    return str(error).strip().splitlines()[0]

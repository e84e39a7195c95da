"""A database behind a SQLAlchemy URL: PostgreSQL (with the extra `postgres`), SQLite, or another."""

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from warehouse.logs.columns import Column


class SqlDatabase:
    """A connection that only reads."""

    reads_days_apart = False

    def __init__(self, url: str) -> None:
        parsed = _parsed(url)
        self.name = parsed.render_as_string(hide_password=True)
        try:
            self._engine = sa.create_engine(parsed)
            self._connection = self._engine.connect()
            if self._engine.dialect.name == "postgresql":
                for setting in ("default_transaction_read_only = on", "TimeZone = 'UTC'"):
                    self._connection.execute(sa.text(f"SET SESSION {setting}"))
                self._connection.commit()
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{self.name} needs the driver {error.name!r}; install it"
                " (for PostgreSQL: pip install 'short-video-lab[postgres]')"
            ) from error
        except sa.exc.NoSuchModuleError as error:
            raise ValueError(f"unknown database {self.name}: {_first_line(error)}") from error
        except sa.exc.SQLAlchemyError as error:
            raise ValueError(f"cannot open {self.name}: {_first_line(error)}") from error

    def rows(self, statement: sa.Select | sa.CompoundSelect) -> list[tuple[Any, ...]]:
        try:
            found = self._connection.execute(statement).fetchall()
        except sa.exc.SQLAlchemyError as error:
            self._connection.rollback()
            if "overflow" in str(error) or "out of range" in str(error):
                raise OverflowError(f"{self.name}: {_first_line(error)}") from error
            raise ValueError(f"{self.name} cannot be asked: {_first_line(error)}") from error
        return [tuple(map(_plain, row)) for row in found]

    def arrays(self, statement: sa.Select) -> list[NDArray[np.generic]]:
        rows = self.rows(statement)
        if not rows:
            return [np.empty(0, np.int64) for _ in statement.selected_columns]
        return [np.array(column) for column in zip(*rows, strict=True)]

    @contextmanager
    def kept(self, name: str, statement: sa.Select) -> Iterator[sa.FromClause]:
        """Part of each statement that asks it: a connection that only reads can store nothing."""
        yield statement.cte(name)

    def table_names(self) -> list[str]:
        inspector = sa.inspect(self._connection)
        return sorted([*inspector.get_table_names(), *inspector.get_view_names()])

    def columns(self, table: str) -> dict[str, Column]:
        return {
            column["name"]: _column(column["name"], column["type"])
            for column in sa.inspect(self._connection).get_columns(table)
        }

    def one_thread(self) -> None:
        if self._engine.dialect.name == "postgresql":
            self._connection.execute(sa.text("SET max_parallel_workers_per_gather = 0"))

    def close(self) -> None:
        if hasattr(self, "_connection"):
            self._connection.close()
            self._engine.dispose()


def _parsed(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise ValueError(
            "the database URL cannot be read; a form is postgresql://user:password@host:5432/database"
        ) from error
    if parsed.drivername in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
        from pathlib import Path

        if not Path(str(parsed.database)).is_file():
            raise FileNotFoundError(f"no database at {parsed.database}; give a SQLite file that exists")
    return parsed


def _column(name: str, kind: sa.types.TypeEngine[Any]) -> Column:
    if isinstance(kind, sa.Boolean):
        return Column(name, "boolean")
    if isinstance(kind, sa.Integer):
        return Column(name, "integer")
    if isinstance(kind, sa.Float):
        return Column(name, "float")
    if isinstance(kind, sa.Numeric):
        if kind.scale is None:
            return Column(name, "float")  # any number of digits: a float's are kept
        return Column(name, "decimal" if kind.scale else "integer", kind.scale)
    if isinstance(kind, sa.DateTime):
        return Column(name, "timestamptz" if kind.timezone else "timestamp")
    if isinstance(kind, sa.Date):
        return Column(name, "date")
    if isinstance(kind, sa.String | sa.Uuid | sa.Enum):
        return Column(name, "text")
    return Column(name, "other")


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, Decimal) and value == value.to_integral_value() else value


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return (str(cause).strip().splitlines() or [type(error).__name__])[0]

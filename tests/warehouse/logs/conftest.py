"""The same log in every kind of place: files, DuckDB, SQLite, and a PostgreSQL server started here."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

START = datetime(2026, 3, 2, tzinfo=UTC)
START_TS = int(START.timestamp() * 1000)
AMOUNT = """am"ount'; DROP TABLE events; --é"""
BUY = "buy'; DROP TABLE events; --"
OLD, NEW = "old \"'%s:x", "nouveau é"

NUMBERS = count()
"""Of the places that were made: a server outlives the fixture that puts tables into it."""

Row = dict[str, Any]
Put = Callable[[Sequence[Row], Sequence[Row] | None], "Where"]

TYPES: dict[str, tuple[pa.DataType, sa.types.TypeEngine]] = {
    "uid": (pa.string(), sa.String()),
    "at": (pa.timestamp("ms"), sa.DateTime()),
    "variant": (pa.string(), sa.String()),
    "kind": (pa.string(), sa.String()),
    AMOUNT: (pa.float64(), sa.Double()),
    "cents": (pa.int64(), sa.BigInteger()),
    "price": (pa.decimal128(12, 2), sa.Numeric(12, 2)),
    "flag": (pa.bool_(), sa.Boolean()),
    "country": (pa.string(), sa.String()),
    "event_id": (pa.int64(), sa.BigInteger()),
}


class Where(NamedTuple):
    """A log that was put somewhere: the arguments of `EventLog.open`."""

    places: tuple[str, ...]
    table: str | None
    assignment: str | None


def random_rows(seed: int, n: int = 400, n_users: int = 30) -> list[Row]:
    """Events from three days before the experiment to its fourth day; every tenth user is in both arms."""
    rng = np.random.default_rng(seed)
    names = [f"u'{i} ü%" for i in range(n_users)]
    rows = []
    for i in range(n):
        user = int(rng.integers(n_users))
        arm = [OLD, NEW][user % 2 if user % 10 else int(rng.integers(2))]
        kind = str(rng.choice([BUY, "view", "leave"]))
        rows.append(
            {
                "uid": names[user],
                "at": START + timedelta(milliseconds=int(rng.integers(-3 * 86_400_000, 4 * 86_400_000))),
                "variant": None if rng.random() < 0.1 else arm,
                "kind": kind,
                AMOUNT: None if rng.random() < 0.1 else 1e6 + float(rng.normal()),
                "cents": None if rng.random() < 0.1 else int(rng.integers(-50, 10**9)),
                "price": None if rng.random() < 0.1 else Decimal(int(rng.integers(-999, 9999))) / 100,
                "flag": None if rng.random() < 0.1 else bool(rng.random() < 0.5),
                "country": ["FI", "日本", None][user % 3],
                "event_id": i,
            }
        )
    return rows


@pytest.fixture(scope="session", params=["parquet", "csv", "duckdb", "sqlite", "postgres"])
def put(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Put:
    """Puts rows of events, and of assignments, into one kind of place. A place is one more parameter here."""
    folder = tmp_path_factory.mktemp("logs")
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None

    def new(rows: Sequence[Row], assignments: Sequence[Row] | None = None) -> Where:
        number = next(NUMBERS)
        if request.param in ("parquet", "csv"):
            half = len(rows) // 2
            parts = [rows] if half == 0 else [rows[:half], rows[half:]]
            paths = [_write(folder / f"{number}-{i}.{request.param}", part) for i, part in enumerate(parts)]
            assigned = (
                None
                if assignments is None
                else _write(folder / f"{number}-assigned.{request.param}", assignments)
            )
            return Where(tuple(paths), None, assigned)
        name, assigned_name = f"events {number}", None if assignments is None else f"assigned {number}"
        tables = {name: rows} | ({} if assigned_name is None else {assigned_name: assignments or []})
        if request.param == "duckdb":
            path = folder / f"{number}.duckdb"
            with duckdb.connect(str(path)) as connection:
                for table, content in tables.items():
                    connection.register("incoming", _arrow(content))
                    connection.execute(f'CREATE TABLE "{table}" AS SELECT * FROM incoming')
            return Where((str(path),), name, assigned_name)
        where = url or f"sqlite:///{folder / f'{number}.sqlite'}"
        engine = sa.create_engine(where)
        metadata = sa.MetaData()
        with engine.begin() as connection:
            for table, content in tables.items():
                columns = [sa.Column(key, TYPES[key][1]) for key in content[0]]
                made = sa.Table(table, metadata, *columns)
                made.create(connection)
                connection.execute(made.insert(), [_naive(row) for row in content])
        engine.dispose()
        return Where((where,), name, assigned_name)

    return new


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server on a socket in a folder of its own; skipped where it is not installed."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (extra postgres)")
    found = [Path(path).parent for path in (shutil.which("initdb"),) if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("PostgreSQL is not installed: no initdb on the path or in /usr/lib/postgresql")
    programs = found[-1]
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: a socket's path has 107 characters at most
    user = _other_user() if os.geteuid() == 0 else None  # initdb refuses root
    if user:
        shutil.chown(folder, user)
    data, log = folder / "data", folder / "log"

    def run(*command: str) -> None:
        done = subprocess.run(
            command, user=user, cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run(str(programs / "initdb"), "-D", str(data), "-U", "lab", "-A", "trust", "-E", "UTF8", "--no-sync")
    options = f"-k {folder} -c listen_addresses='' -c fsync=off"
    run(str(programs / "pg_ctl"), "-D", str(data), "-l", str(log), "-o", options, "-w", "start")
    try:
        yield f"postgresql+psycopg://lab@/postgres?host={folder}"
    finally:
        run(str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def _other_user() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _naive(row: Row) -> Row:
    return {
        key: value.replace(tzinfo=None) if isinstance(value, datetime) else value
        for key, value in row.items()
    }


def _arrow(rows: Sequence[Row]) -> pa.Table:
    plain = [_naive(row) for row in rows]
    return pa.table({key: pa.array([row[key] for row in plain], TYPES[key][0]) for key in rows[0]})


def _write(path: Path, rows: Sequence[Row]) -> str:
    table = _arrow(rows)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with duckdb.connect() as connection:
            connection.register("incoming", table)
            connection.execute(f"COPY incoming TO '{path}' (HEADER)")
    return str(path)

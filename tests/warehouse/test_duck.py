"""Files that cannot be used, each told in one clear sentence; and questions in a user's own words."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from warehouse.store import Warehouse


def one_sentence(error: pytest.ExceptionInfo[Exception]) -> bool:
    return "\n" not in str(error.value) and "Error:" not in str(error.value)


def test_a_file_in_use_by_another_process_is_told(tmp_path: Path) -> None:
    path = tmp_path / "events.duckdb"
    hold = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OSError, match="in use by another process") as error:
            Warehouse.open(path)
        holder.communicate("")
    assert one_sentence(error)


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("<html>" * 5000)
    with pytest.raises(ValueError, match=r"report\.html is not a DuckDB file") as error:
        Warehouse.open(path)
    assert one_sentence(error)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_database_of_something_else_is_left_alone(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "sales.duckdb"
    with duckdb.connect(str(path)) as other:
        other.execute("CREATE TABLE events (x INTEGER)")
    with pytest.raises(ValueError, match="is a DuckDB file but no warehouse") as error:
        Warehouse.open(path, read_only=read_only)
    assert one_sentence(error)
    with duckdb.connect(str(path)) as other:
        assert other.execute("SELECT table_name FROM duckdb_tables()").fetchall() == [("events",)]


def test_a_newer_format_is_told(tmp_path: Path) -> None:
    path = tmp_path / "events.duckdb"
    Warehouse.open(path).close()
    with duckdb.connect(str(path)) as later:
        later.execute("UPDATE warehouse_format SET version = 2")
    with pytest.raises(ValueError, match="has warehouse format 2, and this version reads 1") as error:
        Warehouse.open(path)
    assert one_sentence(error)


def test_an_empty_database_is_no_warehouse_to_read(tmp_path: Path) -> None:
    path = tmp_path / "empty.duckdb"
    duckdb.connect(str(path)).close()
    with pytest.raises(ValueError, match="no warehouse"):
        Warehouse.open(path, read_only=True)
    Warehouse.open(path).close()
    Warehouse.open(path, read_only=True).close()


@pytest.mark.parametrize(
    ("place", "read_only", "message"),
    [
        ("missing.duckdb", True, "no database at"),
        ("none/x.duckdb", False, "no folder"),
        ("", False, "is a folder"),
    ],
)
def test_a_wrong_place_is_told(tmp_path: Path, place: str, read_only: bool, message: str) -> None:
    with pytest.raises(OSError, match=message) as error:
        Warehouse.open(tmp_path / place, read_only=read_only)
    assert one_sentence(error)


def test_wrong_settings_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown database 'mysql://host/db'; known forms"):
        Warehouse.open("mysql://host/db")
    with pytest.raises(ValueError, match="memory limit '3 elephants' is no size"):
        Warehouse.open(tmp_path / "x.duckdb", memory_limit="3 elephants")
    with pytest.raises(ValueError, match="threads is 0"):
        Warehouse.open(tmp_path / "x.duckdb", threads=0)


def test_a_relative_url_is_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Warehouse.open("duckdb:///events.duckdb").close()
    assert (tmp_path / "events.duckdb").exists()


def test_memory_databases_are_separate(views: Callable[..., pa.Table]) -> None:
    with Warehouse.open("duckdb:///:memory:") as one, Warehouse.open("duckdb:///:memory:") as two:
        one.record("a", events=views([1], [1]))
        assert (one.counts()["events"], two.counts()["events"]) == (1, 0)


def test_a_closed_warehouse_says_so(warehouse: Warehouse) -> None:
    warehouse.close()
    warehouse.close()
    with pytest.raises(ValueError, match="is closed"):
        warehouse.counts()
    with pytest.raises(ValueError, match="is closed"):
        warehouse.record("a")


def test_sql_answers_a_select(warehouse: Warehouse) -> None:
    assert warehouse.sql("WITH a AS (SELECT 1 AS one) SELECT * FROM a;").to_pylist() == [{"one": 1}]


@pytest.mark.parametrize(
    "text",
    ["DROP TABLE events", "INSERT INTO users VALUES (1, 1)", "SELECT 1; SELECT 2", "", "ATTACH 'x.duckdb'"],
)
def test_sql_refuses_all_but_one_select(warehouse: Warehouse, text: str) -> None:
    with pytest.raises(ValueError, match="only one SELECT"):
        warehouse.sql(text)
    assert warehouse.counts()["users"] == 0


@pytest.mark.parametrize("text", ["SELECT nothing FROM events", "SELEKT 1", "SELECT 1 +"])
def test_sql_tells_what_does_not_run(warehouse: Warehouse, text: str) -> None:
    with pytest.raises(ValueError, match="the query does not run") as error:
        warehouse.sql(text)
    assert "\n" not in str(error.value)

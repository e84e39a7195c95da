"""From a URL to a database with our tables: an empty one gets them, a foreign one is refused."""

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

from warehouse.duck import MEMORY, Duck
from warehouse.schema import FORMAT, FORMAT_VERSION, METADATA


def open_database(url: str | Path, *, memory_limit: str, threads: int, read_only: bool) -> Duck:
    """The database at a path or URL, with the tables of this version in it."""
    database = Duck(path_of(url), memory_limit=memory_limit, threads=threads, read_only=read_only)
    try:
        tables = database.table_names()
        if not tables and not read_only:
            _make_tables(database)
        else:
            _check_format(database, tables)
    except BaseException:
        database.close()
        raise
    return database


def path_of(url: str | Path) -> str:
    """The path in a URL; a text without a scheme is a path.

    >>> path_of("duckdb:///runs/feed/events.duckdb")
    'runs/feed/events.duckdb'
    """
    text = str(url)
    scheme, separator, path = text.partition("://")
    if not separator:
        return text
    if scheme != "duckdb":
        raise ValueError(
            f"unknown database {text!r}; known forms: a path, duckdb:///path, duckdb:///{MEMORY}"
        )
    return path.removeprefix("/") or MEMORY


def _make_tables(database: Duck) -> None:
    with database.transaction():
        for table in METADATA.sorted_tables:
            database.write(CreateTable(table))
        database.write(FORMAT.insert().values(version=FORMAT_VERSION))


def _check_format(database: Duck, tables: list[str]) -> None:
    if FORMAT.name not in tables:
        raise ValueError(
            f"{database.path} is a DuckDB file but no warehouse; give one that a run wrote, or a new path"
        )
    ((version,),) = database.rows(sa.select(FORMAT.c.version))
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{database.path} has warehouse format {version}, and this version reads {FORMAT_VERSION}; "
            f"use the version that wrote it"
        )

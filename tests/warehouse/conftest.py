"""Warehouses of every kind of database, and tables of rows to put into them."""

from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import pyarrow as pa
import pytest

from warehouse.events import DAY_MS, Kind
from warehouse.schema import RECORDS, arrow_schema
from warehouse.store import Warehouse

START_TS = 3 * DAY_MS
ARMS = ("comirec", "recgpt")


@pytest.fixture(scope="session", params=["memory", "file"])
def new_warehouse(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Warehouse]:
    """Makes an empty warehouse. A database is added to the conformance suite by one more parameter here."""
    if request.param == "memory":
        return lambda: Warehouse.open("duckdb:///:memory:", threads=1)
    folder, numbers = tmp_path_factory.mktemp("warehouses"), count()
    return lambda: Warehouse.open(f"duckdb:///{folder / f'{next(numbers)}.duckdb'}", threads=1)


@pytest.fixture
def warehouse(new_warehouse: Callable[[], Warehouse]) -> Iterator[Warehouse]:
    with new_warehouse() as warehouse:
        yield warehouse


@pytest.fixture(scope="session")
def table() -> Callable[..., pa.Table]:
    """Makes a table of a record; single values fill their column: table("events", user=[1, 2], kind=1)."""

    def make(name: str, **columns: object) -> pa.Table:
        schema = arrow_schema(RECORDS[name])
        n = max(
            [len(value) for value in columns.values() if isinstance(value, (list, np.ndarray))], default=1
        )
        arrays = []
        for field in schema:
            value = columns.get(field.name, 0)
            values = list(value) if isinstance(value, (list, np.ndarray)) else [value] * n
            arrays.append(pa.array(values, type=field.type))
        return pa.Table.from_arrays(arrays, schema=schema)

    return make


@pytest.fixture(scope="session")
def views(table: Callable[..., pa.Table]) -> Callable[..., pa.Table]:
    """Makes events of one kind, each in a session of its own: views(users, times, kind, value)."""
    numbers = count()

    def make(users: list[int], times: list[int], kind: Kind = Kind.impression, value: int = 1) -> pa.Table:
        sessions = [next(numbers) for _ in users]
        return table(
            "events", ts=times, ingest_ts=times, user=users, session=sessions, item=7, kind=kind, value=value
        )

    return make


@pytest.fixture(scope="session")
def random_events(table: Callable[..., pa.Table]) -> Callable[..., pa.Table]:
    """Makes events of all kinds with distinct keys, from a day before the experiment to its sixth day."""

    def make(seed: int, n: int = 2_000, n_users: int = 40) -> pa.Table:
        rng = np.random.default_rng(seed)
        ts = rng.integers(START_TS - DAY_MS, START_TS + 6 * DAY_MS, n)
        number = np.arange(n)
        return table(
            "events",
            ts=ts,
            ingest_ts=ts + rng.integers(0, 1000, n),
            user=rng.integers(0, n_users, n),
            session=number // 24,
            request=number % 24 // 6,
            item=rng.integers(1, 50, n),
            position=number % 6,
            kind=rng.integers(min(Kind), max(Kind) + 1, n),
            value=rng.integers(0, 60_000, n),
        )

    return make


@pytest.fixture(scope="session")
def random_exposures(table: Callable[..., pa.Table]) -> Callable[..., pa.Table]:
    """Exposes three of four users on the first three days; every tenth of them to both arms."""

    def make(seed: int, n_users: int = 40) -> pa.Table:
        rng = np.random.default_rng(seed)
        users = [user for user in range(n_users) if user % 4]
        both = users[::10]
        arms = [*rng.choice(ARMS, len(users)).tolist(), *(ARMS * len(both))]
        rows = [*users, *(user for user in both for _ in ARMS)]
        pairs = sorted(set(zip(rows, arms, strict=True)))
        return table(
            "exposures",
            experiment="feed",
            user=[user for user, _ in pairs],
            arm=[arm for _, arm in pairs],
            first_ts=START_TS + rng.integers(0, 3 * DAY_MS, len(pairs)),
        )

    return make


@pytest.fixture(scope="session")
def settings() -> dict[str, object]:
    return {"name": "feed", "start_ts": START_TS, "days": 5}


@pytest.fixture(scope="session")
def busy(
    new_warehouse: Callable[[], Warehouse],
    random_events: Callable[..., pa.Table],
    random_exposures: Callable[..., pa.Table],
    settings: dict[str, object],
) -> Iterator[Warehouse]:
    """3,000 events from a day before the start on, with users exposed on three days, crossovers
    and users that are never exposed. Tests must not change it."""
    with new_warehouse() as warehouse:
        warehouse.register("feed", settings)
        warehouse.record("a", events=random_events(1, n=3_000), exposures=random_exposures(2))
        yield warehouse

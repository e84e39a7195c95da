"""What must hold for any log: neither the order of batches, nor their size, nor repeats leave a trace."""

from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warehouse.store import Moments, Warehouse, Window

Make = Callable[..., pa.Table]
WINDOWS = [Window(d, d) for d in range(1, 6)] + [Window(1, d) for d in range(2, 6)]
COLUMNS = ["n_play", "n_share", "watch_ms", "active_days"]

several = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Told(NamedTuple):
    """All that a warehouse tells of a log."""

    event_hash: str
    totals: dict[str, list[object]]
    moments: list[Moments]
    exposed: list[tuple[int, str, int]]
    impressions: dict[str, list[object]]
    interactions: dict[str, list[object]]


def told(warehouse: Warehouse) -> Told:
    return Told(
        warehouse.event_hash(),
        warehouse.totals("feed", Window(1, 5)).to_pydict(),
        warehouse.moments("feed", WINDOWS, columns=COLUMNS),
        warehouse.daily_exposed("feed"),
        warehouse.impressions().to_pydict(),
        warehouse.interactions().to_pydict(),
    )


@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 400), max_size=5), shuffled=st.randoms())
@several
def test_order_and_size_of_batches_do_not_matter(
    new_warehouse: Callable[[], Warehouse],
    random_events: Make,
    random_exposures: Make,
    seed: int,
    cuts: list[int],
    shuffled: "np.random.Generator",
) -> None:
    events, exposures = random_events(seed, n=400), random_exposures(seed)
    spec = {"start_ts": 3 * 86_400_000}
    with closing(new_warehouse()) as whole:
        whole.register("feed", spec)
        whole.record("all", events=events, exposures=exposures)
        expected = told(whole)
    rows = list(range(400))
    shuffled.shuffle(rows)
    mixed = events.take(rows)
    blocks = [mixed.slice(a, b - a) for a, b in pairwise(sorted({0, 400, *cuts}))]
    with closing(new_warehouse()) as pieces:
        pieces.register("feed", spec)
        for i, block in enumerate(blocks):
            pieces.record(f"events-{i}", events=block)
        for i in reversed(range(exposures.num_rows)):
            if i % 20 == 0:
                pieces.record(f"exposures-{i}", exposures=exposures.slice(i, 20))
        assert told(pieces) == expected


@given(seed=st.integers(0, 10_000), again=st.lists(st.integers(0, 399), min_size=1, max_size=50))
@several
def test_what_comes_again_is_counted_once(
    new_warehouse: Callable[[], Warehouse],
    random_events: Make,
    random_exposures: Make,
    seed: int,
    again: list[int],
) -> None:
    events, exposures = random_events(seed, n=400), random_exposures(seed)
    with closing(new_warehouse()) as warehouse:
        warehouse.register("feed", {"start_ts": 3 * 86_400_000})
        repeated = pa.concat_tables([events, events.take(again)])
        assert warehouse.record("first", events=repeated, exposures=exposures) == 400 + exposures.num_rows
        expected = told(warehouse)
        assert warehouse.record("late", events=events.take(again), exposures=exposures) == 0
        assert told(warehouse) == expected
        assert warehouse.counts()["events"] == 400


@given(seed=st.integers(0, 10_000))
@several
def test_days_sum_to_the_cumulative_window(
    new_warehouse: Callable[[], Warehouse], random_events: Make, random_exposures: Make, seed: int
) -> None:
    with closing(new_warehouse()) as warehouse:
        warehouse.register("feed", {"start_ts": 3 * 86_400_000})
        warehouse.record("all", events=random_events(seed, n=400), exposures=random_exposures(seed))
        moments = {(m.arm, m.window): m for m in warehouse.moments("feed", WINDOWS, columns=COLUMNS)}
    for arm in ("comirec", "recgpt"):
        for last in range(2, 6):
            cumulative = moments[arm, Window(1, last)]
            days = [moments[arm, Window(day, day)] for day in range(1, last + 1)]
            for name in COLUMNS:
                assert cumulative.sums[name] == sum(day.sums[name] for day in days)
            assert cumulative.n == days[-1].n >= days[0].n


@given(seed=st.integers(0, 10_000), split=st.integers(1, 39))
@several
def test_moments_of_disjoint_users_add(
    new_warehouse: Callable[[], Warehouse], random_events: Make, random_exposures: Make, seed: int, split: int
) -> None:
    events, exposures = random_events(seed, n=400), random_exposures(seed)

    def sums(part: Callable[[pa.Table], pa.Table]) -> dict[tuple[str, Window, object], int]:
        with closing(new_warehouse()) as warehouse:
            warehouse.register("feed", {"start_ts": 3 * 86_400_000})
            warehouse.record("all", events=part(events), exposures=part(exposures))
            return {
                (m.arm, m.window, name): value
                for m in warehouse.moments("feed", WINDOWS, columns=COLUMNS)
                for name, value in {"n": m.n, **m.sums, **m.products}.items()
            }

    whole = sums(lambda rows: rows)
    low = sums(lambda rows: rows.filter(pa.array(rows["user"].to_numpy() < split)))
    high = sums(lambda rows: rows.filter(pa.array(rows["user"].to_numpy() >= split)))
    assert whole == {key: low.get(key, 0) + high.get(key, 0) for key in whole}

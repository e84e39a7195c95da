"""Covariates and pairs of looks: against sums over users made in numpy, digit for digit."""

from collections.abc import Callable
from itertools import product

import pyarrow as pa
import pytest

from warehouse.events import DAY_MS, LATE, PRE
from warehouse.store import Warehouse, Window

Make = Callable[..., pa.Table]
DAYS = 5
NAMES = ("n_play", "watch_ms", "active_days")
COVARIATES = tuple(product(NAMES, NAMES))
PAIRS = tuple(product(NAMES, NAMES))


@pytest.fixture(scope="module")
def busy(
    new_warehouse: Callable[[], Warehouse],
    random_events: Make,
    random_exposures: Make,
    settings: dict[str, object],
) -> Warehouse:
    """A warehouse of 3,000 events from a day before the start on, with users exposed on all days."""
    warehouse = new_warehouse()
    warehouse.register("feed", settings)
    warehouse.record("a", events=random_events(1, n=3_000), exposures=random_exposures(2))
    return warehouse


def per_user(warehouse: Warehouse, arm: str, window: Window) -> dict[int, dict[str, int]]:
    rows = warehouse.totals("feed", window).to_pylist()
    return {row["user"]: row for row in rows if row["arm"] == arm}


def before(warehouse: Warehouse, start_ts: int) -> dict[int, dict[str, int]]:
    """Totals of the day before the start, whenever a user was exposed."""
    found = warehouse.sql(
        "SELECT user, count(*) FILTER (WHERE kind = 2) AS n_play,"
        " coalesce(sum(value) FILTER (WHERE kind = 1), 0)::BIGINT AS watch_ms,"
        " count(DISTINCT ts // 86400000) FILTER (WHERE kind = 1) AS active_days"
        f" FROM events WHERE ts >= {start_ts - DAY_MS} AND ts < {start_ts} GROUP BY user"
    )
    return {row["user"]: row for row in found.to_pylist()}


def dot(users: list[int], one: dict, a: str, other: dict, b: str) -> int:
    nothing = dict.fromkeys(NAMES, 0)
    return sum(one.get(user, nothing)[a] * other.get(user, nothing)[b] for user in users)


def test_covariates_are_totals_before_the_start_of_the_users_of_the_window(busy: Warehouse) -> None:
    sums = busy.looks("feed", DAYS, covariates=COVARIATES, pre_days=1)
    early = before(busy, busy.experiment("feed")["start_ts"])
    windows = [Window(1, 1), Window(3, 3), Window(1, 3), Window(1, 5)]
    seen = 0
    for moments in busy.moments("feed", windows, columns=NAMES):
        found = sums.extended(moments)
        totals = per_user(busy, moments.arm, moments.window)
        users = list(totals)
        assert found.n == len(users)
        for name in NAMES:
            assert found.sums[name] == moments.sums[name]
            assert found.sums[PRE + name] == sum(early[user][name] for user in users if user in early)
            seen += found.sums[PRE + name]
        for a, b in COVARIATES:
            assert found.products[PRE + a, b] == dot(users, early, a, totals, b)
            if (PRE + a, PRE + b) in found.products:
                assert found.products[PRE + a, PRE + b] == dot(users, early, a, early, b)
    assert seen > 0


def test_a_pair_of_looks_is_over_the_users_of_the_earlier_one(busy: Warehouse) -> None:
    sums = busy.looks("feed", DAYS, covariates=COVARIATES, pairs=PAIRS, pre_days=1)
    early = before(busy, busy.experiment("feed")["start_ts"])
    found = list(sums.pairs(DAYS))
    assert [(p.arm, p.early, p.late) for p in found[:4]] == [("comirec", 1, late) for late in (2, 3, 4, 5)]
    assert len(found) == 2 * 10
    for pair in found:
        one = per_user(busy, pair.arm, Window(1, pair.early))
        other = per_user(busy, pair.arm, Window(1, pair.late))
        users = list(one)
        assert pair.n == len(users)
        for a, b in PAIRS:
            assert pair.products[a, LATE + b] == dot(users, one, a, other, b)
            assert pair.products[PRE + a, LATE + b] == dot(users, early, a, other, b)
            assert pair.products[PRE + a, b] == dot(users, early, a, one, b)
        for name in NAMES:
            assert pair.sums[name] == sum(one[user][name] for user in users)
            assert pair.sums[LATE + name] == sum(other[user][name] for user in users)


def test_without_covariates_pairs_are_the_same(busy: Warehouse) -> None:
    with_them = busy.looks("feed", DAYS, covariates=COVARIATES, pairs=PAIRS, pre_days=1)
    without = busy.looks("feed", DAYS, pairs=PAIRS)
    for one, other in zip(with_them.pairs(DAYS), without.pairs(DAYS), strict=True):
        assert other.n == one.n
        assert other.sums.items() <= one.sums.items()
        assert other.products.items() <= one.products.items()
        assert not [name for name in other.sums if name.startswith(PRE)]


def test_sums_beyond_64_bits_are_exact(
    new_warehouse: Callable[[], Warehouse], views: Make, table: Make, settings: dict[str, object]
) -> None:
    with new_warehouse() as warehouse:
        warehouse.register("feed", settings)
        start_ts, large = warehouse.experiment("feed")["start_ts"], 2**31 - 1
        times = [start_ts - 5, *(start_ts + i for i in range(4)), start_ts + DAY_MS]
        events = views([1] * 6, times, value=large)
        exposed = table("exposures", experiment="feed", user=[1], arm="comirec", first_ts=start_ts)
        warehouse.record("a", events=events, exposures=exposed)
        pair = ("watch_ms", "watch_ms")
        sums = warehouse.looks("feed", 2, covariates=[pair], pairs=[pair], pre_days=1)
        (found,) = sums.pairs(2)
        assert found.products["watch_ms", "late_watch_ms"] == 4 * 5 * large**2 > 2**64
        assert found.products["pre_watch_ms", "late_watch_ms"] == 5 * large**2


def test_nothing_asked_is_nothing_summed(busy: Warehouse) -> None:
    sums = busy.looks("feed", DAYS)
    assert list(sums.pairs(DAYS)) == []
    moments = busy.moments("feed", [Window(1, 5)], columns=["n_play"])[0]
    assert sums.extended(moments) == moments


def test_bad_requests_are_refused(busy: Warehouse) -> None:
    with pytest.raises(LookupError, match="unknown column 'plays'"):
        busy.looks("feed", DAYS, pairs=[("plays", "plays")])
    with pytest.raises(ValueError, match="pre_days is 0"):
        busy.looks("feed", DAYS, covariates=[("n_play", "n_play")])


def test_the_order_of_days_does_not_matter_for_products(busy: Warehouse) -> None:
    sums = busy.looks("feed", DAYS, pairs=PAIRS)
    assert len(sums.crossed) > DAYS
    for (arm, day, other), values in sums.crossed.items():
        mirrored = dict(zip(PAIRS, sums.crossed[arm, other, day], strict=True))
        assert list(values) == [mirrored[b, a] for a, b in PAIRS]

"""A panel's views: against sums over users made in Python from plain SQL, digit for digit."""

from collections.abc import Callable
from functools import cache
from itertools import combinations_with_replacement, product
from typing import Any

import pyarrow as pa
import pytest

from warehouse.events import DAY_MS, LATE, PRE, day_name
from warehouse.queries import Activity
from warehouse.store import Moments, PanelSums, Warehouse

Make = Callable[..., pa.Table]
DAYS = 5
NAMES = ("n_play", "watch_ms", "active_days")
PAST = tuple(PRE + name for name in NAMES)
PRODUCTS = tuple(combinations_with_replacement((*PAST, *NAMES), 2))
NOTHING = dict.fromkeys(NAMES, 0)
Users = dict[int, dict[str, int]]


@pytest.fixture(scope="module")
def sums(busy: Warehouse) -> PanelSums:
    cuts = busy.activity_cuts("feed", 1, "n_play")
    return busy.panel("feed", DAYS, columns=NAMES, products=PRODUCTS, pre_days=1, activity=cuts)


def per_user(warehouse: Warehouse, arm: str, window: tuple[int, int]) -> Users:
    return {row["user"]: row for row in totals_of(warehouse, window) if row["arm"] == arm}


@cache
def totals_of(warehouse: Warehouse, window: tuple[int, int]) -> list[dict[str, Any]]:
    """Asked once a window: tests read the answers and do not change them."""
    return warehouse.totals("feed", window).to_pylist()


def cohorts(warehouse: Warehouse) -> dict[int, int]:
    """The day of each user's first exposure."""
    start_ts = warehouse.experiment("feed")["start_ts"]
    rows = warehouse.sql("SELECT user, min(first_ts) AS ts FROM exposures GROUP BY user").to_pylist()
    return {row["user"]: (row["ts"] - start_ts) // DAY_MS + 1 for row in rows}


def before(warehouse: Warehouse) -> Users:
    """Totals of the day before the start, whenever a user was exposed."""
    start_ts = warehouse.experiment("feed")["start_ts"]
    found = warehouse.sql(
        "SELECT user, count(*) FILTER (WHERE kind = 2) AS n_play,"
        " coalesce(sum(value) FILTER (WHERE kind = 1), 0)::BIGINT AS watch_ms,"
        " count(DISTINCT ts // 86400000) FILTER (WHERE kind = 1) AS active_days"
        f" FROM events WHERE ts >= {start_ts - DAY_MS} AND ts < {start_ts} GROUP BY user"
    )
    return {row["user"]: row for row in found.to_pylist()}


def dot(users: list[int], one: Users, a: str, other: Users, b: str) -> int:
    return sum(one.get(user, NOTHING)[a] * other.get(user, NOTHING)[b] for user in users)


def check(found: Moments, totals: Users, early: Users) -> None:
    """The moments are those of these users' totals."""
    users = list(totals)
    assert found.n == len(users)
    values = {
        **{PRE + name: [early.get(user, NOTHING)[name] for user in users] for name in NAMES},
        **{name: [totals[user][name] for user in users] for name in NAMES},
    }
    assert found.sums == {name: sum(column) for name, column in values.items()}
    assert found.products == {
        (a, b): sum(x * y for x, y in zip(values[a], values[b], strict=True)) for a, b in PRODUCTS
    }


def test_windows_hold_the_totals_and_the_past_of_the_users_exposed_by_their_end(
    busy: Warehouse, sums: PanelSums
) -> None:
    early = before(busy)
    windows = [(1, 1), (3, 3), (1, 3), (2, 4), (1, 5)]
    found = sums.moments(windows)
    assert [(m.window, m.arm) for m in found] == list(product(windows, ("comirec", "recgpt")))
    for moments in found:
        check(moments, per_user(busy, moments.arm, moments.window), early)
    assert found[-1].products[PRE + "watch_ms", "watch_ms"] > 0


def test_a_pair_of_looks_is_over_the_users_of_the_earlier_one(busy: Warehouse, sums: PanelSums) -> None:
    early = before(busy)
    found = list(sums.pairs(range(1, DAYS + 1)))
    assert [(p.arm, p.early, p.late) for p in found[:4]] == [("comirec", 1, late) for late in (2, 3, 4, 5)]
    assert len(found) == 2 * 10
    for pair in found:
        one = per_user(busy, pair.arm, (1, pair.early))
        other = per_user(busy, pair.arm, (1, pair.late))
        users = list(one)
        assert pair.n == len(users)
        for a, b in product(NAMES, NAMES):
            assert pair.products[a, LATE + b] == dot(users, one, a, other, b)
            assert pair.products[PRE + a, LATE + b] == dot(users, early, a, other, b)
            assert pair.products[PRE + a, b] == dot(users, early, a, one, b)
        for name in NAMES:
            assert pair.sums[name] == sum(one[user][name] for user in users)
            assert pair.sums[LATE + name] == sum(other[user][name] for user in users)


def test_days_since_exposure_are_of_users_who_can_have_had_them(busy: Warehouse, sums: PanelSums) -> None:
    early, first = before(busy), cohorts(busy)
    found = sums.since_exposure()
    assert len(found) == 2 * (2 * DAYS - 1)
    for moments in found:
        totals: Users = {}
        for cohort in range(1, DAYS - moments.window.last_day + 2):
            window = (cohort + moments.window.first_day - 1, cohort + moments.window.last_day - 1)
            rows = per_user(busy, moments.arm, window)
            totals |= {user: row for user, row in rows.items() if first[user] == cohort}
        check(moments, totals, early)
    n = [moments.n for moments in found if moments.arm == "comirec"]
    assert n[0] > n[-1] > 1


def test_a_course_holds_each_day_since_exposure_beside_the_others(busy: Warehouse, sums: PanelSums) -> None:
    first, n_days = cohorts(busy), 4
    for moments in sums.courses(n_days):
        users: dict[int, dict[str, int]] = {}
        for cohort, k in product((1, 2), range(1, n_days + 1)):
            for user, row in per_user(busy, moments.arm, (cohort + k - 1, cohort + k - 1)).items():
                if first[user] == cohort:
                    users.setdefault(user, {}).update({day_name(x, k): row[x] for x in NAMES})
        assert moments.n == len(users) > 1
        assert moments.sums == {name: sum(u[name] for u in users.values()) for name in moments.sums}
        assert len(moments.sums) == len(NAMES) * n_days
        assert len(moments.products) == len(NAMES) ** 2 * n_days * (n_days + 1) / 2
        for (a, b), value in moments.products.items():
            assert value == sum(u[a] * u[b] for u in users.values())


def test_groups_part_the_users_by_what_they_did_before(busy: Warehouse, sums: PanelSums) -> None:
    early = before(busy)
    ((light, middle),) = (
        tuple(cuts[1:]) for cuts in [busy.activity_cuts("feed", 1, "n_play")] if cuts is not None
    )
    plays = sorted(
        early[user]["n_play"]
        for arm in ("comirec", "recgpt")
        for user in per_user(busy, arm, (1, DAYS))
        if early.get(user, NOTHING)["n_play"]
    )
    assert (light, middle) == (plays[-(-len(plays) // 3) - 1], plays[-(-2 * len(plays) // 3) - 1])
    bounds = {"new": (0, 0), "light": (1, light), "middle": (light + 1, middle), "heavy": (middle + 1, 1000)}
    (groups,) = sums.by_group()
    assert set(groups) == set(Activity)
    for name, rows in groups.items():
        low, high = bounds[name]
        for moments in rows:
            totals = per_user(busy, moments.arm, (1, DAYS))
            mine = {u: row for u, row in totals.items() if low <= early.get(u, NOTHING)["n_play"] <= high}
            check(moments, mine, early)
    assert sum(m.n for rows in groups.values() for m in rows) == sum(m.n for m in sums.moments([(1, DAYS)]))


def test_fewer_days_are_those_days_alone(busy: Warehouse, sums: PanelSums) -> None:
    """What an interim analysis sees is what a panel of its days holds."""
    for days in (1, 3):
        fewer = busy.panel("feed", days, columns=NAMES, products=PRODUCTS, pre_days=1)
        assert fewer.moments([(1, days)]) == sums.moments([(1, days)])


def test_more_days_than_cohorts_can_be_kept_for_still_have_windows_and_looks(busy: Warehouse) -> None:
    long = busy.panel("feed", 63, columns=NAMES, products=PRODUCTS, pre_days=1)
    short = busy.panel("feed", 6, columns=NAMES, products=PRODUCTS, pre_days=1)
    windows = [(1, 1), (2, 5), (1, 6)]
    assert long.moments(windows) == short.moments(windows)
    assert list(long.pairs([2, 4, 6])) == list(short.pairs([2, 4, 6]))
    assert long.since_exposure() == []


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
        products = [("watch_ms", "watch_ms"), (PRE + "watch_ms", "watch_ms")]
        found = warehouse.panel("feed", 2, columns=["watch_ms"], products=products, pre_days=1)
        (pair,) = found.pairs([1, 2])
        assert pair.products["watch_ms", "late_watch_ms"] == 4 * 5 * large**2 > 2**64
        assert pair.products["pre_watch_ms", "late_watch_ms"] == 5 * large**2


def test_users_without_a_past_have_no_thirds(
    new_warehouse: Callable[[], Warehouse], table: Make, settings: dict[str, object]
) -> None:
    with new_warehouse() as warehouse:
        warehouse.register("feed", settings)
        assert warehouse.activity_cuts("feed", 1, "n_play") is None


def test_bad_requests_are_refused(busy: Warehouse) -> None:
    with pytest.raises(LookupError, match="unknown column 'plays'"):
        busy.panel("feed", DAYS, columns=["plays"], products=[])
    with pytest.raises(LookupError, match="unknown column 'n_like' in a product; known: n_play"):
        busy.panel("feed", DAYS, columns=["n_play"], products=[("n_play", "n_like")])
    with pytest.raises(ValueError, match="pre_days is 0"):
        busy.panel("feed", DAYS, columns=["n_play"], products=[("pre_n_play", "n_play")])

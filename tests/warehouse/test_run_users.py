"""What single users and events hold, and sums below a cap, against the plain totals of the same warehouse."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from warehouse.events import DAY_MS, Kind
from warehouse.store import UserTotals, Warehouse

Make = Callable[..., pa.Table]
START_TS = 3 * DAY_MS
COLUMNS = ["watch_ms", "n_impression"]
WINDOWS = [(1, 1), (2, 3), (1, 5)]


def of_arms(warehouse: Warehouse, window: tuple[int, int]) -> dict[str, dict[str, np.ndarray]]:
    """The same from `totals`, which other tests hold against SQL."""
    table = warehouse.totals("feed", window)
    arms = np.array(table["arm"].to_pylist())
    return {
        arm: {name: table[name].to_numpy()[arms == arm] for name in COLUMNS}
        for arm in sorted(set(arms.tolist()))
    }


@pytest.mark.parametrize("window", WINDOWS)
def test_users_have_their_totals_in_the_order_of_their_ids(busy: Warehouse, window: tuple[int, int]) -> None:
    found = busy.user_values("feed", UserTotals(window, COLUMNS))
    expected = of_arms(busy, window)
    assert found.keys() == expected.keys()
    for arm, columns in expected.items():
        assert found[arm].n == len(columns["watch_ms"])
        for name, values in columns.items():
            assert found[arm].columns[name].tolist() == values.tolist()


@pytest.mark.parametrize("window", WINDOWS)
def test_the_events_of_a_user_add_up_to_the_total(busy: Warehouse, window: tuple[int, int]) -> None:
    expected = of_arms(busy, window)
    for arm, events in busy.event_values("feed", window, "watch_ms").items():
        assert events.n_users == len(expected[arm]["watch_ms"])
        summed = np.bincount(events.users, events.values, minlength=events.n_users)
        assert summed.tolist() == expected[arm]["watch_ms"].tolist()
        counted = np.bincount(events.users, minlength=events.n_users)
        assert counted.tolist() == expected[arm]["n_impression"].tolist()


def test_only_durations_have_values_of_events(busy: Warehouse) -> None:
    with pytest.raises(LookupError, match="no value 'n_like'; those that do: watch_ms"):
        busy.event_values("feed", (1, 1), "n_like")


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_cap_is_an_order_statistic_of_all_arms_together(
    busy: Warehouse, window: tuple[int, int], share: float
) -> None:
    expected = of_arms(busy, window)
    for name, cap in zip(COLUMNS, busy.caps("feed", UserTotals(window, COLUMNS), share), strict=True):
        everyone = np.concatenate([columns[name] for columns in expected.values()])
        assert cap == np.quantile(everyone, share, method="inverted_cdf")


@pytest.mark.parametrize("window", WINDOWS)
def test_capped_moments_are_exact_sums_of_what_is_left_beside_the_past(
    busy: Warehouse, window: tuple[int, int]
) -> None:
    caps = [100_000, None]
    found, above = busy.capped("feed", UserTotals(window, COLUMNS, ["n_play"], pre_days=1), caps)
    expected = of_arms(busy, window)
    whole = busy.moments("feed", [window])
    for arm, columns in expected.items():
        cut = np.minimum(columns["watch_ms"], 100_000).tolist()
        shown = columns["n_impression"].tolist()
        assert found[arm].n == len(cut) == next(m.n for m in whole if m.arm == arm)
        assert found[arm].sums["watch_ms"] == sum(cut)
        assert found[arm].products["watch_ms", "watch_ms"] == sum(x * x for x in cut)
        assert found[arm].products["watch_ms", "n_impression"] == sum(
            x * y for x, y in zip(cut, shown, strict=True)
        )
        assert found[arm].sums["n_impression"] == sum(shown)
        assert "pre_n_play" in found[arm].sums
        assert ("watch_ms", "pre_n_play") in found[arm].products
    assert above == [sum(int((c["watch_ms"] > 100_000).sum()) for c in expected.values()), 0]


def test_the_past_of_capped_moments_is_that_of_the_days_before(
    new_warehouse: Callable[[], Warehouse], views: Make, table: Make, settings: dict[str, object]
) -> None:
    with new_warehouse() as warehouse:
        warehouse.register("feed", settings)
        before = views([1, 1, 2], [START_TS - 5, START_TS - DAY_MS - 5, START_TS - 1], Kind.play)
        during = views([1, 2, 2], [START_TS + 9] * 3, Kind.impression, 50)
        who = table("exposures", experiment="feed", user=[1, 2], arm=["a", "b"], first_ts=START_TS)
        warehouse.record("x", events=pa.concat_tables([before, during]), exposures=who)
        found, above = warehouse.capped(
            "feed", UserTotals((1, 1), ["watch_ms"], ["n_play"], pre_days=1), [60]
        )
    assert {arm: m.sums for arm, m in found.items()} == {
        "a": {"watch_ms": 50, "pre_n_play": 1},
        "b": {"watch_ms": 60, "pre_n_play": 1},
    }
    assert above == [1]


def test_nobody_exposed_has_caps_of_0_and_no_values(
    new_warehouse: Callable[[], Warehouse], settings: dict[str, object]
) -> None:
    with new_warehouse() as warehouse:
        warehouse.register("feed", settings)
        asked = UserTotals((1, 5), COLUMNS)
        assert warehouse.caps("feed", asked, 0.9) == [0, 0]
        assert warehouse.capped("feed", asked, [0, 0]) == ({}, [0, 0])
        assert warehouse.user_values("feed", asked) == {}
        assert warehouse.event_values("feed", (1, 5), "watch_ms") == {}

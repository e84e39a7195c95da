"""Totals and moments: against plain SQL written for the purpose, and on small cases counted by hand."""

from collections.abc import Callable
from itertools import combinations_with_replacement

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from warehouse.events import DAY_MS, Kind
from warehouse.queries import TOTALS
from warehouse.store import Moments, Warehouse, Window

Make = Callable[..., pa.Table]
START_TS = 3 * DAY_MS
WINDOWS = (
    [Window(d, d) for d in range(1, 6)] + [Window(1, d) for d in range(2, 6)] + [Window(2, 4), Window(3, 5)]
)

ORACLE = """
SELECT u.user AS u, u.arm,
  count(e.ts) FILTER (WHERE kind = 1) AS n_impression, count(e.ts) FILTER (WHERE kind = 2) AS n_play,
  count(e.ts) FILTER (WHERE kind = 3) AS n_long_view, count(e.ts) FILTER (WHERE kind = 4) AS n_like,
  count(e.ts) FILTER (WHERE kind = 5) AS n_comment, count(e.ts) FILTER (WHERE kind = 6) AS n_share,
  count(e.ts) FILTER (WHERE kind = 7) AS n_follow, count(e.ts) FILTER (WHERE kind = 8) AS n_hate,
  count(e.ts) FILTER (WHERE kind = 9) AS n_panel_open,
  count(e.ts) FILTER (WHERE kind = 10) AS n_profile_enter, count(e.ts) FILTER (WHERE kind = 11) AS n_session,
  coalesce(sum(value) FILTER (WHERE kind = 1), 0)::BIGINT AS watch_ms,
  coalesce(sum(value) FILTER (WHERE kind = 9), 0)::BIGINT AS panel_ms,
  coalesce(sum(value) FILTER (WHERE kind = 10), 0)::BIGINT AS profile_ms,
  coalesce(sum(value) FILTER (WHERE kind = 11), 0)::BIGINT AS session_ms,
  count(DISTINCT (e.ts - {start}) // 86400000) FILTER (WHERE kind = 1) AS active_days
FROM (SELECT x.user, any_value(x.arm) AS arm, any_value(x.first_ts) AS first_ts FROM exposures x
      WHERE x.experiment = 'feed' GROUP BY x.user HAVING count(*) = 1) AS u
LEFT JOIN events AS e
  ON e.user = u.user AND e.ts >= u.first_ts AND e.ts BETWEEN {start} + 86400000 * {before} AND {end} - 1
WHERE u.first_ts < {end}
GROUP BY ALL ORDER BY u
"""


@pytest.mark.parametrize("window", WINDOWS)
def test_totals_equal_plain_sql(busy: Warehouse, window: Window) -> None:
    text = ORACLE.format(start=START_TS, before=window.first_day - 1, end=START_TS + window.last_day * DAY_MS)
    expected = busy.sql(text)
    found = busy.totals("feed", window)
    assert found.num_rows > 5
    assert found.column_names == ["user", "arm", *TOTALS]
    assert set(found.schema.types[2:]) == {pa.int64()}
    assert found.to_pydict() == expected.rename_columns(found.column_names).to_pydict()


def moments_of(totals: pa.Table, arm: str, window: Window, columns: tuple[str, ...] = TOTALS) -> Moments:
    rows = totals.filter(pc.equal(totals["arm"], arm))
    values = {name: rows[name].to_numpy().astype(object) for name in columns}
    return Moments(
        arm,
        window,
        rows.num_rows,
        {name: int(np.sum(values[name])) for name in columns},
        {(a, b): int(np.dot(values[a], values[b])) for a, b in combinations_with_replacement(columns, 2)},
    )


def test_moments_equal_numpy_on_totals(busy: Warehouse) -> None:
    expected = [
        moments_of(busy.totals("feed", window), arm, window)
        for window in WINDOWS
        for arm in ("comirec", "recgpt")
    ]
    assert busy.moments("feed", WINDOWS) == expected


def test_any_set_of_windows_gives_the_same_moments(busy: Warehouse) -> None:
    columns = ["n_play", "watch_ms"]
    together = busy.moments("feed", WINDOWS, columns=columns)
    alone = [moments for window in WINDOWS for moments in busy.moments("feed", [window], columns=columns)]
    backwards = busy.moments("feed", WINDOWS[::-1], columns=columns)
    assert together == alone == sorted(backwards, key=lambda m: (WINDOWS.index(m.window), m.arm))


def test_columns_restrict_the_moments(busy: Warehouse) -> None:
    for columns in (["watch_ms", "n_share"], ["active_days"], []):
        names = tuple(name for name in TOTALS if name in columns)
        found = busy.moments("feed", [Window(1, 3)], columns=columns)
        totals = busy.totals("feed", Window(1, 3))
        assert found == [moments_of(totals, arm, Window(1, 3), names) for arm in ("comirec", "recgpt")]


def test_an_unknown_column_names_the_known_ones(busy: Warehouse) -> None:
    with pytest.raises(LookupError, match="unknown column 'n_shares'; totals have: n_impression"):
        busy.moments("feed", [Window(1, 1)], columns=["n_shares"])


@pytest.mark.parametrize("window", [(0, 1), (2, 1), (-1, -1)])
def test_a_window_is_a_range_of_days(busy: Warehouse, window: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no range of days"):
        busy.moments("feed", [window])
    with pytest.raises(ValueError, match="no range of days"):
        busy.totals("feed", window)


def test_no_windows_give_no_moments(busy: Warehouse) -> None:
    assert busy.moments("feed", []) == []


def test_an_event_before_the_exposure_is_not_counted(
    warehouse: Warehouse, table: Make, views: Make, settings: dict[str, object]
) -> None:
    warehouse.register("feed", settings)
    first_ts = START_TS + 1000
    warehouse.record(
        "a",
        exposures=table("exposures", experiment="feed", user=1, arm="a", first_ts=first_ts),
        events=views([1, 1, 1, 2], [first_ts - 1, first_ts, first_ts + 1, first_ts], Kind.share),
    )
    assert warehouse.totals("feed", (1, 1)).select(["user", "n_share"]).to_pylist() == [
        {"user": 1, "n_share": 2}
    ]


def test_a_window_holds_its_first_millisecond_and_not_the_one_after_its_last(
    warehouse: Warehouse, table: Make, views: Make, settings: dict[str, object]
) -> None:
    warehouse.register("feed", settings)
    times = [START_TS + DAY_MS - 1, START_TS + DAY_MS, START_TS + 2 * DAY_MS - 1, START_TS + 2 * DAY_MS]
    warehouse.record(
        "a",
        exposures=table("exposures", experiment="feed", user=1, arm="a", first_ts=START_TS),
        events=views([1] * 4, times),
    )
    counts = {
        w: warehouse.totals("feed", w)["n_impression"].to_pylist() for w in [(1, 1), (2, 2), (3, 3), (1, 3)]
    }
    assert counts == {(1, 1): [1], (2, 2): [2], (3, 3): [1], (1, 3): [4]}
    assert warehouse.totals("feed", (1, 3))["active_days"].to_pylist() == [3]


def test_users_of_a_window_are_those_exposed_before_its_end(
    warehouse: Warehouse, table: Make, settings: dict[str, object]
) -> None:
    warehouse.register("feed", settings)
    first = [START_TS, START_TS + DAY_MS - 1, START_TS + DAY_MS]
    warehouse.record(
        "a", exposures=table("exposures", experiment="feed", user=[1, 2, 3], arm="a", first_ts=first)
    )
    assert [warehouse.totals("feed", w)["user"].to_pylist() for w in [(1, 1), (2, 2)]] == [[1, 2], [1, 2, 3]]
    assert [m.n for m in warehouse.moments("feed", [(1, 1), (2, 2), (1, 2)])] == [2, 3, 3]


def test_products_beyond_64_bits_are_exact(
    warehouse: Warehouse, table: Make, views: Make, settings: dict[str, object]
) -> None:
    warehouse.register("feed", settings)
    large = 2**61 + 1
    warehouse.record(
        "a",
        exposures=table("exposures", experiment="feed", user=[1, 2], arm="a", first_ts=START_TS),
        events=views([1, 1, 2], [START_TS, START_TS + DAY_MS, START_TS], Kind.impression, large),
    )
    (moments,) = warehouse.moments("feed", [(1, 2)], columns=["watch_ms"])
    assert moments.products["watch_ms", "watch_ms"] == (2 * large) ** 2 + large**2
    assert all(type(value) is int for value in (*moments.sums.values(), *moments.products.values()))


def test_an_experiment_without_exposures_has_no_moments(
    warehouse: Warehouse, settings: dict[str, object]
) -> None:
    warehouse.register("feed", settings)
    assert warehouse.moments("feed", [(1, 1)]) == []
    assert warehouse.totals("feed", (1, 1)).num_rows == 0
    assert warehouse.exposed("feed") == {}

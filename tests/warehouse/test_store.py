"""The contract that every database keeps."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from warehouse.events import DAY_MS, Kind
from warehouse.schema import RECORDS
from warehouse.store import Warehouse, Window

Make = Callable[..., pa.Table]
START_TS = 3 * DAY_MS


class TestRecording:
    def test_every_record_comes_back_as_it_went_in(self, warehouse: Warehouse, table: Make) -> None:
        tables = {
            "events": table(
                "events", ts=-5, user=2**40, session=2**41, request=-1, position=-1, kind=11, value=9
            ),
            "exposures": table("exposures", experiment="it's 100%", user=3, arm="a:b\\$1", first_ts=8),
            "propensities": table(
                "propensities", user=3, session=1, request=2, position=3, item=4, ppb=10**9
            ),
            "items": table(
                "items", item=[1, 2], author=2, tag=-1, duration_ms=7, uploaded_ts=-8, source_id=2**50
            ),
            "users": table("users", user=[0, 1], source_id=[2**50, 4]),
        }
        assert warehouse.record("all", **tables) == 7
        for name in RECORDS:
            assert warehouse.sql(f"SELECT * FROM {name} ORDER BY ALL").to_pylist() == tables[name].to_pylist()

    def test_column_order_and_wider_integers_do_not_matter(self, warehouse: Warehouse) -> None:
        rows = pa.table({"source_id": pa.array([5], pa.uint16()), "user": pa.array([1], pa.int8())})
        assert warehouse.record("users", users=rows) == 1
        assert warehouse.sql("SELECT * FROM users").to_pylist() == [{"user": 1, "source_id": 5}]

    def test_the_same_batch_again_stores_nothing(self, warehouse: Warehouse, views: Make) -> None:
        events = views([1, 2], [10, 20])
        assert [warehouse.record("a", events=events), warehouse.record("a", events=events)] == [2, 0]
        chunked = pa.concat_tables([events.slice(0, 1), events.slice(1)])
        assert warehouse.record("a", events=chunked) == 0
        assert warehouse.counts()["events"] == 2
        assert warehouse.counts()["batches"] == 1

    def test_a_known_batch_with_other_rows_is_refused(self, warehouse: Warehouse, views: Make) -> None:
        warehouse.record("a", events=views([1], [10]))
        with pytest.raises(ValueError, match="batch 'a' was recorded with other rows"):
            warehouse.record("a", events=views([1], [11]))

    def test_a_key_is_stored_once(self, warehouse: Warehouse, views: Make) -> None:
        events = views([1, 2, 3], [10, 20, 30])
        twice = pa.concat_tables([events, events.slice(1, 1)])
        assert warehouse.record("a", events=twice) == 3
        assert warehouse.record("b", events=events.slice(1)) == 0
        assert warehouse.record("c", events=pa.concat_tables([events, views([4], [25])])) == 1
        assert warehouse.counts() | {"events": 4, "batches": 3} == warehouse.counts()

    def test_two_rows_of_one_key_in_a_batch_leave_the_earlier_one(
        self, warehouse: Warehouse, table: Make
    ) -> None:
        for name, times in {"a": [30, 20], "b": [20, 30]}.items():
            user = {"a": 1, "b": 2}[name]
            warehouse.record(name, events=table("events", ts=times, user=user, kind=1, value=times))
        assert warehouse.sql("SELECT ts, value FROM events").to_pylist() == [{"ts": 20, "value": 20}] * 2

    def test_propensities_of_a_slot_are_stored_once(self, warehouse: Warehouse, table: Make) -> None:
        rows = table("propensities", user=1, session=[1, 1, 2], position=[0, 1, 0], item=4, ppb=5)
        assert warehouse.record("a", propensities=pa.concat_tables([rows, rows])) == 3
        assert warehouse.record("b", propensities=rows.slice(1)) == 0

    def test_an_exposure_keeps_its_earliest_moment(self, warehouse: Warehouse, table: Make) -> None:
        def exposure(*times: int) -> pa.Table:
            return table("exposures", experiment="feed", user=1, arm="a", first_ts=list(times))

        stored = [
            warehouse.record(str(i), exposures=exposure(*t)) for i, t in enumerate([(50, 40), (60,), (9, 30)])
        ]
        assert stored == [1, 0, 0]
        assert warehouse.sql("SELECT first_ts FROM exposures").to_pylist() == [{"first_ts": 9}]

    def test_items_do_not_change(self, warehouse: Warehouse, table: Make) -> None:
        warehouse.record("a", items=table("items", item=[1, 2], author=3))
        assert warehouse.record("b", items=table("items", item=[2, 3], author=3)) == 1
        with pytest.raises(ValueError, match="item 2 comes with two different rows"):
            warehouse.record("c", items=table("items", item=2, author=4))
        with pytest.raises(ValueError, match="item 5 comes with two different rows"):
            warehouse.record("d", items=table("items", item=[5, 5], author=[1, 2]))

    def test_nothing_of_a_refused_batch_is_stored(
        self, warehouse: Warehouse, views: Make, table: Make
    ) -> None:
        warehouse.record("a", users=table("users", user=1, source_id=1))
        before = warehouse.counts()
        with pytest.raises(ValueError, match="user 1"):
            warehouse.record("b", events=views([1], [1]), users=table("users", user=1, source_id=2))
        assert warehouse.counts() == before
        assert warehouse.record("b", events=views([1], [1])) == 1

    def test_an_atomic_block_that_raises_leaves_nothing(self, warehouse: Warehouse, views: Make) -> None:
        def crash() -> None:
            with warehouse.atomic():
                warehouse.record("a", events=views([1], [1]))
                with warehouse.atomic():
                    warehouse.register("feed", {"start_ts": 0})
                raise RuntimeError("crash")

        with pytest.raises(RuntimeError, match="crash"):
            crash()
        assert set(warehouse.counts().values()) == {0}
        with warehouse.atomic():
            warehouse.record("a", events=views([1], [1]))
            warehouse.record("b", events=views([1], [1]))
        assert warehouse.counts()["events"] == 2

    def test_the_ledger_tells_rows_and_times(self, warehouse: Warehouse, views: Make, table: Make) -> None:
        warehouse.record("a", events=views([1, 1], [5, 9]))
        warehouse.record("b", users=table("users", user=1))
        warehouse.record("c")
        rows = warehouse.sql("SELECT batch_id, n_rows, min_ts, max_ts FROM batches ORDER BY 1").to_pylist()
        assert [tuple(row.values()) for row in rows] == [
            ("a", 2, 5, 9),
            ("b", 1, None, None),
            ("c", 0, None, None),
        ]

    def test_an_empty_table_is_a_batch_without_rows(self, warehouse: Warehouse, views: Make) -> None:
        assert warehouse.record("a", events=views([], [])) == 0


class TestLog:
    def test_interactions_are_plays_in_order_with_repeats(self, warehouse: Warehouse, views: Make) -> None:
        warehouse.record("a", events=views([2, 1, 1, 1], [5, 9, 3, 3], Kind.play))
        warehouse.record("b", events=views([1], [4]))
        rows = warehouse.interactions().to_pylist()
        assert [(row["user"], row["ts"]) for row in rows] == [(1, 3), (1, 3), (1, 9), (2, 5)]
        assert warehouse.interactions().column_names == ["user", "item", "ts"]
        assert warehouse.interactions(before=5).num_rows == 2

    def test_an_impression_tells_what_followed_it(self, warehouse: Warehouse, table: Make) -> None:
        kinds = [Kind.impression, Kind.play, Kind.share, Kind.impression, Kind.hate]
        warehouse.record(
            "a",
            events=table(
                "events",
                ts=[5, 6, 9, 7, 8],
                user=1,
                item=[3, 3, 3, 4, 4],
                position=[0, 0, 0, 1, 1],
                kind=kinds,
                value=50,
            ),
        )
        first, second = warehouse.impressions().to_pylist()
        said = {"play": 1, "long_view": 0, "like": 0, "comment": 0, "share": 1, "follow": 0}
        assert first == {"user": 1, "item": 3, "ts": 5, "position": 0, "watch_ms": 50, **said}
        assert second == {
            "user": 1,
            "item": 4,
            "ts": 7,
            "position": 1,
            "watch_ms": 50,
            **dict.fromkeys(said, 0),
        }
        assert warehouse.impressions(before=7).to_pylist() == [{**first, "share": 0}]

    def test_a_play_without_an_impression_is_no_impression(self, warehouse: Warehouse, views: Make) -> None:
        warehouse.record("a", events=views([1], [1], Kind.play))
        assert warehouse.impressions().num_rows == 0

    def test_every_column_of_an_event_changes_the_hash(
        self, new_warehouse: Callable[[], Warehouse], table: Make
    ) -> None:
        row = {
            "kind": 1,
            "ts": 2,
            "ingest_ts": 3,
            "user": 4,
            "session": 5,
            "request": 6,
            "item": 7,
            "position": 8,
        }
        hashes = set()
        for changed in ({}, *({name: 9} for name in (*row, "value"))):
            with new_warehouse() as warehouse:
                hashes.add(warehouse.event_hash())
                warehouse.record("a", events=table("events", **{**row, **changed}))
                hashes.add(warehouse.event_hash())
        assert len(hashes) == 1 + 1 + len(row) + 1


class TestExperiments:
    def test_settings_come_back(self, warehouse: Warehouse, settings: dict[str, object]) -> None:
        warehouse.register("feed", settings)
        warehouse.register("feed", dict(reversed(settings.items())))
        assert warehouse.experiment() == warehouse.experiment("feed") == settings

    def test_a_name_is_taken_once(self, warehouse: Warehouse) -> None:
        warehouse.register("feed", {"start_ts": 1})
        with pytest.raises(ValueError, match="'feed' is registered with other settings"):
            warehouse.register("feed", {"start_ts": 2})

    @pytest.mark.parametrize("settings", [{}, {"start_ts": "noon"}, {"start_ts": True}])
    def test_an_experiment_needs_a_start(self, warehouse: Warehouse, settings: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="start_ts"):
            warehouse.register("feed", settings)

    def test_an_unknown_experiment_names_the_known_ones(self, warehouse: Warehouse) -> None:
        with pytest.raises(LookupError, match="registered: none"):
            warehouse.experiment()
        warehouse.register("b", {"start_ts": 1})
        warehouse.register("a", {"start_ts": 1})
        for ask in (warehouse.experiment, warehouse.exposed, warehouse.crossovers, warehouse.daily_exposed):
            with pytest.raises(LookupError, match="unknown experiment 'c'; registered: a, b"):
                ask("c")
        with pytest.raises(LookupError, match="2 experiments are registered"):
            warehouse.experiment()

    def test_another_experiment_is_not_counted(self, warehouse: Warehouse, table: Make) -> None:
        for name, arm in (("a", "x"), ("b", "y")):
            warehouse.register(name, {"start_ts": 0})
            warehouse.record(name, exposures=table("exposures", experiment=name, user=1, arm=arm, first_ts=5))
        assert (warehouse.exposed("a"), warehouse.crossovers("a")) == ({"x": 1}, 0)

    def test_exposed_users_are_counted_by_the_day_of_their_first_request(
        self, warehouse: Warehouse, table: Make
    ) -> None:
        warehouse.register("feed", {"start_ts": START_TS})
        first = [START_TS - 1, START_TS, START_TS + DAY_MS - 1, START_TS + DAY_MS, START_TS + DAY_MS]
        warehouse.record(
            "a",
            exposures=table(
                "exposures", experiment="feed", user=[1, 2, 3, 4, 5], arm=list("aaabb"), first_ts=first
            ),
        )
        assert warehouse.daily_exposed("feed") == [(0, "a", 1), (1, "a", 2), (2, "b", 2)]

    def test_a_user_seen_in_two_arms_is_dropped_and_counted(
        self, warehouse: Warehouse, table: Make, views: Make
    ) -> None:
        warehouse.register("feed", {"start_ts": 0})
        exposures = table("exposures", experiment="feed", user=[1, 1, 2, 3], arm=list("abab"), first_ts=1)
        warehouse.record("a", exposures=exposures, events=views([1, 2, 3], [5, 5, 5]))
        assert warehouse.crossovers("feed") == 1
        assert warehouse.exposed("feed") == {"a": 1, "b": 1}
        assert warehouse.totals("feed", Window(1, 1))["user"].to_pylist() == [2, 3]
        assert [moments.n for moments in warehouse.moments("feed", [Window(1, 1)])] == [1, 1]


class TestDatabaseFiles:
    def test_a_reopened_file_holds_what_was_recorded(self, tmp_path: Path, views: Make) -> None:
        path = tmp_path / "events.duckdb"
        with Warehouse.open(path) as warehouse:
            warehouse.record("a", events=views([1, 2], [1, 2]))
            expected = warehouse.event_hash()
        with Warehouse.open(f"duckdb:///{path}", read_only=True) as warehouse:
            assert warehouse.event_hash() == expected
            with pytest.raises(ValueError, match="opened read-only"):
                warehouse.record("b", events=views([1], [3]))
            with pytest.raises(ValueError, match="opened read-only"):
                warehouse.register("feed", {"start_ts": 0})

"""Building worlds: synthetic ones, and ones from a real log."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from simulator.logged import check
from simulator.state import SHOWN, State
from simulator.world import World

KUAIRAND = Path(__file__).parents[2] / "../shared/data/kuairand"


def _equal(a: World, b: World) -> bool:
    return all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a) if f.name != "constants"
    )


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    worlds = [World.synthetic(60, n_items=200, seed=s) for s in (3, 3, 4)]
    assert _equal(worlds[0], worlds[1])
    assert worlds[0].constants == worlds[1].constants
    assert not np.array_equal(worlds[0].user_taste, worlds[2].user_taste)


def test_a_synthetic_world_has_the_shapes_of_real_logs() -> None:
    world = World.synthetic(3000, n_items=5000, seed=1)
    counts = np.sort(np.bincount(world.item_tag[1:], minlength=47))[::-1]
    slope = np.polyfit(np.log(np.arange(1, 21)), np.log(counts[:20]), 1)[0]
    assert slope == pytest.approx(-0.96, abs=0.2)  # Pure, over these ranks; all of them: -1.41
    seconds = np.quantile(world.item_duration_ms[1:] / 1000, [0.1, 0.5, 0.9])
    assert seconds == pytest.approx([13.2, 72.2, 262], rel=0.1)
    assert np.corrcoef(world.user_activity, world.user_offset)[0, 1] == pytest.approx(-0.5, abs=0.05)
    whole = np.exp(world.user_actions).mean(1)[[0, 1, 3, 4, 6]]  # rows that are no part of another propensity
    assert whole == pytest.approx(np.ones(5), rel=0.4)
    assert (world.item_uploaded_ts <= 0).all()


def test_row_zero_of_the_items_is_padding() -> None:
    world = World.synthetic(50, n_items=100, seed=1)
    assert world.n_items == 100
    assert not world.item_vector[0].any()
    assert world.item_quality[0] == world.item_author[0] == 0


@pytest.mark.parametrize("profile", ["default", "heavy"])
def test_every_profile_can_be_built(profile: str) -> None:
    assert World.synthetic(60, n_items=100, seed=1, profile=profile).n_users == 60


def test_bad_settings_are_refused_in_one_sentence() -> None:
    with pytest.raises(LookupError, match=r"unknown profile 'light'; known profiles: default, heavy"):
        World.synthetic(10, profile="light")
    with pytest.raises(ValueError, match="n_users is 0; a world needs at least 1"):
        World.synthetic(0)


def test_tables_follow_the_schema_of_the_warehouse() -> None:
    pytest.importorskip("warehouse.schema")
    world = World.synthetic(20, n_items=30, seed=1)
    items, users = world.items_table(), world.users_table()
    assert items.column_names == ["item", "author", "tag", "duration_ms", "uploaded_ts", "source_id"]
    assert (items.num_rows, users.num_rows) == (30, 20)
    assert items["item"].to_pylist()[:2] == [1, 2]


@pytest.fixture(scope="module")
def kuairand():
    if not KUAIRAND.exists():
        pytest.skip("needs ../shared/data")
    importers = pytest.importorskip("warehouse.importers")
    return importers.read_kuairand(KUAIRAND)


@pytest.fixture(scope="module")
def logged(kuairand) -> World:
    k = kuairand
    return World.from_log(k.users, k.videos, k.impressions, k.histories, k.exposures, seed=2, n_users=1500)


def test_a_logged_world_holds_real_users_videos_and_histories(kuairand, logged: World) -> None:
    assert logged.n_users == 1500
    assert set(logged.user_source_id) <= set(kuairand.histories["user_id"].to_pylist())
    lists = dict(
        zip(kuairand.histories["user_id"].to_pylist(), kuairand.histories["videos"].to_pylist(), strict=True)
    )
    for user in range(0, 1500, 100):
        items = logged.history[user][logged.history[user] > 0]
        assert logged.item_source_id[items].tolist() == lists[logged.user_source_id[user]][-50:]
    duration = dict(
        zip(kuairand.videos["video_id"].to_pylist(), kuairand.videos["duration_ms"].to_pylist(), strict=True)
    )
    assert all(
        duration[s] == d for s, d in zip(logged.item_source_id[1:], logged.item_duration_ms[1:], strict=True)
    )


def test_a_logged_world_starts_with_its_histories(logged: World) -> None:
    state = State.start(logged)
    users = np.arange(logged.n_users)
    assert np.array_equal(state.histories(users), logged.history)
    assert state.recently_shown(users).shape == (1500, SHOWN)


def test_videos_that_were_played_more_have_more_quality(kuairand, logged: World) -> None:
    videos, play = kuairand.impressions["video_id"].to_numpy(), kuairand.impressions["play"].to_numpy()
    at = np.searchsorted(logged.item_source_id[1:], videos) + 1
    n = np.bincount(at, minlength=logged.n_items + 1)
    plays = np.bincount(at, play, minlength=logged.n_items + 1)
    often = n >= 100
    assert np.corrcoef(plays[often] / n[often], logged.item_quality[often])[0, 1] > 0.8


def test_more_users_than_the_log_has_are_refused(kuairand) -> None:
    k = kuairand
    with pytest.raises(ValueError, match="n_users is 99999; the log has 26"):
        World.from_log(k.users, k.videos, k.impressions, k.histories, k.exposures, n_users=99_999)


@pytest.mark.parametrize(
    ("plays", "volumes", "words"),
    [
        ([0, 0, 0], [3, 4], "0 of the log's 3 impressions are plays"),
        ([1, 1], [3, 4], "2 of the log's 2 impressions are plays"),
        ([0, 1], [3, 3], "all 2 users of the full log have the same n_exposures"),
    ],
)
def test_a_log_that_shows_one_outcome_alone_makes_no_world(
    plays: list[int], volumes: list[int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        check(pa.table({"play": plays}), pa.table({"n_exposures": volumes}))

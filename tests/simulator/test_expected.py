"""What users were to be expected to do: as often as they do it, whatever the ticks, shards and breaks."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from simulator import snapshot
from simulator.behavior import EXPECTED
from simulator.platform import Platform
from simulator.policies import LoggingPolicy
from simulator.world import World
from warehouse.events import DAY_MS, Kind

KINDS = {"comment": Kind.comment, "share": Kind.share}


class Counts:
    """Counts the events of each user and day, by kind."""

    def __init__(self, n_users: int, days: int) -> None:
        self.of = np.zeros((days + 1, n_users, len(EXPECTED)), np.int64)

    def __call__(self, events: pa.Table | None = None, **others: pa.Table) -> None:
        if events is None:
            return
        ts, user, kind = (events[name].to_numpy() for name in ("ts", "user", "kind"))
        for i, name in enumerate(EXPECTED):
            mine = kind == KINDS[name]
            np.add.at(self.of[:, :, i], (ts[mine] // DAY_MS, user[mine]), 1)


def expected(world: World, record: Counts, days: int, **settings: float) -> np.ndarray:
    """(days, n_users, EXPECTED) in parts per billion."""
    found = []
    platform = Platform(
        world,
        [LoggingPolicy(world)],
        lambda users: np.zeros(len(users), np.int64),
        record,
        expects=True,
        **settings,
    )
    for _ in range(days):
        platform.run(1)
        found.append(platform.expected.copy())
    return np.array(found)


@pytest.fixture(scope="module")
def town() -> World:
    return World.synthetic(500, n_items=2_000, seed=8)


def test_counts_are_poisson_around_what_was_expected() -> None:
    """Of many worlds: the sums differ by less than four standard errors of so many events."""
    drawn, likely = np.zeros(len(EXPECTED)), np.zeros(len(EXPECTED))
    for seed in range(4):
        world = World.synthetic(700, n_items=1_500, seed=seed)
        counts = Counts(world.n_users, 1)
        likely += expected(world, counts, 1).sum((0, 1)) / 1e9
        drawn += counts.of[0].sum(0)
    assert np.all(drawn > 15)
    assert np.all(np.abs(drawn - likely) < 4 * np.sqrt(likely))


def test_ticks_change_nothing_and_a_view_over_midnight_counts_where_its_events_do(town: World) -> None:
    counts = Counts(town.n_users, 2)
    found = expected(town, counts, 2)
    assert np.array_equal(found, expected(town, Counts(town.n_users, 2), 2, tick_s=3600 * 5))
    assert np.all(found.sum(2)[counts.of[:2].sum(2) > 0] > 0)


def test_a_platform_that_goes_on_from_its_snapshot_expects_the_same(town: World, tmp_path: Path) -> None:
    def platform(day: int) -> Platform:
        zeros = np.zeros(town.n_users, np.int64)
        feeds = [LoggingPolicy(town)]
        return Platform(
            town, feeds, lambda users: zeros, Counts(town.n_users, 3), start_day=day, expects=True
        )

    first = platform(0)
    first.run(1)
    snapshot.save(first, tmp_path / "midnight.safetensors")
    second = platform(1)
    snapshot.restore(second, tmp_path / "midnight.safetensors")
    second.feeds[0].learn(first.plays)
    second.run(1)
    assert first.expected_now.any(), "a view went over midnight"
    assert np.array_equal(second.expected, expected(town, Counts(town.n_users, 2), 2)[1])


def test_nothing_is_kept_unless_it_was_asked_for(town: World) -> None:
    platform = Platform(
        town, [LoggingPolicy(town)], lambda users: np.zeros(len(users), np.int64), Counts(town.n_users, 1)
    )
    platform.run(1)
    assert platform.expected.shape == (town.n_users, 0)

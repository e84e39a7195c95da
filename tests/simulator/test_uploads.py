"""Videos that are uploaded while a world lives: how many, by whom, and never shown before their midnight."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from scipy import stats

from simulator import living
from simulator.platform import Platform
from simulator.policies import LoggingPolicy, OraclePolicy, PopularityPolicy, RandomPolicy, ReferencePolicy
from simulator.slots import BILLION
from simulator.state import State
from simulator.uploads import poisson, upload_times
from simulator.world import World
from warehouse.events import DAY_MS

POLICIES = [LoggingPolicy, OraclePolicy, PopularityPolicy, RandomPolicy, ReferencePolicy]
DAYS = 3


@pytest.fixture(scope="module")
def fixed() -> World:
    return World.synthetic(24, n_items=300, seed=2)


@pytest.fixture(scope="module")
def growing() -> World:
    """Of 300 videos, 60 more a day."""
    return World.synthetic(24, n_items=300, seed=2, uploads=20, days=DAYS)


def lived(world: World, days: int, policies: list[Any], **settings: Any) -> dict[str, np.ndarray]:
    """Events by user and key; users are divided among the policies."""
    tables = []

    def record(events: Any = None, **others: Any) -> None:
        tables.append(np.stack([column.to_numpy() for column in events.columns]))

    feeds = [policy(world) for policy in policies]
    Platform(world, feeds, lambda users: users % len(feeds), record, **settings).run(days)
    names = ("ts", "ingest_ts", "user", "session", "request", "item", "position", "kind", "value")
    rows = np.concatenate(tables, axis=1)
    return dict(zip(names, rows[:, np.lexsort(rows[[7, 6, 4, 3, 2]])], strict=True))


def test_the_counts_are_poisson_by_the_inverse_distribution() -> None:
    u = (np.arange(2_000) + 0.5) / 2_000
    for mean in (0.3, 7.0, 1_000.0):
        assert (poisson(u, mean) == stats.poisson.ppf(u, mean)).all()
    assert not poisson(u, 0.0).any()


def test_uploads_come_at_all_hours_of_every_day_and_more_days_change_nothing() -> None:
    times = upload_times(50.0, 40, seed=1)
    assert (np.diff(times) >= 0).all()
    a_day = np.bincount(times // DAY_MS, minlength=40)
    assert len(a_day) == 40
    assert abs(len(times) - 2_000) < 4 * 2_000**0.5
    assert 0.4 < a_day.var() / a_day.mean() < 1.9  # 4 standard errors of a Poisson law
    assert stats.kstest(times % DAY_MS / DAY_MS, "uniform").pvalue > 1e-3
    assert (upload_times(50.0, 10, seed=1) == times[times < 10 * DAY_MS]).all()


def test_the_videos_of_the_start_and_the_users_are_those_of_the_world_without_uploads(
    fixed: World, growing: World
) -> None:
    n = fixed.n_items
    assert growing.n_at_start == n < growing.n_items
    for field in fields(World):
        mine, other = getattr(growing, field.name), getattr(fixed, field.name)
        if field.name == "item_actions":
            mine = mine[:, : n + 1]
        elif field.name.startswith("item_"):
            mine = mine[: n + 1]
        assert mine == other if field.name == "constants" else np.array_equal(mine, other), field.name
    assert (growing.item_uploaded_ts[: n + 1] <= 0).all()


def test_new_videos_are_of_the_authors_of_the_start_who_have_more_the_more_they_have() -> None:
    world = World.synthetic(20, n_items=2_000, seed=4, uploads=100, days=5)
    n = world.n_at_start
    before, after = (
        np.bincount(part, minlength=world.item_author.max() + 1)
        for part in (world.item_author[1 : n + 1], world.item_author[n + 1 :])
    )
    assert not after[before == 0].any()
    rates = [after[before == k].sum() / (k * (before == k).sum()) for k in (1, 2, 3)]
    assert rates == pytest.approx([len(world.item_author[n + 1 :]) / n] * 3, rel=0.1)
    forward = np.diff(world.item_reach)
    assert world.item_reach[n] == 1.0
    assert np.quantile(forward[n:], [0.5, 0.9]) == pytest.approx(
        np.quantile(forward[:n], [0.5, 0.9]), rel=0.1
    )


def test_a_video_can_be_shown_from_the_midnight_after_its_upload_on(growing: World) -> None:
    times = growing.item_uploaded_ts[growing.n_at_start + 1 :]
    for day in range(DAYS + 1):
        there = growing.available(day)
        assert there == growing.n_at_start + (times < day * DAY_MS).sum()
    assert growing.available(0) == growing.n_at_start
    assert growing.available(DAYS) == growing.n_items
    assert (growing.available(np.array([3, 0])) == [growing.n_items, growing.n_at_start]).all()


@pytest.mark.parametrize("family", ["transitions", "neighbours"])
def test_users_of_every_family_are_those_of_the_world_without_uploads(family: str) -> None:
    worlds = [World.synthetic(20, n_items=50, seed=2, family=family, uploads=n, days=3) for n in (0, 40)]
    assert len(worlds[1].item_successors) == worlds[1].n_items + 1 > worlds[0].n_items + 1
    for name in ("user_taste", "user_anchors", "user_actions"):
        assert np.array_equal(getattr(worlds[0], name), getattr(worlds[1], name)), name


def test_uploads_follow_other_videos_as_often_as_their_reach_says() -> None:
    """A share of all successors with a boost, of old videos as of new; the standard error is .5 %
    at most, and successors of a video's own tag come by the share of that tag."""
    world = World.synthetic(20, n_items=2_000, seed=5, family="transitions", uploads=5, days=4)
    n, following = world.n_at_start, world.item_successors
    assert (world.item_boost[1:] > 0).all()
    expected = 1 - world.item_reach[n] / world.item_reach[-1]
    for rows in (following[1 : n + 1], following[n + 1 :]):
        assert (rows > n).mean() == pytest.approx(expected, abs=0.03)


def test_no_policy_shows_a_video_too_early_and_all_show_new_ones() -> None:
    world = World.synthetic(40, n_items=300, seed=2, family="transitions", uploads=30, days=DAYS)
    events = lived(world, DAYS, POLICIES)
    shown = events["item"] > 0
    item, user = events["item"][shown], events["user"][shown]
    begun = events["ts"][shown] - np.where(events["kind"][shown] == 1, events["value"][shown], 0)
    early = world.item_uploaded_ts[item] >= begun // DAY_MS * DAY_MS
    assert not early[events["kind"][shown] == 1].any()
    for i, policy in enumerate(POLICIES):
        assert (item[user % len(POLICIES) == i] > world.n_at_start).any(), policy


def test_random_feeds_show_new_videos_by_their_share_of_the_catalogue(growing: World) -> None:
    events = lived(growing, DAYS, [RandomPolicy])
    views = events["kind"] == 1
    day = (events["ts"][views] - events["value"][views]) // DAY_MS
    new = events["item"][views] > growing.n_at_start
    for k in range(DAYS):
        share = 1 - growing.n_at_start / growing.available(k)
        mine = new[day == k]
        assert abs(mine.mean() - share) <= 4 * (share * (1 - share) / len(mine)) ** 0.5, k


def test_the_chances_that_are_told_are_those_among_what_is_there(growing: World) -> None:
    """Uniformly one of the videos that are left, day by day, whatever the world has later."""
    policy = RandomPolicy(growing)
    policy.attach(State.start(growing))
    users = np.arange(24)
    for day in range(DAYS):
        ts = np.full(24, day * DAY_MS + 5)
        memory = policy.begin(users, np.zeros((24, 50), np.int64), np.zeros((24, 512), np.int64), ts)
        feed, ppb = policy.serve(users, memory, users, users, np.zeros((24, 0), np.int64), ts)
        assert feed.max() <= growing.available(day)
        assert (ppb == np.rint(BILLION / (growing.available(day) - np.arange(6)))).all()


@pytest.mark.parametrize("policy", [LoggingPolicy, OraclePolicy])
def test_until_the_first_midnight_nothing_differs(fixed: World, growing: World, policy: Any) -> None:
    first, second = (lived(world, 1, [policy]) for world in (fixed, growing))
    assert all((first[name] == second[name]).all() for name in first)


def test_ticks_change_nothing(growing: World) -> None:
    whole = lived(growing, 2, [LoggingPolicy, PopularityPolicy])
    cut = lived(growing, 2, [LoggingPolicy, PopularityPolicy], tick_s=31_001.5, flush_rows=500)
    assert all((whole[name] == cut[name]).all() for name in whole)


def test_a_feed_that_shows_what_is_not_there_yet_is_refused(growing: World) -> None:
    class Early(RandomPolicy):
        def serve(self, users: Any, *rest: Any) -> Any:
            feed = np.tile(np.arange(1, 7), (len(users), 1))
            feed[:, 0] = self.world.n_at_start + 1
            return feed, None

    with pytest.raises(ValueError, match="Early served video 301; videos are 1 to 300, 0 = nothing left"):
        lived(growing, 1, [Early])


def test_light_runs_show_what_is_there_at_the_start(growing: World) -> None:
    for slate in (living.random_slate, living.reference_slate):
        assert living.live(growing, 1, slate).items.max() <= growing.n_at_start


@pytest.mark.parametrize("uploads", [-1.0, 100.5, float("nan")])
def test_uploads_are_a_percentage(uploads: float) -> None:
    with pytest.raises(ValueError, match="it is a percentage of the catalogue a day, from 0 to 100"):
        World.synthetic(10, n_items=20, uploads=uploads, days=1)

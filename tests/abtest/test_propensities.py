"""Propensities of an arm that explores: recounted by hand, and what they tell of other policies."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from abtest.export import export
from abtest.serving import Exploring
from simulator.platform import Platform
from simulator.world import World
from warehouse.events import Kind
from warehouse.store import Warehouse

SHARE = 0.25
NEW = np.arange(21, 41)  # the others are the arm's own
SEEDS = (3, 4, 5, 6)
"""Of the exploration. Weights have a long tail: with one seed of 600 users the largest of them may be
missing, and the error is then told too small."""

Ids = NDArray[np.int64]


class ListFeed:
    """Serves everybody the videos of one list that were not shown lately, in an order of the user's own."""

    def begin(self, users: Ids, histories: Ids, shown: Ids, ts_ms: Ids) -> tuple[Ids]:
        return ((users[:, None] * 7 + np.arange(120)) % 120 + 1,)

    def serve(
        self, users: Ids, memory: tuple[Ids], sessions: Ids, requests: Ids, since: Ids, ts_ms: Ids, k: int = 6
    ) -> tuple[Ids, None]:
        (items,) = memory
        gone = (items[:, :, None] == since[:, None, :]).any(2)
        return np.take_along_axis(items, np.argsort(gone, axis=1, kind="stable")[:, :k], 1), None


@pytest.fixture(scope="module")
def world() -> World:
    return World.synthetic(2_000, 120, seed=8)


@pytest.fixture(scope="module")
def logged(world: World, tmp_path_factory: pytest.TempPathFactory) -> list[dict[int, dict[str, Any]]]:
    """Of each of SEEDS, every user's first feed."""
    return [
        first_feeds(lived(world, exploring(SHARE, seed)), tmp_path_factory.mktemp("logged"), "poprec", SHARE)
        for seed in SEEDS
    ]


def lived(world: World, feed: Any) -> list[dict[str, pa.Table]]:
    """The events, propensities and exposures of a day under a feed."""
    rows: list[dict[str, pa.Table]] = []

    def record(**tables: pa.Table) -> None:
        rows.append(tables)

    Platform(world, [feed], np.zeros_like, record, experiment="e", arm_names=["a"]).run(1)
    return rows


def first_feeds(
    rows: list[dict[str, pa.Table]], folder: Path, model: str, explore: float
) -> dict[int, dict[str, Any]]:
    """What `export` tells of every user's first feed."""
    arms = [{"name": "a", "model": model, "weight": 1.0, "role": "control"}]
    with Warehouse.open(folder / "events.duckdb") as warehouse:
        for i, tables in enumerate(rows):
            warehouse.record(f"day-{i}", **tables)
        warehouse.register("e", {"start_ts": 0, "arms": arms, "explore_share": explore})
    export(folder, folder / "feeds.parquet")
    feeds: dict[int, dict[str, Any]] = {}
    for feed in pq.read_table(folder / "feeds.parquet", filters=[("request", "=", 0)]).to_pylist():
        feeds.setdefault(feed["user"], feed)
    return feeds


def first_plays(rows: list[dict[str, pa.Table]]) -> dict[int, int]:
    """Plays in every user's first feed, from the events themselves."""
    events = pa.concat_tables([tables["events"] for tables in rows])
    user, session, request, position, kind, ts, value = (
        events[name].to_numpy() for name in ("user", "session", "request", "position", "kind", "ts", "value")
    )
    opens = np.flatnonzero((kind == Kind.impression) & (request == 0) & (position == 0))
    opens = opens[np.lexsort(((ts - value)[opens], user[opens]))]
    users, first = np.unique(user[opens], return_index=True)
    plays = dict.fromkeys(zip(users.tolist(), session[opens[first]].tolist(), strict=True), 0)
    for i in np.flatnonzero((kind == Kind.play) & (request == 0)):
        if (key := (int(user[i]), int(session[i]))) in plays:
            plays[key] += 1
    return {key[0]: n for key, n in plays.items()}


def exploring(share: float, seed: int = SEEDS[0]) -> Exploring:
    return Exploring(ListFeed(), share, NEW, seed=seed, is_deterministic=True)  # type: ignore[arg-type]


def test_a_chance_is_what_the_videos_that_are_left_make_it() -> None:
    users = np.arange(300)
    sessions, requests, since = users % 5, users % 3, np.where(users[:, None] % 2, [[22, 30, 22]], 0)
    call = (users, ListFeed().begin(users, users, users, users), sessions, requests, since, users)
    own, _ = ListFeed().serve(*call)
    served, chances = exploring(0.5).serve(*call)
    explored = 0
    for feed, shown, gone, told in zip(own.tolist(), served.tolist(), since.tolist(), chances, strict=True):
        for slot in range(6):
            now = {*shown[:slot], *feed[slot:], *gone}
            left = [item for item in NEW.tolist() if item not in now]
            if shown[slot] == feed[slot]:
                chance = 1 - 0.5 * len(left) / len(NEW)
            else:
                assert shown[slot] in left
                chance, explored = 0.5 / len(NEW), explored + 1
            assert told[slot] == round(1e9 * chance)
    assert explored > 300


def test_of_a_model_that_may_be_random_only_new_videos_have_a_chance() -> None:
    users = np.arange(300)
    nothing = np.zeros((300, 0), np.int64)
    call = (users, ListFeed().begin(users, users, users, users), users, users * 0, nothing, users)
    own, _ = ListFeed().serve(*call)
    arm = Exploring(ListFeed(), SHARE, NEW, seed=3)  # type: ignore[arg-type]
    served, chances = arm.serve(*call)
    assert ((chances > 0) == (served != own)).all()
    assert (chances[served != own] == round(1e9 * SHARE / len(NEW))).all()


@pytest.mark.parametrize("target", [0.0, 0.5])
def test_inverse_propensities_tell_what_another_policy_gets(
    target: float, world: World, logged: list[dict[int, dict[str, Any]]]
) -> None:
    """Logged with a share of .25: what would the arm alone, or twice the share, have got? The truth is
    another life of the same users. First feeds only, since what comes later depends on them. Of each user
    the mean over the seeds; within 4 standard errors: 6 in 100,000 by chance."""
    misses, gains, weights = [], [], []
    for seed, feeds in zip(SEEDS, logged, strict=True):
        truth = first_plays(lived(world, exploring(target, seed)))
        assert sorted(truth) == sorted(feeds)
        users = sorted(truth)
        weights.append([weight(feeds[user], target) for user in users])
        gains.append([truth[user] for user in users])
        told = np.array(weights[-1]) * [sum(feeds[user]["play"]) for user in users]
        misses.append(told - gains[-1])
    miss, by_user = np.mean(misses, axis=0), np.mean(weights, axis=0)
    assert len(miss) > 500
    error = np.std(miss) / len(miss) ** 0.5
    assert abs(miss.mean()) < 4 * error < 0.6 * np.mean(gains)
    assert abs(by_user.mean() - 1) < 4 * np.std(by_user) / len(by_user) ** 0.5


def weight(feed: dict[str, Any], target: float) -> float:
    """How many times likelier what was shown is where so large a share of the slots is explored."""
    chance = np.array(feed["propensity"])
    is_new = np.isclose(chance, SHARE / len(NEW))
    wanted = np.where(is_new, chance * target / SHARE, 1 - target * (1 - chance) / SHARE)
    return float((wanted / chance).prod())


@pytest.mark.parametrize(
    ("model", "explore", "expected"),
    [("poprec", 0.0, 1.0), ("mine:Model", 0.0, None), ("poprec", 0.1, None)],
)
def test_without_a_record_only_a_certain_choice_has_a_propensity(
    model: str, explore: float, expected: float | None, tmp_path: Path
) -> None:
    """The last: an arm that explores has its propensities on record, so where there is none it is unknown."""
    rows = lived(World.synthetic(40, 120, seed=8), ListFeed())
    feeds = first_feeds(rows, tmp_path, model, explore)
    assert {value for feed in feeds.values() for value in feed["propensity"]} == {expected}

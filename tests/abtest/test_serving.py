"""What arms learn from at midnights, and how new videos come into their feeds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import Result

from abtest.arms import ArmFeed
from abtest.serving import Exploring, exposed_ts, learned_from
from baselines.base import Interactions
from baselines.poprec import PopRec

Command = Callable[..., Result]

ARMS = "a=baselines.poprec:PopRec,b=baselines.poprec:PopRec"
SIZES = [
    "--users",
    "100",
    "--warmup-days",
    "1",
    "--days",
    "2",
    "--stage",
    "feed",
    "--threads",
    "1",
    "--quiet",
]


def test_own_data_is_the_warm_up_of_all_and_what_own_users_did_since_their_exposure() -> None:
    log = pa.table({"user": [0, 1, 2, 0, 1, 2], "ts": [5, 6, 7, 10, 11, 12]})
    exposures = pa.table({"user": [0, 1, 2], "arm": ["a", "b", "a"], "first_ts": [10, 11, 13]})
    a, b = (exposed_ts(exposures, arm, 3) for arm in "ab")
    own = [learned_from(log, "own", since, 10).tolist() for since in (a, b)]
    assert own == [[True, True, True, True, False, False], [True, True, True, False, True, False]]
    assert learned_from(log, "pooled", b, 10).all()


@pytest.fixture(scope="module")
def manifests(abtest: Command, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = {}
    for mode in ("own", "pooled"):
        folder = tmp_path_factory.mktemp("retrain") / mode
        result = abtest("run", "--arms", ARMS, *SIZES, "--retrain", mode, "--out", str(folder))
        assert result.exit_code in (0, 3), result.output
        found[mode] = json.loads((folder / "manifest.json").read_text())
    return found


def test_arms_that_learn_on_serve_other_videos_and_say_what_they_learned_from(
    manifests: dict[str, Any], finished_run: Path
) -> None:
    assert json.loads((finished_run / "manifest.json").read_text())["trainings"] == []
    assert manifests["own"]["event_hash"] != manifests["pooled"]["event_hash"]
    own, pooled = (manifests[mode]["trainings"] for mode in ("own", "pooled"))
    assert [(row["day"], row["arm"]) for row in own] == [(2, "a"), (2, "b")]
    assert pooled[0]["interactions"] == pooled[1]["interactions"] > own[0]["interactions"]
    assert pooled[0]["model"] == pooled[1]["model"], "equal arms on equal data are one training"
    assert own[0]["model"] != own[1]["model"]


@pytest.fixture(scope="module")
def feed() -> ArmFeed:
    """Always shows the videos that were played most: 1, 2, 3, ..."""
    items = np.repeat(np.arange(1, 301), np.arange(300, 0, -1))
    log = Interactions.from_arrays(np.zeros_like(items), items, n_users=1, n_items=300)
    return ArmFeed(PopRec().fit(log), None, stage="feed")


def explored(feed: ArmFeed, share: float, new: np.ndarray, users: np.ndarray) -> np.ndarray:
    nothing = np.zeros((len(users), 1), np.int64)
    arm = Exploring(feed, share, new, seed=4)
    memory = arm.begin(users, nothing, nothing, users)
    since = np.full((len(users), 1), 299)
    return arm.serve(users, memory, users * 0 + 7, users % 5, since, users)[0]


def test_exploration_shows_new_videos_in_its_share_of_the_slots(feed: ArmFeed) -> None:
    users = np.arange(1_000)
    served = explored(feed, 0.3, np.arange(250, 300), users)
    new = served >= 250
    assert new.mean() == pytest.approx(0.3, abs=0.03)
    assert (served[~new] <= 6).all()
    assert set(served[new]) == set(range(250, 299)), "299 was shown in this session"
    ordered = np.sort(served, axis=1)
    assert (ordered[:, 1:] > ordered[:, :-1]).all(), "no video twice in a feed"
    some = users[::7]
    assert (explored(feed, 0.3, np.arange(250, 300), some) == served[::7]).all(), "others change nothing"


def test_without_new_videos_there_is_nothing_to_explore(feed: ArmFeed) -> None:
    assert (explored(feed, 1.0, np.zeros(0, np.int64), np.arange(3)) == np.arange(1, 7)).all()

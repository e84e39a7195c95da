"""The Gymnasium environments: the library's own checks, and the world's behaviour behind them."""

import warnings

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from simulator import behavior  # noqa: E402
from simulator.env import Cohort, Session  # noqa: E402
from simulator.state import State  # noqa: E402
from simulator.world import World  # noqa: E402


@pytest.fixture(scope="module")
def world() -> World:
    return World.synthetic(60, n_items=400, seed=2)


def episode_lengths(cohort: Cohort, steps: int, feeds: np.ndarray) -> list[int]:
    lengths, since = [], np.zeros(cohort.num_envs, int)
    for step in range(steps):
        *_, terminated, truncated, _ = cohort.step(feeds[step])
        since += 1
        for row in np.flatnonzero(terminated | truncated):
            lengths.append(since[row])
            since[row] = -1  # the step that only begins the next session
    return lengths


def feeds_for(cohort: Cohort, steps: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    videos = np.arange(1, cohort.world.n_items + 1)
    shuffled = generator.permuted(np.tile(videos, (steps, cohort.num_envs, 1)), axis=2)
    return shuffled[:, :, :6]


def test_a_session_passes_the_checks_of_gymnasium(world: World) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check_env(Session(world), skip_render_check=True)
    texts = [str(warning.message) for warning in told]
    assert not [text for text in texts if "spec" not in text and "infinity" not in text], texts


def test_a_cohort_keeps_to_the_contract_of_vector_environments(world: World) -> None:
    cohort = Cohort(world, 16, max_requests=3)
    seen, info = cohort.reset(seed=5)
    assert cohort.observation_space.contains(seen)
    assert info == {}
    cohort.action_space.seed(1)
    for _ in range(8):
        seen, reward, terminated, truncated, info = cohort.step(cohort.action_space.sample())
        assert cohort.observation_space.contains(seen)
        assert reward.shape == terminated.shape == truncated.shape == (16,)
        assert not (terminated & truncated).any()
    assert cohort.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.NEXT_STEP


def test_the_same_seed_and_feeds_give_the_same_lives(world: World) -> None:
    cohort = Cohort(world, 8)
    feeds = feeds_for(cohort, 6)
    runs = []
    for seed in (3, 3, 4):
        cohort.reset(seed=seed)
        steps = [cohort.step(feed) for feed in feeds]
        runs.append(np.stack([step[0]["history"].sum(1) + 1e6 * step[1] for step in steps]))
    assert (runs[0] == runs[1]).all()
    assert (runs[0] != runs[2]).any()


def test_a_reward_is_what_the_world_says_of_the_feed(world: World) -> None:
    cohort = Cohort(world, 20, reward={"play": 2.0, "watch_s": 0.1, "hate": -5.0})
    seen, _ = cohort.reset(seed=1)
    feed = feeds_for(cohort, 1)[0]
    state = State.start(world)
    behavior.begin_session(world, state, seen["user"])
    after, reward, ended, _, info = cohort.step(feed)
    part = (info["shown"] == 0).any(1)
    assert (info["shown"][:, 0] == feed[:, 0]).all()
    assert np.array_equal(info["shown"], np.where(info["shown"] > 0, feed, 0))
    assert ended[part].all(), "who did not see all of a feed has left"
    assert 0 < part.sum() < 20
    expected = behavior.respond(world, state, seen["user"], info["shown"])
    assert (info["play"] == expected.play).all()
    amount = 2.0 * expected.play + 0.1 * expected.watch_ms / 1000 - 5.0 * expected.hate
    np.testing.assert_allclose(reward, amount.sum(1))
    for shown, play, history in zip(feed, expected.play, after["history"], strict=True):
        n_played = int(play.sum())
        latest = history[history > 0][::-1][:n_played][::-1]
        assert latest.tolist() == shown[play].tolist()
    play_share = expected.play.sum(1) / (info["shown"] > 0).sum(1)
    np.testing.assert_allclose(after["context"][:, 2], play_share, rtol=1e-6)


def test_sessions_end_and_begin_anew_and_long_ones_are_cut_off(world: World) -> None:
    cohort = Cohort(world, 30, max_requests=4)
    cohort.reset(seed=2)
    lengths = episode_lengths(cohort, 12, feeds_for(cohort, 12))
    assert len(lengths) > 30
    assert max(lengths) == 4
    assert len(set(lengths)) > 2


def test_a_video_that_comes_twice_is_shown_once(world: World) -> None:
    cohort = Cohort(world, 2)
    cohort.reset(seed=2)
    *_, info = cohort.step(np.array([[1, 2, 1, 3, 3, 4], [5, 6, 7, 8, 9, 10]]))
    assert info["shown"].tolist() == [[1, 2, 0, 3, 0, 4], [5, 6, 7, 8, 9, 10]]
    assert not info["watch_ms"][0, [2, 4]].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda world: Cohort(world, 61), "num_envs is 61"),
        (lambda world: Cohort(world, 2, reward={"joy": 1.0}), "unknown engagement 'joy'"),
        (lambda world: Cohort(world, 2, max_requests=0), "max_requests is 0"),
        (lambda world: Cohort(world, 2).step([[1, 2, 3]]), "actions have shape"),
        (lambda world: Cohort(world, 1).step([[1, 2, 3, 4, 5, 401]]), "shows video 401"),
    ],
)
def test_what_cannot_be_is_told(world: World, make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(world)

"""The simulated world beside the real logs."""

from pathlib import Path

import numpy as np
import pytest

from simulator import calibration, fitting, living, targets
from simulator.world import World

KUAIRAND = Path(__file__).parents[2] / "../shared/data/kuairand"
RATES = ("play", "long view", "complete", "like", "comment", "share", "follow", "panel open", "profile enter")


@pytest.fixture(scope="module")
def world() -> World:
    return World.synthetic(2500, seed=3)


@pytest.fixture(scope="module")
def scores(world: World) -> dict[str, calibration.Score]:
    return {s.name: s for s in calibration.scorecard(world, days=1)}


@pytest.mark.parametrize("name", RATES)
def test_rates_under_the_reference_policy_are_those_of_the_log(name: str, scores: dict) -> None:
    """Within 20 % and three standard errors of this small world; the scorecard's own gate is 5 %."""
    s = scores[name]
    assert abs(s.simulated / s.real - 1) < 0.20 + 3 * s.error


def test_watch_time_quantiles_are_those_of_the_log(scores: dict) -> None:
    for q in (25, 50, 75, 90, 95, 99):
        s = scores[f"watch s, {q} %"]
        assert s.simulated == pytest.approx(s.real, rel=0.20), s


def test_random_slates_are_played_as_under_random_exposure(scores: dict) -> None:
    assert scores["play, random slates"].simulated == pytest.approx(0.1762, rel=0.1)


def test_volume_and_daily_activity_are_those_of_the_panels(scores: dict) -> None:
    assert scores["impressions per active user-day"].simulated == pytest.approx(90, rel=0.15)
    assert scores["users active a day"].simulated == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize("action", ["like", "comment", "share"])
def test_users_differ_as_much_as_in_the_log(action: str, scores: dict) -> None:
    s = scores[f"{action} between-user CV"]
    assert s.simulated == pytest.approx(s.real, rel=0.3)


@pytest.mark.parametrize("pair", ["like-follow", "like-share", "like-comment"])
def test_actions_meet_as_often_as_in_the_log(pair: str, scores: dict) -> None:
    """Within a factor of 1.5, the scorecard's own gate."""
    s = scores[f"{pair} lift"]
    assert 1 / 1.5 < s.simulated / s.real < 1.5


def test_a_play_is_as_predictable_as_in_the_log(scores: dict) -> None:
    s = scores["play AUC of both"]
    assert s.simulated == pytest.approx(s.real, abs=0.05)


def test_few_videos_take_most_impressions(scores: dict) -> None:
    assert scores["top 20 % of videos"].simulated == pytest.approx(0.768, rel=0.12)


def test_the_scorecard_lists_every_target_with_its_source(scores: dict) -> None:
    goals = targets.packaged()
    assert [*scores] == [goal.name for goal in goals]
    assert len(scores) > 100
    assert all(s.source and s.status in ("pass", "fail", "report") for s in scores.values())
    assert not [s.name for s in scores.values() if not np.isfinite(s.simulated)]


def test_a_figure_passes_within_its_tolerance_either_way() -> None:
    goal = targets.Target("play", 0.5, 0.2, "a log")
    status = [calibration.score(goal, value, 0.0).status for value in (0.41, 0.42, 0.59, 0.61, -0.5)]
    assert status == ["fail", "pass", "pass", "fail", "fail"]


def test_a_tolerance_is_never_below_two_errors_of_the_log() -> None:
    goal = targets.Target("comment", 0.003, 0.05, "a log", error=0.2)
    assert calibration.score(goal, 0.004, 0.0).status == "pass"
    assert calibration.score(goal, 0.004, 0.0).tolerance == pytest.approx(0.4)
    assert calibration.score(goal._replace(error=0.0), 0.004, 0.05).status == "fail"
    assert calibration.score(goal._replace(error=0.0), 0.004, 0.11).status == "pass"  # a rate: its own chance
    auc = targets.Target("play AUC of both", 0.68, 0.03, "a log")
    assert calibration.score(auc, 0.72, 0.05).status == "fail"  # not a rate


def test_a_world_passes_against_itself() -> None:
    """The goals of a log that is the world's own impressions: the real side measures as the simulated one."""
    world = World.synthetic(400, n_items=1500, seed=4)
    sample = living.live(world, 1, skip=1)
    x = living.impressions(world, sample)
    played = x.flag("play") > 0.5
    log = calibration.RealLog(x, (x.users[played], x.items[played], x.tags[played]), "the world")
    goals = [g for g in calibration.log_goals(log) if g.source == "the world"]
    scores = calibration.scorecard(world, 1, goals=goals, rows_per_user=log.rows_per_user)
    assert all(np.isfinite(s.simulated) for s in scores)
    assert len(scores) > 80
    assert max(abs(s.simulated / s.real - 1) for s in scores) < 1e-9


def test_a_drawn_world_stands_at_the_level_of_its_profile(world: World) -> None:
    seen = fitting.glance(world)
    c = world.constants
    assert seen.play == pytest.approx(c.glance_play, abs=0.01)
    got = fitting.action_means(world, seen, np.zeros(8))
    assert got == pytest.approx(np.array(c.glance_actions), rel=0.02)
    assert fitting.activity(world).mean() == pytest.approx(0.25, abs=1e-3)


def test_the_stationary_activity_is_that_of_a_simulated_return_law() -> None:
    law = (-2.94, -0.90, 0.04, 1.52)
    logit, share = fitting._activity_table(law)
    at = np.searchsorted(logit, 0.3)
    rng = np.random.default_rng(0)
    days = np.zeros((20_000, 3), int)
    for _ in range(60):
        p = 1 / (1 + np.exp(-(np.array(law)[days.sum(1)] + logit[at])))
        days = np.column_stack((rng.random(20_000) < p, days[:, :2]))
    assert days[:, 0].mean() == pytest.approx(share[at], abs=0.015)


@pytest.mark.slow
def test_a_logged_world_stands_near_the_log() -> None:
    if not KUAIRAND.exists():
        pytest.skip("needs ../shared/data")
    from warehouse.importers import read_kuairand

    k = read_kuairand(KUAIRAND)
    world = World.from_log(k.users, k.videos, k.impressions, k.histories, k.exposures, n_users=8000)
    scores = {s.name: s for s in calibration.scorecard(world)}
    for name in ("play", "long view", "like", "comment", "watch s, mean", "watch s, 50 %"):
        assert abs(scores[name].simulated / scores[name].real - 1) < 0.20 + 3 * scores[name].error, scores[
            name
        ]

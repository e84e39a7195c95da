"""When people come and go: the return law, the hours of the day, sessions and nights."""

import numpy as np
import pytest

from simulator import behavior, constants
from simulator.rhythm import SESSIONS_PER_DAY
from simulator.sessions import Sessions
from simulator.state import State
from simulator.world import World
from warehouse.events import DAY_MS


@pytest.fixture(scope="module")
def world() -> World:
    return World.synthetic(6000, n_items=500, seed=11)


def _idle(world: World, days: int) -> list[behavior.Arrivals]:
    """Days on which people come and see nothing."""
    state, out = State.start(world), []
    for day in range(days):
        arrived = behavior.arrivals(world, state, day)
        behavior.begin_session(world, state, np.unique(arrived.users))
        behavior.overnight(world, state, day)
        out.append(arrived)
    return out


def test_a_quarter_of_the_users_is_active_on_every_day(world: World) -> None:
    shares = [len(np.unique(a.users)) / world.n_users for a in _idle(world, 12)]
    assert np.mean(shares) == pytest.approx(0.25, abs=0.015)
    assert max(shares) - min(shares) < 0.05, "the first day should look like any other"


def test_who_came_yesterday_comes_back_more(world: World) -> None:
    """Kwai-2018 panel: .671 tomorrow when active today, .110 when not."""
    active = np.zeros((12, world.n_users), bool)
    for day, arrived in enumerate(_idle(world, 12)):
        active[day, arrived.users] = True
    after = active[1:][active[:-1]].mean(), active[1:][~active[:-1]].mean()
    assert after == (pytest.approx(0.671, abs=0.05), pytest.approx(0.110, abs=0.02))


def test_sessions_are_sorted_unique_and_inside_their_day(world: World) -> None:
    arrived = behavior.arrivals(world, State.start(world), 3)
    assert (np.lexsort((arrived.users, arrived.start_ms)) == np.arange(len(arrived.users))).all()
    assert (arrived.sessions // SESSIONS_PER_DAY == 3).all()
    assert (arrived.start_ms // DAY_MS == 3).all()
    assert len(np.unique(arrived.users * 10_000 + arrived.sessions)) == len(arrived.users)


def test_sessions_start_by_the_profile_that_spreads_exposures_as_in_the_log(world: World) -> None:
    hours = np.concatenate([a.start_ms % DAY_MS // 3_600_000 for a in _idle(world, 5)])
    shares = np.bincount(hours, minlength=24) / len(hours)
    assert np.abs(shares - np.array(constants.START_SHARES) / sum(constants.START_SHARES)).max() < 0.006


def test_an_arrival_depends_on_the_user_alone(world: World) -> None:
    """Another user's past does not change when this one comes."""
    plain, changed = State.start(world), State.start(world)
    changed.active_days[::2] = 1
    changed.day_satisfaction[::2] = 1.0
    one, other = (behavior.arrivals(world, s, 0) for s in (plain, changed))
    for field in range(3):
        mine = [a[field][a.users % 2 == 1] for a in (one, other)]
        assert np.array_equal(*mine)


def test_pleased_users_stay_longer_and_a_long_session_ends_sooner(world: World) -> None:
    state = State.start(world)
    users = np.arange(world.n_users)
    zero = np.zeros_like(users)
    plain = behavior.stays(world, state, users, zero, zero, zero).mean()
    late = behavior.stays(world, state, users, zero, zero, zero + 3 * 3_600_000).mean()
    state.satisfaction[:] = 0.5
    pleased = behavior.stays(world, state, users, zero, zero, zero).mean()
    assert late < plain < pleased


def test_who_leaves_midway_has_not_asked_for_more(world: World) -> None:
    """What is seen of a feed is its beginning; the others of it never were shown."""
    state, users = State.start(world), np.arange(world.n_users)
    sessions, zero = users % 7, np.zeros_like(users)
    luck = behavior.luck(world, users, sessions, zero)
    feed = 1 + (users[:, None] + np.arange(6)) % world.n_items
    seen, whole = behavior.reached(world, state, users, zero, luck, feed)
    length = (seen > 0).sum(1)
    assert np.array_equal(seen, np.where(np.arange(6) < length[:, None], feed, 0))
    assert np.array_equal(whole, length == 6)
    assert set(length) == {1, 2, 3, 4, 5, 6}
    stays = behavior.goes_on(world, state, users, zero, luck)
    assert not (stays & ~whole).any(), "as pleased as before, nobody would have stayed"
    share = (~whole).sum() / (~stays).sum()
    assert share == pytest.approx(world.constants.leave_midway, abs=0.03)
    lengths = np.bincount(length[~whole], minlength=6)[1:] / (~whole).sum()
    assert lengths == pytest.approx(np.full(5, 0.2), abs=0.04)


def test_gaps_are_seconds(world: World) -> None:
    users = np.arange(world.n_users)
    gaps = behavior.gaps(world, users, users * 0, users * 0)
    assert gaps.dtype == np.int64
    assert np.median(gaps) == pytest.approx(4000, rel=0.1)
    assert (gaps >= 200).all()
    assert (gaps <= 120_000).all()


def test_a_night_pulls_tastes_back_and_counts_the_day(world: World) -> None:
    state = State.start(world)
    state.taste[:] += 1.0
    state.satiation[:] = 1.0
    behavior.begin_session(world, state, np.array([5]))
    before = state.active_days.copy()
    behavior.overnight(world, state, 0)
    away = np.median(state.taste - world.user_taste)
    assert away == pytest.approx(1 - world.constants.drift_return, abs=0.01)
    assert state.active_days[5, 0] == 1
    assert state.active_days[6, 0] == 0
    assert np.array_equal(state.active_days[:, 1:], before[:, :2])
    assert state.satiation[7, 0] == 0.5
    assert not state.active_today.any()


def test_draws_made_ahead_are_those_of_each_request(world: World) -> None:
    """`Sessions.foresee` draws for all requests that one `begin` serves."""
    state = State.start(world)
    sessions = Sessions(world.n_users)
    users = np.arange(0, 3000, 3)
    sessions.start(users, users + 7, users * 0)
    sessions.prepare(users)
    sessions.foresee(world, users)
    for request in range(3):
        number, luck = np.full(len(users), request), sessions.luck(users)
        elapsed = number * 60_000
        plain = behavior.stays(world, state, users, users + 7, number, elapsed)
        assert (behavior.goes_on(world, state, users, elapsed, luck) == plain).all()
        assert (luck.gap_ms == behavior.gaps(world, users, users + 7, number)).all()
        sessions.show(users, np.zeros((len(users), 6), np.int64))

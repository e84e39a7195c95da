"""When people come, how long they stay, and what a night does to them: arrivals, stays, gaps, overnight."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from simulator import constants
from simulator.randomness import Purpose, normal, uniform, unit, words
from warehouse.events import DAY_MS

if TYPE_CHECKING:
    from simulator.state import State
    from simulator.world import World

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
SESSIONS_PER_DAY = 1000  # session id = day * 1000 + candidate
_PAST_DAYS = 40  # days of the return law that make the first midnight look like any other
_HOURS = np.concatenate(([0.0], np.cumsum(constants.START_SHARES) / sum(constants.START_SHARES)))
_HOUR_MS = DAY_MS // 24


class Arrivals(NamedTuple):
    """Sessions that start on one day, sorted by (start_ms, user)."""

    users: Ids
    sessions: Ids
    start_ms: Ids  # since the start of the run


def p_active(
    world: "World", active_days: NDArray[np.integer], satisfaction: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The return law: chance of opening the app on a day, given the last three days."""
    c = world.constants
    logit = np.take(np.array(c.return_logits), active_days.sum(-1)) + world.user_return
    return _sigmoid(logit + c.return_satisfaction * satisfaction / c.satisfaction_sd)


def past_days(world: "World") -> NDArray[np.int8]:
    """(n, 3) which of the three days before the first one were active, yesterday first."""
    users = np.arange(world.n_users)
    days = np.zeros((world.n_users, 3), np.int8)
    nothing = np.zeros(world.n_users)
    for day in range(_PAST_DAYS):
        active = uniform(world.seed, Purpose.PAST_ACTIVITY, users, day) < p_active(world, days, nothing)
        days = np.column_stack((active, days[:, :2])).astype(np.int8)
    return days


def arrivals(world: "World", state: "State", day: int, users: range | None = None) -> Arrivals:
    """Sessions of a calendar day (0 = the first simulated one) of these users, or of all. An active day has
    at least one session.

    A common candidate process is thinned: candidate 0 comes whenever the user is active that day, the others
    with a chance that only depends on the user and the weekday, so two lives of a user meet again every day.
    """
    ids = _ids(world, users)
    p = p_active(world, state.active_days, state.day_satisfaction)[ids]
    active = ids[uniform(world.seed, Purpose.ACTIVE_DAY, ids, day) < p]
    candidate = np.arange(world.constants.candidates)
    chance = np.minimum(world.user_sessions[active] * constants.WEEKDAYS[day % 7], 0.95)
    drawn = uniform(world.seed, Purpose.SESSION_ACCEPTED, active[:, None], day, candidate)
    comes = drawn < np.where(candidate == 0, 1.0, chance[:, None])
    row, number = np.nonzero(comes)
    who = active[row]
    at = np.interp(
        uniform(world.seed, Purpose.SESSION_START, who, day, number), _HOURS, np.arange(25) * _HOUR_MS
    )
    start = day * DAY_MS + np.minimum(at.astype(np.int64), DAY_MS - 1)
    order = np.lexsort((number, who, start))
    return Arrivals(who[order], day * SESSIONS_PER_DAY + number[order], start[order])


def stays(
    world: "World", state: "State", users: Ids, sessions: Ids, requests: Ids, elapsed_ms: Ids
) -> NDArray[np.bool_]:
    """Does the user ask for another feed after this request? elapsed_ms: since the session began."""
    return goes_on(world, state, users, elapsed_ms, luck(world, users, sessions, requests))


class Luck(NamedTuple):
    """The draws of a request: they depend on nothing that happens, so many can be made ahead."""

    mood: Floats  # logits of staying, the same for all of a session
    stay: Floats  # uniform
    gap_ms: Ids


def luck(world: "World", users: Ids, sessions: Ids, requests: Ids) -> Luck:
    """The draws of these requests; the arguments broadcast."""
    stay, mood = (
        unit(words(world.seed, purpose, users, sessions, number)[0])
        for purpose, number in ((Purpose.STAY, requests), (Purpose.SESSION_MOOD, 0))
    )
    return Luck(_mood(world, ndtri(mood)), stay, gaps(world, users, sessions, requests))


def goes_on(world: "World", state: "State", users: Ids, elapsed_ms: Ids, luck: Luck) -> NDArray[np.bool_]:
    """`stays` with draws that are there already."""
    return luck.stay < _p_stay(world, state, users, elapsed_ms, luck)


def reached(
    world: "World", state: "State", users: Ids, elapsed_ms: Ids, luck: Luck, items: Ids
) -> tuple[Ids, NDArray[np.bool_]]:
    """(n, k) the feed as far as the user sees it, 0 from there on, and (n,) whether they see all of it.

    Who does not leaves the app: a fixed share of those who would not stay as pleased as they are before the
    feed. The others decide at its end (`goes_on`), by the same draw.
    """
    k = items.shape[1]
    p = world.constants.leave_midway * (1.0 - _p_stay(world, state, users, elapsed_ms, luck))
    late = (luck.stay - 1.0 + p) / np.maximum(p, 2.0**-40)  # uniform where it is above 0
    n_seen = np.where(late > 0, 1 + (late * (k - 1)).astype(np.int64), k)
    return np.where(np.arange(k) < n_seen[:, None], items, 0), n_seen == k


def gaps(world: "World", users: Ids, sessions: Ids, requests: Ids) -> Ids:
    """Milliseconds between the end of a feed and the next request."""
    c = world.constants
    z = ndtri(uniform(world.seed, Purpose.GAP, users, sessions, requests))
    return np.clip(np.exp(c.gap_log_mean + c.gap_log_sd * z), 200, 120_000).astype(np.int64)


def begin_session(world: "World", state: "State", users: Ids) -> None:
    """A break halves satiation and the short-term interest. Users are unique within a call."""
    state.satiation[users] *= np.float32(0.5)
    state.short[users] *= np.float32(0.5)
    state.satisfaction[users] *= 0.5
    state.active_today[users] = True


def overnight(world: "World", state: "State", day: int, users: range | None = None) -> None:
    """The end of a calendar day for these users, or for all: tastes drift, satiation fades, it is counted."""
    c = world.constants
    ids = _ids(world, users)
    rows = slice(ids[0], ids[-1] + 1)
    eaten = state.consumed[rows] / np.maximum(state.n_consumed[rows], 1)[:, None]
    shock = normal(world.seed, Purpose.DRIFT, ids[:, None], day, np.arange(c.dims)).astype(np.float32)
    state.taste[rows] += (
        np.float32(c.drift_return) * (world.user_taste[rows] - state.taste[rows])
        + np.float32(c.drift_consumed) * eaten
        + np.float32(c.drift_sd) * shock
    )
    _new_interests(world, state, day, ids)
    today = state.active_today[rows]
    pleased = np.where(today, state.satisfaction[rows], 0.0)
    state.day_satisfaction[rows] = 0.7 * state.day_satisfaction[rows] + 0.3 * pleased
    state.active_days[rows] = np.column_stack((today, state.active_days[rows, :2]))
    state.satiation[rows] *= np.float32(0.5)
    state.consumed[rows] = 0
    state.n_consumed[rows] = 0
    state.active_today[rows] = False


def _new_interests(world: "World", state: "State", day: int, users: Ids) -> None:
    """Once in a while a user falls for a new tag; the pull to the old tastes lets it fade again."""
    c = world.constants
    caught = users[uniform(world.seed, Purpose.NEW_INTEREST, users, day) < c.new_interest]
    tag = (uniform(world.seed, Purpose.NEW_INTEREST_TAG, caught, day) * world.n_tags).astype(np.int64)
    state.taste[caught] += np.float32(c.taste_sd) * world.tag_vector[tag]


def _p_stay(world: "World", state: "State", users: Ids, elapsed_ms: Ids, luck: Luck) -> Floats:
    c = world.constants
    logit = world.user_stay[users] + c.stay_satisfaction * state.satisfaction[users]
    logit += luck.mood - c.stay_elapsed * elapsed_ms / 60_000
    return _sigmoid(logit)


def _mood(world: "World", z: Floats) -> Floats:
    """Logits of staying: a glance at the app is far from the median, a long sitting is near it."""
    c = world.constants
    return np.where(z < 0, c.stay_mood_sd_low, c.stay_mood_sd_high) * z


def _ids(world: "World", users: range | None) -> Ids:
    return np.arange(world.n_users) if users is None else np.arange(users.start, users.stop)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-x))

"""How people respond to videos: affinity, watch time, actions, and what a feed does to them.

Pure functions of (world, rows of the state, users, items) whose draws are keyed by (user, item, n-th
exposure), so an answer depends neither on who else is in the call nor on where in a feed the video stands.
All arithmetic is elementwise or a sum over the last axis. `absorb` is the one function here that changes the
state.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from simulator.affinity import FAMILIES
from simulator.constants import ACTIONS
from simulator.randomness import Purpose, unit, words
from simulator.rhythm import (
    Arrivals,
    arrivals,
    begin_session,
    gaps,
    goes_on,
    luck,
    overnight,
    reached,
    stays,
)
from simulator.state import FOLLOWS, PLAYS, SHOWN

if TYPE_CHECKING:
    from simulator.state import State
    from simulator.world import World

__all__ = [
    "Arrivals",
    "Response",
    "absorb",
    "affinity",
    "arrivals",
    "begin_session",
    "expected",
    "gaps",
    "goes_on",
    "luck",
    "overnight",
    "reached",
    "reference_candidates",
    "reference_scores",
    "respond",
    "stays",
]

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Float32s = NDArray[np.float32]
Flags = NDArray[np.bool_]
LIKE, PANEL, COMMENT, SHARE, PROFILE, FOLLOW_IN, FOLLOW_OUT, HATE = range(len(ACTIONS))
_RESPONSE = np.array([Purpose.WATCH, Purpose.ACTION])[:, None, None]
EXPECTED = ("comment", "share")
"""Actions that change nothing in their users: their chances along a life have the mean of their counts."""

_LOG_30 = float(np.log(30.0))
_BLOCK = 128  # rows whose rings are compared at once


class Response(NamedTuple):
    """What users did with a feed: (n, k) each. Nothing happens at an item 0."""

    watch_ms: Ids
    play: Flags
    long_view: Flags
    like: Flags
    comment: Flags
    share: Flags
    follow: Flags
    hate: Flags
    panel_ms: Ids  # 0 = not opened
    profile_ms: Ids  # 0 = not entered


class Chances(NamedTuple):
    """What is behind a response, for calibration: conditional probabilities along the drawn path."""

    affinity: Floats
    logits: Float32s  # (actions, n, k) given the drawn watch state
    condition: NDArray[np.int64]  # drawn watch state


def affinity(world: "World", state: "State", users: Ids, items: Ids) -> Floats:
    """(n, k) how much each user would now enjoy each video; 0 is the mean under the reference policy."""
    c = world.constants
    tired = state.satiation.take(users[:, None] * world.n_tags + world.item_tag.take(items))
    a = world.item_quality.take(items)
    a += FAMILIES[world.family].affinity(world, state, users, items)
    a -= c.satiation * tired.astype(np.float64)
    a += c.follow_bonus * _follows(world, state, users, items)
    a -= c.centre
    return a


def respond(world: "World", state: "State", users: Ids, items: Ids) -> Response:
    """What each user does with each video of the feed. Does not change the state."""
    return respond_with_chances(world, state, users, items)[0]


def respond_with_chances(world: "World", state: "State", users: Ids, items: Ids) -> tuple[Response, Chances]:
    """The response, and the probabilities that were behind it."""
    real = items > 0
    seen = exposures(state, users, items)
    a = affinity(world, state, users, items)
    draws = unit(words(world.seed, _RESPONSE, users[:, None], items, seen))  # (4, 2, n, k)
    watch_ms, spare = _watch(world, users, items, a, seen, draws[:, 0])
    duration_ms = world.item_duration_ms.take(items)
    c = world.constants
    finished, long = watch_ms >= duration_ms, watch_ms >= c.long_ms
    condition = np.where(finished, 3, (watch_ms >= 3000) + long.astype(np.int64))
    logits = _action_logits(world, users, items, a, condition, shock=ndtri(draws[3, 0]))
    done = _act(world, logits, draws[:, 1], spare)
    if done["follow"].any():
        done["follow"] &= ~_follows(world, state, users, items)
    response = Response(
        watch_ms=watch_ms,
        play=watch_ms > c.play_ms,
        long_view=long | (finished & (duration_ms >= c.play_ms)),
        **done,
    )
    if not real.all():
        response = Response._make(field * real for field in response)
    return response, Chances(a, logits, condition)


def expected(chances: Chances, items: Ids) -> Ids:
    """(n, k, EXPECTED) how likely each was behind a response, in parts per billion: whole numbers, so that
    sums do not depend on their order."""
    panel, comment, share = _sigmoid(chances.logits[[PANEL, COMMENT, SHARE]].astype(np.float64))
    likely = np.stack([panel * comment, share], axis=-1) * (items > 0)[:, :, None]
    return np.rint(1e9 * likely).astype(np.int64)


def exposures(state: "State", users: Ids, items: Ids) -> Ids:
    """(n, k) how often the user was shown the video, within the last SHOWN impressions."""
    count = np.zeros(items.shape, np.int64)
    wanted = np.where(items > 0, items, -1).astype(state.shown.dtype)  # -1 is no video in 16 bits either
    for start in range(0, len(users), _BLOCK):
        part = slice(start, start + _BLOCK)
        same = state.shown.take(users[part], 0)[:, None, :] == wanted[part, :, None]
        (seen,) = same.reshape(-1).nonzero()  # mostly nothing: feeds avoid what was shown
        if len(seen):
            np.add.at(count[part].reshape(-1), seen // SHOWN, 1)
    return count


def absorb(world: "World", state: "State", users: Ids, items: Ids, response: Response) -> None:
    """Let the feed change its users: tired of tags, pleased or not, following. Users are unique."""
    c = world.constants
    real = items > 0
    tags = world.item_tag.take(items)
    tired = state.satiation.take(users, 0)
    tired *= np.float32(c.satiation_memory)
    step = (c.satiation_step * real + 1.0 * response.hate).astype(np.float32)
    cells = np.arange(len(users))[:, None] * world.n_tags + tags  # in the flattened rows
    np.add.at(tired.reshape(-1), cells.reshape(-1), step.reshape(-1))  # a tag may come twice in a feed
    state.satiation[users] = tired

    n_real = np.maximum(real.sum(-1), 1)
    pleased = response.play.sum(-1) / n_real - world.user_expected[users]
    pleased += 0.5 * (response.like | response.follow).sum(-1) / n_real
    state.satisfaction[users] = (
        c.satisfaction_memory * state.satisfaction[users] + (1 - c.satisfaction_memory) * pleased
    )
    _taste(world, state, users, items, tags, response.play)
    _append(state.shown, state.n_shown, users, items, real, SHOWN)
    _append(state.plays, state.n_plays, users, items, response.play, PLAYS)
    if response.follow.any():
        _append(state.follows, state.n_follows, users, world.item_author[items] + 1, response.follow, FOLLOWS)


def reference_scores(world: "World", state: "State", users: Ids, items: Ids) -> Floats:
    """Scores of the reference policy: what the user likes, whatever the quality, blurred by a noise that is
    fixed for each user and video.

    It does not know quality: in Pure plays hardly rise with exposures (.47 of the least shown videos, .52 of
    the most shown ones), and videos that are shown alike differ in plays. The noise is a sum of four uniforms
    (Irwin-Hall, scaled to the wanted deviation): close to normal, cheap.
    """
    u = unit(words(world.seed, Purpose.REFERENCE_NOISE, users[:, None], items))
    noise = (u[0] + u[1] + u[2] + u[3] - 2.0) * np.sqrt(3.0)
    liked = affinity(world, state, users, items) - world.item_quality.take(items)
    return liked + world.constants.reference_noise * noise


def reference_candidates(
    world: "World", users: Ids, sessions: Ids, requests: Ids, available: Ids | None = None
) -> Ids:
    """(n, c) videos that the reference policy compares at a request: by reach, so some may come twice. Up to
    the `available` id of each row, or those of the start."""
    most = world.constants.reference_candidates
    number = np.arange(-(-most // 4))  # each draw has four words
    counters = (users[:, None], sessions[:, None], requests[:, None] * 1024 + number)
    four = unit(words(world.seed, Purpose.REFERENCE_CANDIDATE, *counters))
    u = np.moveaxis(four, 0, -1).reshape(len(users), -1)[:, :most]
    if available is not None:
        u *= world.item_reach[available, None]
    return np.minimum(np.searchsorted(world.item_reach, u, side="left"), world.n_items).astype(np.int64)


def _watch(world: "World", users: Ids, items: Ids, a: Floats, seen: Ids, u: Floats) -> tuple[Ids, Floats]:
    """Watch time in ms and a fresh uniform. A view is skipped, broken off or finished."""
    c = world.constants
    log_d = world.item_log_duration.take(items)
    curve = (log_d - 4.0) ** 2
    lean = c.lean_affinity * a + world.user_offset.take(users)[:, None] + c.repeat * (seen > 0)
    p_skip = _sigmoid(c.skip_base + c.skip_duration * curve - c.skip_lean * lean)
    p_finish = _sigmoid(c.finish_base + c.finish_duration * (log_d - _LOG_30) + c.finish_affinity * a)
    skips, spare = _split(u[0], p_skip)
    finishes, late = _split(u[1], p_finish)
    duration_s = world.item_duration_ms.take(items) / 1000.0
    z = ndtri(u[2])
    sd = np.where(z < 0, c.skip_log_sd_low, c.skip_log_sd_high)
    skip = c.skip_log_mean + c.skip_log_lean * lean + sd * z
    middle = c.middle_log_mean + c.middle_duration * log_d + c.middle_curve * curve
    middle += c.middle_log_lean * lean
    broken_off = np.exp(np.where(skips, skip, middle + c.middle_log_sd * z))
    p_replay = np.minimum(c.replay_s / duration_s, c.replay_most_often)
    again = np.minimum(1.5 * (p_replay / late) ** c.replay_tail, c.replay_most)
    once = 1.0 + np.minimum(c.overshoot_s * np.abs(z) / duration_s, 0.49)
    ratio = np.where(late < p_replay, again, once)
    whole = finishes & ~skips
    seconds = np.where(whole, duration_s * ratio, np.minimum(broken_off, c.unfinished_at_most * duration_s))
    return np.rint(1000.0 * seconds).astype(np.int64), spare


def _action_logits(
    world: "World", users: Ids, items: Ids, a: Floats, condition: NDArray[np.int64], shock: Floats
) -> Float32s:
    """(actions, n, k): intercept of the watch state + user + video + affinity + the shock of all actions."""
    base, kappa, loading = world.action_tables
    logits = world.item_actions.take(items, 1)
    logits += base.take(condition, 1)
    logits += world.user_actions.take(users, 1)[:, :, None]
    logits += kappa * a.astype(np.float32)
    logits += loading * shock.astype(np.float32)
    return logits


def _act(world: "World", logits: Float32s, u: Floats, spare: Floats) -> dict[str, NDArray]:
    """Draw the actions. What is left of a uniform after a decision is a fresh uniform for the next one."""
    c = world.constants
    p = _sigmoid(logits)
    panel_ms, profile_ms = np.zeros(spare.shape, np.int64), np.zeros(spare.shape, np.int64)
    comments = np.zeros(spare.shape, np.bool_)
    opened, entered = (u[1] < p[PANEL]).nonzero(), (u[2] < p[PROFILE]).nonzero()
    if len(opened[0]):
        comments[opened], left = _split(u[1][opened] / p[PANEL][opened], p[COMMENT][opened])
        panel_ms[opened] = _stay_ms(left, c.panel_log_mean, c.panel_stay_sd)
    follows = (u[2] - p[PROFILE]) < (1.0 - p[PROFILE]) * p[FOLLOW_OUT]
    if len(entered[0]):
        follows[entered], left = _split(u[2][entered] / p[PROFILE][entered], p[FOLLOW_IN][entered])
        profile_ms[entered] = _stay_ms(left, c.profile_log_mean, c.profile_stay_sd)
    return {
        "like": u[0] < p[LIKE],
        "comment": comments,
        "share": u[3] < p[SHARE],
        "follow": follows,
        "hate": spare < p[HATE],
        "panel_ms": panel_ms,
        "profile_ms": profile_ms,
    }


def _split(u: Floats, p: Floats) -> tuple[Flags, Floats]:
    """Whether u < p, and where u lies inside its side: a uniform that is independent of the answer."""
    yes = u < p
    rest = np.where(yes, u, u - p) / np.where(yes, p, 1.0 - p)
    return yes, np.minimum(np.maximum(rest, 2.0**-40), 1.0 - 2.0**-40)


def _stay_ms(u: Floats, log_mean: float, log_sd: float) -> Ids:
    return np.clip(np.exp(log_mean + log_sd * ndtri(u)), 1, 600_000).astype(np.int64)


def _follows(world: "World", state: "State", users: Ids, items: Ids) -> Flags:
    """(n, k) does the user follow the author? Most users follow nobody: only the others are looked up."""
    found = np.zeros(items.shape, np.bool_)
    (fans,) = state.n_follows[users].nonzero()
    if len(fans):
        authors = (world.item_author[items[fans]] + 1).astype(np.int32)
        found[fans] = (state.follows[users[fans]][:, None, :] == authors[:, :, None]).any(-1)
    return found


def _taste(
    world: "World", state: "State", users: Ids, items: Ids, tags: NDArray[np.int32], play: Flags
) -> None:
    """Short-term interest moves to what was played; the last played tag and the day's diet are noted."""
    memory = np.float32(world.constants.short_term_memory)
    n_played = play.sum(-1)
    eaten = world.item_vector.take((items * play).T, 0).sum(0)  # slot after slot
    mean = eaten / np.maximum(n_played, 1).astype(np.float32)[:, None]
    some = (n_played > 0)[:, None]
    short = state.short.take(users, 0)
    state.short[users] = np.where(some, memory * short + (1 - memory) * mean, short)
    state.consumed[users] += eaten
    state.n_consumed[users] += n_played.astype(np.float32)
    last = play.shape[1] - 1 - np.argmax(play[:, ::-1], axis=1)
    latest = tags[np.arange(len(users)), last]
    state.last_tag[users] = np.where(n_played > 0, latest, state.last_tag[users])


def _append(ring: NDArray, count: Ids, users: Ids, values: Ids, keep: Flags, width: int) -> None:
    """Write the kept values of each row, in order, at the row's place in its ring."""
    before = count[users]
    if keep.all():
        ring[users[:, None], (before[:, None] + np.arange(keep.shape[1])) % width] = values
        count[users] = before + keep.shape[1]
        return
    row, slot = keep.nonzero()
    place = before[row] + keep.cumsum(axis=1)[row, slot] - 1
    ring[users[row], place % width] = values[row, slot]
    count[users] = before + keep.sum(-1)


def _sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    return 1.0 / (1.0 + np.exp(-x))

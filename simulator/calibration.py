"""The scorecard: a world under the reference policy beside the real logs.

`live` runs users through days without a platform (one slate policy, no events), enough to measure rates.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator import behavior
from simulator.constants import ACTIONS
from simulator.randomness import Purpose, uniform
from simulator.state import State

if TYPE_CHECKING:
    from simulator.world import World

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Policy = Callable[["World", State, Ids, Ids, Ids], Ids]
SLATE = 6  # videos in a feed, 27K: 5.81 impressions per request


class Target(NamedTuple):
    """A figure of a real log and how far a simulated one may be from it, as a fraction."""

    name: str
    real: float
    tolerance: float
    source: str


class Score(NamedTuple):
    """A row of the scorecard. status: pass (within tolerance + 3 errors), fail, or report (no gate)."""

    name: str
    real: float
    simulated: float
    tolerance: float | None
    status: str
    source: str
    error: float  # relative standard error of the simulated figure, clustered by user; 0 where not computed


class Sample(NamedTuple):
    """What happened in a light run, one row an impression; `days` one row an active user-day."""

    users: Ids
    items: Ids
    affinity: Floats
    condition: Ids
    p: Floats  # (actions, rows) conditional chances
    response: behavior.Response  # of (rows,)
    days: Ids  # impressions per active user-day
    n_user_days: int  # active or not


_TAB1 = "KuaiRand-Pure standard log, tab 1 (single-column feed)"
_RANDOM = "KuaiRand random-exposure log"
_BETWEEN = "KuaiRand-Pure, between users beyond chance"
TARGETS = (
    Target("play", 0.4939, 0.05, _TAB1),
    Target("long view", 0.3480, 0.05, _TAB1),
    Target("complete", 0.154, 0.05, _TAB1),
    Target("like", 0.01942, 0.05, _TAB1),
    Target("comment", 0.00290, 0.05, _TAB1),
    Target("share", 0.00099, 0.05, _TAB1),
    Target("follow", 0.00139, 0.05, _TAB1),
    Target("hate", 0.00083, 0.20, "KuaiRand-Pure standard log"),
    Target("panel open", 0.0495, 0.10, _TAB1),
    Target("profile enter", 0.0211, 0.10, _TAB1),
    Target("watch s, mean", 24.5, 0.10, _TAB1),
    Target("watch s, 5 %", 0.97, 0.20, _TAB1),
    Target("watch s, 10 %", 1.22, 0.20, _TAB1),
    Target("watch s, 25 %", 2.06, 0.10, _TAB1),
    Target("watch s, 50 %", 6.26, 0.10, _TAB1),
    Target("watch s, 75 %", 25.7, 0.10, _TAB1),
    Target("watch s, 90 %", 69.5, 0.10, _TAB1),
    Target("watch s, 95 %", 109.8, 0.10, _TAB1),
    Target("watch s, 99 %", 222.0, 0.10, _TAB1),
    Target("impressions per active user-day", 90.0, 0.05, "KuaiRec and Kwai-2018 panels"),
    Target("users active a day", 0.25, 0.05, "Kwai-2018 panel"),
    Target("play, random slates", 0.1762, 0.05, _RANDOM),
    Target("like between-user CV", 2.89, 0.15, _BETWEEN),
    Target("comment between-user CV", 2.82, 0.15, _BETWEEN),
    Target("share between-user CV", 2.79, 0.15, _BETWEEN),
)
REPORTED = (
    Target("follow between-user CV", 5.88, np.nan, _BETWEEN + " (noisy; 3.6 among users of 20 or more)"),
    Target("play between-user CV", 0.45, np.nan, _BETWEEN),
    Target("play between-video CV", 0.38, np.nan, "KuaiRand-Pure, between videos beyond chance"),
    Target("user-day volume, 10 %", 4, np.nan, "Kwai-2018, plays per active day"),
    Target("user-day volume, 25 %", 12, np.nan, "Kwai-2018, plays per active day"),
    Target("user-day volume, 50 %", 44, np.nan, "Kwai-2018, plays per active day"),
    Target("user-day volume, 75 %", 120, np.nan, "Kwai-2018, plays per active day"),
    Target("user-day volume, 90 %", 241, np.nan, "Kwai-2018, plays per active day"),
    Target("user-day volume, 99 %", 614, np.nan, "Kwai-2018, plays per active day"),
    Target("like-follow lift", 23.2, np.nan, "KuaiRand-Pure standard log"),
    Target("like-share lift", 8.5, np.nan, "KuaiRand-Pure standard log"),
    Target("like-comment lift", 8.3, np.nan, "KuaiRand-Pure standard log"),
    Target("comment-share lift", 6.5, np.nan, "KuaiRand-Pure standard log"),
    Target("follow-share lift", 11.5, np.nan, "KuaiRand-Pure standard log"),
    Target("top 20 % of videos", 0.768, np.nan, "KuaiRand-Pure pool, share of exposures"),
    Target("rank-frequency slope", -0.84, np.nan, "KuaiRand-Pure pool"),
)


def reference_slate(world: "World", state: State, users: Ids, sessions: Ids, requests: Ids) -> Ids:
    """(n, 6) best of the reference policy's candidates, without repeats and without what was shown lately."""
    items = np.sort(behavior.reference_candidates(world, users, sessions, requests), axis=1)
    scores = behavior.reference_scores(world, state, users, items)
    again = np.zeros(items.shape, np.bool_)
    again[:, 1:] = items[:, 1:] == items[:, :-1]
    scores[again] = -np.inf
    items, scores = _best(items, scores, 3 * SLATE)  # few of them were shown lately
    scores[behavior.exposures(state, users, items) > 0] = -np.inf
    items, scores = _best(items, scores, SLATE)
    return np.where(scores > -np.inf, items, 0)


def _best(items: Ids, scores: Floats, k: int) -> tuple[Ids, Floats]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)


def random_slate(world: "World", state: State, users: Ids, sessions: Ids, requests: Ids) -> Ids:
    """(n, 6) uniform over the catalogue, repeats allowed."""
    slots = np.arange(SLATE)
    u = uniform(
        world.seed, Purpose.SLOT_ITEM, users[:, None], sessions[:, None], requests[:, None] * 64 + slots
    )
    return 1 + (u * world.n_items).astype(np.int64)


def live(world: "World", days: int, policy: Policy = reference_slate, *, skip: int = 0) -> Sample:
    """Let the world live for `skip` + `days` days under one policy; a sample of the last `days`."""
    state = State.start(world)
    rows: list[tuple] = []
    volumes: list[Ids] = []
    for day in range(skip + days):
        arrived = behavior.arrivals(world, state, day)
        volume = np.zeros(world.n_users, np.int64)
        for piece in _day(world, state, arrived, policy):
            volume += np.bincount(piece[0], minlength=world.n_users)
            if day >= skip:
                rows.append(piece)
        behavior.overnight(world, state, day)
        if day >= skip:
            volumes.append(volume[np.unique(arrived.users)])
    return _joined(rows, np.concatenate(volumes), world.n_users * days)


def scorecard(world: "World", days: int = 2) -> list[Score]:
    """The world under the reference policy, beside the real logs. Drawn outcomes, expected actions.

    Small worlds miss by chance: a between-user CV of 3 leaves an error of 3 / sqrt(active users) on a rate.
    """
    sample, random = live(world, days, skip=1), live(world, 1, random_slate)
    measured = measure(sample, world)
    measured |= {"play, random slates": float(random.response.play.mean())}
    errors = {name: clustered_error(sample.users, values) for name, values in _means(sample).items()}
    errors |= {"play, random slates": clustered_error(random.users, random.response.play.astype(float))}
    rows = [_score(t, measured[t.name], errors.get(t.name, 0.0)) for t in TARGETS]
    return rows + [Score(t.name, t.real, measured[t.name], None, "report", t.source, 0.0) for t in REPORTED]


def measure(sample: Sample, world: "World") -> dict[str, float]:
    """Every figure of TARGETS and REPORTED but the random slates."""
    r, means = sample.response, _means(sample)
    watch_s = means["watch s, mean"]
    out = {name: values.mean() for name, values in means.items()}
    out["impressions per active user-day"] = sample.days.mean()
    out["users active a day"] = len(sample.days) / sample.n_user_days
    out |= {f"watch s, {q} %": np.quantile(watch_s, q / 100) for q in (5, 10, 25, 50, 75, 90, 95, 99)}
    out |= {f"user-day volume, {q} %": np.quantile(sample.days, q / 100) for q in (10, 25, 50, 75, 90, 99)}
    for name in ("like", "comment", "share", "follow"):
        out[f"{name} between-user CV"] = between_cv(sample.users, means[name])
    out["play between-user CV"] = between_cv(sample.users, r.play.astype(float), drawn=True)
    out["play between-video CV"] = between_cv(sample.items, r.play.astype(float), drawn=True)
    for a, b in (
        ("like", "follow"),
        ("like", "share"),
        ("like", "comment"),
        ("comment", "share"),
        ("follow", "share"),
    ):
        both = (means[a] * means[b]).mean()  # independent given all that the chances are conditional on
        out[f"{a}-{b} lift"] = both / (out[a] * out[b])
    counts = np.sort(np.bincount(sample.items, minlength=world.n_items + 1)[1:])[::-1]
    out["top 20 % of videos"] = counts[: world.n_items // 5].sum() / counts.sum()
    head = slice(world.n_items // 100, world.n_items // 2)
    ranks = np.log(np.arange(1, world.n_items + 1))
    out["rank-frequency slope"] = np.polyfit(ranks[head], np.log(np.maximum(counts[head], 0.5)), 1)[0]
    return {name: float(value) for name, value in out.items()}


def _means(sample: Sample) -> dict[str, Floats]:
    """What is averaged over impressions, by name: drawn, or expected for the actions."""
    r, p = sample.response, dict(zip(ACTIONS, sample.p, strict=True))
    return {
        "play": r.play.astype(float),
        "long view": r.long_view.astype(float),
        "complete": (sample.condition == 3).astype(float),
        "like": p["like"],
        "comment": p["panel"] * p["comment"],
        "share": p["share"],
        "follow": p["profile"] * p["follow_in"] + (1 - p["profile"]) * p["follow_out"],
        "hate": p["hate"],
        "panel open": p["panel"],
        "profile enter": p["profile"],
        "watch s, mean": r.watch_ms / 1000.0,
    }


def clustered_error(units: Ids, values: Floats) -> float:
    """Relative standard error of the mean when values of a unit belong together (a ratio of two sums)."""
    n = np.bincount(units)
    excess = np.bincount(units, values) - values.mean() * n
    return float(np.sqrt((excess**2).sum()) / values.sum())


def between_cv(units: Ids, values: Floats, *, drawn: bool = False, least: int = 20) -> float:
    """Coefficient of variation of the units' means, of units with `least` values or more.

    `drawn`: the values are 0/1 draws, whose binomial noise is taken out.
    """
    n = np.bincount(units)
    total = np.bincount(units, values)
    rate = total[n >= least] / n[n >= least]
    noise = (rate * (1 - rate) / (n[n >= least] - 1)).mean() if drawn else 0.0
    return float(np.sqrt(max(rate.var() - noise, 0.0)) / rate.mean())


def _score(target: Target, simulated: float, error: float) -> Score:
    near = abs(simulated / target.real - 1) <= target.tolerance + 3 * error
    status = "pass" if near else "fail"
    return Score(target.name, target.real, simulated, target.tolerance, status, target.source, error)


def _day(world: "World", state: State, arrived: behavior.Arrivals, policy: Policy) -> Iterator[tuple]:
    """Everybody's sessions, each user's in order; all users that are not done ask at once."""
    order = np.lexsort((arrived.start_ms, arrived.users))
    sessions = arrived.sessions[order]
    users, at, n_sessions = np.unique(arrived.users[order], return_index=True, return_counts=True)
    end = at + n_sessions
    requests, elapsed = np.zeros_like(users), np.zeros_like(users)
    behavior.begin_session(world, state, users)
    while len(users):
        items = policy(world, state, users, sessions[at], requests)
        response, chances = behavior.respond_with_chances(world, state, users, items)
        behavior.absorb(world, state, users, items, response)
        yield _piece(users, items, response, chances)
        elapsed += response.watch_ms.sum(-1) + behavior.gaps(world, users, sessions[at], requests)
        on = behavior.stays(world, state, users, sessions[at], requests, elapsed)
        requests, elapsed, at = (
            np.where(on, requests + 1, 0),
            np.where(on, elapsed, 0),
            np.where(on, at, at + 1),
        )
        left = at < end
        behavior.begin_session(world, state, users[left & ~on])
        users, requests, elapsed, at, end = (x[left] for x in (users, requests, elapsed, at, end))


def _piece(users: Ids, items: Ids, response: behavior.Response, chances: behavior.Chances) -> tuple:
    """The impressions of a round as flat arrays, in the order of Sample's fields."""
    real = items > 0
    who = np.broadcast_to(users[:, None], items.shape)[real]
    p = 1 / (1 + np.exp(-chances.logits[:, real].astype(np.float64)))
    drawn = behavior.Response._make(field[real] for field in response)
    return who, items[real], chances.affinity[real], chances.condition[real], p, drawn


def _joined(rows: list[tuple], days: Ids, n_user_days: int) -> Sample:
    users, items, affinity, condition = (np.concatenate([r[i] for r in rows]) for i in range(4))
    p = np.concatenate([r[4] for r in rows], axis=1)
    fields = zip(*(r[5] for r in rows), strict=True)
    response = behavior.Response._make(np.concatenate(f) for f in fields)
    return Sample(users, items, affinity, condition, p, response, days, n_user_days)

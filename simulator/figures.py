"""What a log of impressions shows, as named figures: the same functions measure a real log and the world.

An action of the world may be its chance rather than a draw: means of products are then those of independent
draws given the chances, and every spread is estimated from pairs of different impressions, so both agree.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator import order, spread

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]

RATES = ("play", "long view", "complete", "like", "comment", "share", "follow", "hate", "panel open",
         "profile enter")  # fmt: skip
"""Flags of an impression, and the figures of their means."""

PAIRS = (
    ("like", "follow"),
    ("like", "share"),
    ("like", "comment"),
    ("comment", "share"),
    ("follow", "share"),
    ("comment", "follow"),
)
DURATION_BINS_S = (0, 15, 30, 60, 120, 240, np.inf)
QUANTILES = (5, 10, 25, 50, 75, 90, 95, 99)
RANDOM_LEAST = 10  # impressions that every user of the random-exposure log has
GROUPS = 16  # of users, for the errors


class Impressions(NamedTuple):
    """One row an impression, sorted by user and then by time; flags in the order of RATES, 0/1 or chances."""

    users: Ids  # any numbers
    items: Ids
    tags: Ids
    duration_s: Floats
    watch_s: Floats
    flags: Floats  # (RATES, rows)

    def rows(self, keep: Flags | Ids) -> "Impressions":
        """Some of the rows."""
        users, items, tags, duration_s, watch_s, flags = self
        return Impressions(
            users[keep], items[keep], tags[keep], duration_s[keep], watch_s[keep], flags[:, keep]
        )

    def flag(self, name: str) -> Floats:
        """(rows,) one of RATES."""
        return self.flags[RATES.index(name)]


def measure(x: Impressions, rows_per_user: Ids | None = None) -> dict[str, float]:
    """Every figure of the impressions of a log under a reference policy.

    rows_per_user: sorted counts of another log; what depends on how often a user was seen (spread between
    users, predictability) is then measured on so many rows of each user.
    """
    return {**rates(x), **watch_times(x), **lifts(x), **popularity(x), **spreads(x, rows_per_user)}


def rates(x: Impressions) -> dict[str, float]:
    """Means per impression."""
    found = {name: float(x.flag(name).mean()) for name in RATES}
    return {**found, "watch s, mean": float(x.watch_s.mean())}


def watch_times(x: Impressions) -> dict[str, float]:
    """Quantiles of the watch time, and what depends on the duration."""
    found = {f"watch s, {q} %": float(np.quantile(x.watch_s, q / 100)) for q in QUANTILES}
    ratio = x.watch_s / x.duration_s
    found |= {f"watched {most} times": float((ratio > most).mean()) for most in (1.5, 2)}
    for low, high in pairwise(DURATION_BINS_S):
        part = x.rows((x.duration_s > low) & (x.duration_s <= high))
        of = f"{low}-{high} s" if np.isfinite(high) else f"over {low} s"
        for name, values in (("play", part.flag("play")), ("complete", part.flag("complete")),
                             ("watch s", part.watch_s), ("like", part.flag("like"))):  # fmt: skip
            found[f"{name}, videos of {of}"] = _mean(values)
    return found


def lifts(x: Impressions) -> dict[str, float]:
    """How much more often two actions meet on an impression than independent ones would."""
    found = {}
    for a, b in PAIRS:
        left, right = x.flag(a), x.flag(b)
        found[f"{a}-{b} lift"] = float((left * right).mean() / (left.mean() * right.mean()))
    for name in ("play", "long view"):
        given = (x.flag(name) * x.flag("comment")).sum() / x.flag("comment").sum()
        found[f"{name}, given a comment"] = float(given)
    return found


def popularity(x: Impressions) -> dict[str, float]:
    """How impressions are shared among the videos that were seen."""
    counts = np.sort(np.unique(x.items, return_counts=True)[1])[::-1]
    n = len(counts)
    found = {f"top {p} % of videos": counts[: n * p // 100].sum() / counts.sum() for p in (1, 5, 10, 20)}
    head = slice(n // 100, n // 5)  # ranks 1 % to 20 %
    ranks = np.log(np.arange(1, n + 1))
    slope = np.polyfit(ranks[head], np.log(counts[head]), 1)[0]
    return {
        **{k: float(v) for k, v in found.items()},
        "rank-frequency slope": float(slope),
        **plays_by_popularity(x),
    }


def plays_by_popularity(x: Impressions) -> dict[str, float]:
    """Plays of the fifths of impressions that show the least and the most shown videos."""
    _, video, counts = np.unique(x.items, return_inverse=True, return_counts=True)
    order = np.argsort(counts[video], kind="stable")
    play, fifth = x.flag("play")[order], len(order) // 5
    return {
        "play, least shown videos": _mean(play[:fifth]),
        "play, most shown videos": _mean(play[len(play) - fifth :]),
    }


def spreads(x: Impressions, rows_per_user: Ids | None) -> dict[str, float]:
    """How much users and videos differ, and how well a play is foretold by who and what."""
    own = x if rows_per_user is None else x.rows(spread.matched_rows(x.users, rows_per_user))
    found = {}
    for name in ("play", "long view", "like", "comment", "share", "follow"):
        found[f"{name} between-user CV"] = spread.between_cv(own.users, own.flag(name))
        found[f"{name} between-video CV"] = spread.between_cv(x.items, x.flag(name))
    found["watch s between-user CV"] = spread.between_cv(own.users, own.watch_s)
    play = own.flag("play")
    found["play ICC of users"] = spread.intraclass(own.users, play)
    found["play ICC of videos"] = spread.intraclass(x.items, x.flag("play"))
    by_user, by_item, by_both = spread.additive_auc(own.users, own.items, play, x.items, x.flag("play"))
    return {**found, "play AUC of users": by_user, "play AUC of videos": by_item, "play AUC of both": by_both}


def transitions(users: Ids, items: Ids, tags: Ids) -> dict[str, float]:
    """Order in sequences of plays, sorted by user and time: see `simulator.order`."""
    far = order.pair_lift(users, items, order.FAR) or np.nan  # 0: too few plays to meet
    found = {f"pair lift, lag {order.FAR}": far}
    for lag in order.LAGS:
        found[f"same-tag lift, lag {lag}"] = order.same_tag_lift(users, items, tags, lag)
        found[f"pair lift, lag {lag} over {order.FAR}"] = order.pair_lift(users, items, lag) / far
    found["tag switching"] = order.switching(users, tags)
    found["repeated plays"] = order.repeats(users, items)
    return found


def habits(volumes: Ids, active: Flags) -> dict[str, float]:
    """How much and how often, from the impressions of active user-days and who was active.

    active: (3 + days, users); the first three days only tell what came before.
    """
    found = {"impressions per active user-day": float(volumes.mean())}
    found |= {
        f"user-day volume, {q} %": float(np.quantile(volumes, q / 100)) for q in (10, 25, 50, 75, 90, 99)
    }
    found["users active a day"] = float(active[3:].mean())
    before = np.stack([active[d - 3 : d].sum(0) for d in range(3, len(active))])
    today, yesterday = active[3:], active[2:-1]
    for n in range(4):
        found[f"active after {n} of 3 days"] = _mean(today[before == n])
    found["active after an active day"] = _mean(today[yesterday])
    found["active after an idle day"] = _mean(today[~yesterday])
    return found


def visits(users: Ids, sessions: Ids, request_ms: Ids, active_days: int) -> dict[str, float]:
    """Sessions, requests and the time between them, of impressions in any order."""
    requests = np.unique(np.stack((users, sessions, request_ms), axis=1), axis=0)
    same = (requests[1:, :2] == requests[:-1, :2]).all(1)
    gap_s = (requests[1:, 2] - requests[:-1, 2])[same] / 1000
    n_sessions = len(requests) - int(same.sum())
    found = {
        "sessions per active user-day": n_sessions / active_days,
        "requests per session": len(requests) / n_sessions,
        "impressions per session": len(users) / n_sessions,
    }
    for low, high in ((1, 10), (10, 60), (60, 300), (300, 1800)):
        inside = ((gap_s >= low) & (gap_s < high)).sum() / ((gap_s >= 1) & (gap_s < 1800)).sum()
        found[f"requests {low}-{high} s apart"] = float(inside)
    hour = request_ms // 3_600_000 % 24
    found["impressions from 18 to 24 h"] = float((hour >= 18).mean())
    found["impressions from 0 to 6 h"] = float((hour < 6).mean())
    return found


def random_rates(x: Impressions) -> dict[str, float]:
    """Means over users of what a user with enough impressions under random slates does."""
    _, user, n = np.unique(x.users, return_inverse=True, return_counts=True)
    known = n >= RANDOM_LEAST

    def of_users(values: Floats) -> float:
        return _mean((np.bincount(user, values) / n)[known])

    names = (*RATES[:7], "profile enter")
    found = {f"{name}, random slates": of_users(x.flag(name)) for name in names}
    return {**found, "watch s, random slates": of_users(x.watch_s)}


def errors(users: Ids, figures: Callable[[Flags], dict[str, float]]) -> dict[str, float]:
    """Standard error of each figure by a delete-a-group jackknife over users.

    figures: called with the rows to keep.
    """
    group = np.unique(users, return_inverse=True)[1] % GROUPS
    left = [figures(group != g) for g in range(GROUPS)]
    values = {name: np.array([one[name] for one in left]) for name in left[0]}
    return {name: float(np.sqrt((GROUPS - 1) * v.var())) for name, v in values.items()}


def _mean(values: NDArray[np.generic]) -> float:
    """The mean, NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")

"""A world from real logs: which users, videos, rates and tastes a KuaiRand log shows.

What is taken from where (tables as `warehouse.importers.read_kuairand` returns them):
- videos: author, tag, duration, upload day; appeal per action and play quality from the log's rates.
- users: those with a pre-period history; a seeded sample where fewer are asked for.
- propensities and offsets: drawn from their posterior given the log, so that rare actions keep the spread
  that a shrunken mean would lose; the prior is the synthetic world's.
- tastes: from the outcome given the exposure (was what was shown of a tag played more than expected), never
  from which videos appear, because that encodes the policy of the platform.
- transitions and interests of the other families: from the order and the places of the histories' plays.
- activity: rank within the log blended with chance; `exposures` gives the distribution (rows name nobody).
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv, ndtr

from simulator import affinity, population
from simulator.constants import ACTIONS, Constants
from simulator.randomness import Purpose, uniform
from warehouse.events import DAY_MS

if TYPE_CHECKING:
    import pyarrow as pa

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Counts = NDArray[Any]
HISTORY = 50
ACTIVITY_SIGNAL = 0.7  # correlation of log activity with the rank in a log of two weeks; assumed
PLAY_LOGITS = (
    0.9  # logits of a play per unit of affinity: skips and plays overlap; measured in the synthetic world
)
# what the log counts for each action row: (column, counted among); panel opens where its stay is not 0
_COUNTED = {
    "like": "like", "panel": "panel", "comment": "comment", "share": "share",
    "profile": "profile_enter", "follow_in": "follow", "follow_out": "follow", "hate": "hate",
}  # fmt: skip


class Logged(NamedTuple):
    """The impressions as arrays, users and videos as rows of the world (users not taken: -1)."""

    users: Ids
    items: Ids
    play: Floats
    actions: Floats  # (actions, rows) 0 or 1, rows of ACTIONS by _COUNTED


def draw(
    constants: Constants,
    users: "pa.Table",
    videos: "pa.Table",
    impressions: "pa.Table",
    histories: "pa.Table",
    exposures: "pa.Table",
    seed: int,
    n_users: int | None,
    family: str = "factors",
) -> dict[str, Any]:
    """The fields of a World."""
    check(impressions, exposures)
    video_ids, author, tag, n_tags, duration_ms, uploaded = _videos(videos)
    source, history, history_ts = _people(users, histories, video_ids, seed, n_users)
    log = _logged(impressions, source, video_ids)
    constants = replace(constants, n_tags=n_tags)
    items = _items(constants, seed, log, author, tag, duration_ms, uploaded, video_ids)
    tags = population.draw_tags(constants, n_tags, seed)
    items["item_vector"] = population.item_vectors(
        constants, np.arange(len(video_ids) + 1), seed, tags["tag_vector"][items["item_tag"]]
    )
    items["item_vector"][0] = 0
    people = np.arange(len(source))
    traits = population.draw_traits(people, seed)
    volume = np.bincount(log.users[log.users >= 0], minlength=len(source))
    rank = population.normal_scores(volume, uniform(seed, Purpose.USER_SAMPLE, people, 1))
    traits[0] = ACTIVITY_SIGNAL * rank + np.sqrt(1 - ACTIVITY_SIGNAL**2) * traits[0]
    traits[0] = _reshaped(traits[0], exposures)
    residual = log.play - _expected(log, items)
    traits[1] = _offsets(constants, traits[1], log, len(source))
    fields = population.users_of(constants, traits)
    fields["user_actions"] = _propensities(constants, fields["user_actions"], traits, log, len(source))
    prior = population.draw_tastes(
        constants,
        people,
        seed,
        tags["tag_vector"],
        np.cumsum(np.bincount(tag[1:], minlength=n_tags) ** constants.interest_power),
    )
    taste = population.scaled_tastes(constants, prior, items["item_vector"])
    drawn = {
        "seed": seed,
        "constants": constants,
        "family": family,
        **tags,
        **items,
        **fields,
        "user_source_id": source,
        "user_taste": _tastes(constants, taste, log, residual, items["item_vector"]),
        "history": history,
        "history_ts": history_ts,
        "origin": origin(impressions.num_rows, len(source), len(video_ids)),
        "n_at_start": len(video_ids),
    }
    return affinity.seen_in(population.with_family(drawn))


def check(impressions: "pa.Table", exposures: "pa.Table") -> None:
    """ValueError where a log cannot tell what a world is like: one kind of outcome, or users all alike."""
    plays, volumes = _column(impressions, "play"), _column(exposures, "n_exposures")
    if not 0 < plays.sum() < len(plays):
        raise ValueError(
            f"{plays.sum()} of the log's {len(plays)} impressions are plays; a world needs plays and skips"
        )
    if len(np.unique(volumes)) < 2:
        raise ValueError(
            f"all {len(volumes)} users of the full log have the same n_exposures; a world needs others too"
        )


def origin(n_impressions: int, n_users: int, n_videos: int) -> dict[str, str]:
    """What of the world was fitted, and from what; the rest is drawn from the shapes of real logs."""
    rows = f"{n_impressions} impressions"
    return {
        "users and histories": f"{n_users} users with a pre-period history",
        "videos": f"{n_videos} videos: author, first tag, duration, upload day",
        "video quality and appeal": f"posterior draws from plays and actions in {rows}",
        "user offsets and propensities": f"posterior draws from plays and actions in {rows}",
        "tastes": f"ridge step from the prior, on plays given the exposure in {rows}",
        "reach": f"exposure counts in {rows}",
        "activity": "rank by impressions, shape by the full log's exposures",
        "successors and interests": "order and places of the plays in the histories",
    }


def _videos(videos: "pa.Table") -> tuple[Ids, Ids, Ids, int, Ids, Ids]:
    """Columns by world row (row 0 padding): source ids without row 0, author, tag, n_tags, length, upload."""
    ids = _column(videos, "video_id")
    order = np.argsort(ids, kind="stable")
    codes, tag = np.unique(_column(videos, "tag")[order], return_inverse=True)
    first_day = _column(videos, "upload_day").max()  # the newest video is uploaded at the first midnight
    age_days = first_day - _column(videos, "upload_day")[order]
    return (
        ids[order],
        _padded(_column(videos, "author_id")[order]),
        _padded(tag.astype(np.int64)),
        len(codes),
        _padded(np.maximum(_column(videos, "duration_ms")[order], 1), 10_000),
        _padded(-age_days * DAY_MS),
    )


def _people(
    users: "pa.Table", histories: "pa.Table", video_ids: Ids, seed: int, n_users: int | None
) -> tuple[Ids, NDArray[np.int32], Ids]:
    """Source ids, histories as world rows (left-aligned, last 50) and their times, of the users taken."""
    known = np.intersect1d(_column(users, "user_id"), _column(histories, "user_id"))
    if n_users is not None and not 1 <= n_users <= len(known):
        raise ValueError(f"n_users is {n_users}; the log has {len(known)} users with a history")
    order = np.argsort(uniform(seed, Purpose.USER_SAMPLE, known, 0), kind="stable")
    source = np.sort(known[order[:n_users]])
    table = {u: i for i, u in enumerate(_column(histories, "user_id").tolist())}
    lists = histories["videos"].to_pylist()
    times = _column(histories, "last_ts")
    history = np.zeros((len(source), HISTORY), np.int32)
    rows = [table[u] for u in source.tolist()]
    for i, row in enumerate(rows):
        seen = np.asarray(lists[row] or [], np.int64)
        at = np.minimum(np.searchsorted(video_ids, seen), len(video_ids) - 1)
        mine = (at + 1)[video_ids[at] == seen][-HISTORY:]
        history[i, : len(mine)] = mine
    return source, history, np.where(history[:, 0] > 0, times[rows], 0)


def _logged(impressions: "pa.Table", source: Ids, video_ids: Ids) -> Logged:
    """The log's rows of known videos; users that are not in the world have row -1 but tell about videos."""
    video = _column(impressions, "video_id")
    at = np.minimum(np.searchsorted(video_ids, video), len(video_ids) - 1)
    keep = video_ids[at] == video
    user = _column(impressions, "user_id")[keep]
    place = np.minimum(np.searchsorted(source, user), len(source) - 1)
    who = np.where(source[place] == user, place, -1)
    columns = {
        name: _column(impressions, name)[keep].astype(np.float64)
        for name in _COUNTED.values()
        if name != "panel"
    }
    columns["panel"] = (_column(impressions, "panel_ms")[keep] > 0).astype(np.float64)
    actions = np.stack([columns[_COUNTED[name]] for name in ACTIONS])
    return Logged(who, at[keep] + 1, _column(impressions, "play")[keep].astype(np.float64), actions)


def _items(
    constants: Constants,
    seed: int,
    log: Logged,
    author: Ids,
    tag: Ids,
    duration_ms: Ids,
    uploaded: Ids,
    ids: Ids,
) -> dict[str, Any]:
    """Video fields: quality from plays, appeal from actions, posterior draws; reach from counts."""
    rows = np.arange(len(ids) + 1)
    n = np.bincount(log.items, minlength=len(rows)).astype(np.float64)
    plays = np.bincount(log.items, log.play, minlength=len(rows))
    mean = log.play.mean()
    z = population.normal(seed, Purpose.ITEM_QUALITY, rows, 0)
    quality = _posterior(constants.quality_sd * z, constants.quality_sd, plays, n, mean)
    prior = population.item_actions(constants, rows, seed)
    total = log.actions.sum(1) / len(log.items)
    lean = population.duration_lean(constants, np.log(duration_ms / 1000.0))
    appeal = lean.copy()
    for j, sd in enumerate(constants.item_log_sd):
        hits = np.bincount(log.items, log.actions[j], minlength=len(rows))
        expected = n * total[j] * np.exp(lean[j])
        appeal[j] += _log_rate((prior[j] + sd**2 / 2) / sd, 1 / np.expm1(sd**2), hits, expected)
    quality[0], appeal[:, 0] = 0.0, 0.0
    shown = np.concatenate(([0.0], np.cumsum(n[1:] + 1.0)))
    return {
        "item_author": author,
        "item_tag": tag.astype(np.int32),
        "item_duration_ms": duration_ms,
        "item_uploaded_ts": uploaded,
        "item_source_id": _padded(ids),
        "item_quality": quality,
        "item_actions": appeal.astype(np.float32),
        "item_log_duration": np.log(duration_ms / 1000.0),
        "item_reach": shown / shown[-1],
    }


def _expected(log: Logged, items: dict[str, Any]) -> Floats:
    """Chance of a play from the video's quality alone."""
    mean = log.play.mean()
    return 1 / (1 + np.exp(-(_logit(mean) + PLAY_LOGITS * items["item_quality"][log.items])))


def _offsets(constants: Constants, prior: Floats, log: Logged, n_users: int) -> Floats:
    """Scores of the valid-play offset: the prior moved by the user's plays."""
    mine = log.users >= 0
    n = np.bincount(log.users[mine], minlength=n_users).astype(np.float64)
    plays = np.bincount(log.users[mine], log.play[mine], minlength=n_users)
    return (
        _posterior(constants.offset_sd * prior, constants.offset_sd, plays, n, log.play.mean())
        / constants.offset_sd
    )


def _propensities(constants: Constants, prior: Floats, traits: Floats, log: Logged, n_users: int) -> Floats:
    """Log propensities: gamma posteriors for four actions; other rows keep the prior's share."""
    mine = log.users >= 0
    n = np.bincount(log.users[mine], minlength=n_users).astype(np.float64)
    out = prior.copy()
    for row, name, trait, shape in zip(
        (0, 2, 3, 6),
        ("like", "comment", "share", "follow_out"),
        (2, 3, 4, 5),
        constants.gamma_shapes,
        strict=True,
    ):
        column = log.actions[ACTIONS.index(name)]
        hits = np.bincount(log.users[mine], column[mine], minlength=n_users)
        out[row] = _log_rate(traits[trait], shape, hits, n * column.mean())
    out[2] -= prior[1]  # the panel's part of the comment propensity, the profile's of the follow propensity
    out[5] = out[6] - prior[4]
    return out


def _tastes(
    constants: Constants,
    prior: NDArray[np.float32],
    log: Logged,
    residual: Floats,
    vectors: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Prior tastes moved along the vectors of what was played more or less than expected: a ridge step."""
    mine = np.flatnonzero(log.users >= 0)
    pull = np.zeros(prior.shape)
    mean = np.bincount(log.users[mine], residual[mine], minlength=len(prior)) / np.maximum(
        np.bincount(log.users[mine], minlength=len(prior)), 1
    )
    own = residual[mine] - mean[log.users[mine]]
    for k in range(prior.shape[1]):
        pull[:, k] = np.bincount(log.users[mine], own * vectors[log.items[mine], k], minlength=len(prior))
    weight = 0.22 * np.bincount(log.users[mine], minlength=len(prior)) / prior.shape[1]
    precision = 1 / constants.taste_sd**2
    return (prior + pull / (precision + weight)[:, None]).astype(np.float32)


def _posterior(prior_draw: Floats, sd: float, hits: Counts, n: Floats, mean: float) -> Floats:
    """A draw of a shift in affinity given hits among n: the prior draw shrunk, around the posterior mean."""
    rate = (hits + 1) / (n + 2)
    seen = (_logit(rate) - _logit(mean)) / PLAY_LOGITS
    information = PLAY_LOGITS**2 * n * rate * (1 - rate)
    precision = 1 / sd**2 + information
    return seen * information / precision + prior_draw / (sd * np.sqrt(precision))


def _log_rate(score: Floats, shape: float, hits: Counts, expected: Floats) -> Floats:
    """Log of a draw from the gamma posterior of a relative rate of prior mean 1, at a normal score's rank."""
    drawn = gammaincinv(shape + hits, ndtr(score)) / (shape + expected)
    return np.log(np.maximum(drawn, np.exp(-12.0)))


def _logit(p: Any) -> Any:
    return np.log(p / (1 - p))


def _reshaped(score: Floats, exposures: "pa.Table") -> Floats:
    """Activity scores with the shape of the real volumes: by rank, the standardised log of n_exposures."""
    volumes = np.sort(np.log(np.maximum(_column(exposures, "n_exposures"), 1).astype(np.float64)))
    volumes = (volumes - volumes.mean()) / volumes.std()
    rank = np.empty(len(score))
    rank[np.argsort(score, kind="stable")] = (np.arange(len(score)) + 0.5) / len(score)
    return np.interp(rank, (np.arange(len(volumes)) + 0.5) / len(volumes), volumes)


def _column(table: "pa.Table", name: str) -> NDArray[np.int64]:
    if name not in table.column_names:
        raise ValueError(f"the table has no column {name!r}; it has: {', '.join(table.column_names)}")
    return table[name].to_numpy()


def _padded(values: NDArray[np.int64], first: int = 0) -> NDArray[np.int64]:
    return np.concatenate(([first], values)).astype(np.int64)

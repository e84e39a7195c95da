"""Drawing the users and videos of a synthetic world from the shapes of real logs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv, ndtr, ndtri

from simulator.affinity import FAMILIES, around, axis_lengths
from simulator.constants import ACTIONS, DURATION_QUANTILES, Constants
from simulator.randomness import Purpose, normal, uniform
from simulator.uploads import upload_times, with_uploads
from warehouse.events import DAY_MS

Floats = NDArray[np.float64]
VIDEOS_PER_AUTHOR = 1.16  # Pure: 7,583 videos of 6,510 authors
AGE_DAYS = 7.0  # mean age of a video at the first midnight; assumed

TRAITS = ("activity", "offset", "like", "comment", "share", "follow", "hate")
# Correlations of the Gaussian copula. activity-offset: 27K; activity-actions: Kwai-2018 log rates. Between
# actions: solved, so that a like, comment, share or follow on one impression goes with one on another
# impression of the same user as often as in Pure. Offset against actions, and hate: assumed.
COPULA = np.array(
    [
        [1.00, -0.50, -0.18, -0.20, -0.35, -0.20, 0.00],
        [-0.50, 1.00, 0.00, 0.00, 0.00, 0.00, 0.00],
        [-0.18, 0.00, 1.00, 0.30, 0.52, 0.80, 0.17],
        [-0.20, 0.00, 0.30, 1.00, 0.28, 0.05, 0.17],
        [-0.35, 0.00, 0.52, 0.28, 1.00, 0.42, 0.17],
        [-0.20, 0.00, 0.80, 0.05, 0.42, 1.00, 0.17],
        [0.00, 0.00, 0.17, 0.17, 0.17, 0.17, 1.00],
    ]
)
_LEAST_LOG = -12.0  # log propensities below this are as good as never


def draw(
    constants: Constants,
    n_users: int,
    n_items: int,
    seed: int,
    family: str = "factors",
    *,
    uploads: float = 0.0,
    days: int = 0,
) -> dict[str, Any]:
    """The fields of a World. On each of `days` days come `uploads` new videos, of 100 that are there at the
    start; users, and the videos of the start, are the same with and without them."""
    tags = draw_tags(constants, constants.n_tags, seed)
    share = _tag_shares(constants)
    items = draw_items(constants, n_items, seed, tags["tag_vector"], np.cumsum(share))
    traits = draw_traits(np.arange(n_users), seed)
    taste = draw_tastes(
        constants, np.arange(n_users), seed, tags["tag_vector"], np.cumsum(share**constants.interest_power)
    )
    drawn = {
        "seed": seed,
        "constants": constants,
        "family": family,
        **tags,
        **items,
        **users_of(constants, traits),
        "user_source_id": np.arange(n_users),
        "user_taste": scaled_tastes(constants, taste, items["item_vector"]),
        "history": np.zeros((n_users, 50), np.int32),
        "history_ts": np.zeros(n_users, np.int64),
        "origin": {"all": "drawn from the shapes of real logs (simulator/constants.py)"},
        "n_at_start": n_items,
    }
    times = upload_times(n_items * uploads / 100, days, seed)
    if len(times):
        more = draw_items(constants, n_items + len(times), seed, tags["tag_vector"], np.cumsum(share))
        drawn |= with_uploads(items, more, times, seed)
    return with_family(drawn)


def with_family(drawn: dict[str, Any]) -> dict[str, Any]:
    """The fields of a World, and those that its family draws."""
    n_rows, n_users = len(drawn["item_tag"]), len(drawn["user_source_id"])
    empty = {
        "item_successors": np.zeros((n_rows, 0), np.int32),
        "item_boost": np.zeros((n_rows, 0), np.float32),
        "user_anchors": np.zeros((n_users, 0, drawn["constants"].dims), np.float32),
    }
    return {**empty, **drawn, **FAMILIES[drawn["family"]].draw(drawn["constants"], drawn)}


def draw_tags(constants: Constants, n_tags: int, seed: int) -> dict[str, Any]:
    """Directions of the tags and the order signal: what the last played tag does to the next."""
    vector = axis_lengths(constants) * normal(
        seed, Purpose.TAG_VECTOR, np.arange(n_tags)[:, None], np.arange(constants.dims)
    )
    vector /= np.sqrt((vector**2).sum(1, keepdims=True))
    transition = constants.transition_sd * normal(
        seed, Purpose.TAG_TRANSITION, np.arange(n_tags + 1)[:, None], np.arange(n_tags)
    )
    transition[:n_tags] -= transition[:n_tags].mean(1, keepdims=True)
    transition[n_tags] = 0.0
    return {"tag_vector": vector.astype(np.float32), "tag_transition": transition}


def draw_items(
    constants: Constants, n_items: int, seed: int, tag_vector: NDArray[np.float32], tag_cumulative: Floats
) -> dict[str, Any]:
    """Everything about the videos, row 0 padding."""
    ids = np.arange(n_items + 1)
    tag = _pick(uniform(seed, Purpose.ITEM_TAG, ids), tag_cumulative)
    shares, seconds = np.array(DURATION_QUANTILES).T
    log_duration = np.interp(uniform(seed, Purpose.ITEM_DURATION, ids), shares, np.log(seconds))
    duration_ms = np.rint(1000 * np.exp(log_duration)).astype(np.int64)
    age = -AGE_DAYS * np.log(uniform(seed, Purpose.ITEM_UPLOAD, ids)) * DAY_MS
    authors = max(int(n_items / VIDEOS_PER_AUTHOR), 1)
    fields = {
        "item_author": 1 + (authors * uniform(seed, Purpose.ITEM_AUTHOR, ids) ** 2).astype(np.int64),
        "item_tag": tag.astype(np.int32),
        "item_duration_ms": duration_ms,
        "item_uploaded_ts": -age.astype(np.int64),
        "item_source_id": ids.astype(np.int64),
        "item_vector": item_vectors(constants, ids, seed, tag_vector[tag]),
        "item_quality": constants.quality_sd * normal(seed, Purpose.ITEM_QUALITY, ids, 0),
        "item_actions": (
            item_actions(constants, ids, seed) + duration_lean(constants, np.log(duration_ms / 1000.0))
        ).astype(np.float32),
        "item_log_duration": np.log(duration_ms / 1000.0),
        "item_reach": reach(constants, n_items, seed),
    }
    for name in ("item_author", "item_tag", "item_uploaded_ts", "item_vector", "item_quality"):
        fields[name][0] = 0
    fields["item_actions"][:, 0] = 0.0
    return fields


def item_vectors(
    constants: Constants, ids: NDArray[np.integer], seed: int, tag: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Unit-length directions around that of the tag."""
    noise = normal(seed, Purpose.ITEM_VECTOR, ids[:, None], np.arange(constants.dims))
    return around(constants, tag, noise).astype(np.float32)


def item_actions(constants: Constants, ids: NDArray[np.integer], seed: int) -> Floats:
    """Log-normal appeal for each action, mean 1."""
    sd = np.array(constants.item_log_sd)[:, None]
    rows = np.arange(len(ACTIONS))[:, None]
    return sd * normal(seed, Purpose.ITEM_QUALITY, ids, rows + 1) - sd**2 / 2


def duration_lean(constants: Constants, log_duration: Floats) -> Floats:
    """(actions, n) what the length of a video does to its likes, in logits."""
    lean = np.zeros((len(ACTIONS), len(log_duration)))
    seconds, likes = np.array(constants.like_duration).T
    lean[ACTIONS.index("like")] = np.interp(log_duration, np.log(seconds), likes)
    return lean


def reach(constants: Constants, n_items: int, seed: int) -> Floats:
    """Cumulative shares of what the platform puts forward, which a video's rank by luck decides."""
    order = np.argsort(-normal(seed, Purpose.ITEM_REACH, np.arange(1, n_items + 1)), kind="stable")
    weight = np.empty(n_items)
    weight[order] = (np.arange(1, n_items + 1) / n_items + constants.reach_head) ** -constants.reach_slope
    total = np.cumsum(weight)
    return np.concatenate(([0.0], total / total[-1]))


def draw_traits(users: NDArray[np.integer], seed: int) -> Floats:
    """(traits, n) standard normal scores with the correlations of COPULA."""
    root = np.linalg.cholesky(COPULA)
    z = normal(seed, Purpose.USER_TRAITS, users[:, None], np.arange(len(TRAITS)))
    return np.stack([(z * row).sum(-1) for row in root])


def users_of(constants: Constants, traits: Floats) -> dict[str, Any]:
    """What the traits mean: offsets, propensities, sessions, returns."""
    c = constants
    activity, offset = traits[0], c.offset_sd * traits[1]
    extra = c.extra_sessions * np.exp(c.sessions_activity * activity - c.sessions_activity**2 / 2)
    logit = np.log(0.494 / 0.506)
    return {
        "user_offset": offset,
        "user_activity": activity,
        "user_actions": propensities(c, traits).astype(np.float32),
        "user_sessions": extra / (c.candidates - 1),
        "user_stay": c.stay_base + c.stay_activity * activity,
        "user_return": c.return_base + c.return_activity * activity,
        "user_expected": 1 / (1 + np.exp(-(logit + 0.9 * offset))),
    }


def propensities(constants: Constants, traits: Floats) -> Floats:
    """(actions, n) log propensities, mean of their exponential 1: gamma marginals from the copula's scores.

    Opening the panel takes a log-normal part of the comment propensity and entering the profile one of the
    follow propensity; what is left makes the act itself likely, so that both together have the gamma's
    spread.
    """
    c = constants
    like, comment, share, follow = (
        log_gamma(z, shape) for z, shape in zip(traits[2:6], c.gamma_shapes, strict=True)
    )
    panel = c.panel_log_sd * traits[3] - c.panel_log_sd**2 / 2
    profile = c.profile_log_sd * traits[5] - c.profile_log_sd**2 / 2
    hate = c.hate_log_sd * traits[6] - c.hate_log_sd**2 / 2
    return np.stack((like, panel, comment - panel, share, profile, follow - profile, follow, hate))


def log_gamma(z: Floats, shape: float) -> Floats:
    """Log of a gamma variate of mean 1 with the same rank as the normal score z; at least exp(-12)."""
    return np.log(np.maximum(gammaincinv(shape, ndtr(z)) / shape, np.exp(_LEAST_LOG)))


def draw_tastes(
    constants: Constants,
    users: NDArray[np.integer],
    seed: int,
    tag_vector: NDArray[np.float32],
    cumulative: Floats,
) -> Floats:
    """(n, d) mixtures of a few tags each."""
    slots = np.arange(constants.interests)
    tags = _pick(uniform(seed, Purpose.USER_TASTE, users[:, None], slots), cumulative)
    weight = -np.log(uniform(seed, Purpose.USER_TASTE_WEIGHT, users[:, None], slots))
    mixed = np.zeros((len(users), constants.dims))
    for s in slots:
        mixed += weight[:, s, None] * tag_vector[tags[:, s]]
    return mixed / weight.sum(1, keepdims=True)


def scaled_tastes(
    constants: Constants, taste: Floats, item_vector: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Tastes of one length, such that taste . vector has the wanted spread over random pairs."""
    taste = taste / np.sqrt((taste**2).sum(1, keepdims=True))
    pairs = np.arange(20_000)
    walk = pairs * 0.6180339887498949 % 1.0  # a golden-ratio walk spreads evenly, whatever the numbers are
    rows, items = pairs % len(taste), 1 + (walk * (len(item_vector) - 1)).astype(np.int64)
    match = (taste[rows] * item_vector[items]).sum(-1)
    return (taste * (constants.taste_sd / match.std())).astype(np.float32)


def normal_scores(values: NDArray[Any], tie_break: Floats) -> Floats:
    """Standard normal scores by rank, ties broken by `tie_break`."""
    order = np.lexsort((tie_break, values))
    rank = np.empty(len(values))
    rank[order] = np.arange(len(values))
    return ndtri((rank + 0.5) / len(values))


def _tag_shares(constants: Constants) -> Floats:
    weight = (np.arange(1, constants.n_tags + 1) + constants.tag_head) ** -constants.tag_zipf
    return weight / weight.sum()


def _pick(u: Floats, cumulative: Floats) -> NDArray[np.int64]:
    """Index by inverse distribution; `cumulative` need not end at 1."""
    return np.minimum(np.searchsorted(cumulative, u * cumulative[-1], side="right"), len(cumulative) - 1)

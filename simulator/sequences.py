"""A world from sequences of interactions alone, such as the Amazon and Yelp files of the paper.

Nothing was shown and rejected in such a file, so that only who had what, and in which order, can be fitted:
- training part: all of a sequence but its last two items (which leave-one-out keeps for validation and test).
- video vectors: truncated SVD of the shrunken log lifts of items that meet in a training sequence; scaled to
  length 1. Their signs along the axes take the place of tags.
- tastes: the mean vector of the user's training items; interests of the family "neighbours": their places.
- reach: training counts. Activity: rank of the training length blended with chance.
- all else (durations, quality, propensities, offsets) is drawn as in a synthetic world.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator import affinity, population
from simulator.constants import Constants
from simulator.logged import ACTIVITY_SIGNAL, HISTORY
from simulator.randomness import Purpose, normal, uniform

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
HELD_OUT = 2  # last items of a sequence: validation and test
WINDOW = 10  # items of a training sequence that count as meeting
SHRINKAGE = 1.0  # meetings that every pair is taken to have had more, as expected


def draw(
    constants: Constants,
    users: Ids,
    items: Ids,
    seed: int,
    n_users: int | None,
    family: str = "factors",
) -> dict[str, Any]:
    """The fields of a World. users, items: one row an interaction, by user and then time; items from 1."""
    known = np.unique(users)
    if n_users is not None and not 1 <= n_users <= len(known):
        raise ValueError(f"n_users is {n_users}; the sequences have {len(known)} users")
    if len(users) and (np.diff(users) < 0).any():
        raise ValueError("the interactions are not sorted by user; sort them by user and time")
    train = _training(users)
    n_items = int(items.max())
    tag_count = 2 * constants.dims
    vector = item_vectors(users[train], items[train], n_items, constants.dims, seed)
    axis = np.abs(vector).argmax(1)
    tag = 2 * axis + (vector[np.arange(n_items + 1), axis] > 0)
    constants = replace(constants, n_tags=tag_count)
    sources = np.sort(
        known[np.argsort(uniform(seed, Purpose.USER_SAMPLE, known, 0), kind="stable")[:n_users]]
    )
    history, length, taste = _people(users[train], items[train], sources, vector)
    people = np.arange(len(sources))
    traits = population.draw_traits(people, seed)
    rank = population.normal_scores(length, uniform(seed, Purpose.USER_SAMPLE, people, 1))
    traits[0] = ACTIVITY_SIGNAL * rank + np.sqrt(1 - ACTIVITY_SIGNAL**2) * traits[0]
    tags = population.draw_tags(constants, tag_count, seed)
    tags["tag_vector"] = _tag_vectors(vector[1:], tag[1:], tags["tag_vector"])
    fields = population.draw_items(
        constants, n_items, seed, tags["tag_vector"], np.arange(1, tag_count + 1.0)
    )
    counts = np.bincount(items[train], minlength=n_items + 1)[1:] + 1.0
    drawn = {
        "seed": seed,
        "constants": constants,
        "family": family,
        **tags,
        **fields,
        "item_tag": tag.astype(np.int32),
        "item_vector": vector.astype(np.float32),
        "item_reach": np.concatenate(([0.0], np.cumsum(counts) / counts.sum())),
        **population.users_of(constants, traits),
        "user_source_id": sources,
        "user_taste": population.scaled_tastes(constants, taste, vector.astype(np.float32)),
        "history": history,
        "history_ts": np.zeros(len(sources), np.int64),
        "origin": _origin(int(train.sum()), len(known), n_items),
        "n_at_start": n_items,
    }
    return affinity.seen_in(population.with_family(drawn))


def item_vectors(users: Ids, items: Ids, n_items: int, dims: int, seed: int) -> Floats:
    """(n_items + 1, dims) of length 1 (row 0: zeros): which items meet in the same sequences, beyond chance.

    A video that was in no training sequence gets a random direction.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import svds

    left, right = _meetings(users, items)
    both = coo_matrix((np.ones(len(left)), (left, right)), shape=(n_items + 1, n_items + 1)).tocsr().tocoo()
    total = np.bincount(items, minlength=n_items + 1).astype(np.float64)
    expected = total[both.row] * total[both.col] * (len(left) / max(total.sum(), 1) ** 2)
    lift = np.log((both.data + SHRINKAGE) / (expected + SHRINKAGE))
    keep = lift > 0
    table = coo_matrix((lift[keep], (both.row[keep], both.col[keep])), shape=both.shape).tocsr()
    start = normal(seed, Purpose.ITEM_VECTOR, np.arange(n_items + 1), dims)
    left_axes, sizes, _ = svds(table, k=dims, v0=start)
    found = left_axes * np.sqrt(sizes)
    found *= np.sign(found[np.abs(found).argmax(0), np.arange(dims)])  # the sign of an axis is arbitrary
    norm = np.sqrt((found**2).sum(1, keepdims=True))
    anywhere = normal(seed, Purpose.ITEM_VECTOR, np.arange(n_items + 1)[:, None], np.arange(dims))
    anywhere /= np.sqrt((anywhere**2).sum(1, keepdims=True))
    vector = np.where(norm > 1e-9, found / np.maximum(norm, 1e-9), anywhere)
    vector[0] = 0.0
    return vector


def _training(users: Ids) -> NDArray[np.bool_]:
    """Which interactions are of the training part."""
    _, start, n = np.unique(users, return_index=True, return_counts=True)
    place = np.arange(len(users)) - np.repeat(start, n)
    return place < np.repeat(n, n) - HELD_OUT


def _meetings(users: Ids, items: Ids) -> tuple[Ids, Ids]:
    """Pairs of items within WINDOW of each other in a sequence, in both orders."""
    pairs = []
    for lag in range(1, WINDOW):
        same = users[lag:] == users[:-lag]
        pairs.append((items[:-lag][same], items[lag:][same]))
    before = np.concatenate([a for a, _ in pairs])
    after = np.concatenate([b for _, b in pairs])
    return np.concatenate((before, after)), np.concatenate((after, before))


def _people(users: Ids, items: Ids, sources: Ids, vector: Floats) -> tuple[NDArray[np.int32], Ids, Floats]:
    """The last 50 training items (left-aligned), how many there were, and their mean vector."""
    start, end = np.searchsorted(users, sources), np.searchsorted(users, sources, side="right")
    n = end - start
    first = np.maximum(start, end - HISTORY)
    places = first[:, None] + np.arange(HISTORY)
    inside = places < end[:, None]
    history = np.where(inside, items[np.minimum(places, len(items) - 1)], 0).astype(np.int32)
    taste = vector[history].sum(1) / np.maximum(inside.sum(1), 1)[:, None]
    return history, n, taste


def _tag_vectors(
    vector: Floats, tag: NDArray[np.integer], otherwise: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The mean direction of each tag's videos; of a tag without any, a random one."""
    total = np.stack([np.bincount(tag, column, minlength=len(otherwise)) for column in vector.T], axis=1)
    norm = np.sqrt((total**2).sum(1, keepdims=True))
    return np.where(norm > 1e-9, total / np.maximum(norm, 1e-9), otherwise).astype(np.float32)


def _origin(n_interactions: int, n_users: int, n_items: int) -> dict[str, str]:
    """What of the world was fitted, and from what."""
    rows = f"{n_interactions} training interactions (without the last two of each user) of {n_users} users"
    return {
        "video vectors": f"SVD of log lifts of {n_items} items in {rows}",
        "tastes": f"mean vectors of the user's own items in {rows}",
        "reach and histories": f"counts and order in {rows}",
        "activity": f"rank of the sequence's length in {rows}, blended with chance",
        "successors and interests": "order and places in the histories",
        "all else": "drawn from the shapes of real logs (simulator/constants.py)",
    }

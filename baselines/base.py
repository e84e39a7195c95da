"""What a model is, and what it learns from: the Recommender protocols and Interactions."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ids = NDArray[np.int64]
State = tuple[NDArray[np.generic], ...]
"""What a model remembers of a batch of users between two requests: arrays with one row a user."""

Progress = Callable[[str, float], None]
"""Called with a stage ("fit sasrec: epoch 3, ndcg@10 .051") and the fraction of the fit that is done."""

MAX_LENGTH = 50
"""Items of a history that a model sees, the most recent ones."""


def silent(stage: str, fraction: float) -> None:
    """The Progress that says nothing."""


@dataclass(frozen=True)
class Interactions:
    """Logged interactions, ordered by user, then time (then the order given).

    `users` are 0 .. n_users - 1, `items` 1 .. n_items (0 is padding), `times` integers of any unit.
    Raises ValueError where lengths differ or an id is out of range.
    """

    users: Ids
    items: Ids
    times: Ids
    n_users: int
    n_items: int

    def __post_init__(self) -> None:
        if not len(self.users) == len(self.items) == len(self.times):
            raise ValueError(
                f"{len(self.users)} users, {len(self.items)} items and {len(self.times)} times given; "
                "an interaction needs one of each"
            )
        _check_range("user", self.users, 0, self.n_users - 1)
        _check_range("item", self.items, 1, self.n_items)
        later_user = np.diff(self.users)
        if np.any((later_user < 0) | ((later_user == 0) & (np.diff(self.times) < 0))):
            raise ValueError("interactions are not ordered by user, then time; use Interactions.from_arrays")

    @classmethod
    def from_arrays(
        cls,
        users: ArrayLike,
        items: ArrayLike,
        times: ArrayLike | None = None,
        n_users: int | None = None,
        n_items: int | None = None,
    ) -> Self:
        """Interactions in any order. Without `times` the order given is the order in time.

        >>> Interactions.from_arrays([1, 0, 1], [5, 6, 7], [30, 10, 20]).items.tolist()
        [6, 7, 5]
        """
        user = np.asarray(users, np.int64)
        item = np.asarray(items, np.int64)
        time = np.arange(len(user)) if times is None else np.asarray(times, np.int64)
        if not len(user) == len(item) == len(time):
            raise ValueError(
                f"{len(user)} users, {len(item)} items and {len(time)} times given; "
                "an interaction needs one of each"
            )
        order = np.lexsort((time, user))  # stable: equal times keep the order given
        if n_users is None:
            n_users = int(user.max(initial=-1)) + 1
        if n_items is None:
            n_items = int(item.max(initial=0))
        return cls(user[order], item[order], time[order], n_users, n_items)

    def __len__(self) -> int:
        return len(self.users)

    @property
    def lengths(self) -> Ids:
        """Interactions of each user: (n_users,)."""
        return np.bincount(self.users, minlength=self.n_users).astype(np.int64)

    def sequences(self) -> tuple[Ids, Ids]:
        """(offsets, items): the items of user u, oldest first, are items[offsets[u] : offsets[u + 1]]."""
        return np.concatenate(([0], np.cumsum(self.lengths))), self.items

    def histories(self, users: ArrayLike | None = None, max_length: int | None = MAX_LENGTH) -> Ids:
        """The last `max_length` items of each user, oldest first: (n, L), left-aligned, 0 after the end.

        None for `max_length` keeps everything. Users without interactions, and -1, have a row of zeros.
        """
        wanted = np.arange(self.n_users) if users is None else np.asarray(users, np.int64)
        offsets, items = self.sequences()
        known = (wanted >= 0) & (wanted < self.n_users)
        end = np.where(known, offsets[np.where(known, wanted + 1, 0)], 0)
        length = np.where(known, end - offsets[np.where(known, wanted, 0)], 0)
        if max_length is None:
            max_length = int(length.max(initial=0))
        length = np.minimum(length, max_length)
        column = np.arange(max_length)
        inside = column < length[:, None]
        row = np.zeros((len(wanted), max_length), np.int64)
        row[inside] = items[((end - length)[:, None] + column)[inside]]
        return row

    def content_hash(self) -> str:
        """The same text for the same interactions: what a checkpoint was trained on."""
        digest = hashlib.sha256(f"{self.n_users} {self.n_items} ".encode())
        for column in (self.users, self.items, self.times):
            digest.update(np.ascontiguousarray(column, "<i8").tobytes())
        return digest.hexdigest()[:32]


def known_items(histories: Ids, n_items: int) -> Ids:
    """Histories without the items after `n_items`, which a model does not know; again left-aligned.

    >>> known_items(np.array([[7, 2, 9, 3, 0]]), 5).tolist()
    [[2, 3, 0, 0, 0]]
    """
    kept = histories <= n_items
    if kept.all():
        return histories
    order = np.argsort(~(kept & (histories > 0)), axis=1, kind="stable")
    return np.take_along_axis(np.where(kept, histories, 0), order, axis=1)


def recent(histories: Ids, max_length: int = MAX_LENGTH) -> Ids:
    """The last `max_length` items of left-aligned histories, again left-aligned: (n, max_length).

    >>> recent(np.array([[1, 2, 3], [4, 0, 0]]), 2).tolist()
    [[2, 3], [4, 0]]
    """
    n, width = histories.shape
    start = np.maximum(np.count_nonzero(histories, axis=1) - max_length, 0)
    column = start[:, None] + np.arange(max_length)
    kept = np.zeros((n, max_length), np.int64)
    inside = column < width
    kept[inside] = histories[np.nonzero(inside)[0], column[inside]]
    return kept


def without(items: NDArray[Any], exclude: Ids, k: int) -> Ids:
    """The first k of each row's items that are not in the row of `exclude`: (n, k), 0 = none left.

    items: (n, C) best first, 0 after the end. exclude: (n, E), 0 = none.

    >>> without(np.array([[5, 3, 9, 1]]), np.array([[3, 0]]), 2).tolist()
    [[5, 9]]
    """
    exclude = exclude[:, np.any(exclude != 0, axis=0)]
    reach = min(items.shape[1], k + exclude.shape[1])  # more cannot be needed
    near = items[:, :reach].astype(np.int32)  # half the width is twice the speed
    keep = near != 0
    differs = np.empty_like(keep)
    for column in np.minimum(exclude, np.iinfo(np.int32).max).astype(np.int32).T:
        np.not_equal(near, column[:, None], out=differs)
        keep &= differs
    place = np.cumsum(keep, axis=1, dtype=np.int32)
    keep &= place <= k
    kept = near[keep].astype(np.int64)
    if len(kept) == len(items) * k:
        return kept.reshape(len(items), k)
    first = np.zeros((len(items), k), np.int64)
    row, column = np.nonzero(keep)
    first[row, place[row, column] - 1] = kept
    return first


def _check_range(what: str, ids: Ids, low: int, high: int) -> None:
    if len(ids) and (ids.min() < low or ids.max() > high):
        bad = ids[(ids < low) | (ids > high)][0]
        raise ValueError(f"{what} id {bad} is out of range; {what}s are {low} .. {high}")


@runtime_checkable
class Recommender(Protocol):
    """Two verbs. A recommender holds what it learned; who the user is and what they did comes in."""

    def fit(self, interactions: Interactions, progress: Progress = silent) -> Self:
        """Learn from logged interactions. The same interactions, settings and seed give the same model."""
        ...

    def recommend(self, users: Ids, histories: Ids, k: int, exclude: Ids) -> Ids:
        """The k best items for each user, best first: (n, k), filled up with 0 where fewer are left.

        users: (n,), -1 or an id not seen in training is an unknown user. histories: (n, L) item ids, oldest
        first, left-aligned, 0 after the end. exclude: (n, E) items not to recommend (already shown), 0 =
        none. Items of the history may be recommended again unless excluded. Ties go to the smaller item id.
        """
        ...


@runtime_checkable
class StatefulRecommender(Recommender, Protocol):
    """A recommender that encodes a user once a session and answers each request from what it remembers.

    For every k up to 50 and up to 100 items of `since`,
    retrieve(encode(users, histories, exclude), k, since) == recommend(users, histories, k, exclude + since).
    """

    def encode(self, users: Ids, histories: Ids, exclude: Ids) -> State:
        """What is needed to answer the requests of a session: arrays with a row a user."""
        ...

    def retrieve(self, state: State, k: int, since: Ids) -> Ids:
        """(n, k) items, best first; since: (n, S) items shown after `encode`, 0 = none."""
        ...


@runtime_checkable
class RanksTargets(Recommender, Protocol):
    """A recommender that tells where an item stands in a user's list without making the list."""

    def target_ranks(self, users: Ids, histories: Ids, targets: Ids, exclude: Ids) -> Ids | None:
        """(n,) the place of targets (n,) in the list of all items, from 1 on, 0 where it is not in it. None
        where lists have to be made."""
        ...

"""The ranking stage that all arms share: how likely does this user play this video? Fitted once, frozen.

A logistic regression on smoothed play rates (of the video, its author and tag; of the user, and of the user
with this author, tag and length of video), popularity, age and duration. In training every rate is computed
from earlier impressions only, as it will be when serving; so a row never sees its own label.

At serving time all is looked up and added elementwise: no matrix product, so a score does not depend on who
shares the batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from baselines.base import Ids

Floats = NDArray[np.float64]

HOUR_MS = 3_600_000
DURATION_BOUNDS_MS = np.array([7_000, 12_000, 18_000, 30_000, 60_000, 120_000])
DENSE_CELLS = 20_000_000
"""Up to this many user x tag cells a table is looked up directly; above, by search in its filled cells."""


class ItemFeatures(NamedTuple):
    """What is known of a video before anybody sees it: (n_items + 1,) each, row 0 padding. A tag or author
    below 0 is unknown and counts as a value of its own."""

    tag: Ids
    author: Ids
    duration_ms: Ids
    uploaded_ts: Ids


@dataclass(frozen=True)
class RankerSettings:
    """Strength of the priors, in impressions, of the rates by item, by user, and by user with something."""

    item_prior: float = 10.0
    user_prior: float = 10.0
    pair_prior: float = 5.0
    l2: float = 30.0
    max_rows: float = 2_000_000  # the latest rows are learned from; the rates use all


FEATURES = (
    "user_rate",
    "item_rate",
    "author_rate",
    "tag_rate",
    "duration_rate",
    "user_tag",
    "user_author",
    "user_duration",
    "item_views",
    "author_views",
    "log_duration",
    "log_age",
)


class Ranker:
    """fit on logged impressions, then score candidates."""

    def __init__(self, settings: RankerSettings | None = None) -> None:
        self.settings = RankerSettings() if settings is None else settings
        self.coefficients = np.zeros(0)

    def fit(
        self,
        users: ArrayLike,
        items: ArrayLike,
        times: ArrayLike,
        play: ArrayLike,
        *,
        n_users: int,
        features: ItemFeatures | Mapping[str, ArrayLike],
    ) -> Self:
        """Impressions in any order: who was shown what when (ms), and whether it was played (0/1)."""
        user, item, time = (np.asarray(column, np.int64) for column in (users, items, times))
        label = np.asarray(play, np.float64)
        self.n_users, self.features = n_users, _features(features)
        _check(user, item, time, label, n_users, len(self.features.tag))
        order = np.lexsort((item, user, time))
        user, item, time, label = user[order], item[order], time[order], label[order]
        self.mean = float(np.clip(label.mean(), 1e-3, 1 - 1e-3))
        self._index()
        learned_from = slice(max(0, len(user) - int(self.settings.max_rows)), None)
        x = self._design(user, item, time, _Earlier(label))[learned_from]
        self.coefficients = logistic_regression(x, label[learned_from], self.settings.l2)
        self._tabulate(user, item, label)
        return self

    def score(self, users: Ids, items: Ids, times: Ids) -> Floats:
        """Expected play probability: (n, k). users (n,), -1 or unseen = unknown; items (n, k), 0 = none
        (score 0); times (n,) in ms."""
        if not len(self.coefficients):
            raise ValueError("the ranker has not learned anything yet; call fit or load first")
        known = np.where((users >= 0) & (users < self.n_users), users, self.n_users)
        item = np.where(items < len(self.features.tag), items, 0)
        logit = self._user_part[known][:, None] + self._item_part[item]
        logit += self._tag_part.at(known[:, None], self._tag[item])
        logit += self._duration_part.at(known[:, None], self._duration[item])
        logit += self._author_part.at(known[:, None], self._author[item])
        logit += self.coefficients[-1] * _log_age(np.asarray(times)[:, None], self.features.uploaded_ts[item])
        return np.where(items > 0, 1 / (1 + np.exp(-logit)), 0.0)

    def save(self, path: str | Path) -> None:
        """One .npz file; the same path, whatever its ending, loads it."""
        arrays = {
            "coefficients": self.coefficients,
            "numbers": np.array([self.n_users, self.mean]),
            "settings": np.array([getattr(self.settings, name) for name in _SETTINGS]),
            "user_part": self._user_part,
            "item_part": self._item_part,
        }
        arrays |= {f"features.{name}": column for name, column in self.features._asdict().items()}
        for name in _PAIRS:
            table = getattr(self, f"_{name}_part")
            arrays |= {f"{name}.keys": table.keys, f"{name}.values": table.values}
        with open(path, "wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            priors = dict(zip(_SETTINGS, arrays["settings"].tolist(), strict=True))
            model = cls(RankerSettings(**priors))
            model.coefficients = arrays["coefficients"]
            model.n_users, model.mean = int(arrays["numbers"][0]), float(arrays["numbers"][1])
            model.features = ItemFeatures(*(arrays[f"features.{name}"] for name in ItemFeatures._fields))
            model._user_part, model._item_part = arrays["user_part"], arrays["item_part"]
            model._index()
            for name in _PAIRS:
                part = PairTable(
                    model.n_users + 1, model._width(name), arrays[f"{name}.keys"], arrays[f"{name}.values"]
                )
                setattr(model, f"_{name}_part", part)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise ValueError(f"{path} is no readable ranker ({error}); fit it again and save it") from error
        return model

    def _index(self) -> None:
        """Dense numbers for tags, authors and lengths: (n_items + 1,) each."""
        self._tag = np.unique(self.features.tag, return_inverse=True)[1]
        self._author = np.unique(self.features.author, return_inverse=True)[1]
        self._duration = np.searchsorted(DURATION_BOUNDS_MS, self.features.duration_ms, side="right")

    def _width(self, pair: str) -> int:
        return int(getattr(self, f"_{pair}").max()) + 1

    def _design(self, user: Ids, item: Ids, time: Ids, counts: "_Earlier") -> Floats:
        """The features of FEATURES after a leading one: (rows, 1 + 12)."""
        s = self.settings
        base = logit(self.mean)
        tag, author, duration = self._tag[item], self._author[item], self._duration[item]
        of_user, _ = counts.rate(user, s.user_prior, self.mean)
        of_tag, _ = counts.rate(tag, s.item_prior, self.mean)
        of_duration, _ = counts.rate(duration, s.item_prior, self.mean)
        of_author, author_views = counts.rate(author, s.item_prior, self.mean)
        of_item, item_views = counts.rate(item, s.item_prior, self.mean)
        columns = [np.ones(len(user))]
        columns += [logit(rate) - base for rate in (of_user, of_item, of_author, of_tag, of_duration)]
        for name, code, general in zip(
            _PAIRS, (tag, author, duration), (of_tag, of_author, of_duration), strict=True
        ):
            expected = sigmoid(logit(of_user) + logit(general) - base)
            rate, _ = counts.rate(user * self._width(name) + code, s.pair_prior, expected)
            columns.append(logit(rate) - logit(expected))
        columns += [np.log1p(item_views), np.log1p(author_views)]
        columns += [
            _log_duration(self.features.duration_ms[item]),
            _log_age(time, self.features.uploaded_ts[item]),
        ]
        return np.column_stack(columns)

    def _tabulate(self, user: Ids, item: Ids, label: Floats) -> None:
        """Turn rates and coefficients into tables of logit parts: by user, by item, by pair."""
        s, c = self.settings, dict(zip(("one", *FEATURES), self.coefficients, strict=True))
        base = logit(self.mean)

        def rate(codes: Ids, size: int, prior: float) -> tuple[Floats, Floats]:
            views = np.bincount(codes, minlength=size).astype(float)
            return (np.bincount(codes, label, size) + prior * self.mean) / (views + prior), views

        of_user = np.append(rate(user, self.n_users, s.user_prior)[0], self.mean)
        general = {
            name: rate(getattr(self, f"_{name}")[item], self._width(name), s.item_prior) for name in _PAIRS
        }
        of_item, item_views = rate(item, len(self.features.tag), s.item_prior)
        self._user_part = c["one"] + c["user_rate"] * (logit(of_user) - base)
        self._item_part = c["item_rate"] * (logit(of_item) - base) + c["item_views"] * np.log1p(item_views)
        self._item_part += c["author_views"] * np.log1p(general["author"][1])[self._author]
        self._item_part += c["log_duration"] * _log_duration(self.features.duration_ms)
        for name in _PAIRS:
            code = getattr(self, f"_{name}")
            self._item_part += c[f"{name}_rate"] * (logit(general[name][0]) - base)[code]
            keys, cell = np.unique(user * self._width(name) + code[item], return_inverse=True)
            expected = sigmoid(
                logit(of_user[keys // self._width(name)])
                + logit(general[name][0][keys % self._width(name)])
                - base
            )
            views, plays = np.bincount(cell), np.bincount(cell, label)
            pair = (plays + s.pair_prior * expected) / (views + s.pair_prior)
            values = c[f"user_{name}"] * (logit(pair) - logit(expected))
            setattr(self, f"_{name}_part", PairTable(self.n_users + 1, self._width(name), keys, values))

    _tag_part: "PairTable"
    _author_part: "PairTable"
    _duration_part: "PairTable"


_PAIRS = ("tag", "author", "duration")
_SETTINGS = ("item_prior", "user_prior", "pair_prior", "l2", "max_rows")


class PairTable:
    """A number for (row, column) pairs, 0 where none was given. Filled in where it is small enough, otherwise
    looked up by hash (linear probing)."""

    def __init__(self, n_rows: int, n_columns: int, keys: Ids, values: Floats) -> None:
        """keys: row * n_columns + column, ascending and unique."""
        self.n_columns, self.keys, self.values = n_columns, keys, values
        self._dense: Floats | None = None
        if n_rows * n_columns <= DENSE_CELLS:
            self._dense = np.zeros(n_rows * n_columns)
            self._dense[keys] = values
        else:
            self._hash()

    def at(self, rows: Ids, columns: Ids) -> Floats:
        key = rows * self.n_columns + columns
        return self._dense[key] if self._dense is not None else self._probe(key)

    def _hash(self) -> None:
        self._bits = max(4, int(4 * len(self.keys)).bit_length())
        self._slots = np.full(1 << self._bits, -1, np.int64)
        self._slot_values = np.zeros(1 << self._bits)
        left = np.arange(len(self.keys))
        slot = self._home(self.keys)
        while len(left):
            free = self._slots[slot] < 0
            self._slots[slot[free]] = self.keys[left[free]]  # of several for one slot the last one stays
            stored = self._slots[slot] == self.keys[left]
            self._slot_values[slot[stored]] = self.values[left[stored]]
            left, slot = left[~stored], (slot[~stored] + 1) & ((1 << self._bits) - 1)

    def _home(self, key: Ids) -> Ids:
        mixed = key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing
        return (mixed >> np.uint64(64 - self._bits)).astype(np.int64)

    def _probe(self, key: Ids) -> Floats:
        flat = key.ravel()
        slot = self._home(flat)
        found = self._slots[slot]
        out = np.where(found == flat, self._slot_values[slot], 0.0)
        open_ = np.flatnonzero((found != flat) & (found >= 0))
        while len(open_):
            slot[open_] = (slot[open_] + 1) & ((1 << self._bits) - 1)
            found = self._slots[slot[open_]]
            hit = found == flat[open_]
            out[open_[hit]] = self._slot_values[slot[open_[hit]]]
            open_ = open_[(found >= 0) & ~hit]
        return out.reshape(key.shape)


def logistic_regression(x: Floats, y: Floats, l2: float, max_steps: int = 30) -> Floats:
    """Coefficients that maximise the likelihood less l2 / 2 |b|^2 (the first column, the constant, is free).

    By Newton's method. Sums are elementwise, so the result does not depend on a number of threads."""
    b = np.zeros(x.shape[1])
    penalty = np.full(x.shape[1], l2)
    penalty[0] = 1e-6
    columns = np.ascontiguousarray(x.T)
    for _ in range(max_steps):
        p = sigmoid(sum((c * bi for c, bi in zip(columns, b, strict=True)), start=np.zeros(len(y))))
        gradient = np.array([np.sum(c * (y - p)) for c in columns]) - penalty * b
        hessian = np.diag(penalty)
        weighted = p * (1 - p)
        for i, c in enumerate(columns):
            part = c * weighted
            for j in range(i + 1):
                hessian[i, j] += np.sum(part * columns[j])
                hessian[j, i] = hessian[i, j]
        step = np.linalg.solve(hessian, gradient)
        b += step
        if np.max(np.abs(step)) < 1e-9:
            break
    return b


def logit(p: Any) -> Any:
    return np.log(p) - np.log1p(-p)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


class _Earlier:
    """Smoothed rates from the rows before each row; rows are in time order."""

    def __init__(self, label: Floats) -> None:
        self.label = label

    def rate(self, codes: Ids, prior: float, mean: Any) -> tuple[Floats, Floats]:
        """(rate, views) of each row's code before that row."""
        order = np.argsort(codes, kind="stable")
        label = self.label[order]
        first = np.concatenate(([True], np.diff(codes[order]) != 0))
        start = np.maximum.accumulate(np.where(first, np.arange(len(codes)), 0))
        total = np.cumsum(label) - label  # exact: sums of 0 and 1
        views, plays = np.empty(len(codes)), np.empty(len(codes))
        views[order] = np.arange(len(codes)) - start
        plays[order] = total - total[start]
        return (plays + prior * mean) / (views + prior), views


def _features(features: ItemFeatures | Mapping[str, ArrayLike]) -> ItemFeatures:
    given = features._asdict() if isinstance(features, ItemFeatures) else features
    columns = [np.asarray(given[name], np.int64) for name in ItemFeatures._fields]
    if len({len(column) for column in columns}) != 1:
        raise ValueError(
            f"item features differ in length ({[len(c) for c in columns]}); give n_items + 1 of each"
        )
    return ItemFeatures(*columns)


def _check(user: Ids, item: Ids, time: Ids, label: Floats, n_users: int, n_rows: int) -> None:
    if not len(user) == len(item) == len(time) == len(label) or not len(user):
        raise ValueError(
            f"{len(user)} users, {len(item)} items, {len(time)} times and {len(label)} plays; "
            "the ranker needs the same number of each, and at least one"
        )
    if user.min() < 0 or user.max() >= n_users or item.min() < 1 or item.max() >= n_rows:
        raise ValueError(
            f"users {user.min()} .. {user.max()} and items {item.min()} .. {item.max()}; "
            f"allowed are 0 .. {n_users - 1} and 1 .. {n_rows - 1}"
        )
    if not np.isin(label, (0, 1)).all():
        raise ValueError("play holds other values than 0 and 1")


def _log_duration(duration_ms: Ids) -> Floats:
    return np.log1p(np.maximum(duration_ms, 0) / 1000.0)


def _log_age(times: Ids, uploaded_ts: Ids) -> Floats:
    return np.log1p(np.maximum(times - uploaded_ts, 0) / HOUR_MS)

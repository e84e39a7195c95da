"""How much users and videos differ in a rate, and how well the two foretell a play."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from simulator.randomness import uniform

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]

LEAST_ROWS = 20  # impressions of a unit whose rate counts
SHRINKAGE = 8.0  # impressions of prior weight in the additive learner
_KEEP, _SPLIT = 1, 2  # streams of the draws below


def matched_rows(users: Ids, rows_per_user: Ids) -> Flags:
    """A choice of rows such that users have as many as `rows_per_user` (sorted) says, rank by rank.

    The n-th of the users by rows keeps as many as the same quantile of the other log has, picked at random,
    or all where there are too few.
    """
    _, who, n = np.unique(users, return_inverse=True, return_counts=True)
    rank = np.empty(len(n), np.int64)
    rank[np.argsort(n, kind="stable")] = np.arange(len(n))
    wanted = rows_per_user[((rank + 0.5) / len(n) * len(rows_per_user)).astype(np.int64)]
    by_luck = np.lexsort((_luck(users, _KEEP), who))
    place = np.empty(len(users), np.int64)
    place[by_luck] = np.arange(len(users)) - np.repeat(np.cumsum(n) - n, n)
    return place < wanted[who]


def between_cv(units: Ids, values: Floats, least: int = LEAST_ROWS) -> float:
    """Coefficient of variation of the units' means beyond chance, over units with `least` values or more.

    The square of a mean comes from pairs of different values of the unit, so no noise of counting is in it.
    """
    n, total, squares = _sums(units, values)
    known = n >= least
    n, total, squares = n[known], total[known], squares[known]
    if not len(n):
        return float("nan")
    between = ((total**2 - squares) / (n * (n - 1))).mean() / (total / n).mean() ** 2
    return float(np.sqrt(max(between - 1.0, 0.0)))


def intraclass(units: Ids, values: Floats) -> float:
    """Intraclass correlation of the values of a unit, by the one-way analysis of variance."""
    n, total, squares = _sums(units, values)
    grand = total.sum() / n.sum()
    among = (n * (total / n - grand) ** 2).sum() / (len(n) - 1)
    within = (squares - total**2 / n).sum() / (n.sum() - len(n))
    typical = (n.sum() - (n**2).sum() / n.sum()) / (len(n) - 1)
    return float((among - within) / (among + (typical - 1) * within))


def additive_auc(
    users: Ids, items: Ids, plays: Floats, more_items: Ids, more_plays: Floats
) -> tuple[float, float, float]:
    """AUC of a user's rate, of a video's rate, and of both added, on every fifth row, which is held out.

    Rates are shrunken towards the mean. Those of users come from the other rows; those of videos from
    (more_items, more_plays), the log that the rows are part of, less the held-out rows.
    """
    held = _luck(users, _SPLIT) < 0.2
    names, item = np.unique(np.concatenate((more_items, items)), return_inverse=True)
    all_items, item = item[: len(more_items)], item[len(more_items) :]
    _, user = np.unique(users, return_inverse=True)
    mean = plays[~held].mean()
    video = _shrunken(
        np.bincount(all_items, minlength=len(names)) - np.bincount(item[held], minlength=len(names)),
        np.bincount(all_items, more_plays, len(names)) - np.bincount(item[held], plays[held], len(names)),
        mean,
    )
    seen, own = user[~held], plays[~held]
    n_users = user.max() + 1
    n = np.bincount(seen, minlength=n_users)
    alone = _shrunken(n, np.bincount(seen, own, n_users), mean)
    beyond = np.bincount(seen, own - video[item[~held]], n_users) / (n + SHRINKAGE)
    test_user, test_item, truth = user[held], item[held], plays[held] > 0.5
    return (
        auc(truth, alone[test_user]),
        auc(truth, video[test_item]),
        auc(truth, beyond[test_user] + video[test_item]),
    )


def auc(truth: Flags, scores: Floats) -> float:
    """Chance that a positive row scores above a negative one; ties count half."""
    n_yes = int(truth.sum())
    ranks = rankdata(scores)[truth].sum() - n_yes * (n_yes + 1) / 2
    return float(ranks / (n_yes * (len(truth) - n_yes)))


def _luck(users: Ids, stream: int) -> Floats:
    """A draw for each row, by the user and the number of the row among the user's: others do not matter."""
    order = np.argsort(users, kind="stable")
    _, n = np.unique(users, return_counts=True)
    place = np.empty(len(users), np.int64)
    place[order] = np.arange(len(users)) - np.repeat(np.cumsum(n) - n, n)
    return uniform(0, stream, users, place)


def _shrunken(n: NDArray[Any], total: NDArray[Any], mean: float) -> Floats:
    return (total + SHRINKAGE * mean) / (n + SHRINKAGE)


def _sums(units: Ids, values: Floats) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Of each unit: number, sum and sum of squares of its values."""
    _, unit = np.unique(units, return_inverse=True)
    return np.bincount(unit).astype(np.float64), np.bincount(unit, values), np.bincount(unit, values**2)

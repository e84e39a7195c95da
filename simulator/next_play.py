"""How much of a user's next play the other users' histories tell: what a model could learn of taste.

Of a group of histories of equal length the last play is held out. Two scores foretell it from the others:
popularity (plays of the video in the group), and co-occurrence (plays of the video by others, each weighed by
the plays that they share with the user, a shared play counting less the commoner it is). As few histories as
here leave much to find; what matters is that a log and a world are asked alike.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.randomness import uniform

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

GROUP = 1200  # histories that learn from each other
LENGTH = 20  # plays of a history before the held-out one
COMMON = 5.0  # plays that every video is taken to have had more
BEST = 0.01  # share of the catalogue in which the next play is looked for
OTHERS = 40  # next plays of others that each next play is held against
_ROWS = 200  # histories that are scored at once


def histories(users: Ids, items: Ids) -> Ids:
    """(n, LENGTH + 1) the last plays of the users who have so many; plays are sorted by user and time."""
    _, start, n = np.unique(users, return_index=True, return_counts=True)
    end = (start + n)[n > LENGTH]
    return items[end[:, None] + np.arange(-LENGTH - 1, 0)]


def foretold(plays: Ids, n_items: int) -> tuple[dict[str, float], dict[str, float]]:
    """The figures, each the mean over groups of GROUP histories, and their standard errors by group.

    plays: (n, LENGTH + 1) items from 0 to n_items. Histories beyond the last whole group are left out; the
    figures of no group are NaN, and so are the errors of one.
    """
    n_groups = len(plays) // GROUP
    groups = [_foretold(plays[g::n_groups][:GROUP], n_items) for g in range(n_groups)]
    table = np.array(groups).reshape(n_groups, len(FIGURES))
    nothing = np.full(len(FIGURES), np.nan)
    mean = table.mean(0) if n_groups else nothing
    error = table.std(0, ddof=1) / np.sqrt(n_groups) if n_groups > 1 else nothing
    return dict(zip(FIGURES, mean.tolist(), strict=True)), dict(zip(FIGURES, error.tolist(), strict=True))


FIGURES = (
    "next play, hits of popularity",
    "next play, hits of co-occurrence",
    "next play, hits of co-occurrence over popularity",
    "next play, AUC of co-occurrence",
)
"""Hits: the next play is among the best hundredth of the catalogue. AUC: against next plays of other users,
so that popularity alone would have one half."""


def _foretold(plays: Ids, n_items: int) -> tuple[float, ...]:
    past, last = plays[:, :-1], plays[:, -1]
    new = ~(past == last[:, None]).any(1)  # a repeated play is no test of taste
    n, best = len(plays), int(BEST * n_items)
    played = _played(past, n_items)
    popularity = np.asarray(played.sum(0)).ravel()
    shared = _shared(played, popularity)
    ranks, mine, others = [], [], []
    for start in range(0, n, _ROWS):
        rows = slice(start, start + _ROWS)
        together = np.asarray((shared[rows] @ played).todense())
        both = np.stack((np.broadcast_to(popularity, together.shape), together))
        ranks.append(_ranks(both, past[rows], last[rows]))
        beyond = together / (popularity + COMMON)
        strangers = _strangers(np.arange(n)[rows], last)
        mine.append(np.take_along_axis(beyond, last[rows, None], 1)[:, 0])
        theirs = np.take_along_axis(beyond, strangers, 1)
        known = (past[rows, None, :] == strangers[:, :, None]).any(-1) | (strangers == last[rows, None])
        others.append(np.where(known, np.nan, theirs))
    hits = (np.concatenate(ranks, axis=1)[:, new] < best).mean(1)
    ratio = hits[1] / hits[0] if hits[0] else np.nan
    above = _auc(np.concatenate(mine)[new], np.vstack(others)[new])
    return float(hits[0]), float(hits[1]), float(ratio), above


def _played(past: Ids, n_items: int) -> Any:
    """(users, n_items + 1) sparse, 1 where a user has played a video."""
    from scipy.sparse import csr_matrix

    rows = np.repeat(np.arange(len(past)), past.shape[1])
    played = csr_matrix((np.ones(past.size), (rows, past.ravel())), (len(past), n_items + 1))
    played.data[:] = 1.0
    return played


def _shared(played: Any, popularity: Floats) -> Any:
    """(users, users) sparse: plays that two users share, a commoner one counting less; 0 with oneself."""
    rarer = played.multiply(1.0 / (popularity + COMMON)).tocsr()
    shared = (played @ rarer.T).tocsr()
    shared.setdiag(0.0)
    return shared


def _ranks(scores: Floats, past: Ids, last: Ids) -> Floats:
    """(scores, rows) how many videos score above the next play, ties half; the past is not a candidate."""
    scores = scores.copy()
    scores[:, np.arange(len(past))[:, None], past] = -1.0
    own = scores[:, np.arange(len(last)), last][:, :, None]
    ranks: Floats = (scores > own).sum(-1) + 0.5 * ((scores == own).sum(-1) - 1)
    return ranks


def _strangers(users: Ids, last: Ids) -> Ids:
    """(rows, OTHERS) next plays of other users."""
    luck = uniform(0, GROUP, users[:, None], np.arange(OTHERS))
    return last[(users[:, None] + 1 + (luck * (len(last) - 1)).astype(np.int64)) % len(last)]


def _auc(mine: Floats, others: Floats) -> float:
    """Mean chance that the own next play scores above that of somebody else; ties count half."""
    above = np.where(np.isnan(others), np.nan, (mine[:, None] > others) + 0.5 * (mine[:, None] == others))
    return float(np.nanmean(above))

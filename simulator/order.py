"""Order in sequences of plays: what a play tells about the next ones of the same user.

Sequences lie one after another, sorted by user and time. Pairs of equal items are left out of the lifts, so
that these speak of transitions and `repeats` of repetition.
"""

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
LAGS = (1, 2, 3, 4, 5)
FAR = 20
"""A lag at which order hardly counts: what is left is taste, and what everybody watches in those days."""


def same_tag_lift(users: Ids, items: Ids, tags: Ids, lag: int) -> float:
    """How much oftener two plays `lag` apart share a tag than plays of random users would."""
    before, after = _pairs(users, items, lag)
    a, b = tags[before], tags[after]
    n_tags = int(tags.max()) + 1
    expected = np.bincount(a, minlength=n_tags) @ np.bincount(b, minlength=n_tags) / len(a) ** 2
    return float((a == b).mean() / expected)


def pair_lift(users: Ids, items: Ids, lag: int) -> float:
    """How much oftener than by chance two pairs (item, item `lag` plays later) of the log are the same.

    The sum over pairs of p(i, j) ** 2 over that of (p(i) p(j)) ** 2, without the pairs of a pair with itself,
    so its expectation does not depend on the size of the log.
    """
    before, after = _pairs(users, items, lag)
    _, a = np.unique(items[before], return_inverse=True)
    names, b = np.unique(items[after], return_inverse=True)
    both = np.unique(a * len(names) + b, return_counts=True)[1]
    alone = _meetings(np.bincount(a)) * _meetings(np.bincount(b))
    return _meetings(both) / alone if alone else float("nan")


def switching(users: Ids, tags: Ids) -> float:
    """Share of plays whose tag is not that of the play before."""
    same_user = users[1:] == users[:-1]
    return float((tags[1:] != tags[:-1])[same_user].mean())


def repeats(users: Ids, items: Ids) -> float:
    """Share of plays of a video that the user played before."""
    _, user = np.unique(users, return_inverse=True)
    return float(1.0 - len(np.unique(user * (items.max() + 1) + items)) / len(users))


def _pairs(users: Ids, items: Ids, lag: int) -> tuple[Ids, Ids]:
    """Places of the two plays of each pair that is `lag` apart."""
    before = np.flatnonzero((users[lag:] == users[:-lag]) & (items[lag:] != items[:-lag]))
    return before, before + lag


def _meetings(counts: Ids) -> float:
    """Chance that two different rows are of the same kind."""
    n = counts.sum()
    if n < 2:
        return 0.0
    return float((counts * (counts - 1.0)).sum() / (n * (n - 1.0)))

"""The same users split again and again: estimates of both arms over thousands of replicates.

A population of users with five days and a past; an arm is a bit of a counter-based generator, sums come from
one matrix product. The vectorised statistics here are those of the methods, which tests hold against them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

ALPHA = 0.05
DAYS = 5
BLOCK = 250  # replicates in memory at a time

Floats = NDArray[np.float64]


class Arms(NamedTuple):
    """Estimates of both arms over replicates: values, their variances, users. Shapes (replicates, ...)."""

    c: Floats
    t: Floats
    var_c: Floats
    var_t: Floats
    n_c: Floats
    n_t: Floats


class Metric(NamedTuple):
    """Totals of days 1..d, (users, days), a denominator or None, and the numerator's past, (users,)."""

    x: Floats
    y: Floats | None
    past: Floats


def population(n_users: int, seed: int) -> dict[str, Metric]:
    """Users who differ in taste, which correlates their days: counts, a sparse one, two ratios."""
    rng = np.random.default_rng(seed)
    taste = rng.gamma(1.5, 8, n_users)
    shown = rng.poisson(2 * taste[:, None], (n_users, DAYS + 1))
    plays = rng.binomial(shown, rng.beta(4, 4, n_users)[:, None])
    watch = np.rint(rng.gamma(np.maximum(plays, 1e-9), 40) * (plays > 0))
    comments = rng.poisson(0.004 * taste[:, None] * rng.gamma(0.5, 2, n_users)[:, None], plays.shape)
    past = {"plays": plays[:, 0], "shown": shown[:, 0], "watch": watch[:, 0], "comments": comments[:, 0]}
    so_far = {
        name: np.cumsum(column[:, 1:], axis=1).astype(float)
        for name, column in (("plays", plays), ("shown", shown), ("watch", watch), ("comments", comments))
    }
    return {
        "plays": Metric(so_far["plays"], None, past["plays"].astype(float)),
        "watch_s": Metric(so_far["watch"], None, past["watch"].astype(float)),
        "comments": Metric(so_far["comments"], None, past["comments"].astype(float)),
        "play_rate": Metric(so_far["plays"], so_far["shown"], past["plays"].astype(float)),
        "watch_s_per_play": Metric(so_far["watch"], so_far["plays"], past["watch"].astype(float)),
    }


def splits(n_users: int, replicates: int, seed: int) -> Iterator[Floats]:
    """Blocks of (replicates, users) with 1 for treatment. Replicate r is the same however blocks are cut."""
    words = -(-n_users // 256) * 4  # Philox makes four words of 64 bits at a step
    for first in range(0, replicates, BLOCK):
        n = min(BLOCK, replicates - first)
        raw = np.random.Philox(key=seed).advance(first * words // 4).random_raw(n * words)
        bits = np.unpackbits(raw.astype("<u8").view(np.uint8).reshape(n, words * 8), axis=1)
        yield bits[:, :n_users].astype(float)


def treated_sums(columns: Floats, replicates: int, seed: int) -> Floats:
    """Sums over the treatment's users of each column, first their number: (replicates, 1 + columns)."""
    with_ones = np.column_stack([np.ones(len(columns)), columns])
    return np.concatenate([block @ with_ones for block in splits(len(columns), replicates, seed)])


def mean_arms(columns: Floats, replicates: int, seed: int, *, treated: Floats | None = None) -> Arms:
    """Means of each column in both arms; `treated`: the users' values under treatment, if others."""
    own = columns if treated is None else treated
    k = columns.shape[1]
    stacked = np.column_stack([own, own**2] if treated is None else [own, own**2, columns, columns**2])
    sums = treated_sums(stacked, replicates, seed)
    n_t, s_t, ss_t = sums[:, :1], sums[:, 1 : k + 1], sums[:, k + 1 : 2 * k + 1]
    away = sums[:, 1 : 2 * k + 1] if treated is None else sums[:, 2 * k + 1 :]
    n_c = len(columns) - n_t
    s_c, ss_c = columns.sum(axis=0) - away[:, :k], (columns**2).sum(axis=0) - away[:, k:]
    c, t = s_c / n_c, s_t / n_t
    return Arms(c, t, (ss_c - n_c * c**2) / (n_c - 1) / n_c, (ss_t - n_t * t**2) / (n_t - 1) / n_t, n_c, n_t)


def ratio_arms(
    x: Floats, y: Floats, replicates: int, seed: int, *, treated: tuple[Floats, Floats] | None = None
) -> Arms:
    """Ratios of totals in both arms, delta method on users' totals; `treated`: the users' x and y under
    treatment, if others."""
    own = _ratio_products(x, y)
    under = own if treated is None else _ratio_products(*treated)
    stacked = own if treated is None else np.column_stack([own, under])
    sums = treated_sums(stacked, replicates, seed)
    k, n_t = own.shape[1], sums[:, :1]
    n_c = len(x) - n_t
    (c, var_c), (t, var_t) = (
        _ratio_of(n, part)
        for n, part in ((n_c, own.sum(axis=0) - sums[:, 1 : k + 1]), (n_t, sums[:, -under.shape[1] :]))
    )
    return Arms(c, t, var_c, var_t, n_c, n_t)


def _ratio_products(x: Floats, y: Floats) -> Floats:
    return np.column_stack([x, y, x * x, x * y, y * y])


def _ratio_of(n: Floats, sums: Floats) -> tuple[Floats, Floats]:
    """Ratio and its variance from sums of `_ratio_products` over n users."""
    sx, sy, xx, xy, yy = np.split(sums, 5, axis=1)
    ratio = sx / sy
    return ratio, n / (n - 1) * np.maximum(xx - 2 * ratio * xy + ratio**2 * yy, 0) / sy**2


def cuped_arms(x: Floats, past: Floats, replicates: int, seed: int) -> Arms:
    """Means adjusted for one covariate, theta pooled within arms in each replicate."""
    x, past = x - x.mean(), (past - past.mean())[:, None]  # both (users, 1)
    products = np.column_stack([x, past, x * x, x * past, past * past])
    sums = treated_sums(products, replicates, seed)
    n_t = sums[:, :1]
    parts = [(len(x) - n_t, products.sum(axis=0) - sums[:, 1:]), (n_t, sums[:, 1:])]
    centred = []
    for n, s in parts:
        sx, sz, xx, xz, zz = (s[:, i : i + 1] for i in range(5))
        centred.append((sx / n, sz / n, xx - sx**2 / n, xz - sx * sz / n, zz - sz**2 / n, n))
    theta = sum(arm[3] for arm in centred) / sum(arm[4] for arm in centred)
    (c, var_c), (t, var_t) = (
        (x_mean - theta * z_mean, (xx - 2 * theta * xz + theta**2 * zz) / (n - 1) / n)
        for x_mean, z_mean, xx, xz, zz, n in centred
    )
    return Arms(c, t, var_c, var_t, parts[0][0], n_t)


def cuped_ratio_arms(x: Floats, y: Floats, past: Floats, replicates: int, seed: int) -> Arms:
    """Ratios of totals, linearised in their arm and adjusted for one covariate, theta pooled within arms."""
    past = (past - past.mean())[:, None]
    products = np.column_stack([x, y, past, x * x, x * y, y * y, x * past, y * past, past * past])
    sums = treated_sums(products, replicates, seed)
    n_t = sums[:, :1]
    parts = [(len(x) - n_t, products.sum(axis=0) - sums[:, 1:]), (n_t, sums[:, 1:])]
    found = []
    for n, s in parts:
        sx, sy, sz, xx, xy, yy, xz, yz, zz = (s[:, i : i + 1] for i in range(9))
        r, k = sx / sy, n / sy
        ff = k**2 * (xx - 2 * r * xy + r**2 * yy)  # the linearised values have mean 0
        fz = k * (xz - r * yz)
        found.append((r, sz / n, ff, fz, zz - sz**2 / n, n))
    theta = sum(arm[3] for arm in found) / sum(arm[4] for arm in found)
    (c, var_c), (t, var_t) = (
        (r - theta * z_mean, (ff - 2 * theta * fz + theta**2 * zz) / (n - 1) / n)
        for r, z_mean, ff, fz, zz, n in found
    )
    return Arms(c, t, var_c, var_t, parts[0][0], n_t)


def welch_p(arms: Arms) -> Floats:
    """Two-sided p. 1 where an arm has no variance at all: such a replicate rejects nothing."""
    error, df = error_of(arms)
    return np.where(error > 0, 2 * stdtr(df, -np.abs(arms.t - arms.c) / np.where(error > 0, error, 1)), 1.0)


def fieller_covers(arms: Arms, lift: float | Floats) -> NDArray[np.bool_]:
    """Whether the interval of the lift holds this lift: |difference - L c| <= q se. Unbounded sets do."""
    _, df = error_of(arms)
    q = stdtrit(df, 1 - ALPHA / 2)
    gap = arms.t - (1 + lift) * arms.c
    inside = gap**2 <= q**2 * (arms.var_t + (1 + lift) ** 2 * arms.var_c)
    return inside | (arms.c**2 <= q**2 * arms.var_c)


def error_of(arms: Arms) -> tuple[Floats, Floats]:
    """The standard error of the difference, and Welch's degrees of freedom."""
    both = np.maximum(arms.var_c, 0) + np.maximum(arms.var_t, 0)  # rounding may leave less than 0
    share = np.where(both > 0, np.maximum(arms.var_t, 0) / np.where(both > 0, both, 1), 0.5)
    return np.sqrt(both), 1 / (share**2 / (arms.n_t - 1) + (1 - share) ** 2 / (arms.n_c - 1))


def look_law(metric: Metric) -> tuple[list[float], Floats]:
    """Information shares and the correlation of the looks, of all users (no effect: one law in both arms)."""
    values = metric.x
    if metric.y is not None:
        ratio = metric.x.sum(axis=0) / metric.y.sum(axis=0)
        values = (metric.x - ratio * metric.y) / metric.y.mean(axis=0)
        centre = ratio
    else:
        centre = metric.x.mean(axis=0)
    information = (centre / values.std(axis=0)) ** 2
    shares = np.maximum.accumulate(
        np.minimum(information / information[-1], 1 - 0.01 * np.arange(DAYS)[::-1])
    )
    return [float(share) for share in shares], np.asarray(np.corrcoef(values, rowvar=False))

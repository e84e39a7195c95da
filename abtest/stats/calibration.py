"""Are the methods right? The same users are split again and again, and what is rejected is counted.

`python -m abtest.stats.calibration` draws a population of users with five days and a past, re-randomises it
10,000 times (an arm is a bit of a counter-based generator, sums come from one matrix product) and holds every
method and metric against its gate: false positives of fixed methods inside the exact binomial band at
.001 / cells, widened by .003; sequential methods and corrections below its upper end; intervals cover;
p-values are uniform. Exit code 1 where a gate fails.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit
from scipy.stats import binom, kstest

from abtest.stats.multiplicity import CORRECTIONS
from abtest.stats.sequential import METHODS, nominal_levels

ALPHA = 0.05
REPLICATES = 10_000
DAYS = 5
MARGIN = 0.05
TWIN_LIFT = 0.05
WIDENED = 0.003
SMALL_UPPER = 0.065
BLOCK = 250  # replicates in memory at a time

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One method on one metric: the rate seen and the gate it had to stay in (None: no such end)."""

    metric: str
    method: str
    users: int
    rate: float
    low: float | None
    high: float | None

    @property
    def passed(self) -> bool:
        return (self.low is None or self.rate >= self.low) and (self.high is None or self.rate <= self.high)


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


def ratio_arms(x: Floats, y: Floats, replicates: int, seed: int) -> Arms:
    """Ratios of totals in both arms, delta method on users' totals."""
    k = x.shape[1]
    products = np.column_stack([x, y, x * x, x * y, y * y])
    sums = treated_sums(products, replicates, seed)
    n_t = sums[:, :1]
    n_c = len(x) - n_t
    arms = []
    for n, part in ((n_c, products.sum(axis=0) - sums[:, 1:]), (n_t, sums[:, 1:])):
        sx, sy, xx, xy, yy = (part[:, i * k : (i + 1) * k] for i in range(5))
        ratio = sx / sy
        arms.append((ratio, n / (n - 1) * (xx - 2 * ratio * xy + ratio**2 * yy) / sy**2))
    (c, var_c), (t, var_t) = arms
    return Arms(c, t, var_c, var_t, n_c, n_t)


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


def welch_p(arms: Arms) -> Floats:
    """Two-sided p. 1 where an arm has no variance at all: such a replicate rejects nothing."""
    error, df = _error(arms)
    return np.where(error > 0, 2 * stdtr(df, -np.abs(arms.t - arms.c) / np.where(error > 0, error, 1)), 1.0)


def fieller_covers(arms: Arms, lift: float | Floats) -> NDArray[np.bool_]:
    """Whether the interval of the lift holds this lift: |difference - L c| <= q se. Unbounded sets do."""
    _, df = _error(arms)
    q = stdtrit(df, 1 - ALPHA / 2)
    gap = arms.t - (1 + lift) * arms.c
    inside = gap**2 <= q**2 * (arms.var_t + (1 + lift) ** 2 * arms.var_c)
    return inside | (arms.c**2 <= q**2 * arms.var_c)


def _error(arms: Arms) -> tuple[Floats, Floats]:
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


def calibrate(*, replicates: int = REPLICATES, n_users: int = 4000, seed: int = 0) -> list[Cell]:
    """All cells: fixed tests, CUPED, sequential tests, corrections, intervals, margins, uniformity."""
    metrics = population(n_users, seed)
    drafts: list[tuple[str, str, int, float, str]] = []
    final: dict[str, Floats] = {}
    for name, metric in metrics.items():
        arms = _arms_of(metric, replicates, seed)
        p = welch_p(arms)
        final[name] = p[:, -1]
        fixed = "welch" if metric.y is None else "delta"
        drafts.append((name, fixed, n_users, float((p[:, -1] < ALPHA).mean()), "band"))
        drafts.append((name, "peeking daily", n_users, float((p < ALPHA).any(axis=1).mean()), "none"))
        for method in METHODS:
            levels = nominal_levels(method, ALPHA, *look_law(metric))
            drafts.append((name, method, n_users, float((p <= levels).any(axis=1).mean()), "upper"))
        if metric.y is None:
            adjusted = welch_p(cuped_arms(metric.x[:, -1:], metric.past, replicates, seed))
            drafts.append((name, "cuped", n_users, float((adjusted < ALPHA).mean()), "band"))
            drafts += _twins(name, metric, replicates, seed)
            drafts += _at_margin(name, metric, replicates, seed)
        if (metric.x[:, -1] > 0).sum() >= 1000:
            drafts.append(
                (name, "uniform p", n_users, float(kstest(final[name][:5000], "uniform").pvalue), "ks")
            )
    drafts += _corrections(final, n_users)
    for n in (100, 400):
        for name, metric in population(n, seed + 1).items():
            p = welch_p(_arms_of(metric, replicates, seed))[:, -1]
            drafts.append(
                (name, "welch" if metric.y is None else "delta", n, float((p < ALPHA).mean()), "small")
            )
    return [_gated(*draft, replicates=replicates, cells=len(drafts)) for draft in drafts]


def _arms_of(metric: Metric, replicates: int, seed: int) -> Arms:
    if metric.y is None:
        return mean_arms(metric.x, replicates, seed)
    return ratio_arms(metric.x, metric.y, replicates, seed)


def _twins(name: str, metric: Metric, replicates: int, seed: int) -> list[tuple[str, str, int, float, str]]:
    """Coverage of the true lift where each user's outcome under treatment is known: it may over-cover."""
    plain = metric.x[:, -1:]
    treated = plain + np.random.default_rng(seed + 2).poisson(TWIN_LIFT * plain)
    true = float(treated.sum() / plain.sum() - 1)
    arms = mean_arms(plain, replicates, seed, treated=treated)
    rate = float(fieller_covers(arms, true).mean())
    return [(name, "fieller covers the twins' lift", len(plain), rate, "coverage")]


def _at_margin(
    name: str, metric: Metric, replicates: int, seed: int
) -> list[tuple[str, str, int, float, str]]:
    """A treatment that is worse by the margin passes a guardrail once in forty."""
    plain = metric.x[:, -1:]
    arms = mean_arms(plain, replicates, seed, treated=plain * (1 - MARGIN))
    _, df = _error(arms)
    statistic = (arms.t - (1 - MARGIN) * arms.c) / np.sqrt(arms.var_t + (1 - MARGIN) ** 2 * arms.var_c)
    return [
        (
            name,
            "non-inferiority at the margin",
            len(plain),
            float((stdtr(df, -statistic) < 0.025).mean()),
            "margin",
        )
    ]


def _corrections(p: Mapping[str, Floats], n_users: int) -> list[tuple[str, str, int, float, str]]:
    """Any false rejection among all metrics; with no effect anywhere that is the false discovery rate too."""
    rows = np.column_stack(list(p.values())).tolist()
    return [
        (
            "all",
            name,
            n_users,
            float(np.mean([any(test.rejected for test in correct(row, ALPHA)) for row in rows])),
            "upper",
        )
        for name, correct in CORRECTIONS.items()
    ]


def _gated(
    metric: str, method: str, users: int, rate: float, gate: str, *, replicates: int, cells: int
) -> Cell:
    def band(level: float) -> tuple[float, float]:
        low, high = binom.ppf([0.0005 / cells, 1 - 0.0005 / cells], replicates, level) / replicates
        return float(low) - WIDENED, float(high) + WIDENED

    gates: dict[str, tuple[float | None, float | None]] = {
        "band": band(ALPHA),
        "upper": (None, band(ALPHA)[1]),
        "margin": (None, band(0.025)[1]),
        "small": (None, SMALL_UPPER),
        "coverage": (0.94, None),
        "ks": (1e-4 / cells, None),
        "none": (None, None),
    }
    return Cell(metric, method, users, rate, *gates[gate])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print all cells, as JSON with `--json`; 1 where a gate fails."""
    from argparse import ArgumentParser

    parser = ArgumentParser(prog="python -m abtest.stats.calibration", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the cells as JSON")
    parser.add_argument("--replicates", type=int, default=REPLICATES)
    parser.add_argument("--users", type=int, default=4000, help="of both arms, 4000 or more for the gates")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    cells = calibrate(replicates=given.replicates, n_users=given.users, seed=given.seed)
    passed = all(cell.passed for cell in cells)
    if given.json:
        rows = [{**asdict(cell), "passed": cell.passed} for cell in cells]
        print(json.dumps({"replicates": given.replicates, "passed": passed, "cells": rows}, indent=2))
        return 0 if passed else 1
    for cell in cells:
        ends = " to ".join("-" if end is None else f"{end:.4g}" for end in (cell.low, cell.high))
        outcome = "ok" if cell.passed else "FAILED"
        print(f"{cell.metric:18} {cell.method:30} {cell.users:6,} {cell.rate:8.4f}  {ends:18} {outcome}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

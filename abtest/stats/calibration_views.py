"""Cells of the calibration for intervals of the lift, for levels of sparse counts, and for users in strata.

Coverage is that of a true lift other than 0, of other users in each replicate: with fixed users Welch's
intervals cover too often (Neyman), so that only resampled ones can be too wide.
"""

from collections.abc import Iterator

import numpy as np
from scipy.special import chdtrc, stdtrit

from abtest.stats.calibration_cells import Draft
from abtest.stats.replicates import (
    ALPHA,
    BLOCK,
    Arms,
    Floats,
    Metric,
    error_of,
    fieller_covers,
    look_law,
    mean_arms,
    population,
    ratio_arms,
    welch_p,
)
from abtest.stats.sequential import SPENDING, nominal_levels

TRUE_LIFT = 0.05
POOL = 100_000  # users from which those of a replicate are drawn
FEW_AN_ARM = 50
CAP = 0.99
N_STRATA = 4
SPARSE = "comments"


def view_cells(metrics: dict[str, Metric], replicates: int, n_users: int, seed: int) -> list[Draft]:
    """All cells of this module."""
    return [
        *coverage_cells(n_users // 2, replicates, seed),
        *coverage_cells(FEW_AN_ARM, replicates, seed),
        *sparse_cells(metrics[SPARSE], replicates, seed),
        *sequential_holm_cells(metrics, replicates, seed),
        capped_cell("watch_s", metrics["watch_s"], replicates, seed),
        *strata_cells("watch_s", metrics["watch_s"], replicates, seed),
    ]


def coverage_cells(n_an_arm: int, replicates: int, seed: int) -> list[Draft]:
    """How often each interval holds the true lift. Unbounded sets hold it, and are counted."""
    pool = population(POOL, seed + 6)
    found = []
    for name in ("watch_s", SPARSE):
        arms = _joined(_resampled(pool[name].x[:, -1], n_an_arm, replicates, seed + 7))
        _, df = error_of(arms)
        q = stdtrit(df, 1 - ALPHA / 2)
        known = arms.c > 0
        c = np.where(known, arms.c, 1.0)
        ratio, relative = arms.t / c, (arms.var_c / c**2, arms.var_t / np.where(arms.t > 0, arms.t, 1.0) ** 2)
        symmetric = np.abs(ratio - 1 - TRUE_LIFT) <= q * np.sqrt(arms.var_t + ratio**2 * arms.var_c) / c
        has_log = known & (arms.t > 0)
        gap = np.log(np.where(has_log, ratio, 1.0)) - np.log(1 + TRUE_LIFT)
        in_logs = (np.abs(gap) <= q * np.sqrt(sum(relative))) | ~has_log
        gate = "covers, few" if n_an_arm == FEW_AN_ARM else "covers"
        shares = {
            ("fieller covers the lift", gate): fieller_covers(arms, TRUE_LIFT),
            ("log-delta covers the lift", gate): in_logs,
            ("symmetric delta covers the lift", "none"): symmetric | ~known,
            ("fieller is unbounded", "none"): arms.c**2 <= q**2 * arms.var_c,
        }
        found += [
            Draft(name, method, 2 * n_an_arm, float(held.mean()), of_gate)
            for (method, of_gate), held in shares.items()
        ]
    return found


def sparse_cells(metric: Metric, replicates: int, seed: int) -> list[Draft]:
    """Levels of a sparse count, whose p cannot be uniform."""
    p = welch_p(mean_arms(metric.x[:, -1:], replicates, seed))
    return [
        Draft(SPARSE, f"welch at {level:.2f}", len(metric.x), float((p < level).mean()), f"band {level:.2f}")
        for level in (0.01, 0.1)
    ]


def sequential_holm_cells(metrics: dict[str, Metric], replicates: int, seed: int) -> list[Draft]:
    """Any false rejection by Holm's method on sequential p-values: with no effect anywhere that is any goal
    across a bound of level alpha / m, as Holm's first step asks for."""
    looks = {
        name: welch_p(
            mean_arms(metric.x, replicates, seed)
            if metric.y is None
            else ratio_arms(metric.x, metric.y, replicates, seed)
        )
        for name, metric in metrics.items()
    }
    found = []
    for method in SPENDING:
        crossed = [
            (looks[name] <= nominal_levels(method, ALPHA / len(metrics), *look_law(metric))).any(axis=1)
            for name, metric in metrics.items()
        ]
        rate = float(np.any(crossed, axis=0).mean())
        found.append(Draft("all", f"holm on {method}", len(next(iter(metrics.values())).x), rate, "upper"))
    return found


def capped_cell(name: str, metric: Metric, replicates: int, seed: int) -> Draft:
    """Totals capped at a quantile of all users."""
    x = metric.x[:, -1:]
    p = welch_p(mean_arms(np.minimum(x, np.quantile(x, CAP)), replicates, seed))
    return Draft(name, "capped", len(x), float((p < ALPHA).mean()), "band")


def strata_cells(name: str, metric: Metric, replicates: int, seed: int) -> list[Draft]:
    """Post-stratified by the past, and Cochran's Q of the lifts in the strata."""
    stratum = np.searchsorted(
        np.quantile(metric.past, np.arange(1, N_STRATA) / N_STRATA), metric.past, side="left"
    )
    parts, shares = [], []
    for k in range(N_STRATA):
        x = metric.x[stratum == k, -1:]
        parts.append(mean_arms(x, replicates, seed + 8 + k))
        shares.append(len(x) / len(metric.x))
    c, t, var_c, var_t, n_c, n_t = (np.stack(columns) for columns in zip(*parts, strict=True))
    w = np.array(shares)[:, None, None]
    whole = Arms(
        (w * c).sum(axis=0),
        (w * t).sum(axis=0),
        (w * w * var_c).sum(axis=0),
        (w * w * var_t).sum(axis=0),
        n_c.sum(axis=0),
        n_t.sum(axis=0),
    )
    lifts = np.hstack([part.t / part.c - 1 for part in parts])
    weights = np.hstack([part.c**2 / (part.var_t + (part.t / part.c) ** 2 * part.var_c) for part in parts])
    centre = (weights * lifts).sum(axis=1, keepdims=True) / weights.sum(axis=1, keepdims=True)
    p_of_q = chdtrc(N_STRATA - 1, (weights * (lifts - centre) ** 2).sum(axis=1))
    n = len(metric.x)
    return [
        Draft(name, "post-stratified", n, float((welch_p(whole) < ALPHA).mean()), "band"),
        Draft(name, "cochran's q of segments", n, float((p_of_q < ALPHA).mean()), "upper"),
    ]


def _resampled(x: Floats, n_an_arm: int, replicates: int, seed: int) -> Iterator[Arms]:
    """Arms of users drawn anew in each replicate; the treatment's values are larger by the true lift."""
    rng = np.random.default_rng(seed)
    for first in range(0, replicates, BLOCK):
        shape = min(BLOCK, replicates - first), n_an_arm
        c, t = x[rng.integers(0, len(x), shape)], x[rng.integers(0, len(x), shape)] * (1 + TRUE_LIFT)
        n = np.full((shape[0], 1), float(n_an_arm))
        mean_c, mean_t = (arm.mean(axis=1, keepdims=True) for arm in (c, t))
        var_c, var_t = (arm.var(axis=1, ddof=1, keepdims=True) / n_an_arm for arm in (c, t))
        yield Arms(mean_c, mean_t, var_c, var_t, n, n)


def _joined(blocks: Iterator[Arms]) -> Arms:
    return Arms(*(np.concatenate(column) for column in zip(*blocks, strict=True)))

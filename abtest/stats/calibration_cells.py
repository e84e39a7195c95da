"""Cells of the calibration for methods that need the users' values, for health and for many metrics.

Those that draw within each replicate (bootstrap, permutation) or sort (quantiles) are run on fewer
replicates, and their gates are as wide as these ask for.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr

from abtest.stats.bayes import Prior, posterior
from abtest.stats.bootstrap import Sample, bootstrap_reference
from abtest.stats.clustered import Clustered
from abtest.stats.means import Estimate, compare, mean_estimate, ratio_estimate
from abtest.stats.moments import Moments
from abtest.stats.multiplicity import benjamini_hochberg
from abtest.stats.permutation import permutation_reference
from abtest.stats.quantiles import quantile_estimate
from abtest.stats.reference import compare_by_draws
from abtest.stats.replicates import (
    ALPHA,
    Arms,
    Floats,
    Metric,
    cuped_ratio_arms,
    error_of,
    mean_arms,
    population,
    ratio_arms,
    splits,
    treated_sums,
    welch_p,
)
from abtest.stats.srm import sample_ratio

SRM_THRESHOLD = 0.001
SLOW_SHARE = 10  # replicates of slow cells: this part of the others'
SMALL_USERS = 100
DRAWS = 199
EFFECT = 1.1
PRIOR_SD = 0.05
EQUIVALENCE_MARGIN = 0.2


class Draft(NamedTuple):
    """What was seen in a cell, and the name of its gate. `replicates`: its own number, where it has one."""

    metric: str
    method: str
    users: int
    rate: float
    gate: str
    replicates: int | None = None


def more_cells(metrics: dict[str, Metric], replicates: int, n_users: int, seed: int) -> list[Draft]:
    """All cells of this module."""
    slow = max(replicates // SLOW_SHARE, 100)
    return [
        sample_ratio_cell(n_users, replicates, seed),
        false_discovery_cell(metrics, replicates, seed),
        cuped_ratio_cell("play_rate", metrics["play_rate"], replicates, seed),
        cuped_ratio_cell("watch_s_per_play", metrics["watch_s_per_play"], replicates, seed),
        equivalence_cell("watch_s", metrics["watch_s"], replicates, seed),
        flat_prior_cell("plays", metrics["plays"], replicates, seed),
        prior_cell("plays", metrics["plays"], replicates, seed),
        user_quantile_cell(n_users, slow, seed),
        event_quantile_cell(n_users // 2, slow, seed),
        *draws_cells(slow // 2, seed),
    ]


def sample_ratio_cell(n_users: int, replicates: int, seed: int) -> Draft:
    """Fair splits that the check of the sample ratio rejects, at its own threshold."""
    treated = treated_sums(np.zeros((n_users, 1)), replicates, seed)[:, 0].astype(int)
    sizes, counts = np.unique(treated, return_counts=True)
    p = [sample_ratio([n_users - n, n], [0.5, 0.5]).p for n in sizes.tolist()]
    is_alarm = np.array([one is not None and one < SRM_THRESHOLD for one in p])
    return Draft("sample ratio", "chi-square", n_users, float(counts[is_alarm].sum()) / replicates, "srm")


def false_discovery_cell(metrics: dict[str, Metric], replicates: int, seed: int) -> Draft:
    """The share of false ones among what Benjamini and Hochberg reject, where two of five metrics changed."""
    changed = ("plays", "watch_s")
    p = []
    for name, metric in metrics.items():
        x = metric.x[:, -1:]
        if metric.y is None:
            arms = mean_arms(x, replicates, seed, treated=x * EFFECT if name in changed else None)
        else:
            arms = ratio_arms(x, metric.y[:, -1:], replicates, seed)
        p.append(welch_p(arms)[:, 0])
    is_false = [name not in changed for name in metrics]
    shares = [_false_share(row, is_false) for row in np.column_stack(p).tolist()]
    return Draft("all", "bh, false discoveries", len(metrics["plays"].x), float(np.mean(shares)), "upper")


def cuped_ratio_cell(name: str, metric: Metric, replicates: int, seed: int) -> Draft:
    """A ratio adjusted for its numerator's past."""
    assert metric.y is not None
    arms = cuped_ratio_arms(metric.x[:, -1:], metric.y[:, -1:], metric.past, replicates, seed)
    return Draft(name, "cuped ratio", len(metric.x), float((welch_p(arms) < ALPHA).mean()), "band")


def equivalence_cell(name: str, metric: Metric, replicates: int, seed: int) -> Draft:
    """A treatment that differs by the margin is called equivalent once in twenty at most."""
    plain = metric.x[:, -1:]
    arms = mean_arms(plain, replicates, seed, treated=plain * (1 + EQUIVALENCE_MARGIN))
    worse, better = (_beyond(arms, sign) for sign in (-1, 1))
    rate = float((np.maximum(worse, better) < ALPHA).mean())
    return Draft(name, "equivalence at the margin", len(plain), rate, "upper")


def flat_prior_cell(name: str, metric: Metric, replicates: int, seed: int) -> Draft:
    """With a flat prior the credible interval of the lift leaves out 0 in one A/A of twenty."""
    lift, sd = _lift(mean_arms(metric.x[:, -1:], replicates, seed))
    missed = float((np.abs(lift) > -ndtri(ALPHA / 2) * sd).mean())
    return Draft(name, "bayes, flat prior misses 0", len(metric.x), missed, "band")


def prior_cell(name: str, metric: Metric, replicates: int, seed: int) -> Draft:
    """True lifts drawn from the prior lie outside of the credible interval once in twenty."""
    arms = mean_arms(metric.x[:, -1:], replicates, seed)
    true = np.random.default_rng(seed + 3).normal(0, PRIOR_SD, (replicates, 1))
    lift, sd = _lift(arms._replace(t=arms.t * (1 + true), var_t=arms.var_t * (1 + true) ** 2))
    missed = 0
    for value, error, truth in np.column_stack([lift, sd, true]).tolist():
        interval = posterior(value, error**2, Prior(0.0, PRIOR_SD)).interval
        assert interval is not None
        missed += not interval[0] <= truth <= interval[1]
    return Draft(name, "bayes, prior misses the truth", len(metric.x), missed / replicates, "band")


def user_quantile_cell(n_users: int, replicates: int, seed: int, q: float = 0.9) -> Draft:
    """A quantile of users' totals, of other users in each replicate: around it few users decide."""
    x = population(20 * n_users, seed)["watch_s"].x[:, -1]
    rng = np.random.default_rng(seed + 5)
    p = []
    for treated in _masks(n_users, replicates, seed):
        drawn = x[rng.integers(0, len(x), n_users)]
        control, treatment = (
            quantile_estimate(Clustered(drawn[mask]), q).estimate for mask in (~treated, treated)
        )
        p.append(compare(control, treatment).p)
    return Draft("watch_s", "quantile of users", n_users, _rejected(p), "band", replicates)


def event_quantile_cell(n_users: int, replicates: int, seed: int, q: float = 0.5) -> Draft:
    """A quantile of events' values, those of a user alike."""
    rng = np.random.default_rng(seed + 4)
    users = np.repeat(np.arange(n_users), rng.poisson(5, n_users))
    values = rng.gamma(2, 5000 * rng.gamma(3, 1 / 3, n_users)[users]).astype(np.int64)
    p = []
    for treated in _masks(n_users, replicates, seed):
        arms = []
        for mask in (~treated, treated):
            inside, place = mask[users], np.cumsum(mask) - 1
            arms.append(Clustered(values[inside], place[users[inside]], int(mask.sum())))
        control, treatment = (quantile_estimate(arm, q).estimate for arm in arms)
        p.append(compare(control, treatment).p)
    return Draft("watch_ms", "quantile of events", n_users, _rejected(p), "band", replicates)


def draws_cells(replicates: int, seed: int) -> list[Draft]:
    """Bootstrap and permutation for few users, of a mean and of a ratio."""
    metrics = population(SMALL_USERS, seed + 1)
    found = []
    for name in ("watch_s", "play_rate"):
        x = metrics[name].x[:, -1].astype(np.int64)
        over = metrics[name].y
        y = None if over is None else over[:, -1].astype(np.int64)
        for method, engine in (("bootstrap", bootstrap_reference), ("permutation", permutation_reference)):
            p = []
            for i, treated in enumerate(_masks(SMALL_USERS, replicates, seed)):
                control, treatment = (
                    Sample(x[mask], None if y is None else y[mask]) for mask in (~treated, treated)
                )
                reference = engine(control, treatment, draws=DRAWS, seed=i)
                assert reference is not None
                p.append(compare_by_draws(_estimate(control), _estimate(treatment), reference).p)
            found.append(Draft(name, method, SMALL_USERS, _rejected(p), "few", replicates))
    return found


def _estimate(sample: Sample) -> Estimate:
    if sample.y is None:
        return mean_estimate(Moments.from_arrays(x=sample.x), "x")
    return ratio_estimate(Moments.from_arrays(x=sample.x, y=sample.y), "x", "y")


def _false_share(p: Sequence[float], is_false: Sequence[bool]) -> float:
    rejected = [test.rejected for test in benjamini_hochberg(p, ALPHA)]
    n_false = sum(wrong and yes for wrong, yes in zip(is_false, rejected, strict=True))
    return n_false / max(sum(rejected), 1)


def _beyond(arms: Arms, sign: int) -> Floats:
    """p of one side of the equivalence test: small where the lift is shown to lie inside of the margin."""
    factor = 1 + sign * EQUIVALENCE_MARGIN
    statistic = (arms.t - factor * arms.c) / np.sqrt(arms.var_t + factor**2 * arms.var_c)
    return np.asarray(stdtr(error_of(arms)[1], sign * statistic))


def _lift(arms: Arms) -> tuple[Floats, Floats]:
    """The lift and its delta-method standard error."""
    lift = arms.t / arms.c - 1
    return lift, np.sqrt(arms.var_t + (1 + lift) ** 2 * arms.var_c) / arms.c


def _masks(n_users: int, replicates: int, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Who is treated, in each replicate."""
    for block in splits(n_users, replicates, seed):
        yield from block.astype(bool)


def _rejected(p: Sequence[float | None]) -> float:
    """The share of all tests that reject; one without a p does not."""
    return float(np.mean([one is not None and one < ALPHA for one in p]))

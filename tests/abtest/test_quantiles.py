"""Quantiles against numpy, the asymptotic formula and brute force; ties, and what cannot be computed."""

import numpy as np
import pytest
from scipy import stats

from abtest.stats.bootstrap import weights
from abtest.stats.clustered import Clustered, knots_at
from abtest.stats.means import compare
from abtest.stats.quantiles import (
    NO_RANKS,
    NO_VALUES,
    TIED,
    bootstrap_quantile,
    quantile_estimate,
    quantile_replicates,
    share_error,
)

ENGINES = [quantile_estimate, bootstrap_quantile]


def events(n_users: int, seed: int) -> Clustered:
    """Watch times in ms of users who differ in taste; some have none."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(n_users), rng.poisson(6, n_users))
    scale = 5000 * rng.gamma(3, 1 / 3, n_users)[users]
    return Clustered(rng.gamma(2, scale).astype(np.int64), users, n_users)


@pytest.mark.parametrize("q", [0.01, 0.25, 0.5, 0.937, 0.99])
def test_without_ties_it_is_numpys_hazen(q: float) -> None:
    x = np.random.default_rng(0).gamma(2, 5, 999)
    assert knots_at(x, q).value == pytest.approx(np.quantile(x, q, method="hazen"), rel=1e-12)


@pytest.mark.parametrize("q", [0.1, 0.5, 0.77])
def test_with_ties_it_interpolates_the_middles_of_the_steps(q: float) -> None:
    x = np.random.default_rng(1).poisson(9, 500)
    values, counts = np.unique(x, return_counts=True)
    middles = (counts.cumsum() - counts / 2) / len(x)
    assert knots_at(x, q).value == pytest.approx(np.interp(q, middles, values), rel=1e-12)


def test_the_variance_of_independent_values_is_q_1_q_over_n_density_squared() -> None:
    samples = np.random.default_rng(2).normal(10, 2, (20, 4000))
    for q in (0.5, 0.9):
        expected = q * (1 - q) / (stats.norm.pdf(stats.norm.ppf(q)) / 2) ** 2 / 4000
        found = [quantile_estimate(Clustered(x), q).estimate.variance for x in samples]
        assert np.median(np.array(found, float)) == pytest.approx(expected, rel=0.1)


def test_the_error_of_the_share_is_the_delta_method_clustered_by_user() -> None:
    sample, q = events(300, 3), 0.5
    value = knots_at(sample.values, q)
    assert sample.users is not None
    below = np.where(sample.values < value.low, 1.0, 0.0)
    below[sample.values == value.low] = (1 + value.way) / 2
    below[sample.values == value.high] = value.way / 2
    k, m = (np.bincount(sample.users, w, minlength=300) for w in (below, np.ones(len(below))))
    variance = np.cov(np.stack([k, m])) / 300
    r = k.sum() / m.sum()
    delta = (variance[0, 0] - 2 * r * variance[0, 1] + r * r * variance[1, 1]) / m.mean() ** 2
    assert share_error(sample, value) == pytest.approx(np.sqrt(delta), rel=1e-9)
    alone = share_error(Clustered(sample.values), value)
    assert share_error(sample, value) > 1.3 * alone  # values of one user are alike


def test_the_bootstrap_is_the_weighted_quantile_of_each_replicate() -> None:
    sample, q = events(60, 4), 0.6
    rounded = Clustered(sample.values // 500, sample.users, 60)  # with ties
    assert rounded.users is not None
    expected = []
    for w in np.concatenate(list(weights(60, 50, 0, 1))):
        values, place = np.unique(rounded.values, return_inverse=True)
        by_value = np.bincount(place, w[rounded.users])
        held = by_value > 0
        middles = by_value[held].cumsum() - by_value[held] / 2
        expected.append(np.interp(q * by_value.sum(), middles, values[held]))
    assert quantile_replicates(rounded, q, draws=50, arm_index=1) == pytest.approx(expected, rel=1e-12)


def test_both_engines_agree() -> None:
    sample = events(1500, 5)
    delta, boot = (engine(sample, 0.75, scale=1000).estimate for engine in ENGINES)
    assert delta.value == boot.value == knots_at(sample.values, 0.75).value / 1000
    assert boot.variance == pytest.approx(delta.variance, rel=0.15)
    assert delta.n == 1500


@pytest.mark.parametrize(("kind", "n"), [("events", 200), ("counts", 1000)])
def test_equal_arms_differ_in_5_percent_of_a_a_tests(kind: str, n: int) -> None:
    """False-alarm probability of this test: below 1e-5 (200 tests, .05 +- 4.4 standard errors)."""
    rejected = 0
    for seed in range(200):
        if kind == "events":
            arms = events(n, 1000 + seed), events(n, 5000 + seed)
        else:
            x = np.random.default_rng(seed).poisson(30, 2 * n)
            arms = Clustered(x[:n]), Clustered(x[n:])
        p = compare(*(quantile_estimate(arm, 0.8).estimate for arm in arms)).p
        assert p is not None
        rejected += p < 0.05
    assert rejected / 200 <= 0.05 + 4.4 * np.sqrt(0.05 * 0.95 / 200)


def test_a_million_ties_are_counted_and_the_quantile_of_whole_counts_stays_smooth() -> None:
    x = np.random.default_rng(6).poisson(40, 1_000_000)
    found = quantile_estimate(Clustered(x), 0.9)
    assert found.reason is None
    assert found.estimate.variance is not None
    assert abs(found.estimate.value - np.quantile(x, 0.9)) < 1  # type: ignore[operator]
    assert 0 < found.estimate.variance < 1e-3
    zeros = Clustered(np.zeros(1_000_000, dtype=np.int64))
    assert quantile_estimate(zeros, 0.5).reason == TIED


@pytest.mark.parametrize("engine", ENGINES)
def test_what_cannot_be_computed_has_a_reason_and_no_variance(engine) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(7)
    nothing = Clustered(np.empty(0), np.empty(0, np.int64), 50)
    cases = [
        (nothing, 0.5, NO_VALUES),
        (Clustered(np.array([3.0])), 0.5, NO_RANKS),
        (Clustered(rng.normal(size=30)), 0.999, NO_RANKS),
        (Clustered(rng.poisson(0.3, 5000)), 0.5, TIED),
        (Clustered(np.full(5000, 7)), 0.5, TIED),
        (Clustered(rng.normal(size=500), np.zeros(500, np.int64), 1), 0.5, NO_RANKS),
    ]
    for sample, q, reason in cases:
        found = engine(sample, q)
        assert (found.reason, found.estimate.variance) == (reason, None)
    assert engine(nothing, 0.5).estimate.value is None
    with pytest.raises(ValueError, match="quantile is 1"):
        engine(nothing, 1.0)


@pytest.mark.parametrize("scale", [1e-12, 1e12, -1.0])
def test_scales_and_negative_values_are_like_any_others(scale: float) -> None:
    x = np.random.default_rng(8).gamma(2, 5, 800)
    plain, other = (quantile_estimate(Clustered(v), 0.5).estimate for v in (x, x * scale))
    assert other.value == pytest.approx(plain.value * scale, rel=1e-9)  # type: ignore[operator]
    assert other.variance == pytest.approx(plain.variance * scale**2, rel=0.2)  # type: ignore[operator]


def test_the_order_of_events_does_not_matter() -> None:
    sample = events(200, 9)
    assert sample.users is not None
    order = np.random.default_rng(0).permutation(len(sample.values))
    shuffled = Clustered(sample.values[order], sample.users[order], 200)
    for engine in ENGINES:
        assert engine(shuffled, 0.5) == engine(sample, 0.5)

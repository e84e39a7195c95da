"""Spread between users, and what it foretells, where both are known."""

import numpy as np
import pytest

from simulator import spread


def test_between_user_spread_leaves_out_the_noise_of_counting() -> None:
    """Users that all have the same rate differ by chance only."""
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(3000), 40)
    same = (rng.random(len(users)) < 0.4).astype(float)
    rate = rng.beta(4, 6, 3000)
    apart = (rng.random(len(users)) < rate[users]).astype(float)
    wanted = rate.std() / rate.mean()
    assert spread.between_cv(users, same) < 0.06
    assert spread.between_cv(users, apart) == pytest.approx(wanted, rel=0.1)
    assert spread.between_cv(users, rate[users]) == pytest.approx(wanted, rel=0.01)  # chances, no draws
    assert np.isnan(spread.between_cv(users, apart, least=41))


def test_intraclass_correlation_is_the_share_of_variance_between_users() -> None:
    rng = np.random.default_rng(2)
    users = np.repeat(np.arange(4000), rng.integers(2, 12, 4000))
    values = rng.normal(0, 1, 4000)[users] + rng.normal(0, 2, len(users))
    assert spread.intraclass(users, values) == pytest.approx(0.2, abs=0.02)


def test_rows_are_matched_rank_by_rank() -> None:
    users = np.repeat([5, 6, 7, 8], [3, 30, 10, 20])
    kept = spread.matched_rows(users, np.array([1, 2, 4, 8]))
    assert [int(kept[users == u].sum()) for u in (5, 6, 7, 8)] == [1, 8, 2, 4]
    assert np.array_equal(kept[users == 6], spread.matched_rows(users[users == 6], np.array([8])))


def test_auc_counts_pairs() -> None:
    truth = np.array([True, False, True, False])
    assert spread.auc(truth, np.array([3.0, 1.0, 2.0, 2.0])) == pytest.approx((1 + 1 + 1 + 0.5) / 4)


def test_two_kinds_of_users_and_videos_are_foretold() -> None:
    rng = np.random.default_rng(3)
    users, items = rng.integers(0, 500, 30_000), rng.integers(0, 500, 30_000)
    order = np.argsort(users, kind="stable")
    users, items = users[order], items[order]
    p = 0.3 + 0.2 * (users % 2) + 0.2 * (items % 2)
    play = (rng.random(len(p)) < p).astype(float)
    by_user, by_item, by_both = spread.additive_auc(users, items, play, items, play)
    best = spread.auc(play > 0.5, p)
    assert by_user == pytest.approx(by_item, abs=0.03)
    assert by_user + 0.02 < by_both < best + 0.02
    assert by_both > best - 0.03
    noise = (rng.random(len(p)) < 0.5).astype(float)
    assert spread.additive_auc(users, items, noise, items, noise)[2] == pytest.approx(0.5, abs=0.03)

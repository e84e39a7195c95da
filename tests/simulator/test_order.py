"""Order in sequences whose transitions are known."""

import numpy as np
import pytest

from simulator import order


def test_independent_plays_have_no_lift() -> None:
    rng = np.random.default_rng(0)
    users, items = np.repeat(np.arange(3000), 20), rng.integers(0, 400, 60_000)
    for lag in (1, 5):
        assert order.pair_lift(users, items, lag) == pytest.approx(1.0, abs=0.05)
        # 8 tags by item: pairs of equal items are left out, one in 50 pairs of a tag
        assert order.same_tag_lift(users, items, items % 8, lag) == pytest.approx(1.0, abs=0.05)


def test_a_cycle_lifts_its_pairs_by_their_number() -> None:
    """Each item is always followed by the same one of n: its pair comes n times as often as by chance."""
    n = 10
    items = (np.arange(40)[None, :] + np.arange(300)[:, None]) % n
    users = np.repeat(np.arange(300), 40)
    assert order.pair_lift(users, items.ravel(), 1) == pytest.approx(n, rel=0.02)
    assert order.pair_lift(users, items.ravel(), 3) == pytest.approx(n, rel=0.02)


def test_tags_that_stay_are_seen_and_repeats_are_counted_apart() -> None:
    users = np.repeat([1, 2], 4)
    items = np.array([1, 3, 5, 5, 2, 4, 2, 6])
    tags = items % 2
    assert order.same_tag_lift(users, items, tags, 1) == pytest.approx(1.0 / (4 / 25 + 9 / 25), rel=0.2)
    assert order.switching(users, tags) == 0.0
    assert order.repeats(users, items) == pytest.approx(2 / 8)


def test_users_are_not_mixed() -> None:
    """The last play of one and the first of the next are no transition."""
    users, tags = np.array([1, 1, 2, 2]), np.array([0, 0, 1, 1])
    assert order.switching(users, tags) == 0.0

"""How much of the next play is foretold, where the answer is known."""

import numpy as np
import pytest

from simulator import next_play
from simulator.next_play import GROUP, LENGTH

N_ITEMS = 1000


def test_without_taste_co_occurrence_tells_nothing() -> None:
    """Everybody draws from the same videos: half of the others' next plays score above, as many below."""
    rng = np.random.default_rng(0)
    plays = rng.integers(1, N_ITEMS + 1, (GROUP, LENGTH + 1))
    found, _ = next_play.foretold(plays, N_ITEMS)
    assert found["next play, AUC of co-occurrence"] == pytest.approx(0.5, abs=0.03)
    assert found["next play, hits of co-occurrence"] == pytest.approx(0.01, abs=0.01)


def test_two_tribes_are_told_apart() -> None:
    """Each half of the users plays its half of 1,000 videos: of two next plays one in two is a stranger's, so
    that the own one is above in three of four. Popularity does not know the tribes."""
    rng = np.random.default_rng(1)
    tribe = np.arange(2 * GROUP)[:, None] // 2 % 2  # groups take every second history
    plays = 1 + 2 * rng.integers(0, N_ITEMS // 2, (2 * GROUP, LENGTH + 1)) + tribe
    found, error = next_play.foretold(plays, N_ITEMS)
    assert found["next play, AUC of co-occurrence"] == pytest.approx(0.75, abs=0.02)
    assert error["next play, AUC of co-occurrence"] < 0.02
    assert found["next play, hits of popularity"] < 0.03


def test_popularity_finds_what_everybody_plays() -> None:
    rng = np.random.default_rng(2)
    common = rng.random((GROUP, LENGTH + 1)) < 0.3
    plays = np.where(common, rng.integers(1, 9, common.shape), rng.integers(9, N_ITEMS + 1, common.shape))
    new = ~(plays[:, :-1] == plays[:, -1:]).any(1)
    found, _ = next_play.foretold(plays, N_ITEMS)
    wanted = (plays[new, -1] < 9).mean()
    assert wanted > 0.03
    assert found["next play, hits of popularity"] == pytest.approx(wanted, abs=0.01)


def test_too_few_histories_give_no_figure() -> None:
    found, error = next_play.foretold(np.ones((GROUP - 1, LENGTH + 1), int), N_ITEMS)
    assert all(np.isnan(value) for value in (*found.values(), *error.values()))


def test_a_history_is_the_last_plays_of_who_has_enough() -> None:
    users = np.repeat([3, 5, 8], [LENGTH, LENGTH + 1, LENGTH + 4])
    items = np.arange(len(users))
    assert next_play.histories(users, items)[:, [0, -1]].tolist() == [
        [LENGTH, 2 * LENGTH],
        [2 * LENGTH + 4, 3 * LENGTH + 4],
    ]

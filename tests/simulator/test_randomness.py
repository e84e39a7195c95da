"""Philox against its published vectors, and what the rest of the simulator relies on."""

import numpy as np
import pytest
from scipy import stats

from simulator.randomness import Purpose, bits, normal, philox, uniform, unit, words

# kat_vectors of Random123 1.14 (philox4x32, 10 rounds): counter, key, words
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_words(counter: tuple, key: tuple, expected: tuple) -> None:
    assert tuple(int(w) for w in philox(counter, key)) == expected


def test_philox_gives_the_published_words_inside_a_large_array() -> None:
    """More draws than one cache block, so every block must use the whole key schedule."""
    counter, key, expected = KNOWN[2]
    many = [np.full(20_000, c) for c in counter]
    assert (philox(many, key) == np.array(expected)[:, None]).all()


def test_a_draw_does_not_depend_on_the_other_draws() -> None:
    users = np.arange(20_000)
    whole = bits(5, Purpose.GAP, users, 3, 1)
    assert (bits(5, Purpose.GAP, users[9000:9003], 3, 1) == whole[9000:9003]).all()
    assert bits(5, Purpose.GAP, 17, 3, 1) == whole[17]


def test_seed_purpose_and_every_counter_matter() -> None:
    base = (11, 1, 4, 5, 6)
    draws = [bits(*base)]
    for i in range(5):
        changed = list(base)
        changed[i] += 1
        draws.append(bits(*changed))
    draws.append(bits(11 + 2**40, 1, 4, 5, 6))
    assert len({int(d) for d in draws}) == 7


def test_counters_broadcast() -> None:
    assert uniform(1, Purpose.STAY, np.arange(4)[:, None], np.arange(3)).shape == (4, 3)
    assert words(1, np.array([1, 2])[:, None], np.arange(3)).shape == (4, 2, 3)


def test_more_than_three_counters_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 3 counters, got 4"):
        uniform(1, Purpose.STAY, 1, 2, 3, 4)


def test_the_interval_is_open_at_both_ends() -> None:
    """A uniform of exactly 1 once gave infinite watch times: the extreme words must stay inside."""
    ends = unit(np.array([0, 0xFFFFFFFF], np.uint32))
    assert 0 < ends[0] < ends[1] < 1
    top = (np.uint64(2**64 - 1) >> np.uint64(12)).astype(np.float64)
    assert (top + 0.5) * 2.0**-52 < 1


def test_uniform_is_uniform_and_normal_is_normal() -> None:
    """Fixed seeds, so this cannot flicker; p-values of 1 in 1000 would be suspicious."""
    users = np.arange(100_000)
    assert stats.kstest(uniform(3, Purpose.STAY, users), "uniform").pvalue > 1e-3
    assert stats.kstest(normal(3, Purpose.STAY, 7, users), "norm").pvalue > 1e-3
    four = unit(words(3, Purpose.STAY, users))
    assert np.abs(np.corrcoef(four) - np.eye(4)).max() < 0.015


def test_neighbouring_counters_and_purposes_are_uncorrelated() -> None:
    users = np.arange(100_000)
    u = [uniform(3, p, users, c) for p in (Purpose.WATCH, Purpose.ACTION) for c in (0, 1)]
    assert np.abs(np.corrcoef(u) - np.eye(4)).max() < 0.015
    assert abs(np.corrcoef(u[0][1:], u[0][:-1])[0, 1]) < 0.015


def test_purposes_have_their_own_numbers() -> None:
    assert len({p.value for p in Purpose}) == len(Purpose.__members__)

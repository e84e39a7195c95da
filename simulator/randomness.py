"""Counter-based randomness: every draw is a pure function of (seed, purpose, counters).

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), vectorised in numpy.
The 64-bit seed is the key; the counter holds three integers (for instance user, item, n-th exposure) and the
purpose. There is no state: twins share luck, and a replay, another batch size or another shard sees the same
numbers. Use another purpose for each independent draw at the same counters.
"""

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

Words = NDArray[np.uint32]
Floats = NDArray[np.float64]

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)  # of counter words 0 and 2
_WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the two key words after each round
_ROUNDS = 10
_BLOCK = 8192  # draws whose words stay in the cache


class Purpose(IntEnum):
    """What a draw is for. The number is part of the counter: never reuse or renumber one."""

    # building a world: (user or item, column)
    USER_TRAITS = 1
    USER_TASTE = 2
    USER_TASTE_WEIGHT = 3
    ITEM_TAG = 4
    ITEM_DURATION = 5
    ITEM_AUTHOR = 6
    ITEM_UPLOAD = 7
    ITEM_QUALITY = 8
    ITEM_VECTOR = 9
    TAG_VECTOR = 10
    TAG_TRANSITION = 11
    USER_SAMPLE = 12
    ITEM_REACH = 13
    ITEM_SUCCESSOR = 14
    ITEM_SUCCESSOR_BOOST = 15
    USER_ANCHOR = 16
    UPLOADS_A_DAY = 17
    UPLOAD_MOMENT = 18
    UPLOAD_LIKE = 19
    # life: arrivals (user, day, candidate), leaving (user, session, request), responses: see behavior
    PAST_ACTIVITY = 20
    ACTIVE_DAY = 21
    SESSION_ACCEPTED = 22
    SESSION_START = 23
    STAY = 24
    GAP = 25
    WATCH = 26
    ACTION = 27
    DRIFT = 28
    NEW_INTEREST = 29
    NEW_INTEREST_TAG = 30
    SESSION_MOOD = 31
    # policies: (user, item, 0) and (user, session x request, slot or candidate)
    REFERENCE_NOISE = 40
    REFERENCE_CANDIDATE = 41
    SLOT_POLICY = 42
    SLOT_ITEM = 43
    # arms: (user, session, slot)
    EXPLORATION = 50


def philox(counter: Sequence[ArrayLike], key: tuple[int, int]) -> Words:
    """(4, ...) words of 32 bits for four counter words that broadcast, and two key words."""
    given = [np.asarray(c) for c in counter]
    out = np.empty((4, *np.broadcast(*given).shape), np.uint32)
    for number, word in enumerate(given):
        np.copyto(
            out[number, ...], word, casting="unsafe"
        )  # the low 32 bits; a negative counter wraps around
    words, schedule = out.reshape(4, -1), _schedule(*key)
    for start in range(0, words.shape[1], _BLOCK):
        block = words[:, start : start + _BLOCK]
        _rounds(block[0::2], block[1::2], schedule)
    return out


def _rounds(even: Words, odd: Words, schedule: Sequence[Words]) -> None:
    """Ten rounds in place. even: counter words 0 and 2, odd: 1 and 3; (2, m) each.

    In three operations a round: the even words stay the low halves of 64 bits, ready to be multiplied, and
    the odd ones carry the next round's key.
    """
    wide, product = np.empty((2, 2, even.shape[1]), np.uint64)
    wide[:] = even
    factors = wide.view(np.uint32)[:, ::2]  # low halves (little endian)
    halves = product.view(np.uint32).reshape(2, -1, 2)[::-1]  # of the other product
    low, high = halves[..., 0], halves[..., 1]
    keyed = odd ^ schedule[0]
    for next_keys in schedule[1:]:
        np.multiply(wide, _MULTIPLIERS, product)
        np.bitwise_xor(high, keyed, factors)
        np.bitwise_xor(low, next_keys, keyed)
    np.multiply(wide, _MULTIPLIERS, product)
    np.bitwise_xor(high, keyed, even)
    np.copyto(odd, low)


@lru_cache(maxsize=64)
def _schedule(k0: int, k1: int) -> tuple[Words, ...]:
    """The two key words of each round, (2, 1) each."""
    return tuple(
        np.array([[(k0 + r * _WEYL[0]) & 0xFFFFFFFF], [(k1 + r * _WEYL[1]) & 0xFFFFFFFF]], np.uint32)
        for r in range(_ROUNDS)
    )


def words(seed: int, purpose: ArrayLike, *counters: ArrayLike) -> Words:
    """(4, ...) independent 32-bit words for up to three counters; `purpose` may be an array too."""
    if len(counters) > 3:
        raise ValueError(f"a draw has at most 3 counters, got {len(counters)}")
    padded = (*counters, *(0,) * (3 - len(counters)))
    return philox((*padded, purpose), (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))


def bits(seed: int, purpose: int, *counters: ArrayLike) -> NDArray[np.uint64]:
    """64 random bits for each counter."""
    w = words(seed, purpose, *counters).astype(np.uint64)
    return (w[0] << np.uint64(32)) | w[1]


def uniform(seed: int, purpose: int, *counters: ArrayLike) -> Floats:
    """A draw in the open interval (0, 1), on a grid of 2**52 midpoints."""
    return ((bits(seed, purpose, *counters) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def normal(seed: int, purpose: int, *counters: ArrayLike) -> Floats:
    """A standard normal draw by the inverse distribution function, so it is monotone in `uniform`."""
    return ndtri(uniform(seed, purpose, *counters))


def unit(word: Words) -> Floats:
    """32-bit words as numbers in the open interval (0, 1), on a grid of 2**32 midpoints."""
    return (word.astype(np.float64) + 0.5) * 2.0**-32

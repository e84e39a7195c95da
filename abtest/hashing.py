"""Where users stand in a hash, in one of two schemes: the numbers that decide who is in what.

`blake2b`, the default: the first 8 bytes (big-endian) of the 64-byte BLAKE2b of salt, NUL, user as decimal
text, a place among 2^64. `growthbook`: the public scheme of GrowthBook's SDKs (`abtest.growthbook`).
"""

from collections.abc import Sequence
from fractions import Fraction
from hashlib import blake2b

import numpy as np
from numpy.typing import ArrayLike, NDArray

from abtest import growthbook

SCHEMES = ("blake2b", "growthbook")

Part = tuple[Fraction, Fraction]
"""A half-open range [start, end) of the places from 0 to 1."""


def user_hashes(salt: str, users: ArrayLike) -> NDArray[np.uint64]:
    """A uniform 64-bit number for each user.

    >>> user_hashes("lab", [7]).tolist()
    [3634195775350991210]
    """
    start = blake2b(salt.encode() + b"\0")

    def first_bytes(user: int) -> bytes:
        state = start.copy()
        state.update(b"%d" % user)
        return state.digest()[:8]

    return np.frombuffer(b"".join(map(first_bytes, _ids(users))), dtype=">u8").astype(np.uint64)


def parts_of(salt: str, users: ArrayLike, parts: Sequence[Part]) -> NDArray[np.int64]:
    """The index of the part that holds each user, -1 where none does. Parts are ascending and disjoint.

    A bound is floor(2^64 x its place), in exact arithmetic: what ends there and what starts there meet.
    """
    hashes = user_hashes(salt, users)
    found = np.full(len(hashes), -1, dtype=np.int64)
    for i, (start, end) in enumerate(parts):
        first, last = int(start * 2**64), int(end * 2**64) - 1
        if first <= last:
            found[(hashes >= np.uint64(first)) & (hashes <= np.uint64(last))] = i
    return found


def growthbook_parts(
    seed: str, users: ArrayLike, parts: Sequence[Part], *, version: int
) -> NDArray[np.int64]:
    """The same in GrowthBook's buckets."""
    ranges = [(float(start), float(end)) for start, end in parts]
    places = (growthbook.bucket(seed, str(user), version) for user in _ids(users))
    found = (growthbook.choose(place, ranges) for place in places)
    return np.array([-1 if i is None else i for i in found], dtype=np.int64)


def _ids(users: ArrayLike) -> list[int]:
    ids = np.atleast_1d(np.asarray(users))
    if ids.size and ids.dtype.kind not in "iu":
        raise ValueError(f"users are {ids.dtype}; user ids are whole numbers")
    return ids.tolist()

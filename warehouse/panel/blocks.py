"""Rows of a panel's sums as arrays, by arm, and which of them lie in a stretch of days."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Block:
    """Rows of sums of one arm: `keys` (days, whole numbers) and `values` (whole numbers of any size)."""

    def __init__(self, rows: Sequence[tuple[tuple[int, ...], Sequence[int]]]) -> None:
        self.keys = np.array([key for key, _ in rows], dtype=np.int64)
        self.values = np.array([values for _, values in rows], dtype=object)

    @classmethod
    def joined(cls, blocks: "Sequence[Block]") -> "Block":
        """The rows of all of them."""
        found = cls.__new__(cls)
        found.keys = np.concatenate([block.keys for block in blocks])
        found.values = np.concatenate([block.values for block in blocks])
        return found

    def total(self, mask: np.ndarray) -> list[int]:
        """The sum of each value over the rows of the mask."""
        return [int(value) for value in self.values[mask].sum(axis=0)]


Blocks = Mapping[str, Block]


class Stretch(NamedTuple):
    """Days `first` to `last`, of the experiment or since each user's exposure."""

    first: int
    last: int
    since_exposure: bool = False

    def holds(self, cohort: np.ndarray, day: np.ndarray, later: np.ndarray) -> np.ndarray:
        """Which rows lie in it from their day to the later one."""
        shift = cohort - 1 if self.since_exposure else 0
        return np.asarray((self.first + shift <= day) & (later <= self.last + shift))

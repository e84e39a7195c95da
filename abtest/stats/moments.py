"""Exact sums over users, from which every mean, ratio and variance of a report follows.

The values of a user are integers (counts, milliseconds), so their sums are exact and moments add: partitions,
days and machines give the same digits in any order. Floating point starts at the very end. Sums of floats
from foreign logs come as exact fractions, which are added and multiplied like integers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations_with_replacement
from math import fsum
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Moments:
    """`n` users, the sum of each column over them, and the sum of the product of each pair of columns.

    `products` holds a pair in either order, squares under (a, a). All are Python integers of any size (or
    fractions).
    """

    n: int
    sums: Mapping[str, Any]
    products: Mapping[tuple[str, str], Any]

    @classmethod
    def from_arrays(cls, **columns: ArrayLike) -> Self:
        """Moments of integer arrays, one value a user.

        >>> Moments.from_arrays(plays=[1, 2, 6]).variance("plays")
        7.0
        """
        values = {name: np.asarray(column) for name, column in columns.items()}
        lengths = {name: len(column) for name, column in values.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns differ in length: {lengths}; give one value a user in each")
        for name, column in values.items():
            if column.size and column.dtype.kind not in "iub":
                raise ValueError(
                    f"column {name!r} holds {column.dtype}; moments sum integers exactly, so scale it first"
                )
        n = next(iter(lengths.values()), 0)
        names = list(values)
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i:]]
        return cls(
            n,
            {name: _dot(values[name], np.ones(n, dtype=np.int64)) for name in names},
            {(a, b): _dot(values[a], values[b]) for a, b in pairs},
        )

    @classmethod
    def from_floats(cls, **columns: ArrayLike) -> Self:
        """Moments of float arrays as exact fractions, from deviations around each mean (which keep the digits
        of a variance). ValueError where a value is NaN or infinite."""
        x = {name: np.asarray(column, dtype=float) for name, column in columns.items()}
        for name, column in x.items():
            if not np.isfinite(column).all():
                raise ValueError(f"column {name!r} holds NaN or infinite values; leave them out first")
        n = len(next(iter(x.values()), ()))
        centre = {name: Fraction(float(column.mean()) if n else 0.0) for name, column in x.items()}
        d = {name: column - float(centre[name]) for name, column in x.items()}
        rest = {name: Fraction(fsum(deviation)) for name, deviation in d.items()}
        products = {
            (a, b): Fraction(fsum(d[a] * d[b]))
            + centre[a] * rest[b]
            + centre[b] * rest[a]
            + n * centre[a] * centre[b]
            for a, b in combinations_with_replacement(x, 2)
        }
        return cls(n, {name: rest[name] + n * centre[name] for name in x}, products)

    def __add__(self, other: "Moments") -> "Moments":
        """The moments of both sets of users together (they must be different users)."""
        if self.sums.keys() != other.sums.keys():
            raise ValueError(
                f"moments of {sorted(self.sums)} and {sorted(other.sums)} do not add; take the same columns"
            )
        return Moments(
            self.n + other.n,
            {name: value + other.sums[name] for name, value in self.sums.items()},
            {(a, b): value + other.product(a, b) for (a, b), value in self.products.items()},
        )

    def product(self, a: str, b: str) -> int:
        """The sum over users of column a times column b."""
        return self.products[a, b] if (a, b) in self.products else self.products[b, a]

    def mean(self, column: str) -> float:
        """The mean over users, as the correctly rounded quotient of two integers."""
        return float(self.sums[column] / self.n)

    def covariance(self, a: str, b: str) -> float:
        """The sample covariance (divisor n - 1), exact up to one final rounding."""
        n = self.n
        return float((n * self.product(a, b) - self.sums[a] * self.sums[b]) / (n * (n - 1)))

    def variance(self, column: str) -> float:
        """The sample variance (divisor n - 1), exact up to one final rounding."""
        return self.covariance(column, column)


def _dot(a: np.ndarray, b: np.ndarray) -> int:
    """Exact sum of products; in 64-bit integers where they cannot overflow, else in Python's."""
    if not len(a):
        return 0
    largest = _magnitude(a) * _magnitude(b) * len(a)
    if largest < 2**63:
        return int(np.dot(a.astype(np.int64), b.astype(np.int64)))
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def _magnitude(column: np.ndarray) -> int:
    return max(abs(int(column.max())), abs(int(column.min())))

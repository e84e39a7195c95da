"""From sums in the database to the moments of each window and arm, users without events included.

Integers and decimals are exact. Floats come as sums of deviations from a centre and are put together as exact
fractions: adding those is Chan's formula for central moments (Chan, Golub and LeVeque 1979) without its
rounding, so no variance is lost at a mean of 1e8 and a deviation of 1.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import isfinite
from typing import Any, NamedTuple

from warehouse.queries import Window

Number = int | Fraction


class LogMoments(NamedTuple):
    """Sums over the `n` users of an arm that were exposed before the window's end."""

    arm: str
    window: Window
    n: int
    sums: dict[str, Number]
    products: dict[tuple[str, str], Number]


def exact_moments(
    row: Sequence[Any], names: Sequence[str], scales: Sequence[int], pairs: Sequence[tuple[int, int]]
) -> tuple[dict[str, Number], dict[tuple[str, str], Number]]:
    """Sums and products of one row of `queries.exact_sums`; `scales` are the decimals of each total.

    OverflowError where the database left the integers, as SQLite does beyond 64 bits.
    """
    if not all(isinstance(value, int) for value in row[4:]):
        raise OverflowError("a sum does not fit the integers of the database")
    n = len(names)
    values = [int(value) for value in row[4:]]
    sums = {name: _scaled(value, scale) for name, value, scale in zip(names, values[:n], scales, strict=True)}
    products = {
        (names[i], names[j]): _scaled(value, scales[i] + scales[j])
        for (i, j), value in zip(pairs, values[n:], strict=True)
    }
    return sums, products


def central_moments(
    row: Sequence[Any], names: Sequence[str], scales: Sequence[int], pairs: Sequence[tuple[int, int]]
) -> tuple[dict[str, Number], dict[tuple[str, str], Number]]:
    """Sums and products of one row of `queries.central_sums`, as the fractions that these floats are.

    With deviations u, v from centres a, b: sum xy = sum uv + a sum v + b sum u + n a b. OverflowError where a
    sum is not finite.
    """
    n, k = int(row[3]), len(names)
    if not all(isfinite(value) for value in row[4:]):
        raise OverflowError("a sum is too large for a float")
    numbers = [Fraction(value) for value in row[4:]]
    centre, deviation, product = numbers[:k], numbers[k : 2 * k], numbers[2 * k :]
    sums: dict[str, Number] = {
        name: (deviation[i] + n * centre[i]) / 10 ** scales[i] for i, name in enumerate(names)
    }
    products: dict[tuple[str, str], Number] = {}
    for (i, j), uv in zip(pairs, product, strict=True):
        cross = centre[i] * deviation[j] + centre[j] * deviation[i]
        total = uv + cross + n * centre[i] * centre[j]
        products[names[i], names[j]] = total / 10 ** (scales[i] + scales[j])
    return sums, products


def exposed_until(by_day: Mapping[tuple[int, str], int], arm: str, last_day: int) -> int:
    """Users of an arm exposed on days up to `last_day`."""
    return sum(n for (day, of_arm), n in by_day.items() if of_arm == arm and day <= last_day)


def _scaled(value: int, scale: int) -> Number:
    return Fraction(value, 10**scale) if scale else value

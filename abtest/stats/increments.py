"""Looks whose increments are independent: the law of the score process inside the bounds, exactly.

The recursion of Armitage, McPherson and Rowe (JRSS A 1969): the density of those who have crossed no bound
after a look is that after the look before, spread by the increment. Gauss-Legendre integration, with enough
nodes that probabilities are good to about 1e-10 of themselves.
"""

from functools import cache
from math import ceil, sqrt
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, roots_legendre

Floats = NDArray[np.float64]

WIDEST = 38.0  # standard errors within which bounds are looked for
NODES_PER_STEP = 8.0  # nodes for each standard deviation of an increment
LEAST_NODES = 48
MOST_NODES = 2000


class Inside(NamedTuple):
    """Those who have crossed no bound by information `t`: nodes of the score and their probabilities. Without
    nodes all stand at 0, before the first look."""

    t: float = 0.0
    score: Floats = np.zeros(1)
    mass: Floats = np.ones(1)

    def crossing(self, bound: float, t: float) -> float:
        """The probability of crossing +-bound at the look at t (beyond `self.t`), and none before."""
        step, edge = sqrt(t - self.t), bound * sqrt(t)
        return float(self.mass @ (ndtr((self.score - edge) / step) + ndtr((-edge - self.score) / step)))

    def after(self, bound: float, t: float, following: float) -> Self | None:
        """Those who do not cross +-bound at the look at t, to be asked about the `following` look. None where
        the looks are so near to each other that it would take too many nodes."""
        step, edge = sqrt(t - self.t), min(bound, WIDEST) * sqrt(t)
        finest = min(
            step, sqrt(following - t)
        )  # the density is as smooth as its increment, the next as its own
        least = LEAST_NODES + NODES_PER_STEP * edge / finest
        if least > MOST_NODES:
            return None
        nodes, weights = _legendre(32 * ceil(least / 32))  # few different numbers, as their places are kept
        score = edge * nodes
        gaps = (score[:, None] - self.score[None, :]) / step
        density = np.exp(-gaps * gaps / 2) @ self.mass / (step * sqrt(2 * np.pi))
        return type(self)(t, score, edge * weights * density)


@cache
def _legendre(n: int) -> tuple[Floats, Floats]:
    nodes, weights = roots_legendre(n)
    return np.asarray(nodes), np.asarray(weights)

"""Before an experiment with several looks: its power, and what the looks cost."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

DRAWS = 40_000


def drifts_needed(levels: Sequence[float], information: Sequence[float]) -> NDArray[np.float64]:
    """Of each of 40,000 fixed paths the drift (the expected statistic of the last look) from which on some
    look rejects in its direction, in ascending order.

    `levels` are the looks' two-sided levels, `information` their shares of the last one's. Increments are
    independent.
    """
    t = np.asarray(information, dtype=float)
    if len(levels) != len(t) or not len(t) or (np.diff(t, prepend=0.0) <= 0).any():
        raise ValueError(f"{len(levels)} levels for information {list(t)}; shares must grow, one a look")
    steps = np.random.default_rng(0).standard_normal((DRAWS, len(t))) * np.sqrt(np.diff(t, prepend=0.0))
    paths = steps.cumsum(axis=1) / np.sqrt(t)
    bounds = -ndtri(np.asarray(levels) / 2)
    return np.sort(((bounds - paths) / np.sqrt(t)).min(axis=1))


def power_at_drift(needed: NDArray[np.float64], drift: float) -> float:
    """The share of paths that a drift takes beyond a bound: good to about .005."""
    return float(np.searchsorted(needed, drift, side="right") / len(needed))


def looks_inflation(needed: NDArray[np.float64], *, alpha: float = 0.05, power: float = 0.8) -> float:
    """By how much the detectable lift grows when a test with these looks replaces one fixed test at alpha:
    good to about .5 %."""
    return float(np.quantile(needed, power) / (ndtri(1 - alpha / 2) + ndtri(power)))

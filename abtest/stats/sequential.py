"""Several looks at one test: group-sequential bounds by spending alpha, and always-valid bounds.

Lan and DeMets (Biometrika 1983): a function says how much alpha may be spent by a share t of the planned
information, and each look's bound is what spends its part, given the joint normal law of all looks so far.
That law has the correlation of the looks as estimated; independent increments are the case sqrt(t_i / t_j).
Always valid: the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas (Annals of
Statistics 2024), the same boundary as a normal-mixture mSPRT; it holds at any number of looks.

Bounds are told as nominal levels: a look rejects when its own two-sided p is at most its level.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from math import exp, inf, log, log1p, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

from abtest.stats.increments import Inside

SPENDING = ("obf", "pocock")
METHODS = (*SPENDING, "always-valid")

POINTS = 2048
"""Points of the integration over earlier looks of any correlation: bounds are good to about 1e-5 at 5 looks,
to 2e-4 at 14. Where increments are independent the recursion (`increments`) is exact."""
GENERATOR = (
    1, 182667, 469891, 498753, 110745, 446247, 250185, 118627, 245333, 283199, 408519, 391023, 246327, 126539,
)  # fmt: skip
"""Of the lattice rule that is good for 2^10 to 2^20 points: Cools, Kuo, Nuyens (SIAM J. Sci. Comput. 2006),
lattice-32001-1024-1048576.3600."""
ROUNDING = 1e-10
"""Added to the diagonal of correlations, so that equal looks can be told apart from none."""
SMALLEST = 1e-300
TINY = 1e-6
"""Where no more than this alpha is spent in all, a look's level is what it spends: safe, and as good."""


def spent(method: str, alpha: float, t: float) -> float:
    """Alpha that may be spent by information share t (0 to 1): alpha itself at 1.

    obf: 4 (1 - Phi(z_{alpha/4} / sqrt t)), of the O'Brien-Fleming type for two sides;
    pocock: alpha log(1 + (e - 1) t).
    """
    if t <= 0:
        return 0.0
    if method == "obf":
        return float(4 * ndtr(ndtri(alpha / 4) / sqrt(min(t, 1.0))))
    if method == "pocock":
        return alpha * log1p((exp(1) - 1) * min(t, 1.0))
    raise ValueError(f"unknown spending {method!r}; known: {', '.join(SPENDING)}")


def nominal_levels(
    method: str,
    alpha: float,
    information: Sequence[float],
    correlation: ArrayLike | None = None,
    *,
    tuned_alpha: float = 0.05,
) -> list[float]:
    """The two-sided level of each look so that all looks together reject with probability alpha at most.

    `information`: shares of the planned final one, above 0, not decreasing. `correlation` (looks x looks) of
    the test statistics, by default that of independent increments. A level is 0 where no alpha is left to
    spend. `tuned_alpha` matters to always-valid alone: its mixture is narrowest at t = 1 and this level.
    """
    t = _checked(information)
    if method == "always-valid":
        return [always_valid_level(alpha, share, tuned_alpha=tuned_alpha) for share in t]
    so_far = [spent(method, alpha, share) for share in t]
    increments = np.diff(so_far, prepend=0.0).tolist()
    r = canonical_correlation(t) if correlation is None else np.asarray(correlation, dtype=float)
    has_increments = correlation is None or np.allclose(r, canonical_correlation(t), rtol=0, atol=ROUNDING)
    bounds = _bounds_by_recursion(t, so_far, increments) if has_increments else None
    if bounds is None:
        bounds = []
        for k in range(len(t)):
            bounds.append(_bound(r[: k + 1, : k + 1], bounds, so_far[k], increments[k]))
    return [float(2 * ndtr(-bound)) for bound in bounds]


def sequential_p(
    method: str,
    p_values: Sequence[float],
    information: Sequence[float],
    correlation: ArrayLike | None = None,
    *,
    tuned_alpha: float = 0.05,
) -> list[float]:
    """After each look: the smallest alpha at which this or an earlier look would have rejected.

    `p_values` are the looks' own two-sided p. The last one is a p-value of the whole sequence.
    """
    t = _checked(information)
    if len(p_values) != len(t):
        raise ValueError(f"{len(p_values)} p-values for {len(t)} looks; give one a look")
    if method == "always-valid":
        found = [
            always_valid_p(p, share, tuned_alpha=tuned_alpha) for p, share in zip(p_values, t, strict=True)
        ]
        return [float(p) for p in np.minimum.accumulate(found)] if found else []
    r = canonical_correlation(t) if correlation is None else np.asarray(correlation, dtype=float)
    so_far: list[float] = []
    best = 1.0
    for k, p in enumerate(p_values):
        best = min(best, _p_of_look(method, p, t[: k + 1], r[: k + 1, : k + 1], best))
        so_far.append(best)
    return so_far


def always_valid_level(alpha: float, t: float, *, tuned_alpha: float = 0.05) -> float:
    """The two-sided level at information share t whose bound may be watched at any time."""
    v = t * mixture(tuned_alpha)
    if t <= 0:
        return 0.0
    return float(2 * ndtr(-sqrt((1 + 1 / v) * (log1p(v) - 2 * log(alpha)))))


def always_valid_p(p: float, t: float, *, tuned_alpha: float = 0.05) -> float:
    """The alpha at which a look with this two-sided p touches its always-valid bound; at most 1."""
    v = t * mixture(tuned_alpha)
    if t <= 0:
        return 1.0
    z = float(ndtri(p / 2)) if p > 0 else -inf
    return min(1.0, exp((log1p(v) - z * z * v / (1 + v)) / 2))


def mixture(tuned_alpha: float) -> float:
    """rho^2 times the final information, the tuning under which the bound is narrowest there (about)."""
    return -2 * log(tuned_alpha) + log(-2 * log(tuned_alpha) + 1)


def canonical_correlation(information: Sequence[float]) -> NDArray[np.float64]:
    """The correlation of looks whose increments are independent: sqrt(t_i / t_j) for t_i <= t_j."""
    t = np.asarray(information, dtype=float)
    return np.sqrt(np.minimum.outer(t, t) / np.maximum.outer(t, t))


def as_correlation(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric matrix as it is where it can be a correlation, else without its negative eigenvalues and
    with ones on the diagonal again.

    Correlations that were estimated pair by pair need not fit together: where few users do little, two looks
    may seem the same and yet differ in their correlation with a third.
    """
    values, vectors = np.linalg.eigh(r)
    if values[0] > -ROUNDING / 2:
        return r
    fitting = (vectors * np.maximum(values, 0.0)) @ vectors.T
    scale = np.sqrt(np.diag(fitting))
    fitting = np.clip(fitting / np.outer(scale, scale), -1.0, 1.0)
    np.fill_diagonal(fitting, 1.0)
    return fitting


def _checked(information: Sequence[float]) -> list[float]:
    t = [float(share) for share in information]
    if any(not 0 < share <= 1 + 1e-12 for share in t) or any(b < a for a, b in pairwise(t)):
        raise ValueError(f"information is {t}; shares lie above 0, are at most 1 and do not decrease")
    return t


def _p_of_look(method: str, p: float, t: list[float], r: NDArray[np.float64], best: float) -> float:
    """The alpha at which the last look touches its bound, or `best` where that is no less."""

    def margin(log_alpha: float) -> float:
        level = nominal_levels(method, exp(log_alpha), t, r)[-1]
        return log(max(level, SMALLEST)) - log(max(p, SMALLEST))

    # a look's level is at most what is spent by then, and at least what is spent at it
    before = t[-2] if len(t) > 1 else 0.0
    least = _inverse(lambda alpha: spent(method, alpha, t[-1]), p, best)
    if p >= best or least >= best or margin(log(best)) < 0:
        return best
    most = _inverse(lambda alpha: spent(method, alpha, t[-1]) - spent(method, alpha, before), p, best)
    if len(t) == 1 or least <= SMALLEST:
        return least
    if most < TINY:
        return most
    return exp(_root(margin, log(least), log(most), 1e-5))


def _inverse(increasing: Callable[[float], float], value: float, most: float) -> float:
    """The alpha, at most `most`, at which an increasing function of alpha reaches a value."""
    if increasing(most) <= value:
        return most
    if increasing(SMALLEST) >= value:
        return SMALLEST
    found = brentq(lambda x: increasing(exp(x)) - value, log(SMALLEST), log(most), xtol=1e-9)
    return exp(float(found))


def _bounds_by_recursion(
    t: Sequence[float], so_far: Sequence[float], increments: Sequence[float]
) -> list[float] | None:
    """The bounds of looks whose increments are independent; None where some are too small for it."""
    inside, found = Inside(), list[float]()
    for k, (share, increment) in enumerate(zip(t, increments, strict=True)):
        if increment <= 0 or share <= inside.t:
            found.append(inf)
            continue
        high, low = float(-ndtri(increment / 2)), float(-ndtri(min(so_far[k], 1.0) / 2))
        if inside.t == 0:
            found.append(high)
        else:

            def excess(
                b: float, inside: Inside = inside, share: float = share, log_part: float = log(increment)
            ) -> float:
                return log(max(inside.crossing(b, share), SMALLEST)) - log_part

            found.append(_root(excess, low, high, 1e-10))
        following = next((later for later in t[k + 1 :] if later > share), None)
        if following is not None:
            after = inside.after(found[-1], share, following)
            if after is None:
                return None
            inside = after
    return found


def _bound(r: NDArray[np.float64], earlier: Sequence[float], so_far: float, increment: float) -> float:
    """The bound of the last look: first crossed here with probability `increment`."""
    if increment <= 0:
        return inf
    # P(|Z| >= b) is at least the increment and at most all that is spent so far
    high, low = float(-ndtri(increment / 2)), float(-ndtri(min(so_far, 1.0) / 2))
    if so_far < TINY or not any(bound < inf for bound in earlier) or high <= low:
        return high

    def excess(b: float) -> float:
        return float(log_ndtr(-b)) + log(max(stays_inside(r, earlier, b), SMALLEST)) - log(increment / 2)

    return _root(excess, low, high, 1e-7)


def stays_inside(r: NDArray[np.float64], earlier: Sequence[float], b: float) -> float:
    """P(|Z_j| < earlier_j for all earlier looks, given that the last look's Z >= b), by a lattice rule.

    Conditioning on the tail keeps the relative error small however far out b is. The earlier looks are
    integrated from late to early, each within its bounds given those after it (Genz 1992).
    """
    k = len(earlier)
    order = [k, *(j for j in reversed(range(k)) if earlier[j] < inf)]
    chol = np.linalg.cholesky(r[np.ix_(order, order)] + ROUNDING * np.eye(len(order)))
    points = _lattice(len(order) - 1)
    innovations = [-ndtri(points[0] * ndtr(-b))]
    inside = np.ones(POINTS)
    for i, j in enumerate(order[1:], start=1):
        mean = sum(chol[i, m] * y for m, y in enumerate(innovations))
        low, high = (ndtr((side * earlier[j] - mean) / chol[i, i]) for side in (-1, 1))
        inside = inside * (high - low)
        if i < len(order) - 1:
            between = np.clip(low + points[i] * (high - low), SMALLEST, 1 - 1e-16)
            innovations.append(ndtri(between))
    return float(inside.mean())


@cache
def _lattice(dimensions: int) -> NDArray[np.float64]:
    """Points of a shifted lattice, folded so that the integrand is periodic: (dimensions, POINTS). Beyond the
    dimensions of the generator it goes on with square roots of primes, which are less even."""
    primes = [p for p in range(2, 400) if all(p % q for q in range(2, int(sqrt(p)) + 1))]
    if dimensions > len(primes):
        raise ValueError(f"{dimensions + 1} looks; at most {len(primes) + 1} are possible, look less often")
    roots = np.sqrt(primes[:dimensions])
    steps = np.array([z % POINTS / POINTS for z in GENERATOR[:dimensions]] + list(roots[len(GENERATOR) :]))
    shifts = np.random.default_rng(1).random((dimensions, 1))
    raw = (np.outer(steps, np.arange(POINTS)) + shifts) % 1
    return np.clip(np.abs(2 * raw - 1), 1e-12, 1 - 1e-12)


def _root(function: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """The zero between two ends; an end itself where the function has one sign up to rounding."""
    at_low, at_high = function(low), function(high)
    if at_low * at_high >= 0:
        return low if abs(at_low) < abs(at_high) else high
    return float(brentq(function, low, high, xtol=tolerance))

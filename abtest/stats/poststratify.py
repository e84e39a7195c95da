"""Post-stratification: arms compared within strata that users were in before, such as countries.

Miratrix, Sekhon and Yu (2013): an arm's mean is that of its strata's means, weighed by the strata's shares of
all arms' users, so that chance differences in the mix of users drop out. That is the regression on arm,
strata and their products, strata centred (Lin 2013), with HC2 errors. In large samples the variance is never
larger than without; strata of few users would cost more than they give, so they are pooled.

A ratio is total over total of the weighed means, linearised as ever, so it estimates the same as without.
Covariates are adjusted for with one theta, of least squares within strata and arms. Shares, theta and the
covariates' means of all arms are taken as known, as is usual.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from abtest.stats.cuped import Form, form_covariance, pooled_theta
from abtest.stats.means import Estimate
from abtest.stats.moments import Moments
from abtest.stats.strata import stratified_estimate

LEAST_USERS = 30
"""Users of each arm below which a stratum is pooled: with n of them a within-stratum variance is too large by
about 1 / n of itself, and the estimate's degrees of freedom are few."""

Arms = Mapping[str, Moments]


class Cell(NamedTuple):
    """A stratum, or those that were pooled: their names, and the moments of each arm in it."""

    names: tuple[str, ...]
    arms: Arms

    @property
    def n(self) -> int:
        return sum(moments.n for moments in self.arms.values())


class PostStratified(NamedTuple):
    """Estimates by arm: by strata alone, and adjusted for covariates too (the same without theta). `forms`
    are what one user adds to the metric, linearised; `shares` those of the cells."""

    alone: Mapping[str, Estimate]
    adjusted: Mapping[str, Estimate]
    theta: Mapping[str, float]
    forms: Mapping[str, Form]
    cells: tuple[Cell, ...]
    shares: tuple[float, ...]

    @property
    def names(self) -> tuple[tuple[str, ...], ...]:
        """Of each cell."""
        return tuple(cell.names for cell in self.cells)


def cells_of(strata: Mapping[str, Arms], *, least: int = LEAST_USERS) -> list[Cell]:
    """The strata, the largest first; those with fewer than `least` users in an arm are pooled, with the
    smallest of the others where they are too few together. Arms that nobody is in do not count."""
    cells = sorted(
        (Cell((name,), arms) for name, arms in strata.items()), key=lambda cell: (-cell.n, cell.names)
    )
    used = {arm for cell in cells for arm, moments in cell.arms.items() if moments.n}
    kept = [cell for cell in cells if _fewest(cell, used) >= least]
    small = [cell for cell in cells if cell.n and _fewest(cell, used) < least]
    if small and kept and _fewest(_together(small), used) < least:
        small.append(kept.pop())
    return [*kept, _together(small)] if small else kept


def post_stratify(
    cells: Sequence[Cell],
    numerator: str,
    denominator: str | None = None,
    *,
    covariates: Sequence[str] = (),
    scale: int = 1,
) -> PostStratified | None:
    """The mean of a column (with a denominator: total over total) in each arm that has users.

    None where a ratio divides by 0 or an arm has fewer than 2 users in a cell.
    """
    n_users = sum(cell.n for cell in cells)
    shares = [Fraction(cell.n, n_users) for cell in cells]
    names = [arm for arm in cells[0].arms if any(cell.arms[arm].n for cell in cells)]
    if any(cell.arms[arm].n < 2 for cell in cells for arm in names):
        return None
    values, forms = {}, {}
    for arm in names:
        found = _linearised([cell.arms[arm] for cell in cells], shares, numerator, denominator, scale)
        if found is None:
            return None
        values[arm], forms[arm] = found
    by_cell = {(i, arm): cell.arms[arm] for i, cell in enumerate(cells) for arm in names}
    forms_by_cell = {str(key): forms[key[1]] for key in by_cell}
    theta = (
        pooled_theta({str(key): m for key, m in by_cell.items()}, forms_by_cell, covariates) or {}
        if covariates and n_users > len(by_cell) + len(covariates) + 1
        else {}
    )
    exact = {name: Fraction(value) for name, value in theta.items()}
    alone, adjusted = (
        {
            arm: _estimate(
                [cell.arms[arm] for cell in cells], shares, values[arm], forms[arm], cells, weights
            )
            for arm in names
        }
        for weights in ({}, exact)
    )
    return PostStratified(alone, adjusted, theta, forms, tuple(cells), tuple(map(float, shares)))


def _linearised(
    strata: Sequence[Moments],
    shares: Sequence[Fraction],
    numerator: str,
    denominator: str | None,
    scale: int,
) -> tuple[Fraction, Form] | None:
    """An arm's value, and what one user adds to it (up to a constant)."""
    x = _weighed(strata, shares, numerator)
    if denominator is None:
        return x / scale, {numerator: Fraction(1, scale)}
    y = _weighed(strata, shares, denominator)
    if y == 0:
        return None
    if numerator == denominator:
        return Fraction(1, scale), {numerator: Fraction(0)}
    return x / y / scale, {numerator: 1 / (y * scale), denominator: -x / (y * y * scale)}


def _weighed(strata: Sequence[Moments], shares: Sequence[Fraction], name: str) -> Fraction:
    """The mean of a column over an arm's users, weighed by stratum."""
    means = [Fraction(moments.sums[name]) / moments.n for moments in strata]
    return sum((share * mean for share, mean in zip(shares, means, strict=True)), Fraction(0))


def _estimate(
    strata: Sequence[Moments],
    shares: Sequence[Fraction],
    value: Fraction,
    form: Form,
    cells: Sequence[Cell],
    theta: Mapping[str, Fraction],
) -> Estimate:
    """Of one arm; with theta less what its strata's covariates differ from those of all arms' users."""
    residual = {**form, **{name: -weight for name, weight in theta.items()}}
    shift, parts = Fraction(0), []
    for moments, share, cell in zip(strata, shares, cells, strict=True):
        for name, weight in theta.items():
            everybody = Fraction(sum(m.sums[name] for m in cell.arms.values() if m.n)) / cell.n
            shift += share * weight * (Fraction(moments.sums[name]) / moments.n - everybody)
        parts.append(float(share**2 * form_covariance(moments, residual, residual) / moments.n))
    n = sum(moments.n for moments in strata)
    return stratified_estimate(n, float(value - shift), sum(parts), parts, [m.n - 1 for m in strata])


def _fewest(cell: Cell, arms: set[str]) -> int:
    return min((cell.arms[arm].n for arm in arms), default=0)


def _together(cells: Sequence[Cell]) -> Cell:
    arms: dict[str, Moments] = {}
    for cell in cells:
        for arm, moments in cell.arms.items():
            before = arms.get(arm)
            arms[arm] = (
                moments if before is None or not before.n else before + moments if moments.n else before
            )
    return Cell(tuple(name for cell in cells for name in cell.names), arms)

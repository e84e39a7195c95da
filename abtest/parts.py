"""What single users did, in parts: of a phase, of a segment, of a stratum. Arms are compared within parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from abtest.stats.clustered import Clustered
from abtest.stats.moments import Moments
from abtest.stats.poststratify import Cell, cells_of

Columns = Mapping[str, NDArray[np.generic]]
Caps = Mapping[str, float]
"""Of each capped column, in its own unit."""


@dataclass(frozen=True)
class Part:
    """What some users did, by arm: `columns` of a value a user, or the `events` of a quantile."""

    columns: Mapping[str, Columns] = field(default_factory=dict)
    events: Mapping[str, Clustered] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Users of each arm."""
        counts = {arm: len(next(iter(columns.values()))) for arm, columns in self.columns.items()}
        return {**counts, **{arm: sample.n for arm, sample in self.events.items()}}

    @property
    def n(self) -> int:
        return sum(self.sizes.values())

    def of(self, users: Mapping[str, NDArray[np.bool_]]) -> "Part":
        """Only these users of each arm."""
        return Part(
            {
                arm: {name: x[users[arm]] for name, x in columns.items()}
                for arm, columns in self.columns.items()
            },
            {arm: _only(sample, users[arm]) for arm, sample in self.events.items()},
        )

    def cut(self, caps: Caps) -> "Part":
        """The columns, none above its cap."""
        return Part({arm: _cut(columns, caps) for arm, columns in self.columns.items()}, self.events)

    def n_above(self, name: str, value: float) -> int:
        """Users whose column lies above a value."""
        return sum(int((np.asarray(columns[name], float) > value).sum()) for columns in self.columns.values())


class Strata(NamedTuple):
    """The strata of a part's users: their names, and by arm the place of each user's among them."""

    names: tuple[str, ...]
    of_user: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of_labels(cls, labels: Mapping[str, NDArray[np.generic]]) -> Self:
        """From the name of each user's stratum, by arm."""
        places: dict[str, int] = {}
        of_user = {
            arm: np.array([places.setdefault(name, len(places)) for name in names.tolist()], dtype=np.int64)
            for arm, names in labels.items()
        }
        return cls(tuple(places), of_user)

    def parts(self, part: Part, names: Sequence[str] | None = None) -> dict[str, Part]:
        """The users of each stratum."""
        return {name: self.users(part, [name]) for name in names or self.names}

    def users(self, part: Part, names: Sequence[str]) -> Part:
        """The users of some strata together."""
        wanted = np.isin(self.names, names)
        return part.of({arm: wanted[places] for arm, places in self.of_user.items()})

    def cells(self) -> list[Cell]:
        """The strata, small ones pooled; of the cells' arms only the numbers of users are known."""
        n = {arm: np.bincount(places, minlength=len(self.names)) for arm, places in self.of_user.items()}
        return cells_of(
            {
                name: {arm: Moments(int(counts[k]), {}, {}) for arm, counts in n.items()}
                for k, name in enumerate(self.names)
            }
        )


class Piece(NamedTuple):
    """A part within which arms are compared, and its share of all users."""

    part: Part
    share: float
    cell: Cell | None = None


def pieces_of(parts: Sequence[Part], strata: Sequence[Strata] = ()) -> list[Piece]:
    """The phases that have users; with the strata of each, their cells."""
    n_users = sum(part.n for part in parts)
    if not n_users:
        return [Piece(parts[0], 1.0)]
    if not strata:
        return [Piece(part, part.n / n_users) for part in parts if part.n]
    return [
        Piece(of_phase.users(part, cell.names), cell.n / n_users, cell)
        for part, of_phase in zip(parts, strata, strict=True)
        for cell in of_phase.cells()
        if cell.n
    ]


def _only(sample: Clustered, users: NDArray[np.bool_]) -> Clustered:
    """The events of some of the users, who are numbered anew."""
    assert sample.users is not None, sample
    kept, places = users[sample.users], np.cumsum(users) - 1
    return Clustered(sample.values[kept], places[sample.users[kept]], int(users.sum()))


def _cut(columns: Columns, caps: Caps) -> Columns:
    return {name: np.minimum(x, _like(x, caps[name])) if name in caps else x for name, x in columns.items()}


def _like(x: NDArray[np.generic], cap: float) -> Any:
    """The cap as a value of the column; the largest whole number where a float had to round it up."""
    if x.dtype.kind == "f":
        return x.dtype.type(cap)
    return x.dtype.type(min(int(cap), np.iinfo(x.dtype).max))  # type: ignore[type-var]

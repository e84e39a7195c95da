"""Who can be in an experiment at all: its part of a layer, the holdout, and how much it covers by phase.

A layer is a hash of its own. Experiments of one layer take disjoint ranges of it, so no user is in two of
them; layers do not know of each other, so experiments of different layers are independent. Holdout users are
in no experiment. A phase says from when on which share of the rest is in (a ramp-up), and with which weights.
Whoever is not in is served by the control and is in no count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, pairwise
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from abtest.hashing import growthbook_parts, parts_of
from warehouse.events import DAY_MS


@dataclass(frozen=True)
class Layer:
    """An experiment's part [start, end) of a layer, as fractions. Salt: "layer", NUL, name; in GrowthBook's
    scheme it is a namespace."""

    name: str
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not self.name.strip() or "\0" in self.name:
            raise ValueError(f"the layer's name is {self.name!r}; give it a name, without NUL")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(
                f"layer {self.name!r} has the range {_percents(self)}; a range lies within 0-100 percent and"
                " ends above its start"
            )

    def holds(self, users: ArrayLike, scheme: str = "blake2b") -> NDArray[np.bool_]:
        """Whether each user belongs to this part."""
        part = [(Fraction(self.start), Fraction(self.end))]
        if scheme == "growthbook":
            return growthbook_parts("__" + self.name, users, part, version=1) == 0
        return parts_of(f"layer\0{self.name}", users, part) == 0


@dataclass(frozen=True)
class Holdout:
    """A share of all users that no experiment may touch. Salt: "holdout", NUL, `salt`, the same for all
    experiments that respect one holdout; a larger share holds the users of a smaller one."""

    share: float
    salt: str = "global"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(
                f"the holdout is {100 * self.share:g} percent of users; above 0 and below 100 are allowed"
            )
        if "\0" in self.salt:
            raise ValueError(f"the holdout's salt {self.salt!r} holds a NUL character; leave it out")

    def holds(self, users: ArrayLike) -> NDArray[np.bool_]:
        """Whether each user is held out."""
        return parts_of(f"holdout\0{self.salt}", users, [(Fraction(0), Fraction(self.share))]) == 0


@dataclass(frozen=True)
class Phase:
    """A part of an experiment's time, from `start_ms` after its start until the next phase. `coverage` is the
    share of the users that could be in who are; `weights` are the arms', in their order (none: their own)."""

    start_ms: int = 0
    coverage: float = 1.0
    weights: tuple[float, ...] = ()

    @property
    def first_day(self) -> int:
        """The day, from 1, in which the phase starts."""
        return self.start_ms // DAY_MS + 1


def check_phases(phases: Sequence[Phase], arm_weights: Sequence[float], days: int) -> None:
    """ValueError unless phases follow each other from the start and within the days, and a ramp only grows.

    An arm that has no users in one phase has none in all: it could be compared in some phases only.
    """
    if not phases or phases[0].start_ms != 0:
        raise ValueError("the first phase must start with the experiment, on day 1")
    for before, phase in pairwise(phases):
        if phase.start_ms <= before.start_ms:
            raise ValueError(
                f"phases start on days {[p.first_day for p in phases]}; each must start after the one before"
            )
        if phase.coverage < before.coverage:
            raise ValueError(
                f"the phase of day {phase.first_day} covers {100 * phase.coverage:g} percent, the one before"
                f" {100 * before.coverage:g}; coverage may only grow, since users who are in stay in"
            )
    if phases[-1].start_ms >= days * DAY_MS:
        raise ValueError(f"a phase starts on day {phases[-1].first_day} of an experiment of {days} days")
    for phase in phases:
        if not all(isfinite(weight) for weight in phase.weights):
            raise ValueError(f"a phase has weights {list(phase.weights)}; weights are finite and 0 or more")
        if not 1e-6 <= phase.coverage <= 1:
            raise ValueError(
                f"a phase covers {100 * phase.coverage:g} percent; above 0 and at most 100 are allowed"
            )
        if phase.weights and [w > 0 for w in phase.weights] != [w > 0 for w in arm_weights]:
            raise ValueError(
                f"the phase of day {phase.first_day} has weights {list(phase.weights)}; every phase"
                f" must give users to the same arms as the weights {list(arm_weights)}"
            )


def check_disjoint(layer: Layer, others: Mapping[str, Layer], name: str) -> None:
    """ValueError where two experiments of a layer share users. `name` is the experiment in `layer`."""
    taken = {name: layer, **others}
    for one, other in combinations(taken, 2):
        a, b = taken[one], taken[other]
        if a.start < b.end and b.start < a.end:
            raise ValueError(
                f"experiments {one!r} ({_percents(a)}) and {other!r} ({_percents(b)}) overlap in layer"
                f" {layer.name!r}; give them ranges that do not"
            )


def parse_layer(text: str) -> Layer:
    """A layer and a range in percent of it; the whole layer without one.

    >>> parse_layer("feed:0-50")
    Layer(name='feed', start=0.0, end=0.5)
    """
    name, separator, span = text.rpartition(":")
    if not separator:
        return Layer(text)
    start, _, end = span.partition("-")
    try:
        bounds = float(start) / 100, float(end) / 100
    except ValueError:
        raise ValueError(f"{text!r} is not NAME:FROM-TO in percent, such as feed:0-50") from None
    return Layer(name, *bounds)


def parse_phases(given: str | Sequence[Mapping[str, Any]], n_arms: int) -> tuple[Phase, ...]:
    """Phases from text such as "1:10,3:50" (day:percent), or from tables with day, coverage and split."""
    if isinstance(given, str):
        return tuple(_phase(part, n_arms) for part in map(_table, given.split(","))) if given else (Phase(),)
    return tuple(_phase(table, n_arms) for table in given) or (Phase(),)


def parse_split(split: str, n_arms: int) -> tuple[float, ...]:
    """The weights of arms, from percents such as "80,20"."""
    try:
        percents = [float(part) for part in split.split(",")]
    except ValueError:
        raise ValueError(f"split {split!r} is not percents with commas between them, e.g. 50,50") from None
    if len(percents) != n_arms:
        raise ValueError(
            f"split {split!r} has {len(percents)} parts for {n_arms} arms; give one percent an arm"
        )
    if not (min(percents) > 0 and abs(sum(percents) - 100) <= 1e-9):
        raise ValueError(
            f"split {split!r} sums to {sum(percents):g}; positive percents that sum to 100 are allowed"
        )
    return tuple(percent / 100 for percent in percents)


def _table(text: str) -> dict[str, Any]:
    day, _, coverage = text.partition(":")
    try:
        return {"day": int(day), "coverage": float(coverage)}
    except ValueError:
        raise ValueError(f"phase {text!r} is not DAY:PERCENT, such as 3:50") from None


def _phase(table: Any, n_arms: int) -> Phase:
    if not isinstance(table, Mapping):
        raise ValueError(f"a phase is {table!r}; write [[phases]] before each, with day, coverage and split")
    day, coverage, split = table.get("day", 1), table.get("coverage", 100), table.get("split")
    for key in table:
        if key not in ("day", "coverage", "split"):
            raise ValueError(f"a phase has the unknown key {key!r}; known keys: day, coverage, split")
    if isinstance(day, bool) or not isinstance(day, int) or day < 1:
        raise ValueError(f"a phase starts on day {day!r}; days are whole numbers from 1")
    if isinstance(coverage, bool) or not isinstance(coverage, int | float):
        raise ValueError(f"the phase of day {day} has coverage {coverage!r}; give a percent, such as 50")
    if split is not None and not isinstance(split, str):
        raise ValueError(f"the phase of day {day} has split {split!r}; give text, such as '90,10'")
    return Phase((day - 1) * DAY_MS, coverage / 100, parse_split(split, n_arms) if split else ())


def _percents(layer: Layer) -> str:
    return f"{100 * layer.start:g}-{100 * layer.end:g}"

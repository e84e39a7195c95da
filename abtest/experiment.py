"""Who gets which arm: an experiment's settings, and assignment of users by hash.

A user's arm is a pure function of the salt and the user: the user's place in a hash (`abtest.hashing`)
against thresholds that divide it by weight. Holdout and layer (`abtest.population`) come before.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import isfinite
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from abtest.hashing import SCHEMES, Part, growthbook_parts, parts_of
from abtest.population import Holdout, Layer, Phase, check_phases

LOOKS = ("daily", "final")
SEQUENTIAL = ("obf", "pocock", "always-valid", "none")
CORRECTIONS = ("holm", "hochberg", "bh")
CHOICES = {"looks": LOOKS, "sequential": SEQUENTIAL, "correction": CORRECTIONS, "hashing": SCHEMES}
OUTSIDE = -1
"""In place of an arm: a user who is not in the experiment."""


@dataclass(frozen=True)
class Arm:
    """One way to serve users, and the model behind it. Arms get users in proportion to their weights."""

    name: str
    model: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Experiment:
    """Arms compared over `days` days. The control defaults to the first arm, the salt to the name.

    `looks`: goals are tested after each day (`daily`) or once (`final`). `sequential`: how daily looks share
    alpha: O'Brien-Fleming or Pocock spending, always valid, or `none` (only the last look decides).
    `correction` over goals and treatments: Holm's, Hochberg's, or Benjamini and Hochberg's (exploration).
    `planned_days` are more than `days` in an interim analysis, which sees only the first ones.
    `hashing` names the scheme of the assignment and the layer. Weights change by a new phase only.
    Settings that cannot work raise ValueError or LookupError in one sentence.
    """

    name: str
    arms: tuple[Arm, ...]
    control: str = ""
    days: int = 5
    salt: str = ""
    alpha: float = 0.05
    unit: str = "user"
    looks: str = "daily"
    sequential: str = "obf"
    correction: str = "holm"
    planned_days: int = 0
    hashing: str = "blake2b"
    layer: Layer | None = None
    holdout: Holdout | None = None
    phases: tuple[Phase, ...] = (Phase(),)

    def __post_init__(self) -> None:
        object.__setattr__(self, "arms", tuple(self.arms))
        object.__setattr__(self, "phases", tuple(self.phases))
        _check_arms(self.arms)
        object.__setattr__(self, "control", self.control or self.arms[0].name)
        object.__setattr__(self, "salt", self.salt or self.name)
        if not self.name.strip():
            raise ValueError(f"the experiment's name is {self.name!r}; give it a name")
        names = [arm.name for arm in self.arms]
        if self.control not in names:
            raise LookupError(f"unknown control {self.control!r}; the arms are: {', '.join(names)}")
        if self.arms[names.index(self.control)].weight == 0:
            raise ValueError(f"control {self.control!r} has weight 0; give it a weight above 0")
        if isinstance(self.days, bool) or not isinstance(self.days, int) or self.days < 1:
            raise ValueError(f"days is {self.days!r}; it must be a whole number of 1 or more")
        object.__setattr__(self, "planned_days", max(self.planned_days, self.days))
        if "\0" in self.salt:
            raise ValueError(f"salt {self.salt!r} holds a NUL character; leave it out")
        if not 0 < self.alpha <= 0.5:
            raise ValueError(f"alpha is {self.alpha}; it must lie above 0 and be at most 0.5, e.g. 0.05")
        if self.unit != "user":
            raise ValueError(f"unit is {self.unit!r}; only 'user' is allowed, as users are randomised")
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key} is {getattr(self, key)!r}; allowed: {', '.join(allowed)}")
        check_phases(self.phases, [arm.weight for arm in self.arms], self.planned_days)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """The experiment that a warehouse keeps as settings: name, arms (name, model, weight, role), days,
        salt, alpha, unit, looks, sequential, correction, hashing, layer, holdout, phases. Other keys are left
        alone."""
        arms = tuple(Arm(arm["name"], arm["model"], arm["weight"]) for arm in settings["arms"])
        controls = [arm["name"] for arm in settings["arms"] if arm["role"] == "control"]
        if len(controls) != 1:
            raise ValueError(
                f"experiment {settings['name']!r} has {len(controls)} arms of role control; one is needed"
            )
        optional = ("days", "planned_days", "salt", "alpha", "unit", *CHOICES)
        given = {key: settings[key] for key in optional if key in settings}
        if settings.get("layer"):
            given["layer"] = Layer(**settings["layer"])
        if settings.get("holdout"):
            given["holdout"] = Holdout(**settings["holdout"])
        if settings.get("phases"):
            phases = settings["phases"]
            given["phases"] = tuple(Phase(p["start_ms"], p["coverage"], tuple(p["weights"])) for p in phases)
        return cls(settings["name"], arms, controls[0], **given)

    def settings(self) -> dict[str, Any]:
        """What a warehouse keeps and a report prints; `from_settings` reads it back."""
        arms = [
            {
                "name": arm.name,
                "model": arm.model,
                "weight": arm.weight,
                "role": "control" if arm.name == self.control else "treatment",
            }
            for arm in self.arms
        ]
        return {
            "name": self.name,
            "arms": arms,
            "days": self.days,
            "salt": self.salt,
            "alpha": self.alpha,
            "unit": self.unit,
            "looks": self.looks,
            "sequential": self.sequential,
            "correction": self.correction,
            **({"planned_days": self.planned_days} if self.is_interim else {}),
            "hashing": self.hashing,
            "layer": self.layer and asdict(self.layer),
            "holdout": self.holdout and asdict(self.holdout),
            "phases": [{**asdict(phase), "weights": list(phase.weights)} for phase in self.phases],
        }

    @property
    def design(self) -> str:
        """How goals are tested: by the name of a sequential method, or `none` where only one look decides."""
        return "none" if self.looks == "final" or self.planned_days == 1 else self.sequential

    @property
    def is_interim(self) -> bool:
        """Whether days of the experiment are still to come."""
        return self.days < self.planned_days

    def until(self, last_day: int) -> Self:
        """The experiment as it is seen after one of its days."""
        return replace(self, days=last_day, planned_days=self.planned_days)

    @property
    def treatments(self) -> tuple[Arm, ...]:
        """All arms but the control."""
        return tuple(arm for arm in self.arms if arm.name != self.control)

    def weights(self, phase: int = 0) -> list[float]:
        """The weights of the arms in a phase (an index of `phases`)."""
        return list(self.phases[phase].weights) or [arm.weight for arm in self.arms]

    def assign(self, users: ArrayLike, phase: int = 0) -> NDArray[np.int64]:
        """The index of each user's arm, in the order of `arms`, for a first exposure in this phase; OUTSIDE
        for users who are not in. One million users take about a second."""
        parts = self._parts(phase)
        active = [i for i, weight in enumerate(self.weights(phase)) if weight > 0]
        slots = (
            growthbook_parts(self.salt, users, parts, version=2)
            if self.hashing == "growthbook"
            else parts_of(self.salt, users, parts)
        )
        arms = np.where(slots < 0, OUTSIDE, np.array(active, dtype=np.int64)[slots])
        return np.where(self._eligible(users), arms, OUTSIDE)

    def assign_at(self, users: ArrayLike, after_ms: ArrayLike) -> NDArray[np.int64]:
        """The arm of users who were first exposed so many milliseconds after the start."""
        ids = np.atleast_1d(np.asarray(users))
        phase_of = self.phase_at(after_ms)
        arms = np.full(len(ids), OUTSIDE, dtype=np.int64)
        for phase in range(len(self.phases)):
            mine = phase_of == phase
            arms[mine] = self.assign(ids[mine], phase)
        return arms

    def phase_at(self, after_ms: ArrayLike) -> NDArray[np.int64]:
        """The index of the phase in which each moment lies; before the start it is the first."""
        starts = [phase.start_ms for phase in self.phases]
        return np.maximum(np.searchsorted(starts, np.atleast_1d(after_ms), side="right") - 1, 0)

    def population(self, users: ArrayLike) -> dict[str, int]:
        """How many of these users are held out, in other parts of the layer, not covered by the last phase,
        and in an arm then."""
        ids = np.atleast_1d(np.asarray(users))
        held = np.zeros(len(ids), dtype=np.bool_) if self.holdout is None else self.holdout.holds(ids)
        eligible = self._eligible(ids)
        n_in = int((self.assign(ids, len(self.phases) - 1) >= 0).sum())
        n_eligible, n_held = int(eligible.sum()), int(held.sum())
        return {
            "holdout": n_held,
            "other_layer_parts": len(ids) - n_held - n_eligible,
            "not_covered": n_eligible - n_in,
            "in_experiment": n_in,
        }

    def _eligible(self, users: ArrayLike) -> NDArray[np.bool_]:
        """Whether each user is outside the holdout and in the experiment's part of the layer."""
        eligible = np.ones(len(np.atleast_1d(np.asarray(users))), dtype=np.bool_)
        if self.holdout is not None:
            eligible &= ~self.holdout.holds(users)
        if self.layer is not None:
            eligible &= self.layer.holds(users, self.hashing)
        return eligible

    def _parts(self, phase: int) -> list[Part]:
        """The range of each arm with a weight. Coverage shrinks each range in place, so that a larger one
        holds the same users in the same arms, and more."""
        weights = [Fraction(weight) for weight in self.weights(phase) if weight > 0]
        coverage, total = Fraction(self.phases[phase].coverage), sum(weights)
        starts = [sum(weights[:i], Fraction(0)) / total for i in range(len(weights) + 1)]
        return [(a, a + coverage * (b - a)) for a, b in pairwise(starts)]


def _check_arms(arms: tuple[Arm, ...]) -> None:
    names = [arm.name for arm in arms]
    if len(arms) < 2:
        raise ValueError(f"an experiment needs two arms or more, got {names}")
    for name in names:
        if not name.strip():
            raise ValueError(f"an arm's name is {name!r}; give every arm a name")
        if names.count(name) > 1:
            raise ValueError(f"arm {name!r} is named twice; arm names must differ, e.g. {name}-2")
    for arm in arms:
        if not isfinite(arm.weight) or arm.weight < 0:
            raise ValueError(f"arm {arm.name!r} has weight {arm.weight}; weights are finite and 0 or more")
    if sum(arm.weight > 0 for arm in arms) < 2:
        raise ValueError(
            f"weights {[arm.weight for arm in arms]} leave fewer than two arms with users; weigh two"
        )

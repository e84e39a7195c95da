"""Who gets which arm: an experiment's settings, and assignment of users by hash.

A user's arm is a pure function of the salt and the user: the first 8 bytes (big-endian) of the 64-byte
BLAKE2b of salt, NUL, user as decimal text, against thresholds that divide the 64-bit numbers by weight.
`abtest.growthbook` has the public scheme of GrowthBook's SDKs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from hashlib import blake2b
from math import isfinite
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

LOOKS = ("daily", "final")
SEQUENTIAL = ("obf", "pocock", "always-valid", "none")
CORRECTIONS = ("holm", "hochberg", "bh")


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "arms", tuple(self.arms))
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
        for key, allowed in (("looks", LOOKS), ("sequential", SEQUENTIAL), ("correction", CORRECTIONS)):
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key} is {getattr(self, key)!r}; allowed: {', '.join(allowed)}")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """The experiment that a warehouse keeps as settings: name, arms (name, model, weight, role), days,
        salt, alpha, unit, looks, sequential, correction. Other keys are left alone."""
        arms = tuple(Arm(arm["name"], arm["model"], arm["weight"]) for arm in settings["arms"])
        controls = [arm["name"] for arm in settings["arms"] if arm["role"] == "control"]
        if len(controls) != 1:
            raise ValueError(
                f"experiment {settings['name']!r} has {len(controls)} arms of role control; one is needed"
            )
        optional = ("days", "salt", "alpha", "unit", "looks", "sequential", "correction", "planned_days")
        given = {key: settings[key] for key in optional if key in settings}
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

    def assign(self, users: ArrayLike) -> NDArray[np.int64]:
        """The index of each user's arm, in the order of `arms`. One million users take about a second."""
        active = [i for i, arm in enumerate(self.arms) if arm.weight > 0]
        thresholds = _thresholds([self.arms[i].weight for i in active])
        slots = np.searchsorted(thresholds, user_hashes(self.salt, users), side="right")
        return np.array(active, dtype=np.int64)[slots]


def user_hashes(salt: str, users: ArrayLike) -> NDArray[np.uint64]:
    """A uniform 64-bit number for each user.

    >>> user_hashes("lab", [7]).tolist()
    [3634195775350991210]
    """
    ids = np.atleast_1d(np.asarray(users))
    if ids.size and ids.dtype.kind not in "iu":
        raise ValueError(f"users are {ids.dtype}; user ids are whole numbers")
    start = blake2b(salt.encode() + b"\0")

    def first_bytes(user: int) -> bytes:
        state = start.copy()
        state.update(b"%d" % user)
        return state.digest()[:8]

    return np.frombuffer(b"".join(map(first_bytes, ids.tolist())), dtype=">u8").astype(np.uint64)


def _thresholds(weights: list[float]) -> NDArray[np.uint64]:
    """Where arm i ends and arm i + 1 begins: floor(2^64 x cumulative share), in exact arithmetic."""
    exact = [Fraction(weight) for weight in weights]
    total = sum(exact)
    cumulative = [sum(exact[: i + 1]) for i in range(len(exact) - 1)]
    return np.array([int(part * 2**64 / total) for part in cumulative], dtype=np.uint64)


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

"""The scorecard: a world under the reference policy beside real logs."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator import figures, living, next_play, targets
from simulator.figures import Impressions
from simulator.targets import Target

if TYPE_CHECKING:
    from simulator.world import World

Ids = NDArray[np.int64]
Say = Callable[[str, float], None]
HISTORIES = 2_700  # users whose next play is foretold: two groups, less who plays too little


class Score(NamedTuple):
    """A row of the scorecard. status: pass, fail, or report (no gate)."""

    name: str
    real: float
    simulated: float
    tolerance: float | None  # as `Target` has it, widened to two errors of the real figure
    status: str
    source: str
    real_error: float  # relative standard errors
    error: float


class RealLog(NamedTuple):
    """A log to hold a world against, measured as the world is."""

    impressions: Impressions
    plays: tuple[Ids, Ids, Ids]  # users, items, tags of the plays before it, by user and time
    source: str

    @property
    def rows_per_user(self) -> Ids:
        """Sorted number of impressions of each user."""
        return np.sort(np.unique(self.impressions.users, return_counts=True)[1])


def scorecard(
    world: "World",
    days: int = 2,
    *,
    goals: Sequence[Target] | None = None,
    rows_per_user: Ids | None = None,
    say: Say = lambda detail, fraction: None,
) -> list[Score]:
    """The world lives a day and then `days` more that are measured; one score for each goal.

    goals: without them the packaged targets of the default profile. rows_per_user: impressions of a user in
    the log behind them. Outcomes are drawn, actions are expected. Small worlds miss by chance: a between-user
    CV of 3 leaves an error of 3 / sqrt(active users) on a rate, so rates may be off by three errors more.
    """
    goals = targets.packaged() if goals is None else goals
    rows = targets.ROWS_PER_USER if rows_per_user is None else rows_per_user
    say("living under the reference policy", 0.0)
    sample = living.live(world, days, skip=1)
    say("living under random slates", 0.4)
    random = living.live(world, 1, living.random_slate)
    say("measuring", 0.5)
    measured, errors = measure(world, sample, random, rows)
    say("measured", 1.0)
    return [score(goal, measured[goal.name], errors.get(goal.name, 0.0)) for goal in goals]


def measure(
    world: "World", sample: living.Sample, random: living.Sample, rows_per_user: Ids
) -> tuple[dict[str, float], dict[str, float]]:
    """All figures of a world, and the relative errors of those per impression (over users)."""
    x, y = living.impressions(world, sample), living.impressions(world, random)
    played = x.flag("play") > 0.5

    def shown(keep: NDArray[np.bool_]) -> dict[str, float]:
        return figures.measure(x.rows(keep), rows_per_user)

    def ordered(keep: NDArray[np.bool_]) -> dict[str, float]:
        keep = keep & played
        return figures.transitions(x.users[keep], x.items[keep], x.tags[keep])

    everybody = np.ones(len(x.users), np.bool_)
    found = {**shown(everybody), **ordered(everybody), **figures.random_rates(y)}
    errors = {**figures.errors(x.users, shown), **figures.errors(x.users, ordered)}
    errors |= figures.errors(y.users, lambda keep: figures.random_rates(y.rows(keep)))
    relative = {name: error / abs(found[name] or np.nan) for name, error in errors.items()}
    habits = figures.habits(sample.days, sample.active)
    visits = figures.visits(sample.users, sample.sessions, sample.request_ms, len(sample.days))
    plays = living.histories(world, HISTORIES, next_play.LENGTH + 1)
    foretold, _ = next_play.foretold(plays, world.n_items)
    return {**found, **habits, **visits, **foretold}, relative


def log_goals(
    log: RealLog, profile: str = "default", say: Say = lambda detail, fraction: None
) -> list[Target]:
    """The packaged targets, with those figures that the log tells taken from it."""
    x, (users, items, tags) = log.impressions, log.plays

    def shown(keep: NDArray[np.bool_]) -> dict[str, float]:
        return figures.measure(x.rows(keep))

    def ordered(keep: NDArray[np.bool_]) -> dict[str, float]:
        return figures.transitions(users[keep], items[keep], tags[keep])

    say("measuring the log", 0.0)
    foretold, by_group = next_play.foretold(next_play.histories(users, items), int(items.max()))
    found = {**shown(np.ones(len(x.users), np.bool_)), **ordered(np.ones(len(users), np.bool_)), **foretold}
    errors = {**figures.errors(x.users, shown), **figures.errors(users, ordered), **by_group}
    say("measured the log", 1.0)
    own = {
        name: targets.target(name, value, log.source, float(np.nan_to_num(errors[name] / abs(value))))
        for name, value in found.items()
        if np.isfinite(value) and value != 0
    }
    return [own.get(goal.name, goal) for goal in targets.packaged(profile)]


def score(goal: Target, simulated: float, error: float) -> Score:
    """Whether a simulated figure is as near as its goal allows.

    The tolerance is never below two errors of the real figure; the mean of a flag may also be off by three
    errors of its own, which is the chance of a small world. What cannot be computed is no failure.
    """
    tolerance, status = goal.tolerance, "report"
    if tolerance is not None:
        tolerance = max(tolerance, 2 * goal.error)
        if np.isfinite(simulated):
            chance = 3 * error if goal.name.removesuffix(", random slates") in figures.RATES else 0.0
            ratio = simulated / goal.real
            near = ratio > 0 and max(ratio, 1 / ratio) <= 1 + tolerance + chance
            status = "pass" if near else "fail"
    return Score(goal.name, goal.real, simulated, tolerance, status, goal.source, goal.error, error)

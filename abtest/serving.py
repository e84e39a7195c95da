"""What each arm serves on each day: its model as trained by then, and its share of new videos.

Users who are not in the experiment (yet) are served as the control's are. With a new phase more users come
in; whoever was exposed keeps the arm.

At the midnights of the experiment the arms stay frozen, or go on learning from what was recorded so far: from
the warm-up and what their own users did since their exposure (`own`), or from all users (`pooled`). Both arms
have the same seed, budget and midnight. With `explore`, a slot of a feed is given to a new video with that
chance: models do not know it yet, and it would never be shown.

Where videos are uploaded, a model knows those that were there when it was trained, which are a prefix of the
ids; later ones come in by exploration alone, until the model is trained on them.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from abtest.arms import ArmFeed, is_deterministic
from abtest.checkpoints import Trained, fit_model
from abtest.experiment import OUTSIDE, Experiment
from abtest.settings import Plan
from warehouse.events import DAY_MS, Kind

if TYPE_CHECKING:
    import pyarrow as pa

    from baselines.base import Ids, Interactions, State
    from simulator.shards import Service
    from simulator.world import World
    from warehouse.store import Warehouse

NEW_BELOW = 100
"""A video is new until it has been shown so often."""
BILLION = 1_000_000_000
NEVER = np.iinfo(np.int64).max


class Serving:
    """The arms of an experiment, day by day. `trainings` lists what was learned from, for the manifest."""

    def __init__(
        self,
        plan: Plan,
        world: "World",
        warehouse: "Warehouse",
        folder: Path,
        ranker: Any,
        trained: dict[str, Trained],
    ) -> None:
        self._plan, self._world, self._warehouse, self._folder = plan, world, warehouse, folder
        self._ranker = ranker
        self._models = [trained[arm.model] for arm in plan.experiment.arms]
        self._first = self._day = plan.settings.warmup_days
        self._phase = 0
        self._service: Service | None = None
        self.trainings: list[dict[str, Any]] = []

    def feeds(self) -> list[ArmFeed]:
        """The arms as they are now, without exploration."""
        stage = self._plan.settings.stage
        return [
            ArmFeed(model.recommender, self._ranker, stage=stage, n_items=model.n_items)
            for model in self._models
        ]

    def service(self, day: int) -> "Service":
        """The service on a day; days must be asked for in their order."""
        settings = self._plan.settings
        while self._day < day:
            self._day += 1
            if settings.retrain != "frozen":
                self._retrain(self._day)
                self._service = None
        phase = int(self._plan.experiment.phase_at((day - self._first) * DAY_MS)[0])
        if phase != self._phase:
            self._phase, self._service = phase, None
        if self._service is None or self.explores:
            self._service = self._new_service(day)
        return self._service

    @property
    def explores(self) -> bool:
        """Whether some slots are for new videos, which are others every day."""
        return self._plan.settings.explore > 0

    def feeds_on(self, day: int) -> list[Any]:
        """The arms as they are now, with the new videos of a day where some slots are for these."""
        if not self.explores:
            return self.feeds()
        share = self._plan.settings.explore / 100
        new = new_items(self._warehouse, int(self._world.available(day)), day * DAY_MS)
        known = [is_deterministic(arm.model) for arm in self._plan.experiment.arms]
        return [
            Exploring(feed, share, new, self._world.seed, is_deterministic=certain)
            for feed, certain in zip(self.feeds(), known, strict=True)
        ]

    def _new_service(self, day: int) -> "Service":
        from simulator.shards import Service

        feeds, experiment = self.feeds_on(day), self._plan.experiment
        names = [arm.name for arm in experiment.arms]
        return Service(
            self._world,
            [*feeds, feeds[names.index(experiment.control)]],
            feed_of(experiment, self._phase, self._world.n_users),
            experiment.name,
            [*names, None],
        )

    def _retrain(self, day: int) -> None:
        settings, world = self._plan.settings, self._world
        log = self._warehouse.interactions(day * DAY_MS)
        exposed = self._warehouse.sql("SELECT experiment, user, arm, first_ts FROM exposures")
        exposed = _where(exposed, "experiment", self._plan.experiment.name)
        learned: dict[str, Trained] = {}
        models = []
        for arm, model in zip(self._plan.experiment.arms, self._models, strict=True):
            own_since = exposed_ts(exposed, arm.name, world.n_users)
            rows = learned_from(log, settings.retrain, own_since, self._first * DAY_MS)
            data = as_interactions(log.filter(rows), world, day)
            same = f"{arm.model} {model.key} {data.content_hash()}"
            if same not in learned:
                learned[same] = fit_model(arm.model, data, settings, self._folder, _silent, start=model)
            models.append(learned[same])
            self.trainings.append(
                {"day": day, "arm": arm.name, "interactions": len(data), "model": learned[same].key}
            )
        self._models = models


def feed_of(experiment: Experiment, phase: int, n_users: int) -> NDArray[np.int64]:
    """Which feed serves each user: the arms', in their order, and the last one for who is not in."""
    arms = experiment.assign(np.arange(n_users), phase)
    return np.where(arms == OUTSIDE, len(experiment.arms), arms)


def exposed_ts(exposures: "pa.Table", arm: str, n_users: int) -> NDArray[np.int64]:
    """When each user was first exposed to an arm; NEVER where that has not happened."""
    found = np.full(n_users, NEVER)
    mine = _where(exposures, "arm", arm)
    found[mine["user"].to_numpy()] = mine["first_ts"].to_numpy()
    return found


def learned_from(
    log: "pa.Table", mode: str, own_since: NDArray[np.int64], start_ts: int
) -> NDArray[np.bool_]:
    """Which interactions an arm learns from: those before the experiment, and its own users' since their
    exposure or everybody's."""
    users, ts = (log[name].to_numpy() for name in ("user", "ts"))
    return (ts < start_ts) | (ts >= own_since[users]) | (mode == "pooled")


def as_interactions(log: "pa.Table", world: "World", day: int) -> "Interactions":
    """What the warehouse recorded before a day, as models learn from it, with the videos that are there."""
    from baselines.base import Interactions

    users, items, times = (log[name].to_numpy() for name in ("user", "item", "ts"))
    return Interactions.from_arrays(users, items, times, world.n_users, int(world.available(day)))


def new_items(warehouse: "Warehouse", n_items: int, before: int) -> NDArray[np.int64]:
    """Videos, of 1 to n_items, that were shown less than NEW_BELOW times before a moment."""
    counted = warehouse.sql(
        f"SELECT item FROM events WHERE kind = {int(Kind.impression)} AND ts < {before}"
        f" GROUP BY item HAVING count(*) >= {NEW_BELOW}"
    )
    return np.setdiff1d(np.arange(1, n_items + 1), counted["item"].to_numpy())


class Exploring:
    """A feed in which each slot shows, with a fixed chance, a new video in place of the arm's choice.

    The chances that it tells, in parts per billion, are those of each slot given the slots before it; that of
    the arm's own choice is known where the arm `is_deterministic`. Their product is the chance of the slate.
    """

    def __init__(
        self, feed: ArmFeed, share: float, new: "Ids", seed: int, *, is_deterministic: bool = False
    ) -> None:
        self.feed, self.share, self.new, self.seed = feed, share, new, seed
        self.is_deterministic = is_deterministic

    def begin(self, users: "Ids", histories: "Ids", shown: "Ids", ts_ms: "Ids") -> "State":
        return self.feed.begin(users, histories, shown, ts_ms)

    def serve(
        self, users: "Ids", memory: "State", sessions: "Ids", requests: "Ids", since: "Ids", ts_ms: "Ids",
        k: int = 6,
    ) -> "tuple[Ids, Ids]":  # fmt: skip
        """The arm's feed with new videos in some slots; a video that is in the feed already, or was shown
        since the session was begun, is not put there again. 0 in place of a chance: unknown."""
        from simulator.randomness import Purpose, unit, words

        served, _ = self.feed.serve(users, memory, sessions, requests, since, ts_ms, k)
        own = np.where((served > 0) & self.is_deterministic, 1.0, 0.0)
        if not len(self.new):
            return served, np.rint(BILLION * own).astype(np.int64)
        slot = requests[:, None] * k + np.arange(k)
        luck = unit(words(self.seed, Purpose.EXPLORATION, users[:, None], sessions[:, None], slot))
        drawn = self.new[(luck[1] * len(self.new)).astype(np.int64)]
        explores = (luck[0] < self.share) & (served > 0)
        chance = own
        for column in range(k):
            item = drawn[:, column, None]
            free = explores[:, column] & ~(served == item).any(1) & ~(since == item).any(1)
            left = len(self.new) - _n_distinct_in(np.hstack((served, since)), self.new)
            chance[:, column] *= 1 - self.share * left / len(self.new)
            chance[free, column] = self.share / len(self.new)
            served[free, column] = drawn[free, column]
        return served, np.rint(BILLION * chance).astype(np.int64)


def _n_distinct_in(rows: "Ids", chosen: "Ids") -> "Ids":
    """How many of the chosen videos each row holds, however often."""
    ordered = np.sort(np.where(np.isin(rows, chosen), rows, 0), axis=1)
    return ((ordered[:, 1:] != ordered[:, :-1]) & (ordered[:, 1:] > 0)).sum(1) + (ordered[:, 0] > 0)


def _where(table: "pa.Table", column: str, value: str) -> "pa.Table":
    import pyarrow.compute as pc

    return table.filter(pc.equal(table[column], value))


def _silent(stage: str, fraction: float) -> None:
    """A retraining has no line of its own in the progress."""

"""The policies of the simulator's own: how a service chooses feeds without a model."""

import numpy as np

from simulator import behavior
from simulator.feed import FEED_LENGTH, MEMORY_REQUESTS, Ids, Rows
from simulator.slots import SlotMixture, ranked, untaken
from simulator.state import State
from simulator.world import World
from warehouse.events import DAY_MS

_ORACLE_ROWS = 8  # users whose whole catalogue is scored at once


class LoggingPolicy(SlotMixture):
    """The incumbent of the warm-up: 70 % reference, 20 % popularity, 10 % uniform."""

    def __init__(self, world: World) -> None:
        super().__init__(world, reference=0.7, popular=0.2, uniform=0.1)


class ReferencePolicy(SlotMixture):
    """The policy under which the world is calibrated: the best candidates by a blurred affinity."""

    def __init__(self, world: World) -> None:
        super().__init__(world, reference=1.0, popular=0.0, uniform=0.0)


class PopularityPolicy(SlotMixture):
    """Videos drawn by their plays until last midnight."""

    def __init__(self, world: World) -> None:
        super().__init__(world, reference=0.0, popular=1.0, uniform=0.0)


class RandomPolicy(SlotMixture):
    """Any video alike."""

    def __init__(self, world: World) -> None:
        super().__init__(world, reference=0.0, popular=0.0, uniform=1.0)


class OraclePolicy:
    """What the user would truly enjoy most of all the catalogue, judged at the start of the session."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.state: State | None = None

    def attach(self, state: State) -> None:
        """The life that is served."""
        self.state = state

    def learn(self, plays: Ids) -> None:
        """There is nothing to learn."""

    def begin(self, users: Ids, histories: Ids, shown: Ids, ts_ms: Ids) -> Rows:
        """Remembers the best videos, best first: as many as one `begin` can serve."""
        assert self.state is not None, "attach a state before serving"
        available = self.world.available(ts_ms // DAY_MS)
        catalogue = np.arange(1, available.max(initial=0) + 1)
        most = min(MEMORY_REQUESTS * FEED_LENGTH, len(catalogue))
        best = np.zeros((len(users), MEMORY_REQUESTS * FEED_LENGTH), np.int64)
        for start in range(0, len(users), _ORACLE_ROWS):
            rows = slice(start, start + _ORACLE_ROWS)
            items = np.broadcast_to(catalogue, (len(users[rows]), len(catalogue)))
            scores = behavior.affinity(self.world, self.state, users[rows], items)
            scores[items > available[rows, None]] = -np.inf
            barred = shown[rows]
            row, column = np.nonzero(barred)
            scores[row, barred[row, column] - 1] = -np.inf
            order = ranked(items, scores, most)
            best[rows, :most] = np.where(np.isinf(np.take_along_axis(scores, order - 1, 1)), 0, order)
        return (best,)

    def serve(
        self,
        users: Ids,
        memory: Rows,
        sessions: Ids,
        requests: Ids,
        since: Ids,
        ts_ms: Ids,
        k: int = FEED_LENGTH,
    ) -> tuple[Ids, None]:
        """The next best."""
        return untaken(memory[0], since, k), None

"""The world as a Gymnasium environment, for agents that choose whole feeds. Needs the extra `gym`.

`Cohort` serves many users at once (a vector environment, the fast one), `Session` one. An episode is a
session of a user: at each step the agent gives a feed of six videos, the user watches, acts, and asks for
another feed or leaves, which ends the episode. In the next episode the user comes back with what they
remember: histories, short-term interest and satiation (halved by the break). Nights, return and other users
are the platform's matter (`simulator.platform`) and play no part here.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator import behavior
from simulator.behavior import Response
from simulator.feed import FEED_LENGTH, Ids
from simulator.platform import view_times
from simulator.state import PLAYS, State
from simulator.world import World

try:
    import gymnasium
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise ImportError(
        "simulator.env needs gymnasium, which is not installed: pip install 'short-video-lab[gym]'"
    ) from error

ENGAGEMENTS = ("play", "long_view", "like", "comment", "share", "follow", "hate", "watch_s")
"""What a reward may weigh: counts of a feed, and its seconds watched."""

CONTEXT = ("request", "elapsed_minutes", "last_play_share")
"""What `context` in an observation tells: number of the request in the session, minutes since its start,
share of the last feed that was played (0 at first)."""

Observation = dict[str, NDArray[Any]]
Arrays = NDArray[Any]


class Cohort(gymnasium.vector.VectorEnv):
    """`num_envs` users of a world, each in a session of their own.

    Actions: (n, 6) ids of videos that are there at the start, 1 to n_at_start; a video that comes twice in a
    feed is shown once. Observations: `user` (n,), `history` (n, 50) last plays, oldest first, 0 after the
    end, and `context` (n, 3). reward: the weight of each of ENGAGEMENTS. A session is cut off (truncated)
    after `max_requests`. After an episode the next step begins the user's next session; its action is not
    looked at (AutoresetMode.NEXT_STEP).

    A reset draws users by its seed and starts their lives anew; what a user does with a video is the world's.
    """

    def __init__(
        self,
        world: World,
        num_envs: int,
        *,
        reward: Mapping[str, float] | None = None,
        max_requests: int = 100,
    ) -> None:
        if not 1 <= num_envs <= world.n_users:
            raise ValueError(f"num_envs is {num_envs}; a world of {world.n_users} users has 1 to that many")
        if max_requests < 1:
            raise ValueError(f"max_requests is {max_requests}; a session has one at least")
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}
        self.world, self.num_envs, self.max_requests = world, num_envs, max_requests
        self.weights = _checked_weights({"play": 1.0} if reward is None else reward)
        self.single_observation_space = spaces.Dict(
            {
                "user": spaces.Discrete(world.n_users),
                "history": spaces.Box(0, world.n_at_start, (PLAYS,), np.int64),
                "context": spaces.Box(0.0, np.inf, (len(CONTEXT),), np.float32),
            }
        )
        self.single_action_space = spaces.MultiDiscrete(
            np.full(FEED_LENGTH, world.n_at_start), start=np.ones(FEED_LENGTH, np.int64)
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._start = State.start(world)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Other users at the start of their lives."""
        super().reset(seed=seed)
        self._users = np.sort(self.np_random.choice(self.world.n_users, self.num_envs, replace=False))
        self._state = self._start.copy()
        self._session = np.full(self.num_envs, -1)
        self._request, self._elapsed_ms = (np.zeros(self.num_envs, np.int64) for _ in range(2))
        self._play_share = np.zeros(self.num_envs)
        self._over = np.ones(self.num_envs, np.bool_)
        self._begin(np.arange(self.num_envs))
        return self._observation(), {}

    def step(self, actions: Any) -> tuple[Observation, Arrays, Arrays, Arrays, dict[str, Any]]:
        """Serve everybody's feed. `info` has (n, 6) `shown`, `watch_ms` and the kinds of the feed, all 0
        after the place where a user left, and for users who have only just come back."""
        items = self._checked(actions)
        back = np.flatnonzero(self._over)
        rows = np.flatnonzero(~self._over)
        items[back] = 0
        reward, terminated = np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_)
        items[rows], response, stays = self._serve(rows, items[rows])
        reward[rows], terminated[rows] = self._reward(response), ~stays
        truncated = ~terminated & (self._request >= self.max_requests)
        self._begin(back)
        self._over = terminated | truncated
        info: dict[str, Any] = {"shown": items}
        for name, values in response._asdict().items():
            info[name] = np.zeros(items.shape, values.dtype)
            info[name][rows] = values
        return self._observation(), reward, terminated, truncated, info

    def _serve(self, rows: Ids, items: Ids) -> tuple[Ids, Response, NDArray[np.bool_]]:
        """What they see of their feeds, what they do with it, and who asks for another."""
        world, state, users = self.world, self._state, self._users[rows]
        session, request = self._session[rows], self._request[rows]
        luck = behavior.luck(world, users, session, request)
        items, whole = behavior.reached(world, state, users, self._elapsed_ms[rows], luck, items)
        response = behavior.respond(world, state, users, items)
        behavior.absorb(world, state, users, items, response)
        _, end = view_times(self._elapsed_ms[rows], items, response)
        stays = behavior.goes_on(world, state, users, end, luck) & whole
        self._elapsed_ms[rows] = end + luck.gap_ms
        self._request[rows] += 1
        self._play_share[rows] = response.play.sum(1) / np.maximum((items > 0).sum(1), 1)
        return items, response, stays

    def _begin(self, rows: Ids) -> None:
        """These users open the app (again)."""
        if len(rows):
            behavior.begin_session(self.world, self._state, self._users[rows])
            self._session[rows] += 1
            self._request[rows] = self._elapsed_ms[rows] = 0
            self._play_share[rows] = 0.0
            self._over[rows] = False

    def _observation(self) -> Observation:
        context = (self._request, self._elapsed_ms / 60_000, self._play_share)
        return {
            "user": self._users.copy(),
            "history": self._state.histories(self._users),
            "context": np.stack(context, axis=1).astype(np.float32),
        }

    def _reward(self, response: Response) -> NDArray[np.float64]:
        total = np.zeros(len(response.play))
        for name, weight in self.weights.items():
            amount = response.watch_ms / 1000 if name == "watch_s" else getattr(response, name)
            total += weight * amount.sum(1)
        return total

    def _checked(self, actions: Any) -> Ids:
        items = np.array(actions, np.int64)
        if items.shape != (self.num_envs, FEED_LENGTH):
            raise ValueError(
                f"actions have shape {items.shape}; {self.num_envs} users need {self.num_envs} feeds of "
                f"{FEED_LENGTH} videos"
            )
        last = self.world.n_at_start
        if items.min() < 1 or items.max() > last:
            wrong = items[(items < 1) | (items > last)][0]
            raise ValueError(f"an action shows video {wrong}; videos are 1 to {last}")
        again = np.tril(items[:, :, None] == items[:, None, :], -1).any(-1)
        return np.where(again, 0, items)


class Session(gymnasium.Env):
    """One user's session at a time: `Cohort` with a single user, who is another one after each reset."""

    def __init__(
        self, world: World, *, reward: Mapping[str, float] | None = None, max_requests: int = 100
    ) -> None:
        self._cohort = Cohort(world, 1, reward=reward, max_requests=max_requests)
        self.observation_space = self._cohort.single_observation_space
        self.action_space = self._cohort.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        chosen = int(self.np_random.integers(2**31))
        return _first(self._cohort.reset(seed=chosen)[0]), {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        seen, reward, terminated, truncated, info = self._cohort.step(np.asarray(action)[None])
        return _first(seen), float(reward[0]), bool(terminated[0]), bool(truncated[0]), _first(info)


def _first(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    return {name: array[0] for name, array in arrays.items()}


def _checked_weights(reward: Mapping[str, float]) -> dict[str, float]:
    for name in reward:
        if name not in ENGAGEMENTS:
            raise ValueError(f"unknown engagement {name!r} in the reward; known: {', '.join(ENGAGEMENTS)}")
    return dict(reward)

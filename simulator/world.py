"""World: the hidden truth of a simulated service. Who its users and videos are; nothing changes in a life."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.constants import Constants, constants_of
from warehouse.events import DAY_MS, Item, User

if TYPE_CHECKING:
    import pyarrow as pa

Floats = NDArray[np.float64]
Float32s = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """Users are 0 .. n_users - 1, videos 1 .. n_items; row 0 of every item array is padding. Videos 1 ..
    n_at_start are there from the first day on, the others come in by and by (`available`).

    Build one with `World.synthetic` or `World.from_log`. A model never sees it: only what is logged.
    Action tables have one row for each of `constants.ACTIONS`, in logits.
    """

    seed: int
    constants: Constants
    family: str  # of `affinity.FAMILIES`

    item_author: Ids
    item_tag: NDArray[np.int32]  # 0 .. n_tags - 1
    item_duration_ms: Ids
    item_uploaded_ts: Ids  # relative to the first midnight, so mostly negative
    item_source_id: Ids
    item_vector: Float32s  # (n_items + 1, d)
    item_quality: Floats  # affinity
    item_actions: Float32s  # (actions, n_items + 1)
    item_log_duration: Floats  # of seconds
    # (n_items + 1) cumulative share of what the platform puts forward: from 0 to 1 at n_at_start, then on
    item_reach: Floats
    n_at_start: int

    item_successors: NDArray[
        np.int32
    ]  # (n_items + 1, s) videos that a video draws on to; s = 0 if no family's
    item_boost: Float32s  # (n_items + 1, s) affinity that each gains

    tag_vector: Float32s  # (n_tags, d)
    tag_transition: (
        Floats  # (n_tags + 1, n_tags) affinity of a tag after the last played tag; last row: no play yet
    )

    user_source_id: Ids
    user_taste: Float32s  # (n_users, d) where tastes drift around
    user_anchors: Float32s  # (n_users, p, d) interests as places; p = 0 if no family's
    user_offset: Floats  # logits of a valid play
    user_activity: Floats  # standard normal score of log activity
    user_actions: Float32s  # (actions, n_users)
    user_sessions: Floats  # chance of each candidate session of an active day
    user_stay: Floats  # logit of asking for another feed
    user_return: Floats  # logit of an active day
    user_expected: Floats  # plays per impression that leave the user neither pleased nor displeased
    history: NDArray[
        np.int32
    ]  # (n_users, 50) plays before the first day, oldest first, left-aligned, 0-padded
    history_ts: Ids  # (n_users,) time of the last of them, 0 = none
    origin: dict[str, str]  # what was fitted, and from what

    @property
    def n_users(self) -> int:
        return len(self.user_source_id)

    @property
    def n_items(self) -> int:
        return len(self.item_author) - 1

    def available(self, day: ArrayLike) -> Ids:
        """The highest id that can be shown on a day: videos uploaded before its midnight are there, so what
        is available are the ids up to it. Days may be an array."""
        later = self.item_uploaded_ts[self.n_at_start + 1 :]  # ascending
        return self.n_at_start + np.searchsorted(later, np.asarray(day) * DAY_MS)

    @property
    def n_tags(self) -> int:
        return len(self.tag_vector)

    @cached_property
    def action_tables(self) -> tuple[Float32s, Float32s, Float32s]:
        """Intercepts (actions, watch states), and loadings on affinity and shock (actions, 1, 1)."""
        c = self.constants
        base, kappa, shock = (np.array(t, np.float32) for t in (c.base, c.action_affinity, c.action_shock))
        return base, kappa[:, None, None], shock[:, None, None]

    @classmethod
    def synthetic(
        cls,
        n_users: int,
        n_items: int = 20_000,
        seed: int = 0,
        profile: str = "default",
        family: str = "factors",
        *,
        uploads: float = 0.0,
        days: int = 0,
    ) -> "World":
        """A world drawn from the published shapes of real logs. Seconds for 10,000 users.

        family: what makes a user enjoy a video, one of `affinity.FAMILIES`. LookupError lists the known
        profiles and families. uploads: new videos on each of `days` days, in percent of the `n_items` that
        are there at the start.

        >>> World.synthetic(50, n_items=300, seed=1).n_items
        300
        """
        from simulator import fitting, population
        from simulator.uploads import check_uploads

        _check_size("n_users", n_users, 1)
        _check_size("n_items", n_items, 12)
        check_uploads(uploads)
        drawn = population.draw(
            constants_of(profile, family), n_users, n_items, seed, family, uploads=uploads, days=days
        )
        return fitting.centred(World(**drawn))

    @classmethod
    def from_log(
        cls,
        users: "pa.Table",
        videos: "pa.Table",
        impressions: "pa.Table",
        histories: "pa.Table",
        exposures: "pa.Table",
        seed: int = 0,
        n_users: int | None = None,
        profile: str = "default",
        family: str = "factors",
    ) -> "World":
        """A world of real users and videos: tables as `warehouse.importers.read_kuairand` returns them.

        `n_users` takes a seeded sample of the users that have a history; None takes them all. See
        `simulator.logged` for what is taken from which table. Raises ValueError where more users are asked
        for than there are.
        """
        from simulator import fitting, logged

        taken = logged.draw(
            constants_of(profile, family),
            users,
            videos,
            impressions,
            histories,
            exposures,
            seed,
            n_users,
            family,
        )
        return fitting.centred(World(**taken))

    @classmethod
    def from_sequences(
        cls,
        users: Ids,
        items: Ids,
        seed: int = 0,
        n_users: int | None = None,
        profile: str = "default",
        family: str = "factors",
    ) -> "World":
        """A world from interactions alone: one row each, by user and then time; items from 1.

        The last two of each user are left out (they are the validation and test items of offline measures).
        See `simulator.sequences` for what is fitted from the others.
        """
        from simulator import fitting, sequences

        taken = sequences.draw(constants_of(profile, family), users, items, seed, n_users, family)
        return fitting.centred(World(**taken))

    def items_table(self) -> "pa.Table":
        """The catalogue by the warehouse's `items` schema."""
        columns: dict[str, Any] = {
            "item": np.arange(1, self.n_items + 1),
            "author": self.item_author[1:],
            "tag": self.item_tag[1:],
            "duration_ms": self.item_duration_ms[1:],
            "uploaded_ts": self.item_uploaded_ts[1:],
            "source_id": self.item_source_id[1:],
        }
        return _table(Item, columns)

    def users_table(self) -> "pa.Table":
        """The users by the warehouse's `users` schema."""
        return _table(User, {"user": np.arange(self.n_users), "source_id": self.user_source_id})


def _table(record: type, columns: dict[str, Any]) -> "pa.Table":
    import pyarrow as pa

    from warehouse.schema import arrow_schema

    return pa.table(columns).cast(arrow_schema(record))


def _check_size(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} is {value}; a world needs at least {least}")

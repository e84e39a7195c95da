"""What is logged: the one definition of events, exposures, items and users.

Every table, Arrow schema and per-user total is built from the records below; there is no second list.
All fields are integers. Times (`ts`) are milliseconds since the start of a simulated run, or Unix
milliseconds in a log from outside; a simulated day is 86,400,000 of them.
"""

from dataclasses import dataclass
from enum import IntEnum

DAY_MS = 86_400_000

PRE = "pre_"
"""Before the name of a total: that of the days before the experiment."""
LATE = "late_"
"""Before the name of a total: that of the later one of two looks."""


def day_name(name: str, k: int) -> str:
    """The name of a total of a user's k-th day since exposure."""
    return f"{name}@{k}"


class Kind(IntEnum):
    """What a user did. The value of an `impression` is the watch time in milliseconds, that of
    `panel_open`, `profile_enter` and `session` the stay in milliseconds; all other kinds carry 1."""

    impression = 1
    play = 2
    long_view = 3
    like = 4
    comment = 5
    share = 6
    follow = 7
    hate = 8
    panel_open = 9
    profile_enter = 10
    session = 11


@dataclass(frozen=True)
class Event:
    """One thing that a user did. The key (user, session, request, position, kind) is unique in a database.

    An impression is written when its view ends. `session` is unique within the user; `request` counts within
    the session and `position` within the feed, both from 0. A `session` event is written when the session
    ends, with request -1, item 0 and position -1.
    """

    ts: int
    ingest_ts: int
    user: int
    session: int
    request: int
    item: int
    position: int
    kind: int
    value: int


EVENT_KEY = ("user", "session", "request", "position", "kind")


@dataclass(frozen=True)
class Exposure:
    """The first moment at which the arm could matter to a user: the first request that the arm served."""

    experiment: str
    user: int
    arm: str
    first_ts: int


@dataclass(frozen=True)
class Propensity:
    """With which probability (parts per billion) the logging policy put this item at this position."""

    user: int
    session: int
    request: int
    position: int
    item: int
    ppb: int


@dataclass(frozen=True)
class Item:
    """A video. Ids run from 1; 0 is padding. `source_id` is its id in the log that the world comes from."""

    item: int
    author: int
    tag: int
    duration_ms: int
    uploaded_ts: int
    source_id: int


@dataclass(frozen=True)
class User:
    """A user. Ids run from 0; `source_id` is the id in the log that the world comes from."""

    user: int
    source_id: int

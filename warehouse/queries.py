"""The questions that an experiment asks of a warehouse, as SQLAlchemy statements. Everything here is pure.

One text serves every database. Division of integers would differ between them, so none is used: a day is told
by the timestamp of its first millisecond.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import sqlalchemy as sa

from warehouse.events import DAY_MS, Kind
from warehouse.schema import EVENTS, EXPOSURES, KEYS

COUNTS: dict[str, Kind] = {f"n_{kind.name}": kind for kind in Kind}
DURATIONS: dict[str, Kind] = {
    "watch_ms": Kind.impression,
    "panel_ms": Kind.panel_open,
    "profile_ms": Kind.profile_enter,
    "session_ms": Kind.session,
}
TOTALS: tuple[str, ...] = (*COUNTS, *DURATIONS, "active_days")
"""The columns of a user's totals: how many events of each kind, milliseconds, and days with an impression."""


class Window(NamedTuple):
    """Days of an experiment, both included, counted from 1."""

    first_day: int
    last_day: int

    @property
    def last_cohort(self) -> int:
        """The last day on which its users were first exposed."""
        return self.last_day

    def day_1(self, start_ts: int, first_ts: sa.ColumnElement) -> sa.ColumnElement | int:
        """The first moment of a user's day 1."""
        return start_ts


class Since(NamedTuple):
    """Days since each user's first exposure, both included: day 1 is the rest of the day of the exposure. Of
    the users first exposed up to day `last_cohort` of the experiment."""

    first_day: int
    last_day: int
    last_cohort: int

    def day_1(self, start_ts: int, first_ts: sa.ColumnElement) -> sa.ColumnElement | int:
        """The first moment of a user's day 1."""
        return first_ts - (first_ts - start_ts) % DAY_MS


def days_of(window: tuple[int, ...]) -> Window | Since:
    """The window of a pair of days, or of what `Since` holds."""
    return window if isinstance(window, Since) else Window(*window)


class Cohort(NamedTuple):
    """The users of an experiment whose first exposure lies in [from_ts, until_ts). Every question that takes
    an experiment's name takes a cohort as well."""

    experiment: str
    from_ts: int
    until_ts: int


class Activity(StrEnum):
    """How active a user was before an experiment; `new` users did nothing that was counted."""

    new = "new"
    light = "light"
    middle = "middle"
    heavy = "heavy"


class Cuts(NamedTuple):
    """The largest total of a column before the start with which a user is light, and middle."""

    column: str
    light: int
    middle: int


# What was logged


def interactions(before: int | None = None) -> sa.Select:
    """Plays as (user, item, ts), by user and then in the order in which they happened; repeats are kept."""
    e = EVENTS.c
    return (
        sa.select(e.user, e.item, e.ts)
        .where(e.kind == Kind.play, *_earlier(before))
        .order_by(e.user, e.ts, e.session, e.request, e.position)
    )


def impressions(before: int | None = None) -> sa.Select:
    """One row for each impression: its watch time and, as 0 or 1, what was done about it before `before`."""
    e = EVENTS.c
    actions = (Kind.play, Kind.long_view, Kind.like, Kind.comment, Kind.share, Kind.follow)
    slot = (e.user, e.session, e.request, e.position)
    shown = (
        sa.select(
            *slot,
            _of_impression(e.item).label("item"),
            _of_impression(e.ts).label("ts"),
            _of_impression(e.value).label("watch_ms"),
            *(sa.func.max(sa.case((e.kind == kind, 1), else_=0)).label(kind.name) for kind in actions),
        )
        .where(e.kind.in_((Kind.impression, *actions)), *_earlier(before))
        .group_by(*slot)
        .subquery("shown")
    )
    c = shown.c
    return (
        sa.select(
            c.user,
            c.item,
            c.ts,
            c.position,
            c.watch_ms,
            *(sa.cast(c[kind.name], sa.SmallInteger).label(kind.name) for kind in actions),
        )
        .where(c.ts.is_not(None))
        .order_by(c.user, c.ts, c.session, c.request, c.position)
    )


def ordered_events() -> sa.Select:
    """All events in the one order that does not depend on how they were recorded."""
    return sa.select(*EVENTS.c).order_by(EVENTS.c.ts, *(EVENTS.c[name] for name in KEYS["events"]))


# Who was exposed


def analysed(experiment: str | Cohort) -> sa.Select:
    """The users that were seen in exactly one arm: (user, arm, first_ts)."""
    x = EXPOSURES.c
    if isinstance(experiment, Cohort):
        _, from_ts, until_ts = experiment
        first_ts = sa.func.min(x.first_ts)
        return analysed(experiment.experiment).having(first_ts >= from_ts, first_ts < until_ts)
    return (
        sa.select(x.user, sa.func.min(x.arm).label("arm"), sa.func.min(x.first_ts).label("first_ts"))
        .where(x.experiment == experiment)
        .group_by(x.user)
        .having(sa.func.min(x.arm) == sa.func.max(x.arm))
    )


def crossovers(experiment: str) -> sa.Select:
    """How many users were seen in more than one arm."""
    x = EXPOSURES.c
    several = (
        sa.select(x.user)
        .where(x.experiment == experiment)
        .group_by(x.user)
        .having(sa.func.min(x.arm) != sa.func.max(x.arm))
    )
    return sa.select(sa.func.count()).select_from(several.subquery("several"))


def exposed_by_day(experiment: str | Cohort, start_ts: int) -> sa.Select:
    """How many analysed users were first exposed on each day: (day_ts, arm, n), by day and arm."""
    users = analysed(experiment).subquery("analysed").c
    day_ts = day_of(users.first_ts, start_ts).label("day_ts")
    return (
        sa.select(day_ts, users.arm, sa.func.count().label("n"))
        .group_by(day_ts, users.arm)
        .order_by(day_ts, users.arm)
    )


def day_of(ts: sa.ColumnElement, start_ts: int) -> sa.ColumnElement:
    """The first millisecond of the day of a moment, which may lie before the start."""
    return ts - sa.func.mod(sa.func.mod(ts - start_ts, DAY_MS) + DAY_MS, DAY_MS)


# What the exposed did


def totals(experiment: str, start_ts: int, window: Window) -> sa.Select:
    """One row for each user exposed before the window's end: user, arm and TOTALS, 0 without events."""
    end_ts = _end(start_ts, window.last_day)
    users = analysed(experiment).cte("analysed")
    summed = since_exposure(users, start_ts, window, TOTALS)
    return (
        sa.select(
            users.c.user,
            users.c.arm,
            *(sa.cast(sa.func.coalesce(summed.c[name], 0), sa.BigInteger).label(name) for name in TOTALS),
        )
        .select_from(users.outerjoin(summed, users.c.user == summed.c.user))
        .where(users.c.first_ts < end_ts)
        .order_by(users.c.user)
    )


def since_exposure(
    users: sa.FromClause, start_ts: int, window: Window | Since, columns: Sequence[str]
) -> sa.Subquery:
    """What analysed users did in a window since their exposure: user, `columns`; those with events only."""
    days = user_days(users, start_ts, window, columns).cte("user_days")
    return (
        sa.select(days.c.user, *(sa.func.sum(days.c[name]).label(name) for name in columns))
        .group_by(days.c.user)
        .subquery("summed")
    )


def user_days(
    users: sa.FromClause, start_ts: int, window: Window | Since, columns: Sequence[str]
) -> sa.Select:
    """What analysed users did on each day of a window since their exposure: user, arm, day_ts, `columns`.

    Only days with events have a row.
    """
    e = EVENTS.c
    day_ts = (e.ts - sa.func.mod(e.ts - start_ts, DAY_MS)).label("day_ts")
    day_1 = window.day_1(start_ts, users.c.first_ts)
    return (
        sa.select(
            e.user,
            sa.func.min(users.c.arm).label("arm"),
            day_ts,
            *(sa.cast(_day_total(name), sa.BigInteger).label(name) for name in columns),
        )
        .join_from(EVENTS, users, e.user == users.c.user)
        .where(
            e.ts >= users.c.first_ts,
            e.ts >= day_1 + (window.first_day - 1) * DAY_MS,
            e.ts < day_1 + window.last_day * DAY_MS,
            e.kind.in_(sorted({_kind_of(name) for name in columns})),
        )
        .group_by(e.user, day_ts)
    )


def before_start(users: sa.FromClause, start_ts: int, pre_days: int, columns: Sequence[str]) -> sa.Select:
    """What analysed users did in the last `pre_days` days before an experiment: user, `columns`.

    Only users with events then have a row. Nothing at or after the start counts, whenever they were exposed.
    """
    e = EVENTS.c
    day_ts = day_of(e.ts, start_ts).label("day_ts")
    by_day = (
        sa.select(e.user, day_ts, *(_day_total(name).label(name) for name in columns))
        .join_from(EVENTS, users, e.user == users.c.user)
        .where(
            e.ts >= _end(start_ts, -pre_days),
            e.ts < start_ts,
            e.kind.in_(sorted({_kind_of(name) for name in columns})),
        )
        .group_by(e.user, day_ts)
        .subquery("days_before")
        .c
    )
    return sa.select(
        by_day.user, *(sa.cast(sa.func.sum(by_day[name]), sa.BigInteger).label(name) for name in columns)
    ).group_by(by_day.user)


# A panel of them


def panel_members(
    experiment: str | Cohort,
    start_ts: int,
    days: int,
    *,
    pre_days: int = 0,
    before: Sequence[str] = (),
    cuts: Cuts | None = None,
) -> sa.Select:
    """The members of a panel (`panel`): analysed users exposed in the days, with totals `before` the start.

    With `cuts` their one group is how active they were before.
    """
    users = analysed(experiment).cte("analysed")
    exposed = users.c.first_ts < _end(start_ts, days)
    columns = [
        users.c.user,
        users.c.arm,
        users.c.first_ts,
        day_of(users.c.first_ts, start_ts).label("cohort_ts"),
    ]
    if not before:
        return sa.select(*columns).where(exposed)
    past = before_start(users, start_ts, pre_days, before).cte("before")
    totals = [sa.func.coalesce(past.c[name], 0).label(f"p{i}") for i, name in enumerate(before)]
    group = [] if cuts is None else [_activity(sa.func.coalesce(past.c[cuts.column], 0), cuts).label("g0")]
    return (
        sa.select(*columns, *totals, *group)
        .select_from(users.outerjoin(past, users.c.user == past.c.user))
        .where(exposed)
    )


def panel_days(members: sa.FromClause, start_ts: int, window: Window, columns: Sequence[str]) -> sa.Select:
    """The days of a panel (`panel`) in a window, of these members."""
    of_day = user_days(members, start_ts, window, columns).subquery("of_day").c
    return sa.select(
        of_day.user, of_day.day_ts, *(of_day[name].label(f"x{i}") for i, name in enumerate(columns))
    )


def activity_cuts(experiment: str, start_ts: int, pre_days: int, column: str) -> sa.Select:
    """One row: so many have a third, and two thirds, of the analysed users with any at most."""
    users = analysed(experiment).cte("analysed")
    past = before_start(users, start_ts, pre_days, [column]).subquery("before")
    total = past.c[column]
    return sa.select(
        sa.func.percentile_disc(sa.literal_column("1.0 / 3")).within_group(total),
        sa.func.percentile_disc(sa.literal_column("2.0 / 3")).within_group(total),
    ).where(total > 0)


def _activity(total: sa.ColumnElement, cuts: Cuts) -> sa.ColumnElement:
    return sa.case(
        (total == 0, Activity.new),
        (total <= cuts.light, Activity.light),
        (total <= cuts.middle, Activity.middle),
        else_=Activity.heavy,
    )


def _kind_of(name: str) -> Kind:
    return Kind.impression if name == "active_days" else (COUNTS | DURATIONS)[name]


def _day_total(name: str) -> sa.ColumnElement:
    of_kind = EVENTS.c.kind == _kind_of(name)
    if name in COUNTS:
        return sa.func.count().filter(of_kind)
    if name in DURATIONS:
        return sa.func.coalesce(sa.func.sum(EVENTS.c.value).filter(of_kind), 0)
    return sa.func.max(sa.case((of_kind, 1), else_=0))


def _of_impression(column: sa.ColumnElement) -> sa.ColumnElement:
    return sa.func.max(sa.case((EVENTS.c.kind == Kind.impression, column)))


def _earlier(before: int | None) -> tuple[sa.ColumnElement, ...]:
    return () if before is None else (EVENTS.c.ts < before,)


def _end(start_ts: int, last_day: int) -> int:
    return start_ts + last_day * DAY_MS

"""The questions that an analysis asks of a foreign log, as SQLAlchemy statements. Everything here is pure.

One text serves every database; only times (`EpochMs`) and wide integers (`WideInteger`) are spelled by
dialect. Names of tables and columns are quoted by SQLAlchemy and values are parameters: none becomes SQL.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from warehouse.events import DAY_MS
from warehouse.logs.columns import Column, LogMapping
from warehouse.logs.times import EpochMs
from warehouse.logs.totals import Total, value_expression
from warehouse.queries import WideInteger, Window

MOST_SEGMENTS = 50
PRE = Window(0, 0)
"""The window of the pre-period."""


@dataclass(frozen=True)
class LogTables:
    """A log as the statements need it. Times are Unix milliseconds; `ts_form` is None for a log without."""

    events: sa.TableClause
    assignment: sa.TableClause | None
    mapping: LogMapping
    columns: dict[str, Column]
    ts_form: str | None
    ingest_form: str | None = None
    assignment_ts_form: str | None = None
    ignored_arms: tuple[str, ...] = ()
    exposure_event: str | None = None
    drawn_between: tuple[int, int] | None = None
    """Only users who got their arm in [from_ts, until_ts): those of a phase."""

    @property
    def ts(self) -> sa.ColumnElement[int]:
        if self.ts_form is None or self.mapping.ts is None:
            return sa.literal(0, sa.BigInteger)
        return EpochMs(self.events.c[self.mapping.ts], self.ts_form)

    @property
    def user(self) -> sa.ColumnElement:
        """As text where a second table is joined, whose ids may be of another type."""
        user = self.events.c[self.mapping.user]
        return user if self.assignment is None else sa.cast(user, sa.String)

    @property
    def arm(self) -> sa.ColumnElement:
        if not self.mapping.arm:
            return sa.literal_column("'all users'", sa.String)
        source = self.events if self.assignment is None else self.assignment
        return sa.cast(source.c[self.mapping.assignment_arm or self.mapping.arm], sa.String)

    @property
    def kind(self) -> sa.ColumnElement:
        assert self.mapping.event is not None
        return sa.cast(self.events.c[self.mapping.event], sa.String)


@dataclass(frozen=True)
class Span:
    """The days of an experiment: the first moment of day 1, and how many days."""

    start_ts: int
    days: int

    def begin(self, day: int) -> int:
        """The first moment of a day."""
        return self.start_ts + (day - 1) * DAY_MS

    @property
    def end_ts(self) -> int:
        return self.begin(self.days + 1)


# What the log holds


def extent(log: LogTables) -> sa.Select:
    """(rows, rows with a user, rows with a time, rows with an arm, first ts, last ts, last ingest)."""
    own_arm = log.arm if log.assignment is None else sa.literal(1)
    ingest = (
        EpochMs(log.events.c[log.mapping.ingest], log.ingest_form)
        if log.mapping.ingest and log.ingest_form
        else sa.null()
    )
    return sa.select(
        sa.func.count(),
        sa.func.count(log.events.c[log.mapping.user]),
        sa.func.count(log.ts),
        sa.func.count(own_arm),
        sa.func.min(log.ts),
        sa.func.max(log.ts),
        sa.cast(sa.func.max(ingest), sa.BigInteger),
    ).select_from(log.events)


def values(log: LogTables, columns: Sequence[Column]) -> sa.Select:
    """For each column: rows that are NULL, NaN or infinite, and negative."""
    counts = []
    for column in columns:
        c = value_expression(log.events.c[column.name], column)
        finite = (c - c) == 0 if column.kind == "float" else sa.true()
        counts += [
            sa.func.count() - sa.func.count(c),
            sa.func.coalesce(sa.func.sum(sa.case((c.is_(None), 0), (finite, 0), else_=1)), 0),
            sa.func.coalesce(sa.func.sum(sa.case((c < 0, 1), else_=0)), 0),
        ]
    return sa.select(*counts).select_from(log.events)


def kinds(log: LogTables) -> sa.Select:
    """(kind, rows) of a long log, the commonest first."""
    n = sa.func.count().label("n")
    return sa.select(log.kind, n).select_from(log.events).group_by(log.kind).order_by(n.desc()).limit(1000)


def arms(log: LogTables) -> sa.Select:
    """(arm, first time with it) for every arm that stands in the log."""
    if log.assignment is None:
        ts: sa.ColumnElement = log.ts
    else:
        ts = _assignment_ts(log)
    source = log.events if log.assignment is None else log.assignment
    rows = sa.select(log.arm.label("arm"), ts.label("ts")).select_from(source).subquery("rows").c
    return (
        sa.select(rows.arm, sa.func.min(rows.ts))
        .where(rows.arm.is_not(None))
        .group_by(rows.arm)
        .order_by(rows.arm)
    )


def duplicates(log: LogTables, span: Span) -> sa.Select:
    """(arm or NULL, rows, rows that repeat another one): by id, or by all mapped columns without one."""
    m = log.mapping
    named = [m.id] if m.id else [m.user, m.ts, m.event, m.value]
    key = [log.events.c[name] for name in dict.fromkeys(named) if name]
    if not m.id and m.event is None:
        key = [*key, *(log.events.c[name] for name in log.columns if name not in named)]
    arm = sa.func.min(log.arm) if log.assignment is None else sa.cast(sa.null(), sa.String)
    repeated = (
        sa.select(arm.label("arm"), sa.func.count().label("n"))
        .select_from(log.events)
        .where(*_inside(log, span))
        .group_by(*key)
        .subquery("repeated")
    )
    return sa.select(repeated.c.arm, sa.func.sum(repeated.c.n), sa.func.sum(repeated.c.n - 1)).group_by(
        repeated.c.arm
    )


def days_with_events(log: LogTables, span: Span) -> sa.Select:
    """(day_ts, rows, last ts) of each day of the experiment that holds an event."""
    day = _day_ts(log.ts, span).label("day_ts")
    inside = sa.select(day, log.ts.label("ts")).where(*_inside(log, span)).subquery("inside")
    return (
        sa.select(inside.c.day_ts, sa.func.count(), sa.func.max(inside.c.ts))
        .group_by(inside.c.day_ts)
        .order_by(inside.c.day_ts)
    )


def lateness(log: LogTables, span: Span) -> sa.Select:
    """(rows, rows that arrived more than an hour late, largest delay in ms) of the experiment's days."""
    assert log.mapping.ingest is not None
    assert log.ingest_form is not None
    delay = EpochMs(log.events.c[log.mapping.ingest], log.ingest_form) - log.ts
    return sa.select(
        sa.func.count(delay),
        sa.func.coalesce(sa.func.sum(sa.case((delay > 3_600_000, 1), else_=0)), 0),
        sa.func.max(delay),
    ).where(*_inside(log, span))


# Who was exposed


def assigned(log: LogTables, span: Span) -> sa.Select:
    """Every user of the assignment: user, arm, other_arm (the same for a user in one), first_ts, segments."""
    if log.assignment is None:
        where = [*_inside(log, span), log.user.is_not(None), *_usable(log)]
        if log.exposure_event is not None:
            where.append(log.kind == log.exposure_event)
        return _per_user(log, log.events, log.user, log.ts, where)
    a = log.assignment
    user = sa.cast(a.c[log.mapping.assignment_user or log.mapping.user], sa.String)
    ts = _assignment_ts(log)
    first = sa.case((ts > span.start_ts, ts), else_=span.start_ts)
    return _per_user(log, a, user, first, [user.is_not(None), first < span.end_ts, *_usable(log)])


def ignored(log: LogTables, span: Span) -> sa.Select:
    """(arm, users) of the arms that are left out."""
    source, user, inside = log.events, log.user, _inside(log, span)
    if log.assignment is not None:
        source = log.assignment
        user, inside = source.c[log.mapping.assignment_user or log.mapping.user], []
    return (
        sa.select(log.arm, sa.func.count(user.distinct()))
        .select_from(source)
        .where(log.arm.in_(log.ignored_arms), *inside)
        .group_by(log.arm)
        .order_by(log.arm)
    )


def knows_assignment_ts(log: LogTables) -> bool:
    """Whether the moment is known at which a user got their arm; else it is that of the exposure."""
    return log.assignment is None or log.mapping.assignment_ts is not None


def exposed(log: LogTables, span: Span) -> sa.Select:
    """As `assigned`, from a user's first exposure on: the first event of the declared kind, if one is."""
    users = assigned(log, span)
    if log.assignment is None or log.exposure_event is None:
        return users
    u = users.subquery("assigned")
    first = sa.func.min(log.ts)
    columns = [sa.func.min(u.c[name]).label(name) for name in ("arm", "other_arm")]
    rest = [sa.func.min(u.c[name]).label(name) for name in _segment_names(log)]
    return (
        sa.select(u.c.user, *columns, first.label("first_ts"), *rest)
        .join_from(log.events, u, log.user == u.c.user)
        .where(log.kind == log.exposure_event, log.ts >= u.c.first_ts, log.ts < span.end_ts)
        .group_by(u.c.user)
        .having(*([] if knows_assignment_ts(log) else _drawn(log, first)))
    )


def users_by_day(users: sa.Select, span: Span) -> sa.Select:
    """(arm, other_arm, day_ts, users): users seen in two arms have a row with both."""
    u = users.subquery("users")
    day = _day_ts(u.c.first_ts, span).label("day_ts")
    by_day = sa.select(u.c.arm, u.c.other_arm, day).subquery("by_day").c
    return (
        sa.select(by_day.arm, by_day.other_arm, by_day.day_ts, sa.func.count())
        .group_by(by_day.arm, by_day.other_arm, by_day.day_ts)
        .order_by(by_day.day_ts, by_day.arm, by_day.other_arm)
    )


def users_by_segment(users: sa.Select, index: int) -> sa.Select:
    """(value of the segment, arm, users), of users seen in one arm; a missing value is a segment too."""
    u = users.subquery("users").c
    return (
        sa.select(u[f"segment_{index}"], u.arm, sa.func.count())
        .where(u.arm == u.other_arm)
        .group_by(u[f"segment_{index}"], u.arm)
        .order_by(u[f"segment_{index}"], u.arm)
    )


# What the exposed did


def user_days(log: LogTables, span: Span, totals: Sequence[Total], *, one_arm: bool) -> sa.Select:
    """What exposed users did on each day since their exposure: user, arm, day_ts, and t0, t1, ... (`totals`).

    `one_arm` says that every row has the arm of its user, and no user is dropped: then events are grouped by
    user without a join, which is much faster.
    """
    inside = _inside(log, span)
    if one_arm:
        rows = _rows(log, totals, log.arm, _day_ts(log.ts, span)).where(*inside, log.user.is_not(None))
    else:
        u = exposed(log, span).cte("exposed")
        rows = (
            _rows(log, totals, u.c.arm, _day_ts(log.ts, span))
            .join_from(log.events, u, log.user == u.c.user)
            .where(*inside, log.ts >= u.c.first_ts, u.c.arm == u.c.other_arm)
        )
    return _summed(rows.subquery("rows"), totals)


def pre_period(log: LogTables, span: Span, totals: Sequence[Total], pre_days: int) -> sa.Select:
    """What the same users did before the experiment's start, as one row of `user_days` each, on the day of
    their first exposure."""
    u = exposed(log, span).cte("exposed_before")
    before = [log.ts < span.start_ts, log.ts >= span.start_ts - pre_days * DAY_MS]
    rows = (
        _rows(log, totals, u.c.arm, _day_ts(u.c.first_ts, span))
        .join_from(log.events, u, log.user == u.c.user)
        .where(*before, u.c.arm == u.c.other_arm)
    )
    return _summed(rows.subquery("rows"), totals)


def with_past(days: sa.Select, past: sa.Select, n_totals: int, n_past: int) -> sa.Select:
    """Both as one table: t0, t1, ... of `days`, then those of `past`; `is_past` tells the rows apart."""
    d, p = days.subquery("days"), past.subquery("past")
    zero = sa.literal(0, sa.BigInteger)
    now = sa.select(
        d.c.user,
        d.c.arm,
        d.c.day_ts,
        sa.literal(0, sa.Integer).label("is_past"),
        *(d.c[f"t{i}"].label(f"t{i}") for i in range(n_totals)),
        *(zero.label(f"t{n_totals + i}") for i in range(n_past)),
    )
    before = sa.select(
        p.c.user,
        p.c.arm,
        p.c.day_ts,
        sa.literal(1, sa.Integer).label("is_past"),
        *(zero.label(f"t{i}") for i in range(n_totals)),
        *(p.c[f"t{i}"].label(f"t{n_totals + i}") for i in range(n_past)),
    )
    both = sa.union_all(now, before).subquery("both")
    return sa.select(*both.c)


def exact_sums(
    days: sa.CTE,
    span: Span,
    windows: Sequence[Window],
    totals: Sequence[Total],
    pairs: Sequence[tuple[int, int]],
) -> sa.Select | sa.CompoundSelect:
    """Rows of (first_day, last_day, arm, users, sum of each total, of each pair's product), in integers."""
    branches = []
    for window in windows:
        t = _window_totals(days, span, window, totals).subquery(f"days_{window[0]}_{window[1]}").c
        wide = [sa.cast(t[f"t{i}"], WideInteger) for i in range(len(totals))]
        sums = [sa.func.sum(column) for column in wide]
        products = [sa.func.sum(wide[i] * wide[j]) for i, j in pairs]
        branches.append(_branch(window, t.arm, [*sums, *products]))
    return branches[0] if len(branches) == 1 else sa.union_all(*branches)


def central_sums(
    days: sa.CTE,
    span: Span,
    windows: Sequence[Window],
    totals: Sequence[Total],
    pairs: Sequence[tuple[int, int]],
) -> sa.Select | sa.CompoundSelect:
    """As `exact_sums`, for floats: rows of (first_day, last_day, arm, users, centre of each total, sum of
    each deviation, sum of each pair's product of deviations).

    The centre is the arm's mean as the database rounds it; deviations from it lose no digits of a variance.
    """
    branches = []
    for window in windows:
        n = len(totals)
        per_user = _window_totals(days, span, window, totals).subquery(f"days_{window[0]}_{window[1]}").c
        x = [sa.cast(per_user[f"t{i}"], sa.Double) for i in range(n)]
        centred = (
            sa.select(
                per_user.arm,
                *(x[i].label(f"x{i}") for i in range(n)),
                *(sa.func.avg(x[i]).over(partition_by=per_user.arm).label(f"c{i}") for i in range(n)),
            )
            .subquery(f"centred_{window[0]}_{window[1]}")
            .c
        )
        d = [centred[f"x{i}"] - centred[f"c{i}"] for i in range(n)]
        sums = [
            *(sa.func.min(centred[f"c{i}"]) for i in range(n)),
            *(sa.func.sum(deviation) for deviation in d),
            *(sa.func.sum(d[i] * d[j]) for i, j in pairs),
        ]
        branches.append(_branch(window, centred.arm, sums))
    return branches[0] if len(branches) == 1 else sa.union_all(*branches)


# Parts


def _inside(log: LogTables, span: Span) -> list[sa.ColumnElement[bool]]:
    return [] if log.ts_form is None else [log.ts >= span.start_ts, log.ts < span.end_ts]


def _usable(log: LogTables) -> list[sa.ColumnElement[bool]]:
    usable: list[sa.ColumnElement[bool]] = [log.arm.is_not(None)]
    return [*usable, log.arm.not_in(log.ignored_arms)] if log.ignored_arms else usable


def _day_ts(ts: sa.ColumnElement, span: Span) -> sa.ColumnElement:
    """The first moment of the day of a time at or after the start."""
    if span.days == 1:
        return sa.literal(span.start_ts, sa.BigInteger)
    return ts - (ts - span.start_ts) % DAY_MS


def _assignment_ts(log: LogTables) -> sa.ColumnElement:
    if log.assignment is None or log.assignment_ts_form is None or log.mapping.assignment_ts is None:
        return sa.literal(0, sa.BigInteger)
    return EpochMs(log.assignment.c[log.mapping.assignment_ts], log.assignment_ts_form)


def _drawn(log: LogTables, first_ts: sa.ColumnElement) -> list[sa.ColumnElement[bool]]:
    if log.drawn_between is None:
        return []
    from_ts, until_ts = log.drawn_between
    return [first_ts >= from_ts, first_ts < until_ts]


def _segment_names(log: LogTables) -> list[str]:
    return [f"segment_{i}" for i in range(len(log.mapping.segments))]


def _per_user(
    log: LogTables,
    source: sa.TableClause,
    user: sa.ColumnElement,
    ts: sa.ColumnElement,
    where: Sequence[sa.ColumnElement[bool]],
) -> sa.Select:
    rows = (
        sa.select(
            user.label("user"),
            log.arm.label("arm"),
            ts.label("ts"),
            *(
                sa.cast(source.c[column], sa.String).label(name)
                for name, column in zip(_segment_names(log), log.mapping.segments, strict=True)
            ),
        )
        .select_from(source)
        .where(*where)
        .subquery("assignments")
        .c
    )
    users = sa.select(
        rows.user,
        sa.func.min(rows.arm).label("arm"),
        sa.func.max(rows.arm).label("other_arm"),
        sa.func.min(rows.ts).label("first_ts"),
        *(sa.func.min(rows[name]).label(name) for name in _segment_names(log)),
    )
    drawn = _drawn(log, sa.func.min(rows.ts)) if knows_assignment_ts(log) else []
    return users.group_by(rows.user).having(*drawn)


def _rows(
    log: LogTables, totals: Sequence[Total], arm: sa.ColumnElement, day_ts: sa.ColumnElement
) -> sa.Select:
    columns = []
    for i, total in enumerate(totals):
        value: sa.ColumnElement = sa.literal(1, sa.BigInteger)
        if total.how == "sum":
            column = log.columns[total.column or ""]
            value = value_expression(log.events.c[column.name], column)
        if total.event is not None:
            value = sa.case((log.kind == total.event, value))
        columns.append(value.label(f"v{i}"))
    return sa.select(log.user.label("user"), arm.label("arm"), day_ts.label("day_ts"), *columns)


def _summed(rows: sa.Subquery, totals: Sequence[Total]) -> sa.Select:
    return sa.select(
        rows.c.user,
        sa.func.min(rows.c.arm).label("arm"),
        rows.c.day_ts,
        *(
            sa.func.coalesce(
                (sa.func.max if total.how in ("days", "any") else sa.func.sum)(rows.c[f"v{i}"]), 0
            ).label(f"t{i}")
            for i, total in enumerate(totals)
        ),
    ).group_by(rows.c.user, rows.c.day_ts)


def _window_totals(days: sa.CTE, span: Span, window: Window, totals: Sequence[Total]) -> sa.Select:
    columns = [days.c[f"t{i}"] for i in range(len(totals))]
    has_past = "is_past" in days.c
    if window == PRE or (not has_past and window == (1, 1) and span.days == 1):
        return sa.select(days.c.user, days.c.arm, *columns)
    until = days.c.day_ts < span.begin(window.last_day + 1)
    inside = [until, days.c.day_ts >= span.begin(window.first_day)]
    if has_past:  # the past belongs to every window of users who were exposed by its end
        inside = [until, sa.or_(days.c.is_past == 1, inside[1])]
    elif window.first_day == window.last_day:
        return sa.select(days.c.user, days.c.arm, *columns).where(*inside)
    return (
        sa.select(
            days.c.user,
            sa.func.min(days.c.arm).label("arm"),
            *(
                (sa.func.max if total.how == "any" else sa.func.sum)(column).label(f"t{i}")
                for i, (total, column) in enumerate(zip(totals, columns, strict=True))
            ),
        )
        .where(*inside)
        .group_by(days.c.user)
    )


def _branch(window: Window, arm: sa.ColumnElement, sums: Sequence[sa.ColumnElement]) -> sa.Select:
    return sa.select(
        sa.literal(window.first_day, sa.Integer),
        sa.literal(window.last_day, sa.Integer),
        arm,
        sa.func.count(),
        *sums,
    ).group_by(arm)

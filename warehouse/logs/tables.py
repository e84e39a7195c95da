"""A foreign log as its statements need it: its tables, what their columns mean, and the experiment's days.

One text serves every database; only times (`EpochMs`) and wide integers are spelled by dialect. Names of
tables and columns are quoted by SQLAlchemy and values are parameters: none becomes SQL.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from warehouse.events import DAY_MS
from warehouse.logs.columns import Column, Kind, LogMapping
from warehouse.logs.times import EpochMs


@dataclass(frozen=True)
class LogTables:
    """A log as the statements need it. Times are Unix milliseconds; `ts_form` is None for a log without."""

    events: sa.TableClause
    assignment: sa.TableClause | None
    mapping: LogMapping
    columns: dict[str, Column]
    ts_form: str | None
    ingest_form: str | None = None
    ignored_arms: tuple[str, ...] = ()
    exposure_event: str | None = None
    assignment_ts_form: str | None = None
    ids_as_text: bool = False
    assignment_user_kind: Kind = "text"
    drawn_between: tuple[int, int] | None = None
    """Only users who got their arm in [from_ts, until_ts): those of a phase."""

    @property
    def ts(self) -> sa.ColumnElement[int]:
        if self.ts_form is None or self.mapping.ts is None:
            return sa.literal(0, sa.BigInteger)
        return EpochMs(self.events.c[self.mapping.ts], self.ts_form)

    @property
    def user(self) -> sa.ColumnElement:
        """The id in a row of the events, NULL for none; text where the assignment's are of another type."""
        return self._id(self.events.c[self.mapping.user], self.columns[self.mapping.user].kind)

    @property
    def assigned_user(self) -> sa.ColumnElement:
        """The id in a row of the assignment, to be compared with `user`."""
        assert self.assignment is not None
        column = self.assignment.c[self.mapping.assignment_user or self.mapping.user]
        return self._id(column, self.assignment_user_kind)

    @property
    def arm(self) -> sa.ColumnElement:
        if not self.mapping.arm:
            return sa.literal_column("'all users'", sa.String)
        source = self.events if self.assignment is None else self.assignment
        return sa.cast(source.c[self.mapping.assignment_arm or self.mapping.arm], sa.String)

    @property
    def assignment_ts(self) -> sa.ColumnElement[int]:
        if self.assignment is None or self.assignment_ts_form is None or self.mapping.assignment_ts is None:
            return sa.literal(0, sa.BigInteger)
        return EpochMs(self.assignment.c[self.mapping.assignment_ts], self.assignment_ts_form)

    @property
    def knows_assignment_ts(self) -> bool:
        """Whether the moment is known at which a user got their arm; else it is that of the exposure."""
        return self.assignment is None or self.assignment_ts_form is not None

    def drawn(self, ts: sa.ColumnElement) -> list[sa.ColumnElement[bool]]:
        """What holds of the moments at which the users of the phase got their arm."""
        if self.drawn_between is None:
            return []
        from_ts, until_ts = self.drawn_between
        return [ts >= from_ts, ts < until_ts]

    @property
    def segments(self) -> list[str]:
        """The names of the segments' columns in statements: segment_0, ..."""
        return [f"segment_{i}" for i in range(len(self.mapping.segments))]

    def inside(self, span: "Span") -> list[sa.ColumnElement[bool]]:
        """What holds of the events of the experiment's days."""
        return [] if self.ts_form is None else [self.ts >= span.start_ts, self.ts < span.end_ts]

    @property
    def usable(self) -> list[sa.ColumnElement[bool]]:
        """What holds of the rows with an arm of the experiment."""
        usable: list[sa.ColumnElement[bool]] = [self.arm.is_not(None)]
        return [*usable, self.arm.not_in(self.ignored_arms)] if self.ignored_arms else usable

    @property
    def kind(self) -> sa.ColumnElement:
        assert self.mapping.event is not None
        return sa.cast(self.events.c[self.mapping.event], sa.String)

    def _id(self, column: sa.ColumnElement, kind: Kind) -> sa.ColumnElement:
        """NaN is how tables of floats say that there is no id: all rows with it would be one user."""
        known = sa.case(((column - column) == 0, column)) if kind == "float" else column
        return sa.cast(known, sa.String) if self.ids_as_text else known


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

    def part(self, first: int, last: int) -> "Span":
        """Days first to last of it."""
        return Span(self.begin(first), last - first + 1)

    def day_ts(self, ts: sa.ColumnElement) -> sa.ColumnElement:
        """The first moment of the day of a time at or after the start."""
        if self.days == 1:
            return sa.literal(self.start_ts, sa.BigInteger)
        return ts - (ts - self.start_ts) % DAY_MS

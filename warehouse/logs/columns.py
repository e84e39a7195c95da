"""Which column of a foreign log is what: the mapping, and the kinds of columns that databases have."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

Kind = Literal["integer", "decimal", "float", "boolean", "text", "timestamp", "timestamptz", "date", "other"]
NUMBERS = ("integer", "decimal", "float", "boolean")
TS_UNITS = ("s", "ms", "us", "ns")


@dataclass(frozen=True)
class Column:
    """A column as its database describes it. `scale` is the number of decimals of a decimal."""

    name: str
    kind: Kind
    scale: int = 0


@dataclass(frozen=True)
class LogMapping:
    """The columns of a log by their meaning.

    `arm` is a column of the events, or of the assignment table where there is one. Without `ts` every row
    counts and there is one window. `event` and `value` are those of a long log (one row an event); a wide log
    has a column per metric instead. `id` identifies an event, `ingest` is when it arrived, `segments` are
    attributes of the user. `ts_unit` says what whole-number times are (s, ms, us or ns).
    """

    user: str
    arm: str = ""
    ts: str | None = None
    event: str | None = None
    value: str | None = None
    id: str | None = None
    ingest: str | None = None
    segments: tuple[str, ...] = ()
    ts_unit: str | None = None
    assignment_user: str | None = None
    assignment_arm: str | None = None
    assignment_ts: str | None = None

    def __post_init__(self) -> None:
        if self.ts_unit is not None and self.ts_unit not in TS_UNITS:
            raise ValueError(f"ts_unit is {self.ts_unit!r} in the mapping; allowed: {', '.join(TS_UNITS)}")
        if self.value is not None and self.event is None:
            raise ValueError(
                f"the mapping has value={self.value} and no event; name the column with the events' kinds"
            )

    @classmethod
    def from_keys(cls, given: Mapping[str, Any], *, needs_arm: bool = True) -> Self:
        """From keys as in `--map` and in the table [map] of a file; `segment` is a column or a list.

        Without an arm, where none is needed, all users are together.
        """
        known = [key.name for key in fields(cls) if key.name != "segments"] + ["segment"]
        for key, value in given.items():
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ValueError(f"unknown key {key!r} in the mapping; known: {', '.join(known)}{hint}")
            texts = value if key == "segment" and isinstance(value, list | tuple) else [value]
            if not all(isinstance(text, str) and text for text in texts):
                raise ValueError(f"{key} = {value!r} in the mapping is no column name; give text")
        for key in ("user", "arm") if needs_arm else ("user",):
            if key not in given:
                raise ValueError(f"the mapping lacks {key}; give at least user=COLUMN,arm=COLUMN")
        segments = given.get("segment", ())
        rest = {key: value for key, value in given.items() if key != "segment"}
        return cls(**rest, segments=(segments,) if isinstance(segments, str) else tuple(segments))


def parse_mapping(text: str) -> dict[str, Any]:
    """The keys of "user=uid,ts=time,arm=variant"; a repeated `segment` becomes a list.

    >>> parse_mapping("user=uid, arm=variant, segment=country, segment=device")
    {'user': 'uid', 'arm': 'variant', 'segment': ['country', 'device']}
    """
    found: dict[str, Any] = {}
    for part in text.split(","):
        key, separator, column = (piece.strip() for piece in part.partition("="))
        if not (key and separator and column):
            raise ValueError(
                f"{part.strip()!r} in --map is not KEY=COLUMN; an example is user=uid,ts=time,arm=variant"
                " (names with a comma go into the table [map] of --config)"
            )
        if key == "segment" and key in found:
            found[key] = [*_listed(found[key]), column]
        elif key in found:
            raise ValueError(f"{key} is given twice in --map ({found[key]} and {column}); give it once")
        else:
            found[key] = column
    return found


def find_column(columns: Mapping[str, Column], name: str, table: str) -> Column:
    """The column of that name; LookupError names those that are there."""
    if name in columns:
        return columns[name]
    same = [known for known in columns if known.casefold() == name.strip().casefold()]
    close = same or difflib.get_close_matches(name, columns, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise LookupError(f"no column {name!r} in {table}; its columns: {', '.join(columns)}{hint}")


def _listed(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)

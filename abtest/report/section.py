"""A part of a report: a title, a table of strings, notes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Document = Mapping[str, Any]
Effects = list[Mapping[str, Any]]


@dataclass(frozen=True)
class Section:
    """A title, a table of strings (headers may be empty: no table; the first `n_text` columns are words), and
    notes below it."""

    title: str
    headers: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    n_text: int = 1

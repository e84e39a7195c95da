"""A part of a report, for the terminal and Markdown alike."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A title, a table of strings (headers may be empty: no table; the first `n_text` columns are words), and
    notes below it."""

    title: str
    headers: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    n_text: int = 1

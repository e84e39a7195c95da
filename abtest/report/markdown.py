"""The report as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from abtest.report.section import Section
from abtest.report.sections import headline, sections


def to_markdown(document: Mapping[str, Any]) -> str:
    """The whole report: verdict, checks, a table for each treatment, trends."""
    reasons = [f"- {_escape(reason)}" for reason in document["verdict"]["reasons"]]
    parts = [f"# {_escape(headline(document))}", "\n".join(reasons)]
    parts += [_section(section) for section in sections(document)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: Section) -> str:
    parts = [f"## {_escape(section.title)}"]
    if section.rows:
        parts.append(_table(section))
    return "\n\n".join([*parts, *map(_escape, section.notes)])


def _table(section: Section) -> str:
    ruler = ["---" if i < section.n_text else "---:" for i in range(len(section.headers))]
    lines = [section.headers, ruler, *section.rows]
    return "\n".join([_line(lines[0]), _line(ruler, escape=False), *map(_line, lines[2:])])


def _line(cells: Sequence[str], escape: bool = True) -> str:
    return f"| {' | '.join(map(_escape, cells) if escape else cells)} |"


def _escape(text: str) -> str:
    """Text whose characters mean nothing to Markdown."""
    for character in "\\`*_|<[":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())

"""The report in a terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from abtest.report.section import Section
from abtest.report.sections import headline, sections

if TYPE_CHECKING:
    from abtest.analysis import Analysis

WIDTH = 120
"""Columns where the output is no terminal (a file, a pipe)."""

DECISION_STYLES = {
    "ship": "bold green",
    "do_not_ship": "bold red",
    "keep_running": "bold yellow",
    "invalid": "bold red",
}
CELL_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "won": "green", "lost": "red"}


def print_report(analysis: "Analysis", console: Console | None = None) -> None:
    """Print the report to stdout, or to the console given."""
    print_document(analysis.document(), console)


def print_document(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the report of a document (of report.json)."""
    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=WIDTH)
    style = DECISION_STYLES[document["verdict"]["decision"]]
    console.print(Text(headline(document), style=style))
    for reason in document["verdict"]["reasons"]:
        console.print(Text(f"- {reason}"))
    for section in sections(document):
        _print_section(section, console)


def print_sections(sections: Sequence[Section], console: Console | None = None) -> None:
    """Print tables that are no report, to stdout or to the console given."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    for section in sections:
        _print_section(section, console)


def _print_section(section: Section, console: Console) -> None:
    console.print()
    console.print(Text(section.title, style="bold"))
    if section.rows:
        console.print(_table(section))
    for note in section.notes:
        console.print(Text(note, style="dim"))


def _table(section: Section) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, header in enumerate(section.headers):
        table.add_column(
            Text(header),
            justify="left" if i < section.n_text else "right",
            overflow="fold",
        )
    for row in section.rows:
        table.add_row(*(Text(cell, style=CELL_STYLES.get(cell, "")) for cell in row))
    return table

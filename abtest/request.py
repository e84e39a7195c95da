"""What `abtest analyze` and `abtest plan` are told about a log: on the command line, and in a file."""

from dataclasses import dataclass, replace
from pathlib import Path

from abtest.declaration import Declaration, read_declaration


@dataclass(frozen=True)
class LogRequest:
    """What `abtest analyze` and `abtest plan` are told about a log."""

    places: tuple[str, ...]
    mapping: str | None = None
    config: Path | None = None
    table: str | None = None
    assignment: str | None = None
    control: str | None = None
    name: str | None = None
    segments: str | None = None
    stratify: str | None = None
    threads: int = 2


def declared(request: LogRequest) -> Declaration:
    """The declaration of the file, with the mapping and the names of the command line over it."""
    from warehouse.logs.columns import parse_mapping

    declaration = read_declaration(request.config) if request.config else Declaration()
    mapping = {**declaration.map, **(parse_mapping(request.mapping) if request.mapping else {})}
    if request.segments is not None:
        mapping["segment"] = parse_segments(request.segments)
    return replace(
        declaration,
        map=mapping,
        control=request.control or declaration.control,
        name=request.name or declaration.name,
        stratify=request.stratify or declaration.stratify,
    )


def parse_segments(text: str) -> list[str]:
    """The columns of "country,platform".

    >>> parse_segments("country, platform")
    ['country', 'platform']
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(f"--segments {text!r} are no columns, each once; an example is country,platform")
    return names

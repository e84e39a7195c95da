"""The Analysis document as JSON, and the files that a run leaves. NaN is no JSON: absent values are null."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abtest.report.markdown import to_markdown

if TYPE_CHECKING:
    from abtest.analysis import Analysis


def to_json(document: Mapping[str, Any]) -> str:
    """The document as text, keys in their order. ValueError where a number is NaN or infinite."""
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def from_json(text: str) -> dict[str, Any]:
    """The document that `to_json` wrote. ValueError where the text is no such document."""
    from abtest.analysis import SCHEMA_VERSION

    document = json.loads(text, parse_constant=_refuse)
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(f"the report has schema_version {version!r}; this version reads {SCHEMA_VERSION}")
    return document


def write_reports(analysis: "Analysis", folder: Path) -> None:
    """Write report.json and report.md; each replaces an older one as a whole."""
    write_document(analysis.document(), folder)


def write_document(document: Mapping[str, Any], folder: Path) -> None:
    """Write the reports that a document makes."""
    for name, text in (("report.json", to_json(document)), ("report.md", to_markdown(document))):
        partial = folder / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / name)


def _refuse(constant: str) -> None:
    raise ValueError(f"the report holds {constant}, which is no JSON")

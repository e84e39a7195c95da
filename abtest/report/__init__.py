"""Reports: one Analysis document as text in a terminal, as Markdown and as JSON."""

from abtest.report.document import from_json, to_json, write_reports
from abtest.report.markdown import to_markdown
from abtest.report.terminal import print_report

__all__ = ["from_json", "print_report", "to_json", "to_markdown", "write_reports"]

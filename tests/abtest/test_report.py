"""One document as terminal text, Markdown and JSON."""

import doctest
import io
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import abtest.growthbook
import abtest.hashing
import abtest.looks
import abtest.plan
import abtest.population
import abtest.report.numbers
import abtest.report.plan
import abtest.stats.moments
import abtest.stats.multiplicity
import abtest.stats.power
import abtest.stats.strata
from abtest.analysis import Analysis, analyse, windows
from abtest.experiment import Arm, Experiment
from abtest.metrics import METRICS
from abtest.report import from_json, print_report, to_json, to_markdown, write_reports
from abtest.report.numbers import confidence
from abtest.stats.moments import Moments


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    """recgpt wins comments; nobody hates; three days, 300 users an arm."""
    base = {column: [20 + i % 5 for i in range(300)] for metric in METRICS for column in metric.columns}
    base |= {"n_impression": [60] * 300, "active_days": [i % 3 for i in range(300)], "n_hate": [0] * 300}
    arms = {"comirec": base, "recgpt|x": {**base, "n_comment": [24 + i % 5 for i in range(300)]}}
    moments = {arm: Moments.from_arrays(**users) for arm, users in arms.items()}
    rows: list[Any] = [
        SimpleNamespace(arm=arm, window=window, n=m.n, sums=m.sums, products=m.products)
        for arm, m in moments.items()
        for window in windows(3)
    ]
    experiment = Experiment("demo", (Arm("comirec", "comirec"), Arm("recgpt|x", "recgpt")), days=3)
    settings = {**experiment.settings(), "seed": 7, "n_users": 600, "stage": "retrieval"}
    return analyse(settings, rows, exposed=dict.fromkeys(arms, 300))


@pytest.fixture(scope="module")
def document(analysis: Analysis) -> dict[str, Any]:
    return analysis.document()


def printed(analysis: Analysis, width: int) -> str:
    out = io.StringIO()
    print_report(analysis, Console(file=out, width=width))
    return out.getvalue()


def test_the_verdict_comes_first_then_checks_then_goals_then_trends(
    analysis: Analysis, document: Mapping[str, Any]
) -> None:
    for text in (printed(analysis, 140), to_markdown(document).replace("\\", "")):
        lines = text.splitlines()
        assert "SHIP recgpt|x" in lines[0]
        order = [
            "recgpt|x wins comments: +18",
            "Health checks",
            "goals",
            "diagnostics",
            "day by day",
            "Truth",
        ]
        places = [text.index(words) for words in order]
        assert places == sorted(places)


def test_values_have_their_intervals_and_missing_ones_a_dash(analysis: Analysis) -> None:
    lines = printed(analysis, 140).splitlines()
    comments = next(line for line in lines if line.strip().startswith("comments "))
    assert comments.split()[:4] == ["comments", "22.00", "26.00", "+18.2"]
    assert "won" in comments
    hates = next(line for line in lines if line.strip().startswith("hates "))
    assert hates.split() == ["hates", "0", "0", "-", "-", "-", "-"]
    assert "Not computable for impressions, hates, watch_s_per_play: zero variance in both arms." in lines


def test_the_levels_that_were_used_are_shown(analysis: Analysis) -> None:
    text = printed(analysis, 140)
    levels = {e["level"] for e in analysis.document()["effects"] if e["p_adjusted"] is not None}
    assert len(levels) > 1
    assert all(confidence(level) in text for level in levels)
    assert "95 %" in text  # diagnostics


def test_markdown_tables_are_whole_and_names_are_escaped(document: Mapping[str, Any]) -> None:
    text = to_markdown(document)
    assert text.startswith("# SHIP recgpt\\|x\n")
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 7
    for block in blocks:
        widths = {line.replace("\\|", "").count("|") for line in block.splitlines()}
        assert len(widths) == 1, block


def test_a_narrow_terminal_loses_nothing(analysis: Analysis) -> None:
    text = printed(analysis, 60)
    assert "…" not in text


def test_overlap_is_shown_where_it_was_measured(document: Mapping[str, Any]) -> None:
    overlap = {"candidates": 50, "users": 512, "pairs": [{"arms": ["comirec", "recgpt|x"], "share": 0.25}]}
    text = to_markdown({**document, "candidate_overlap": overlap})
    assert "| comirec and recgpt\\|x | 25 % |" in text
    assert "Not measured." in to_markdown(document)


def test_json_comes_back_as_it_was(document: Mapping[str, Any]) -> None:
    assert from_json(to_json(document)) == document


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(document: Mapping[str, Any], value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json({**document, "timings": {"world": value}})


@pytest.mark.parametrize(
    ("text", "words"),
    [("{}", "schema_version None"), ('{"schema_version": 99}', "99"), ('{"p": NaN}', "NaN"), ("[]", "None")],
)
def test_a_foreign_document_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_json(text)


def test_both_files_are_written_and_replace_older_ones(analysis: Analysis, tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("old")
    write_reports(analysis, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]
    assert from_json((tmp_path / "report.json").read_text()) == analysis.document()
    assert (tmp_path / "report.md").read_text() == to_markdown(analysis.document())


@pytest.mark.parametrize(
    "module",
    [
        abtest.growthbook,
        abtest.hashing,
        abtest.looks,
        abtest.population,
        abtest.report.numbers,
        abtest.stats.moments,
        abtest.plan,
        abtest.report.plan,
        abtest.stats.multiplicity,
        abtest.stats.power,
        abtest.stats.strata,
    ],
)
def test_examples_in_docstrings_run(module: Any) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed

"""Sections on segments of users and on days since exposure."""

from collections.abc import Mapping
from typing import Any

from abtest.report.numbers import MISSING, confidence, count, lift_cell, p_value, percent
from abtest.report.section import Document, Effects, Section

SEGMENT_NOTE = (
    "Lifts with intervals, {levels}: corrected over all segments, goals and treatments, so that an interval"
    " leaves out 0 exactly where the adjusted p is below {alpha:g}. Segments explain and decide nothing."
)
NOVELTY_NOTE = (
    "Lifts with intervals at {level}, not corrected: to be read, not to be acted on. Day 1 is the rest of the"
    " day of a user's first exposure; day k and the first k days are of the users who can have had k days."
)


def segment_sections(document: Document, treatment: str, versus: str) -> list[Section]:
    """A table for each dimension: goals by segment, and below it whether the segments differ."""
    effects = [e for e in document.get("segments", ()) if e["treatment"] == treatment]
    return [
        _segments(document, [e for e in effects if e["dimension"] == dimension], dimension, versus)
        for dimension in dict.fromkeys(e["dimension"] for e in effects)
    ]


def novelty_sections(document: Document, treatment: str, versus: str) -> list[Section]:
    """One table: goals by day since exposure and over the first days; below it whether there is a trend."""
    found = document.get("since_exposure", {"effects": (), "trends": ()})
    effects = [e for e in found["effects"] if e["treatment"] == treatment]
    if not effects:
        return []
    names = list(dict.fromkeys(e["metric"] for e in effects))
    by_window = {(e["metric"], e["window"]["from"], e["window"]["to"]): e for e in effects}
    days = sorted({last for _, _, last in by_window})
    rows = [
        (
            str(k),
            _users(by_window[names[0], 1, k]),
            *(_cell(by_window[name, first, k]) for name in names for first in (k, 1)),
        )
        for k in days
    ]
    headers = [f"{name}, {what}" for name in names for what in ("day k", "first k days")]
    trends = [_trend(t) for t in found["trends"] if t["treatment"] == treatment]
    note = NOVELTY_NOTE.format(level=confidence(effects[0]["level"]))
    return [Section(f"{versus}: days since exposure", ("k", "users", *headers), rows, [note, *trends])]


def _segments(document: Document, effects: Effects, dimension: str, versus: str) -> Section:
    names = list(dict.fromkeys(e["metric"] for e in effects))
    cells = {(e["segment"], e["metric"]): e for e in effects}
    rows = [
        (segment, _users(cells[segment, names[0]]), *(_cell(cells[segment, name]) for name in names))
        for segment in dict.fromkeys(e["segment"] for e in effects)
    ]
    levels = sorted({e["level"] for e in effects})
    shown = f"at {confidence(levels[0])}" + (f" to {confidence(levels[-1])}" if len(levels) > 1 else "")
    note = SEGMENT_NOTE.format(levels=shown, alpha=document["experiment"]["alpha"])
    tests = [
        _heterogeneity(t)
        for t in document["heterogeneity"]
        if (t["dimension"], t["treatment"]) == (dimension, effects[0]["treatment"])
    ]
    return Section(f"{versus}: by {dimension}", (dimension, "users", *names), rows, [note, *tests])


def _heterogeneity(test: Mapping[str, Any]) -> str:
    if test["p"] is None:
        return (
            f"Whether the lift of {test['metric']} differs between segments cannot be said: {test['reason']}."
        )
    return (
        f"Does the lift of {test['metric']} differ between segments? Cochran's Q {test['q']:.3g} on"
        f" {test['df']} degrees of freedom, p {p_value(test['p'])}, adjusted p {p_value(test['p_adjusted'])}."
    )


def _trend(trend: Mapping[str, Any]) -> str:
    if trend["p"] is None:
        return f"Trend of {trend['metric']}: not computable ({trend['reason']})."
    ci = trend["slope_ci"]
    error = (ci[1] - ci[0]) / 2
    slope, low, high = (percent(value, error) for value in (trend["slope"], *ci))
    return (
        f"Trend of {trend['metric']} over days 1-{trend['days']}: its lift changes by {slope} a day"
        f" ({confidence(trend['level'])} interval {low} to {high}), p {p_value(trend['p'])}, adjusted p"
        f" {p_value(trend['p_adjusted'])}."
    )


def _users(effect: Mapping[str, Any]) -> str:
    return count(effect["n_control"] + effect["n_treatment"])


def _cell(effect: Mapping[str, Any]) -> str:
    return MISSING if effect["lift"] is None else lift_cell(effect["lift"], effect["lift_ci"])

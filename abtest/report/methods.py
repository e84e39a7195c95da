"""What stands beside the tests in a report: caps, equivalence, and the Bayesian view."""

from collections.abc import Mapping
from typing import Any

from abtest.report.numbers import (
    MISSING,
    count,
    lift_cell,
    margin_text,
    number,
    p_value,
    percent,
)
from abtest.report.section import Section

Document = Mapping[str, Any]

EQUIVALENCE_NOTE = (
    "Equivalent: the effect is shown to lie within plus or minus the margin (two one-sided tests at 0.05"
    " each, without correction). Not shown is no proof of a difference."
)
CAPS_NOTE = (
    "Winsorised: each user's total of the window counts at most as the cap, a quantile over the users of all"
    " arms (those without events included) or a fixed value. The means and lifts of these metrics are of what"
    " was left."
)
BAYES_NOTE = (
    "To be read beside the tests; it decides nothing and is not corrected for many looks or metrics. The"
    " posterior of the lift is normal. Chance to win: that the lift is in the good direction. Expected loss:"
    " the lift lost on average by shipping, or by keeping the control. Prior of the lift: {prior}."
)


def caps_section(document: Document, treatment: str, versus: str) -> Section:
    """Where totals were cut, over all days of the experiment."""
    days = {"from": 1, "to": document["experiment"]["days"]}
    rows = [
        (
            row["metric"],
            cap["column"],
            "value" if row["quantile"] is None else f"quantile {row['quantile']:g}",
            number(cap["value"]),
            count(cap["n_above"]),
        )
        for row in _of(document, "caps", treatment)
        if row["window"] == days
        for cap in row["caps"]
    ]
    headers = ("metric", "column", "by", "cap", "users above it")
    return Section(f"{versus}: capped metrics", headers, rows, (CAPS_NOTE,), n_text=3)


def equivalence_section(document: Document, treatment: str, versus: str) -> Section:
    """Metrics with a margin: shown to be equivalent or not."""
    found = _of(document, "equivalence", treatment)
    rows = [
        (
            row["metric"],
            margin_text(row["margin"], row["margin_kind"]),
            p_value(row["p_equivalent"]),
            row["result"],
        )
        for row in found
    ]
    headers = ("metric", "margin", "p equivalent", "result")
    return Section(f"{versus}: equivalence", headers, rows, (EQUIVALENCE_NOTE, *_absent(found)))


def bayes_section(document: Document, treatment: str, versus: str) -> Section:
    """The posterior of the lift of goals and of metrics with a prior, in the window that decides."""
    roles = {metric["name"]: metric["role"] for metric in document["metrics"]}
    found = [
        row
        for row in _of(document, "bayes", treatment)
        if roles[row["metric"]] == "goal" or row["prior"] is not None
    ]
    rows = [
        (
            row["metric"],
            lift_cell(row["lift"], row["lift_interval"]),
            _chance(row["chance_to_win"]),
            percent(row["loss_if_shipped"], sign=False),
            percent(row["loss_if_kept"], sign=False),
            _prior(row["prior"]),
        )
        for row in found
    ]
    headers = ("metric", "lift (95 % credible)", "chance to win", "loss if shipped", "loss if kept", "prior")
    priors = ", ".join(dict.fromkeys(_prior(row["prior"]) for row in found))
    notes = (BAYES_NOTE.format(prior=priors), *_absent(found))
    return Section(f"{versus}: Bayesian view", headers, rows, notes)


def _of(document: Document, part: str, treatment: str) -> list[Mapping[str, Any]]:
    """The rows of a treatment; none in reports from before there was such a part."""
    return [row for row in document.get(part, ()) if row["treatment"] == treatment]


def _prior(prior: Mapping[str, float] | None) -> str:
    if prior is None:
        return "flat"
    return f"normal, {percent(prior['mean'])} +- {percent(prior['sd'], sign=False)}"


def _chance(chance: float | None) -> str:
    """A chance in percent, never rounded to certainty.

    >>> _chance(0.9234), _chance(0.99999), _chance(0.00001), _chance(None)
    ('92.3 %', '> 99.9 %', '< 0.1 %', '-')
    """
    if chance is None:
        return MISSING
    if chance > 0.999:
        return "> 99.9 %"
    return "< 0.1 %" if chance < 0.001 else f"{100 * chance:.1f} %"


def _absent(rows: list[Mapping[str, Any]]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["reason"]:
            reasons.setdefault(row["reason"], []).append(row["metric"])
    return [f"Not computable for {', '.join(names)}: {reason}." for reason, names in reasons.items()]

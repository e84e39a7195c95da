"""What a report says, in which order: text and tables of strings, for the terminal and Markdown alike."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from abtest.report.numbers import (
    MISSING,
    confidence,
    count,
    lift_cell,
    number,
    p_value,
    percent,
)

Document = Mapping[str, Any]
Effects = list[Mapping[str, Any]]

HEADLINES = {
    "ship": "SHIP {treatment}",
    "do_not_ship": "DO NOT SHIP",
    "keep_running": "KEEP RUNNING: nothing is decided",
    "invalid": "INVALID: a health check failed",
}
GOAL_NOTE = (
    "Means are per user unless a unit is given. Adjusted p: Holm's, over all goals and treatments; intervals"
    " are at the level shown, which matches the decision. MDE: the smallest lift that a single test without"
    " correction would find with probability 0.8."
)
DIAGNOSTIC_NOTE = "Diagnostics explain and decide nothing; their p is not corrected."
TREND_NOTE = (
    "Lifts with intervals. Only the last row decides, at the levels of the goals' table; the others are at"
    " the experiment's alpha, without correction for many looks: to be read, not to be acted on."
)


@dataclass(frozen=True)
class Section:
    """A title, a table of strings (headers may be empty: no table; the first `n_text` columns are words), and
    notes below it."""

    title: str
    headers: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    n_text: int = 1


def headline(document: Document) -> str:
    """The verdict in a few words."""
    verdict = document["verdict"]
    return HEADLINES[verdict["decision"]].format(treatment=verdict.get("treatment"))


def sections(document: Document) -> list[Section]:
    """All parts of the report below its headline, in their order."""
    experiment = document["experiment"]
    treatments = [arm["name"] for arm in experiment["arms"] if arm["role"] == "treatment"]
    found = [_experiment(document), _checks(document)]
    for treatment in treatments:
        effects = [e for e in document["effects"] if e["treatment"] == treatment]
        deciding = [e for e in effects if e["window"] == {"from": 1, "to": experiment["days"]}]
        versus = f"{treatment} against {deciding[0]['control']}" if deciding else treatment
        found += _deciding(document, deciding, versus)
        found += _trends(document, effects, versus)
    found += [_overlap(document), _truth(document)]
    return [section for section in found if section.rows or not section.headers]


def _experiment(document: Document) -> Section:
    experiment, exposed = document["experiment"], document["exposed"]
    weights = sum(arm["weight"] for arm in experiment["arms"])
    rows = [
        (
            arm["name"],
            arm["model"] or MISSING,
            arm["role"],
            percent(arm["weight"] / weights, sign=False),
            count(exposed[arm["name"]]),
        )
        for arm in experiment["arms"]
    ]
    facts = {
        "days": experiment["days"],
        "stage": experiment["stage"],
        "users of the world": None if experiment["n_users"] is None else count(experiment["n_users"]),
        "seed": experiment["seed"],
        "salt": experiment["salt"],
    }
    note = ", ".join(f"{name}: {value}" for name, value in facts.items() if value is not None)
    return Section(
        f"Experiment {experiment['name']}",
        ("arm", "model", "role", "share", "exposed users"),
        rows,
        (note,),
        n_text=3,
    )


def _checks(document: Document) -> Section:
    rows = [
        (check["name"], check["status"], p_value(check["p"]), check["detail"]) for check in document["checks"]
    ]
    return Section("Health checks", ("check", "status", "p", "detail"), rows, n_text=4)


def _deciding(document: Document, deciding: Effects, versus: str) -> list[Section]:
    days = _days(deciding[0]["window"]) if deciding else ""
    goals = [e for e in deciding if e["role"] == "goal"]
    guardrails = [e for e in deciding if e["role"] == "guardrail"]
    diagnostics = [e for e in deciding if e["role"] == "diagnostic"]
    means = ("metric", "control", "treatment", "lift (interval)", "level", "p")
    return [
        Section(
            f"{versus}, {days}: goals",
            (*means, "adjusted p", "MDE", "result"),
            [(*_means(document, e), p_value(e["p_adjusted"]), _mde(e), _result(document, e)) for e in goals],
            [GOAL_NOTE, *_why(goals)],
        ),
        Section(
            f"{versus}, {days}: guardrails",
            (*means, "margin"),
            [(*_means(document, e), percent(_metric(document, e)["margin"], sign=False)) for e in guardrails],
            _why(guardrails),
        ),
        Section(
            f"{versus}, {days}: diagnostics",
            (*means, "MDE"),
            [(*_means(document, e), _mde(e)) for e in diagnostics],
            [DIAGNOSTIC_NOTE, *_why(diagnostics)],
        ),
    ]


def _trends(document: Document, effects: Effects, versus: str) -> list[Section]:
    if document["experiment"]["days"] == 1:
        return []
    goals = [e for e in effects if e["role"] == "goal"]
    names = list(dict.fromkeys(e["metric"] for e in goals))
    if not names:
        return []
    spans = list(dict.fromkeys((e["window"]["from"], e["window"]["to"]) for e in goals))
    cells = {
        (e["window"]["from"], e["window"]["to"], e["metric"]): lift_cell(e["lift"], e["lift_ci"])
        for e in goals
    }
    rows = [
        (_days({"from": first, "to": last}), *(cells[first, last, name] for name in names))
        for first, last in spans
    ]
    return [Section(f"{versus}: day by day, then from day 1 on", ("window", *names), rows, (TREND_NOTE,))]


def _overlap(document: Document) -> Section:
    overlap = document["candidate_overlap"]
    if not overlap:
        return Section("Candidate overlap", notes=("Not measured.",))
    rows = [(" and ".join(pair["arms"]), percent(pair["share"], sign=False)) for pair in overlap["pairs"]]
    note = f"Of {overlap['candidates']} candidates an arm, for {count(overlap['users'])} users at the start."
    return Section("Candidate overlap", ("arms", "candidates in common"), rows, (note,))


def _truth(document: Document) -> Section:
    note = "The true lifts are not known here: absent." if document["truth"] is None else "See report.json."
    return Section("Truth", notes=(note,))


def _means(document: Document, effect: Mapping[str, Any]) -> tuple[str, ...]:
    ci = effect["difference_ci"]
    error = (ci[1] - ci[0]) / 2 if ci else None
    unit = _metric(document, effect)["unit"]
    return (
        effect["metric"] if unit == "per user" else f"{effect['metric']}, {unit}",
        number(effect["control_mean"], error),
        number(effect["treatment_mean"], error),
        lift_cell(effect["lift"], effect["lift_ci"]),
        confidence(effect["level"]) if ci else MISSING,
        p_value(effect["p"]),
    )


def _mde(effect: Mapping[str, Any]) -> str:
    return percent(effect["mde"], sign=False)


def _result(document: Document, effect: Mapping[str, Any]) -> str:
    p, alpha = effect["p_adjusted"], document["experiment"]["alpha"]
    if p is None or p >= alpha:
        return MISSING
    better = (effect["difference"] > 0) == (_metric(document, effect)["direction"] == "up")
    return "won" if better else "lost"


def _metric(document: Document, effect: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(metric for metric in document["metrics"] if metric["name"] == effect["metric"])


def _why(effects: Iterable[Mapping[str, Any]]) -> list[str]:
    """Why values are missing, one sentence a reason."""
    reasons: dict[str, list[str]] = {}
    for effect in effects:
        if effect["reason"]:
            reasons.setdefault(effect["reason"], []).append(effect["metric"])
    return [f"Not computable for {', '.join(names)}: {reason}." for reason, names in reasons.items()]


def _days(window: Mapping[str, int]) -> str:
    first, last = window["from"], window["to"]
    return f"day {first}" if first == last else f"days {first}-{last}"

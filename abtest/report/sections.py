"""What a report says, in which order: text and tables of strings, for the terminal and Markdown alike."""

from collections.abc import Iterable, Mapping
from typing import Any

from abtest.report.design import outside_note, phases_section
from abtest.report.methods import bayes_section, caps_section, equivalence_section
from abtest.report.new_videos import new_videos_sections
from abtest.report.numbers import (
    MISSING,
    confidence,
    count,
    lift_cell,
    margin_text,
    number,
    p_value,
    percent,
)
from abtest.report.section import Document, Effects, Section
from abtest.report.truth import truth_section
from abtest.report.views import novelty_sections, segment_sections
from abtest.sources import NONE

HEADLINES = {
    "ship": "SHIP {treatment}",
    "do_not_ship": "DO NOT SHIP",
    "keep_running": "KEEP RUNNING: nothing is decided",
    "invalid": "INVALID: a health check failed",
}
GOAL_NOTE = (
    "Means are per user unless a unit is given, as observed. Adjusted p: corrected over all goals and"
    " treatments; intervals are at the level shown, which matches the decision. MDE: the smallest lift that a"
    " single test without correction would find with probability 0.8."
)
CUPED_NOTE = (
    "Less variance: what the users' own totals before the experiment took out of the difference (CUPED, theta"
    " pooled over arms). Lift, interval, p and MDE are the adjusted ones; the lift is over the adjusted"
    " control mean."
)
STRATA_NOTE = (
    "Post-stratified by {column}: arms are compared within strata, weighed by their shares of all users; of"
    " the variance strata alone take out {gains} (segments and days since exposure are not post-stratified)."
)
DIAGNOSTIC_NOTE = "Diagnostics explain and decide nothing; their p is not corrected."
LOOKS_NOTE = (
    "Goals: each look's interval is at the level of its bound, so that all looks together hold the goals'"
    " level; single days are at the experiment's alpha, to be read, not to be acted on."
)
SEQUENTIAL_NOTE = (
    "A look rejects where its p is below its bound's level. Information is the share of the last look's, not"
    " of days. p so far: the smallest alpha at which a look up to then would have rejected, before the"
    " correction."
)
INTERIM_NOTE = "The information of the last look is not known yet: information and alpha spent are by days."
EARLY_NOTE = (
    "{names} crossed a bound before the last day: the estimate at that look is biased away from 0, since a"
    " look stops a test when its effect looks large. Days 1-{days} stand in the table of windows."
)
TREND_NOTE = (
    "Lifts with intervals. Only the last row decides, at the levels of the goals' table; the others are at"
    " the experiment's alpha, without correction for many looks: to be read, not to be acted on."
)

MORE_VIEWS = (caps_section, equivalence_section, bayes_section)


def headline(document: Document) -> str:
    """The verdict in a few words."""
    verdict = document["verdict"]
    said = HEADLINES[verdict["decision"]].format(treatment=verdict.get("treatment"))
    days, planned = (document["experiment"].get(key) for key in ("days", "planned_days"))
    return f"{said} (interim: days 1-{days} of {planned})" if planned else said


def sections(document: Document) -> list[Section]:
    """All parts of the report below its headline, in their order."""
    experiment = document["experiment"]
    treatments = [arm["name"] for arm in experiment["arms"] if arm["role"] == "treatment"]
    found = [_experiment(document), *phases_section(document), _checks(document), _rule(document)]
    for treatment in treatments:
        effects = [e for e in document["effects"] if e["treatment"] == treatment]
        deciding = _deciding_of(effects, experiment["days"])
        versus = f"{treatment} against {deciding[0]['control']}" if deciding else treatment
        found += _deciding(document, deciding, versus)
        found += _looks(document, treatment, versus)
        found += _trends(document, effects, versus)
        found += novelty_sections(document, treatment, versus)
        found += segment_sections(document, treatment, versus)
        found += [view(document, treatment, versus) for view in MORE_VIEWS]
    found += [*new_videos_sections(document), _overlap(document), truth_section(document)]
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
    planned = experiment.get("planned_days")
    facts = {
        "days": f"{experiment['days']} of {planned}" if planned else experiment["days"],
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
        (note, *outside_note(document)),
        n_text=3,
    )


def _checks(document: Document) -> Section:
    rows = [
        (check["name"], check["status"], p_value(check["p"]), check["detail"]) for check in document["checks"]
    ]
    return Section("Health checks", ("check", "status", "p", "detail"), rows, n_text=4)


def _rule(document: Document) -> Section:
    return Section("How it is decided", notes=(document["verdict"]["rule"],))


def _deciding_of(effects: Effects, days: int) -> Effects:
    """Of each metric the effect that decides: of a goal the one with an adjusted p, else that of all days."""
    last = {"from": 1, "to": days}
    found = {e["metric"]: e for e in effects if e["window"] == last}
    return list({**found, **{e["metric"]: e for e in effects if e["p_adjusted"] is not None}}.values())


def _deciding(document: Document, deciding: Effects, versus: str) -> list[Section]:
    days = f"days 1-{document['experiment']['days']}" if document["experiment"]["days"] > 1 else "day 1"
    goals = [e for e in deciding if e["role"] == "goal"]
    guardrails = [e for e in deciding if e["role"] == "guardrail"]
    diagnostics = [e for e in deciding if e["role"] == "diagnostic"]
    means = ("metric", "control", "treatment", "lift (interval)", "level", "p")
    adjusted, note = _adjustment(document, deciding)
    less = ("less variance",) if adjusted else ()

    def cell(effect: Mapping[str, Any]) -> tuple[str, ...]:
        return (percent(adjusted.get(effect["metric"]), sign=False),) if adjusted else ()

    return [
        Section(
            f"{versus}, {days}: goals",
            (*means, "adjusted p", "MDE", *less, "result"),
            [
                (*_means(document, e), p_value(e["p_adjusted"]), _mde(e), *cell(e), _result(document, e))
                for e in goals
            ],
            [GOAL_NOTE, *note, *_strata(document, deciding), *_early(document, goals), *_why(goals)],
        ),
        Section(
            f"{versus}, {days}: guardrails",
            (*means, "margin", "p within margin", *less, "result"),
            [(*_means(document, e), *_guardrail(document, e, cell(e))) for e in guardrails],
            _why(guardrails),
        ),
        Section(
            f"{versus}, {days}: diagnostics",
            (*means, "MDE", *less),
            [(*_means(document, e), _mde(e), *cell(e)) for e in diagnostics],
            [DIAGNOSTIC_NOTE, *_why(diagnostics)],
        ),
    ]


def _adjustment(document: Document, deciding: Effects) -> tuple[dict[str, float | None], list[str]]:
    """The variance reduction of each metric (none where nothing was adjusted), and the note on it."""
    windows = {(e["metric"], e["treatment"]): e["window"] for e in deciding}
    rows = [r for r in document["cuped"] if windows.get((r["metric"], r["treatment"])) == r["window"]]
    off: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] == "off":
            off.setdefault(row["reason"], []).append(row["metric"])
    reasons = [
        f"Not adjusted for what users did before{'' if len(names) == len(rows) else ': ' + ', '.join(names)}"
        f" ({reason})."
        for reason, names in off.items()
    ]
    if len(off) == 1 and len(rows) == sum(map(len, off.values())):
        return {}, reasons
    return {row["metric"]: row["variance_reduction"] for row in rows}, [CUPED_NOTE, *reasons]


def _strata(document: Document, deciding: Effects) -> list[str]:
    """What post-stratification did for the deciding effects."""
    windows = {(e["metric"], e["treatment"]): e["window"] for e in deciding}
    rows = [
        r
        for r in document.get("stratification", ())
        if windows.get((r["metric"], r["treatment"])) == r["window"]
    ]
    done = [r for r in rows if r["status"] == "ok"]
    notes = []
    if done:
        gains = ", ".join(
            f"{r['metric']} {percent(r['variance_reduction'], sign=False)}"
            + (f" in phase {r['phase']}" if len({row["phase"] for row in rows}) > 1 else "")
            for r in done
        )
        pooled = sorted({name or NONE for r in done for name in r["pooled"]})
        few = f" Pooled, having few users: {', '.join(pooled)}." if pooled else ""
        notes.append(STRATA_NOTE.format(column=done[0]["column"], gains=gains) + few)
    off: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] == "off":
            names = off.setdefault(row["reason"], [])
            names += [row["metric"]] if row["metric"] not in names else []
    return notes + [f"Not post-stratified: {', '.join(names)} ({reason})." for reason, names in off.items()]


def _guardrail(document: Document, effect: Mapping[str, Any], less: tuple[str, ...]) -> tuple[str, ...]:
    metric = _metric(document, effect)
    (test,) = (
        row
        for row in document["guardrails"]
        if (row["metric"], row["treatment"]) == (effect["metric"], effect["treatment"])
    )
    margin = margin_text(metric["margin"], metric["margin_kind"])
    return (margin, p_value(test["p_non_inferior"]), *less, test["result"])


def _early(document: Document, goals: Effects) -> list[str]:
    days = document["experiment"]["days"]
    names = [e["metric"] for e in goals if e["p_adjusted"] is not None and e["window"]["to"] < days]
    return [EARLY_NOTE.format(names=", ".join(names), days=days)] if names else []


def _looks(document: Document, treatment: str, versus: str) -> list[Section]:
    rows = [
        (
            test["metric"],
            str(look["day"]),
            percent(look["information"], sign=False),
            p_value(look["alpha_spent"]),
            p_value(look["level"]),
            p_value(look["p"]),
            p_value(look["p_sequential"]),
            "crossed" if look["crossed"] else MISSING,
        )
        for test in document["sequential"]
        if test["treatment"] == treatment
        for look in test["looks"]
    ]
    if not rows:
        return []
    kinds = dict.fromkeys(test["correlation"] for test in document["sequential"])
    notes = [SEQUENTIAL_NOTE, f"Correlation of the looks: {', '.join(kinds)}."]
    if document["experiment"].get("planned_days"):
        notes.append(INTERIM_NOTE)
    headers = ("goal", "day", "information", "alpha spent", "level", "p", "p so far", "bound")
    return [Section(f"{versus}: daily looks", headers, rows, notes)]


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
    note = LOOKS_NOTE if document["sequential"] else TREND_NOTE
    return [Section(f"{versus}: day by day, then from day 1 on", ("window", *names), rows, (note,))]


def _overlap(document: Document) -> Section:
    overlap = document["candidate_overlap"]
    if not overlap:
        return Section("Candidate overlap", notes=("Not measured.",))
    rows = [(" and ".join(pair["arms"]), percent(pair["share"], sign=False)) for pair in overlap["pairs"]]
    note = f"Of {overlap['candidates']} candidates an arm, for {count(overlap['users'])} users at the start."
    return Section("Candidate overlap", ("arms", "candidates in common"), rows, (note,))


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
    day = effect["window"]["to"]
    early = f", day {day}" if day < document["experiment"]["days"] else ""
    return ("won" if better else "lost") + early


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

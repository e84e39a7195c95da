"""The truth of a simulated world beside what the experiment estimated."""

from collections.abc import Mapping, Sequence
from typing import Any

from abtest.report.numbers import MISSING, confidence, count, lift_cell, percent
from abtest.report.section import Document, Section

UNKNOWN = "Not known here; of a simulated run `abtest truth RUN` finds the true lifts."
NOTE = (
    "Truth: {users} users lived days 1-{days} once under each arm with the same luck and the models of day 1;"
    " intervals are of {level}. Estimate: the experiment's, from different users, at the level that decides."
    " Inside: whether its interval holds the true lift. Less variance: how many times smaller the variance is"
    " for users compared with themselves. Resolved: the interval does not hold 0."
)
SPLITS = (
    "Power: in how many of {splits} equal splits of these users a single test at 0.05, without covariates,"
    " finds the difference. With the control's life in both arms it rejects in {least} to {most} of them; the"
    " interval of the lift holds the true lift in {covered} or more."
)


def truth_section(document: Document) -> Section:
    """The true lifts of the whole experiment, metric by metric."""
    truth = document["truth"]
    if truth is None:
        return Section("Truth", notes=(UNKNOWN,))
    days = document["experiment"]["days"]
    last = [effect for effect in truth["effects"] if effect["window"]["to"] == days]
    treatments = {effect["treatment"] for effect in last}
    splits = {(found["metric"], found["treatment"]): found for found in truth["splits"]}
    rows = [
        (
            *_row(effect, _estimate(document, effect), several=len(treatments) > 1),
            percent(splits[key]["power"], sign=False)
            if (key := (effect["metric"], effect["treatment"])) in splits
            else MISSING,
        )
        for effect in last
    ]
    notes = [NOTE.format(users=count(truth["users"]), days=days, level=confidence(truth["level"]))]
    if splits:
        notes.append(_promises(truth["splits"]))
        notes += _exaggerated(truth["splits"], goals_of(document))
    for pair in truth["feeds"]:
        arms, share = " and ".join(pair["arms"]), percent(pair["share"], sign=False)
        notes.append(f"Of the videos that users met under {arms}, {share} were the same.")
    by_chance = list(dict.fromkeys(effect["metric"] for effect in last if effect["from"] == "chances"))
    if by_chance:
        notes.append(f"True lifts of {', '.join(by_chance)} are of their chances in each life, not of draws.")
    reasons: dict[str, dict[str, None]] = {}
    for effect in last:
        if effect["reason"]:
            reasons.setdefault(effect["reason"], {})[effect["metric"]] = None
    notes += [f"Not computable for {', '.join(names)}: {reason}." for reason, names in reasons.items()]
    headers = (
        "metric",
        "true lift (interval)",
        "resolved",
        "estimate (interval)",
        "inside",
        "less variance",
        "power",
    )
    return Section("Truth", headers, rows, tuple(notes))


def _promises(splits: Sequence[Mapping[str, Any]]) -> str:
    equal = [found["false_positives"] for found in splits]
    return SPLITS.format(
        splits=count(splits[0]["splits"]),
        least=percent(min(equal), sign=False),
        most=percent(max(equal), sign=False),
        covered=percent(min(found["coverage"] for found in splits), 0.01, sign=False),
    )


def goals_of(document: Document) -> set[str]:
    """The names of the metrics that decide."""
    return {metric["name"] for metric in document["metrics"] if metric["role"] == "goal"}


def _exaggerated(splits: Sequence[Mapping[str, Any]], goals: set[str]) -> list[str]:
    """What a reader should make of an effect that such an experiment finds."""
    parts = [
        f"{found['metric']} {found['exaggeration']:.1f} times"
        f" ({percent(found['wrong_sign'], 0.01, sign=False)} of the wrong sign)"
        for found in splits
        if found["metric"] in goals and found["exaggeration"] is not None
    ]
    if not parts:
        return []
    return [f"A difference that a split finds is larger than the true one: {', '.join(parts)}."]


def _row(truth: Mapping[str, Any], estimate: Mapping[str, Any] | None, *, several: bool) -> tuple[str, ...]:
    metric = f"{truth['metric']}, {truth['treatment']}" if several else truth["metric"]
    lift = lift_cell(truth["lift"], truth["lift_ci"])
    resolved = ("yes" if truth["resolved"] else "no") if truth["lift_ci"] else MISSING
    less = MISSING if truth["less_variance"] is None else f"{truth['less_variance']:.1f} times"
    if estimate is None:
        return metric, lift, resolved, MISSING, MISSING, less
    return (
        metric,
        lift,
        resolved,
        lift_cell(estimate["lift"], estimate["lift_ci"]),
        _inside(truth, estimate),
        less,
    )


def _inside(truth: Mapping[str, Any], estimate: Mapping[str, Any]) -> str:
    if truth["lift"] is None or not estimate["lift_ci"]:
        return MISSING
    low, high = estimate["lift_ci"]
    return "yes" if low <= truth["lift"] <= high else "no"


def _estimate(document: Document, truth: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The experiment's effect of the same metric, treatment and days."""
    same = ("metric", "treatment", "window")
    found = [e for e in document["effects"] if all(e[key] == truth[key] for key in same)]
    return found[0] if found else None

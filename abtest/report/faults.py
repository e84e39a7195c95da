"""What the health checks notice of faults of known kinds."""

from collections.abc import Mapping
from typing import Any

from abtest.report.numbers import MISSING, percent
from abtest.report.section import Document, Section

NOTE = (
    "Each fault is put into a copy of the run alone, among the users of {treatment}. Noticed: the checks that"
    " then fail or warn and did not before. Lifts are observed ones, without covariates. What moves a lift"
    " and is not noticed has to be known of; a larger experiment notices smaller losses."
)


def faults_section(document: Document) -> Section:
    """A row a fault: what fires, the verdict, the goals' lifts before and after."""
    faults = document["faults"]
    goals = [lift["metric"] for lift in next((f["lifts"] for f in faults if f["lifts"]), [])]
    before = {lift["metric"]: lift["before"] for fault in faults for lift in fault["lifts"]}
    rows = [("none", MISSING, MISSING, *(percent(before[goal]) for goal in goals))]
    for fault in faults:
        after = {lift["metric"]: lift["after"] for lift in fault["lifts"]}
        lifts = (percent(after.get(goal)) for goal in goals)
        rows.append((fault["fault"], _noticed(fault), fault["decision"] or "refused", *lifts))
    notes = [NOTE.format(treatment=document["treatment"])]
    notes += [f"{fault['fault']}: {fault['what']}." for fault in faults]
    return Section("Faults", ("fault", "noticed by", "verdict", *goals), rows, tuple(notes), n_text=3)


def _noticed(fault: Mapping[str, Any]) -> str:
    if fault["refused"]:
        return "the analysis itself"
    return ", ".join(found["check"] for found in fault["fired"]) or "nothing"

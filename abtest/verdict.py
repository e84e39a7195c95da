"""Ship or not: one decision from the checks and the deciding effects, with its reasons in words.

`invalid` where a check failed. A treatment can be shipped when a goal won, none lost, and every guardrail is
shown to be non-inferior; it is refused when a goal lost and none won (a guardrail shown to be worse than its
margin counts as a loss). Of several treatments that can be shipped it is the one with most goals won; only
when all are refused is the decision `do_not_ship`. All else is `keep_running`, and so is an interim analysis
(before the last day) in which no goal has crossed its bound. What won or lost is said by
the corrected p over all goals and treatments, sequential where there are daily looks. `rule` says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from abtest.checks import Check
from abtest.effects import Effect
from abtest.experiment import Experiment
from abtest.metrics import Metric
from abtest.report.numbers import lift_text, margin_text, p_value, percent

Decision = Literal["ship", "do_not_ship", "keep_running", "invalid"]
TESTS = {
    "none": "Welch's test once, at the end",
    "obf": "a test after each day, alpha spent as by O'Brien and Fleming",
    "pocock": "a test after each day, alpha spent as by Pocock",
    "always-valid": "an always-valid test after each day (AsympCS, tuned to the last day)",
}
CORRECTION_NAMES = {"holm": "Holm's", "hochberg": "Hochberg's", "bh": "Benjamini and Hochberg's"}
RANK: tuple[Decision, ...] = ("ship", "keep_running", "do_not_ship")


@dataclass(frozen=True)
class Verdict:
    """The decision, why, and the treatment to ship where there is one."""

    decision: Decision
    reasons: tuple[str, ...]
    treatment: str | None = None
    rule: str = ""

    def document(self) -> dict[str, Any]:
        """The verdict as report.json holds it."""
        return {**asdict(self), "reasons": list(self.reasons)}


@dataclass(frozen=True)
class _Case:
    """What the deciding effects say about one treatment."""

    treatment: str
    won: list[Effect]
    lost: list[Effect]
    undecided: list[Effect]
    unsafe: list[Effect]  # guardrails shown to be worse than their margins
    unproven: list[Effect]  # guardrails not shown to be non-inferior
    is_interim: bool = False

    @property
    def decision(self) -> Decision:
        if self.is_interim and not (self.won or self.lost):
            return "keep_running"
        if self.won and not (self.lost or self.unsafe or self.unproven):
            return "ship"
        if (self.lost or self.unsafe) and not self.won:
            return "do_not_ship"
        return "keep_running"


def rule_of(experiment: Experiment, metrics: Sequence[Metric]) -> str:
    """The rule by which this experiment is decided, for people to read."""
    n_goals = sum(metric.role == "goal" for metric in metrics)
    n_guardrails = sum(metric.role == "guardrail" for metric in metrics)
    tests = n_goals * len(experiment.treatments)
    guardrails = (
        f"all {n_guardrails} guardrails are shown to stay within their margins (one-sided at 0.025,"
        " outside the correction; inconclusive is not a pass)"
        if n_guardrails
        else "there is no guardrail to break"
    )
    share = (
        f"of the goals called won or lost at most a share of {experiment.alpha:g} is wrong on average"
        if experiment.correction == "bh"
        else f"any goal is wrongly called won or lost with probability {experiment.alpha:g} at most"
    )
    plural = "" if tests == 1 else "s"
    correction = f"{CORRECTION_NAMES[experiment.correction]} correction over {tests} test{plural}"
    interim = (
        f" Interim, days 1-{experiment.days} of {experiment.planned_days}: alpha is spent by days, a goal"
        " decides only where it crosses the bound of a look, and a broken guardrail alone decides nothing."
        if experiment.is_interim
        else ""
    )
    return (
        f"Goals: {TESTS[experiment.design]}; {correction}, so that {share}.{_other_tests(metrics)}"
        f" Ship: a goal won, none lost, and {guardrails}."
        " Do not ship: a goal lost or a guardrail broken, and none won."
        f" Keep running: anything else. Invalid: a health check failed.{interim}"
    )


def _other_tests(metrics: Sequence[Metric]) -> str:
    """Which goals are tested in another way than the rule's first words say."""
    named = [f"{m.name} ({m.test_shown})" for m in metrics if m.role == "goal" and m.test_shown]
    return f" Not by Welch's t: {', '.join(named)}." if named else ""


def decide(
    experiment: Experiment, checks: Sequence[Check], effects: Sequence[Effect], metrics: Sequence[Metric]
) -> Verdict:
    """The decision over all treatments."""
    failed = [check for check in checks if check.status == "failed"]
    if failed:
        reasons = [f"Check {check.name} failed: {check.detail}." for check in failed]
        reasons.append("No effect of this experiment can be trusted before the cause is found.")
        return Verdict("invalid", tuple(reasons), rule=rule_of(experiment, metrics))
    declared = {metric.name: metric for metric in metrics}
    deciding = [effect for effect in effects if effect.is_deciding]
    cases = [
        _case([e for e in deciding if e.treatment == arm.name], arm.name, declared, experiment.alpha)
        for arm in experiment.treatments
    ]
    if experiment.is_interim:
        cases = [replace(case, is_interim=True) for case in cases]
    cases.sort(key=lambda case: (RANK.index(case.decision), -len(case.won), _smallest_p(case.won)))
    best = cases[0]
    n_tests = sum(len(case.won) + len(case.lost) + len(case.undecided) for case in cases)
    reasons = [reason for case in cases for reason in _reasons(case, declared, n_tests)]
    if len(cases) > 1:
        reasons.insert(0, _choice(cases))
    if any(case.decision == "keep_running" and case.undecided for case in cases):
        reasons.append(
            "Could have been detected means: with probability 0.8, by a single test at"
            f" {experiment.alpha:g}{'; the correction asks for somewhat more' if n_tests > 1 else ''}."
        )
    if experiment.is_interim:
        reasons.insert(0, _interim(experiment, any(case.won or case.lost for case in cases)))
    shipped = best.treatment if best.decision == "ship" else None
    return Verdict(best.decision, tuple(reasons), shipped, rule_of(experiment, metrics))


def _interim(experiment: Experiment, has_crossed: bool) -> str:
    """What an analysis before the last day is, and what it may say."""
    seen = f"Interim: days 1-{experiment.days} of {experiment.planned_days} are analysed"
    if experiment.design == "none":
        return f"{seen}; goals are tested once, after the last day, so nothing can be decided yet."
    outcome = "a goal has crossed" if has_crossed else "no goal has crossed"
    return f"{seen}; {outcome} the bound of a look up to day {experiment.days}."


def _case(effects: list[Effect], treatment: str, declared: Mapping[str, Metric], alpha: float) -> _Case:
    goals = [e for e in effects if e.role == "goal"]
    guardrails = [e for e in effects if e.role == "guardrail"]
    decided = [e for e in goals if e.p_adjusted is not None and e.p_adjusted < alpha]
    won = [e for e in decided if _gain(e.difference, declared[e.metric]) > 0]
    return _Case(
        treatment,
        won,
        [e for e in decided if e not in won],
        [e for e in goals if e not in decided],
        [e for e in guardrails if e.guardrail == "broken"],
        [e for e in guardrails if e.guardrail != "passed"],
    )


def _gain(value: float | None, metric: Metric) -> float:
    """The value counted in the good direction."""
    assert value is not None, metric
    return value if metric.direction == "up" else -value


def _smallest_p(effects: list[Effect]) -> float:
    return min((e.p_adjusted for e in effects if e.p_adjusted is not None), default=1.0)


def _choice(cases: list[_Case]) -> str:
    """How several treatments come to one decision."""
    best = cases[0]
    if best.decision == "ship":
        others = [case.treatment for case in cases[1:] if case.decision == "ship"]
        if not others:
            return f"Ship {best.treatment}, the only treatment that can be shipped."
        return (
            f"Ship {best.treatment}, though {' and '.join(others)} could be shipped as well: it won more"
            " goals, or as many with a smaller p (the treatments were not compared with each other)."
        )
    if best.decision == "do_not_ship":
        return "Every treatment lost."
    return "No treatment can be shipped yet, and not all have lost."


def _reasons(case: _Case, declared: Mapping[str, Metric], n_tests: int) -> list[str]:
    arm = case.treatment
    reasons = [f"{arm} wins {_finding(e)}." for e in case.won]
    reasons += [f"{arm} loses {_finding(e)}." for e in case.lost]
    if case.won and not case.lost:
        reasons.append(f"No goal of {arm} lost.")
    if case.won and case.lost:
        reasons.append(f"{arm} both wins and loses goals: people must weigh them.")
    for e in case.unproven:
        margin = margin_text(declared[e.metric].margin, declared[e.metric].margin_kind)
        word = "is worse than" if e in case.unsafe else "is not shown to stay within"
        reasons.append(f"{arm}: guardrail {e.metric} {word} its margin of {margin}: {_lift(e)}.")
    if not (case.won or case.lost):
        counted = f"after correction for {n_tests} tests" if n_tests > 1 else "beyond chance"
        reasons.append(f"{arm}: no goal differs from the control {counted}.")
        reasons += [f"{arm}: {_open(e, declared[e.metric])}." for e in case.undecided]
    return reasons


def _finding(effect: Effect) -> str:
    early = f" on day {effect.window.last_day} (stopped early: biased away from 0)" if effect.is_early else ""
    return f"{effect.metric}: {_lift(effect)}{early}, adjusted p {p_value(effect.p_adjusted)}"


def _open(effect: Effect, metric: Metric) -> str:
    if effect.p is None:
        return f"{effect.metric} cannot be judged ({effect.reason})"
    if effect.mde is None:
        return f"{_finding(effect)} ({effect.reason})"
    least = percent(effect.mde if metric.direction == "up" else -effect.mde)
    return f"{_finding(effect)}; {effect.metric} could have been detected from {least} on"


def _lift(effect: Effect) -> str:
    return lift_text(effect.lift, effect.lift_ci, effect.level)

"""Health checks, which come before any effect: when one has failed, no effect can be trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from abtest.experiment import Experiment
from abtest.report.numbers import count, p_value, percent
from abtest.stats.srm import sample_ratio, smallest_loss
from abtest.totals import Totals, Window

SAMPLE_RATIO_THRESHOLD = 0.001
CROSSOVER_WARNING = 0.01
DETECTION_POWER = 0.8

Status = Literal["ok", "warning", "failed", "not_run"]


@dataclass(frozen=True)
class Check:
    """A health check. `failed` withholds the verdict, `warning` does not; `not_run` had nothing to see."""

    name: str
    status: Status
    p: float | None
    detail: str

    def document(self) -> dict[str, Any]:
        """The check as report.json holds it."""
        return asdict(self)


def run_checks(
    experiment: Experiment, totals: Totals, phases: Sequence[Mapping[str, int]], crossovers: int
) -> list[Check]:
    """All checks, the sample ratio first. `phases` hold the exposed users of every arm in each phase."""
    counts = {arm.name: sum(phase[arm.name] for phase in phases) for arm in experiment.arms}
    return [
        check_ratios(experiment, phases),
        check_exposed_users(experiment, counts),
        check_crossovers(counts, crossovers),
        check_events(experiment, totals, counts),
    ]


def check_ratios(experiment: Experiment, phases: Sequence[Mapping[str, int]]) -> Check:
    """The sample ratio of the users of each phase, against its weights; phases share .001."""
    if len(phases) == 1:
        return check_sample_ratio(experiment, phases[0])
    found = [
        check_sample_ratio(experiment, counts, phase=i, threshold=SAMPLE_RATIO_THRESHOLD / len(phases))
        for i, counts in enumerate(phases)
    ]
    details = "; ".join(f"phase {i}: {check.detail}" for i, check in enumerate(found, 1))
    known = [check.p for check in found if check.p is not None]
    p = min(1.0, min(known) * len(phases)) if known else None
    rank: list[Status] = ["failed", "ok", "not_run"]
    status = min((check.status for check in found), key=rank.index)
    return Check("sample_ratio", status, p, details)


def check_sample_ratio(
    experiment: Experiment,
    counts: Mapping[str, int],
    *,
    phase: int = 0,
    threshold: float = SAMPLE_RATIO_THRESHOLD,
) -> Check:
    """Exposed users against the weights of a phase; failed below .001."""
    name, total = "sample_ratio", sum(counts.values())
    weights = experiment.weights(phase)
    for arm, weight in zip(experiment.arms, weights, strict=True):
        if weight == 0 and counts[arm.name]:
            detail = f"arm {arm.name} has weight 0, yet {count(counts[arm.name])} exposed users"
            return Check(name, "failed", None, detail)
    found = sample_ratio(list(counts.values()), weights)
    if found.p is None:
        return Check(name, "not_run", None, "nobody was exposed")
    failed = found.p < threshold
    seen = ", ".join(
        f"{arm} {count(n)} ({expected:,.1f} expected)"
        for (arm, n), expected in zip(counts.items(), found.expected, strict=True)
    )
    loss = smallest_loss(total, weights, threshold=threshold, power=DETECTION_POWER)
    power = f"found with probability {DETECTION_POWER:g}"
    sensitivity = (
        f"losing {percent(loss, sign=False)} of one arm's users would have been {power}"
        if loss is not None
        else f"too few users: not even the loss of a whole arm would surely have been {power}"
    )
    outcome = "the arms do not hold the users that their weights promise: " if failed else ""
    detail = (
        f"{outcome}{seen}; {found.method}, p {p_value(found.p)} (fails below {threshold:.3g}); {sensitivity}"
    )
    return Check(name, "failed" if failed else "ok", found.p, detail)


def check_exposed_users(experiment: Experiment, counts: Mapping[str, int]) -> Check:
    """Every arm with a weight needs exposed users: two at the least, to know a variance."""
    name = "exposed_users"
    empty = [arm.name for arm in experiment.arms if arm.weight > 0 and counts[arm.name] < 2]
    if empty:
        seen = ", ".join(f"arm {arm} has {counts[arm]}" for arm in empty)
        return Check(name, "failed", None, f"{seen} exposed users; an arm needs 2 or more")
    return Check(name, "ok", None, f"{count(sum(counts.values()))} users were exposed, some in every arm")


def check_crossovers(counts: Mapping[str, int], crossovers: int) -> Check:
    """Users seen in more than one arm are dropped; from 1 % of all on that is a warning."""
    everyone = sum(counts.values()) + crossovers
    if not everyone:
        return Check("crossovers", "not_run", None, "nobody was exposed")
    share = crossovers / everyone
    detail = "no user was seen in more than one arm"
    if crossovers:
        detail = (
            f"{count(crossovers)} of {count(everyone)} users ({percent(share, sign=False)}) were seen in more"
            " than one arm and dropped"
        )
    return Check("crossovers", "warning" if share >= CROSSOVER_WARNING else "ok", None, detail)


def check_events(experiment: Experiment, totals: Totals, counts: Mapping[str, int]) -> Check:
    """Totals that contradict each other, as after lost or doubled events: failed. Users missing: warning."""
    name = "event_completeness"
    window = Window(1, experiment.days)
    found = {arm: totals[arm, window] for arm in counts if (arm, window) in totals}
    sums = {arm: moments.sums for arm, moments in found.items() if moments.n}
    if not sums or any("n_impression" not in columns for columns in sums.values()):
        return Check(name, "not_run", None, "the moments do not hold impressions")
    faults = [
        f"arm {arm}: {fault}"
        for arm, columns in sums.items()
        for fault in _faults(columns, found[arm].n, experiment.days)
    ]
    if faults:
        return Check(name, "failed", None, "; ".join(faults))
    lost = [
        f"arm {arm}: {count(n)} users exposed, {count(found[arm].n if arm in found else 0)} analysed"
        for arm, n in counts.items()
        if n != (found[arm].n if arm in found else 0)
    ]
    if lost:
        return Check(name, "warning", None, "; ".join(lost))
    total = sum(columns["n_impression"] for columns in sums.values())
    return Check(
        name, "ok", None, f"{count(total)} impressions; every exposed user is analysed, totals agree"
    )


def _faults(sums: Mapping[str, int], n: int, days: int) -> list[str]:
    impressions = sums["n_impression"]
    faults = []
    if impressions == 0:
        faults.append(f"{count(n)} exposed users and no impression")
    if sums.get("n_play", 0) > impressions:
        faults.append(f"{count(sums['n_play'])} plays of {count(impressions)} impressions")
    if impressions == 0 and sums.get("watch_ms", 0):
        faults.append("watch time without impressions")
    if sums.get("active_days", 0) > n * days:
        faults.append(f"{count(sums['active_days'])} active days of {count(n)} users in {days} days")
    return faults

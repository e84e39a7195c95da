"""Checks of a recorded experiment beyond its deciding counts: by day and segment, before it, and of its log.

Each takes counts and returns a `Check`; what the counts come from does not matter. The shares of .001 by day
and segment, and of the pre-period's metrics, are Holm's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from abtest.checks import DETECTION_POWER, SAMPLE_RATIO_THRESHOLD, Check
from abtest.estimates import NOBODY, measure_phases
from abtest.experiment import Experiment
from abtest.metrics import Metric
from abtest.report.numbers import count, p_value, percent
from abtest.silence import usual_silence
from abtest.stats.means import compare
from abtest.stats.moments import Moments
from abtest.stats.multiplicity import holm
from abtest.stats.srm import sample_ratio, smallest_loss
from warehouse.events import DAY_MS, PRE

if TYPE_CHECKING:
    from abtest.analysis import PhaseRows
    from abtest.totals import MomentsRow

Counts = Mapping[str, int]

DUPLICATES_FAIL = 0.01
LOST_FAIL = 0.01
LATE_WARNING = 0.01
EARLIEST_DATE_MS = DAY_MS * 365


def failed_first(checks: Sequence[Check]) -> list[Check]:
    """The failed ones, then the warnings, then the others, each in their order."""
    rank = {"failed": 0, "warning": 1}
    return sorted(checks, key=lambda check: rank.get(check.status, 2))


def slices_of(
    experiment: Experiment, daily: Sequence[Iterable[tuple[int, str, int]]]
) -> tuple[dict[str, dict[str, int]], dict[str, list[float]]]:
    """The users first exposed on each day of each phase, by arm, and the weights that hold for them."""
    slices: dict[str, dict[str, int]] = {}
    weights = {}
    for phase, rows in enumerate(daily):
        for day, arm, n in rows:
            label = f"day {day}" if len(daily) == 1 else f"day {day}, phase {phase + 1}"
            slices.setdefault(label, {})[arm] = n
            weights[label] = experiment.weights(phase)
    return slices, weights


def check_slices(
    experiment: Experiment,
    days: Mapping[str, Counts],
    segments: Mapping[str, Counts],
    weights_of: Mapping[str, Sequence[float]] | None = None,
) -> list[Check]:
    """The sample ratio of users first exposed on each day, and of each segment. All share .001 by Holm.

    Fewer than two days or segments say no more than the whole; they are not run. `weights_of` a slice are
    those of its phase, the arms' without it.
    """
    by_day = days if len(days) > 1 else {}
    slices = {**{("day", name): counts for name, counts in by_day.items()},
              **{("segment", name): counts for name, counts in segments.items()}}  # fmt: skip
    weights = {key: (weights_of or {}).get(key[1], experiment.weights()) for key in slices}
    found = {
        key: sample_ratio([counts.get(arm.name, 0) for arm in experiment.arms], weights[key])
        for key, counts in slices.items()
    }
    adjusted = dict(
        zip(found, holm([test.p for test in found.values()], SAMPLE_RATIO_THRESHOLD), strict=True)
    )
    checks = []
    for kind, name in (("day", "sample_ratio_by_day"), ("segment", "sample_ratio_by_segment")):
        mine = [key for key in found if key[0] == kind and adjusted[key].p_adjusted is not None]
        if not mine:
            why = "users were exposed on one day" if kind == "day" else "no segments are mapped"
            checks.append(Check(name, "not_run", None, why))
            continue
        worst = min(mine, key=lambda key: adjusted[key].p_adjusted or 0.0)
        p = adjusted[worst].p_adjusted
        assert p is not None
        broken = [key[1] for key in mine if adjusted[key].rejected]
        seen = ", ".join(
            f"{arm.name} {count(slices[worst].get(arm.name, 0))} ({expected:,.1f} expected)"
            for arm, expected in zip(experiment.arms, found[worst].expected, strict=True)
        )
        smallest, middle = sorted((sum(slices[key].values()), key) for key in mine)[len(mine) // 2]
        loss = smallest_loss(
            smallest, weights[middle], threshold=SAMPLE_RATIO_THRESHOLD / len(found), power=DETECTION_POWER
        )
        sight = (
            f"in the middle one, of {count(smallest)} users, losing {percent(loss, sign=False)} of one arm's"
            f" users would have been found with probability {DETECTION_POWER:g}"
            if loss is not None
            else f"the middle one, of {count(smallest)} users, is too small to find any loss"
        )
        head = f"the arms are out of proportion on {', '.join(broken[:5])}; " if broken else ""
        detail = (
            f"{head}the worst of {len(mine)}, {worst[1]}: {seen}, adjusted p {p_value(p)} (fails below 0.001,"
            f" Holm over {len(found)}); {sight}"
        )
        checks.append(Check(name, "failed" if broken else "ok", p, detail))
    return checks


def check_pre_period(
    experiment: Experiment, before: Sequence[Mapping[str, Moments]], metrics: Sequence[Metric], days: int
) -> Check:
    """What the arms' users did before the start must not differ: nothing had been done to them yet.

    `before` holds the arms' moments for the users of each phase, within which they are compared.
    """
    name = "pre_period"
    if not any(m.n and any(m.sums.values()) for phase in before for m in phase.values()):
        return Check(name, "not_run", None, "the log holds nothing of these users before the start")
    phases = [{arm.name: phase.get(arm.name, NOBODY) for arm in experiment.arms} for phase in before]
    tests, labels = [], []
    for metric in metrics:
        observed = measure_phases(phases, replace(metric, covariates=())).plain
        for arm in experiment.treatments:
            found = compare(observed[experiment.control], observed[arm.name])
            if found.p is not None:
                tests.append(found)
                labels.append(f"{metric.name} of {arm.name}")
    if not tests:
        return Check(name, "not_run", None, "no metric could be computed before the start")
    adjusted = holm([test.p for test in tests], SAMPLE_RATIO_THRESHOLD)
    worst = min(range(len(tests)), key=lambda i: (adjusted[i].p_adjusted or 0.0, tests[i].p or 0.0))
    broken = [labels[i] for i in range(len(tests)) if adjusted[i].rejected]
    head = f"the arms differed before the start in {', '.join(broken[:5])}; " if broken else ""
    detail = (
        f"{head}{len(tests)} comparisons of the {days} days before the start, the worst {labels[worst]}:"
        f" {percent(tests[worst].lift)}, adjusted p {p_value(adjusted[worst].p_adjusted)} (fails below 0.001)"
    )
    return Check(name, "failed" if broken else "ok", adjusted[worst].p_adjusted, detail)


def totals_before(phases: Iterable["PhaseRows"], days: int) -> list[dict[str, Moments]]:
    """Of each phase and arm, the totals before the start under the names of those since."""
    return [
        {row.arm: _as_before(row) for row in phase.moments if tuple(row.window) == (1, days)}
        for phase in phases
    ]


def _as_before(row: "MomentsRow") -> Moments:
    return Moments(
        row.n,
        {name.removeprefix(PRE): value for name, value in row.sums.items() if name.startswith(PRE)},
        {
            (a.removeprefix(PRE), b.removeprefix(PRE)): value
            for (a, b), value in row.products.items()
            if a.startswith(PRE) and b.startswith(PRE)
        },
    )


def check_days(experiment: Experiment, rows_by_day: Mapping[int, int], start_ts: int) -> Check:
    """Every day up to the last one with an event must hold events."""
    name = "missing_days"
    if not rows_by_day:
        return Check(name, "failed", None, f"no event lies in the {experiment.days} days of the experiment")
    last = max(rows_by_day)
    missing = [day for day in range(1, last + 1) if day not in rows_by_day]
    if missing:
        shown = ", ".join(f"day {day} ({_date(start_ts, day)})" for day in missing[:5])
        return Check(name, "failed", None, f"{len(missing)} of {last} days hold no event: {shown}")
    least = min(rows_by_day, key=lambda day: rows_by_day[day])
    detail = f"each of {last} days holds events, the fewest {count(rows_by_day[least])} on day {least}"
    return Check(name, "ok", None, detail)


def check_watermark(
    experiment: Experiment,
    rows_by_day: Mapping[int, int],
    last_ts: int | None,
    start_ts: int,
    *,
    late: tuple[int, int, int | None] | None = None,
    last_ingest: int | None = None,
    fine: bool = True,
) -> Check:
    """Whether the log reaches the end of the last day, and how late events arrive.

    `late` is (rows, rows over an hour late, largest delay in ms) where arrival times are known; `fine` says
    that times are finer than days.
    """
    check = _watermark(experiment, rows_by_day, last_ts, start_ts, late, last_ingest, fine)
    if not experiment.is_interim:
        return check
    seen = f"interim: day {experiment.days} of {experiment.planned_days} is the last that is over"
    return replace(check, detail=f"{seen}; {check.detail}")


def _watermark(
    experiment: Experiment,
    rows_by_day: Mapping[int, int],
    last_ts: int | None,
    start_ts: int,
    late: tuple[int, int, int | None] | None,
    last_ingest: int | None,
    fine: bool,
) -> Check:
    name = "late_data"
    if last_ts is None or not rows_by_day:
        return Check(name, "not_run", None, "no event lies in the days of the experiment")
    last, end = max(rows_by_day), start_ts + experiment.days * DAY_MS
    if last < experiment.days:
        detail = (
            f"the log ends on day {last} of {experiment.days} ({_date(start_ts, last)}); wait for the rest,"
            f" or declare days = {last} if that was planned"
        )
        return Check(name, "failed", None, detail)
    said = "the log reaches into the last day"
    if fine:
        silence = end - 1 - last_ts
        if silence > usual_silence(rows_by_day[last]):
            hours = silence / 3_600_000
            return Check(
                name, "warning", None, f"the last event lies {hours:.1f} h before the end of the last day;"
                " its rest may not have arrived yet",
            )  # fmt: skip
        said = f"the last event lies {max(silence, 0) / 60_000:,.0f} min before the end of the last day"
    if late is not None and late[0]:
        n, n_late, largest = late
        share = n_late / n
        said += f"; {percent(share, sign=False)} of events arrived over an hour late"
        if (
            share >= LATE_WARNING
            and last_ingest is not None
            and largest is not None
            and last_ingest < end + largest
        ):
            return Check(
                name, "warning", None, f"{said}, at most {largest / 3_600_000:.1f} h, and the log was read"
                " less than that after the end: events of the last day are still on their way",
            )  # fmt: skip
    return Check(name, "ok", None, said)


def check_duplicates(found: Mapping[str, tuple[int, int]] | None, *, by_id: bool, limit: int) -> Check:
    """Rows that repeat another: a warning, and failed from 1 % of an arm's rows on. None: not looked for."""
    name = "duplicates"
    if found is None:
        detail = f"not looked for among more than {limit:,} rows without an id; map id= to have it done"
        return Check(name, "not_run", None, detail)
    rows, repeats = (sum(pair[i] for pair in found.values()) for i in (0, 1))
    what = "the id of another" if by_id else "another in every mapped column"
    if not repeats:
        return Check(name, "ok", None, f"none of {count(rows)} rows repeats {what}")
    shares = {arm: n / total for arm, (total, n) in found.items() if total}
    worst = max(shares, key=lambda arm: shares[arm])
    of_arm = f", most in {worst}: {percent(shares[worst], sign=False)}" if worst else ""
    detail = f"{count(repeats)} of {count(rows)} rows repeat {what}{of_arm}; all of them were counted"
    return Check(name, "failed" if shares[worst] >= DUPLICATES_FAIL else "warning", None, detail)


def check_rows(
    rows: int, without_user: int, without_ts: int, values: Mapping[str, tuple[int, int, int]]
) -> Check:
    """Rows left out for want of a user or a time (failed from 1 % on), and what values are missing or odd."""
    name, said = "rows", []
    lost = without_user + without_ts
    for n, word in ((without_user, "user"), (without_ts, "time")):
        if n:
            said.append(f"{count(n)} of {count(rows)} rows have no {word} and were left out")
    not_finite = False
    for column, (missing, odd, negative) in values.items():
        if missing:
            said.append(f"{column}: {count(missing)} missing values add nothing")
        if odd:
            not_finite = True
            said.append(f"{column}: {count(odd)} values are NaN or infinite, so its metrics are not computed")
        if negative:
            said.append(f"{column}: {count(negative)} negative values are counted as they are")
    detail = "; ".join(said) or f"{count(rows)} rows, none without a user or a time"
    if rows and lost / rows >= LOST_FAIL:
        return Check(name, "failed", None, detail)
    return Check(name, "warning" if lost or not_finite else "ok", None, detail)


def check_recorded_arms(recorded: Mapping[str, int], wrong: int) -> Check:
    """Arms as recorded against those that salt and user give: another means that two services disagree."""
    total = sum(recorded.values())
    if not total:
        return Check("assignment", "not_run", None, "nobody was exposed")
    if wrong:
        detail = f"{count(wrong)} of {count(total)} exposed users were in another arm than salt and user give"
        return Check("assignment", "failed", None, detail)
    return Check(
        "assignment", "ok", None, f"all {count(total)} exposed users were in the arm that salt and user give"
    )


def _date(start_ts: int, day: int) -> str:
    """The date of a day, or its hours since the start where times are no dates."""
    moment = start_ts + (day - 1) * DAY_MS
    if moment < EARLIEST_DATE_MS:
        return f"from {moment} ms"
    return datetime.fromtimestamp(moment / 1000, UTC).date().isoformat()

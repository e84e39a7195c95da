"""The checks that only a recorded run can answer: of assignment, of days, and of its events one by one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from abtest import health
from abtest.checks import SAMPLE_RATIO_THRESHOLD, Check, check_sample_ratio
from abtest.experiment import OUTSIDE, Experiment
from abtest.report.numbers import count, p_value, percent
from abtest.stats.srm import sample_ratio
from warehouse.events import DAY_MS, Kind

if TYPE_CHECKING:
    from abtest.analysis import PhaseRows
    from abtest.metrics import Metric
    from warehouse.store import Moments, Warehouse

SAMPLED_USERS = 4_000
"""About so many users have their events looked at one by one."""

LOST_FAILS = 0.01
"""The share of an arm's actions without an impression from which on a check fails; repeated rows likewise."""


def health_of_run(
    warehouse: "Warehouse",
    settings: dict[str, Any],
    daily: list[list[tuple[int, str, int]]],
    segments: "list[dict[str, dict[str, list[Moments]]]]",
) -> list[Check]:
    """The checks of a recorded run beyond its totals: assignment, users by day and segment, days' events.

    `daily` and `segments` are of each phase.
    """
    experiment, start_ts = Experiment.from_settings(settings), settings["start_ts"]
    slices, weights = health.slices_of(experiment, daily)
    exposures = warehouse.sql("SELECT experiment, user, arm, first_ts FROM exposures ORDER BY ALL")
    mine = np.array(exposures["experiment"].to_pylist()) == experiment.name
    users, recorded = exposures["user"].to_numpy()[mine], np.array(exposures["arm"].to_pylist())[mine]
    names = np.array([arm.name for arm in experiment.arms])
    counts = {name: int((recorded == name).sum()) for name in names.tolist()}
    given = experiment.assign_at(users, exposures["first_ts"].to_numpy()[mine] - start_ts)
    wrong = int(((given == OUTSIDE) | (names[given] != recorded)).sum()) if len(users) else 0
    found = []
    if settings.get("n_users"):
        last = int(experiment.phase_at(experiment.days * DAY_MS - 1)[0])
        arms = experiment.assign(np.arange(settings["n_users"]), last)
        assigned = np.bincount(arms[arms != OUTSIDE], minlength=len(names))
        counted = dict(zip(names.tolist(), assigned.tolist(), strict=True))
        check = check_sample_ratio(experiment, counted, phase=last)
        found.append(replace(check, name="sample_ratio_assigned"))
    found.append(health.check_recorded_arms(counts, wrong))
    by_segment = {}
    for i, of_phase in enumerate(segments):
        suffix = f", phase {i + 1}" if len(segments) > 1 else ""
        for label, of_arms in ((n, rows) for found_in in of_phase.values() for n, rows in found_in.items()):
            by_segment[label + suffix] = {row.arm: row.n for row in of_arms}
            weights[label + suffix] = experiment.weights(i)
    found += health.check_slices(experiment, slices, by_segment, weights)[: 2 if by_segment else 1]
    rows = events_by_day(warehouse, experiment.days, start_ts)
    events = {day: n for day, (n, _) in rows.items()}
    found.append(health.check_days(experiment, events, start_ts))
    last_ts = max((last for _, last in rows.values()), default=None)
    found.append(health.check_watermark(experiment, events, last_ts, start_ts))
    found.append(check_before_exposure(experiment, _early_users(warehouse, experiment, start_ts), counts))
    rows_of, repeated, orphans = _looked_at(warehouse, experiment, start_ts, len(users))
    found.append(health.check_duplicates(_pairs(rows_of, repeated), by_id=False, limit=0))
    found.append(check_orphans(rows_of, orphans))
    return found


def check_warm_up(
    experiment: Experiment, phases: "Sequence[PhaseRows]", metrics: "Sequence[Metric]", pre_days: int
) -> Check:
    """Whether the arms' users were alike before the start, by the metrics whose columns were summed then."""
    known = [metric for metric in metrics if set(metric.columns) <= set(metric.past)]
    return health.check_pre_period(experiment, health.totals_before(phases, experiment.days), known, pre_days)


def check_before_exposure(
    experiment: Experiment, early: Mapping[str, int], exposed: Mapping[str, int]
) -> Check:
    """Users who did something on the days of the experiment before they count as exposed: as many in each
    arm, or one arm's exposures are logged late or its clocks are wrong. Failed below .001."""
    name = "before_exposure"
    if len(experiment.phases) > 1:
        return Check(name, "not_run", None, "with phases, users come in after they have done something")
    counts = {arm.name: early.get(arm.name, 0) for arm in experiment.arms}
    n = sum(counts.values())
    if not n:
        return Check(name, "ok", None, "no user did anything on its days before being exposed")
    p = sample_ratio(list(counts.values()), [exposed[arm] for arm in counts]).p
    seen = ", ".join(f"{arm} {count(k)} of {count(exposed[arm])}" for arm, k in counts.items())
    detail = f"users who did something before being exposed: {seen}, p {p_value(p)} (fails below 0.001)"
    return Check(name, "failed" if p is not None and p < SAMPLE_RATIO_THRESHOLD else "ok", p, detail)


def check_orphans(rows: Mapping[str, int], orphans: Mapping[str, int]) -> Check:
    """Actions on a video without the impression they belong to: a warning, and failed from 1 % on."""
    name, n, lost = "orphans", sum(rows.values()), sum(orphans.values())
    if not n:
        return Check(name, "not_run", None, "there are no events to look at")
    if not lost:
        return Check(name, "ok", None, f"every action has its impression, in {count(n)} rows looked at")
    shares = {arm: orphans.get(arm, 0) / k for arm, k in rows.items() if k}
    worst = max(shares, key=lambda arm: shares[arm])
    detail = (
        f"{count(lost)} actions in {count(n)} rows looked at have no impression, most in {worst}:"
        f" {percent(shares[worst], sign=False)}; events were lost"
    )
    return Check(name, "failed" if shares[worst] >= LOST_FAILS else "warning", None, detail)


def _early_users(warehouse: "Warehouse", experiment: Experiment, start_ts: int) -> dict[str, int]:
    """Exposed users of each arm with an event between the start and their exposure."""
    rows = warehouse.sql(
        "SELECT x.arm, CAST(count(DISTINCT e.user) AS BIGINT) AS n FROM events e JOIN exposures x"
        f" ON e.user = x.user AND e.ts < x.first_ts WHERE x.experiment = {_quoted(experiment.name)}"
        f" AND e.ts >= {start_ts} GROUP BY x.arm ORDER BY x.arm"
    ).to_pylist()
    return {row["arm"]: row["n"] for row in rows}


def _looked_at(
    warehouse: "Warehouse", experiment: Experiment, start_ts: int, n_users: int
) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """By arm, of some of its users: their rows, how many of these repeat another but for its request, and
    actions on a video without their impression."""
    step = max(1, n_users // SAMPLED_USERS)
    end = start_ts + experiment.days * DAY_MS
    rows = warehouse.sql(
        "WITH mine AS (SELECT x.arm, e.* FROM events e JOIN exposures x ON e.user = x.user"
        f" WHERE x.experiment = {_quoted(experiment.name)} AND e.user % {step} = 0"
        f" AND e.ts >= {start_ts} AND e.ts < {end}),"
        f" shown AS (SELECT DISTINCT user, session, request, position FROM mine"
        f" WHERE kind = {int(Kind.impression)})"
        " SELECT arm, count(*) AS n,"
        " count(*) - count(DISTINCT (user, ts, session, item, position, kind)) AS repeated,"
        f" count(*) FILTER (item > 0 AND kind <> {int(Kind.impression)} AND s.user IS NULL) AS orphans"
        " FROM mine LEFT JOIN shown s USING (user, session, request, position)"
        " GROUP BY arm ORDER BY arm"
    ).to_pylist()
    columns = ("n", "repeated", "orphans")
    n, repeated, orphans = ({row["arm"]: int(row[name]) for row in rows} for name in columns)
    return n, repeated, orphans


def _pairs(rows: Mapping[str, int], repeated: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    return {arm: (n, repeated[arm]) for arm, n in rows.items()}


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def events_by_day(warehouse: "Warehouse", days: int, start_ts: int) -> dict[int, tuple[int, int]]:
    """(events, last ts) of each day of an experiment that holds any."""
    rows = warehouse.sql(
        f"SELECT (ts - {start_ts}) // {DAY_MS} + 1 AS day, count(*) AS n, max(ts) AS last FROM events"
        f" WHERE ts >= {start_ts} AND ts < {start_ts + days * DAY_MS} GROUP BY ALL ORDER BY day"
    ).to_pylist()
    return {row["day"]: (row["n"], row["last"]) for row in rows}

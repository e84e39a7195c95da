"""The story of `abtest plan`: means and variances of what there is, then users, days and detectable lifts.

The variances are those of the control's users (of all users where a log has no arms), of the totals of days
1 to d. Several goals and treatments share alpha in equal parts, which is the least that Holm's method gives.
"""

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from abtest.experiment import Experiment
from abtest.logs import LogRequest
from abtest.metrics import METRICS, Metric, columns_of
from abtest.report.numbers import MISSING, count, number, percent
from abtest.report.section import Section

PAPER_LIFTS: Mapping[str, float] = {
    "comments": 0.00772,
    "shares": 0.00336,
    "plays": 0.00143,
    "follows": 0.00027,
    "watch_s": 0.00017,
}
"""Lifts of RecGPT over ComiRec that its paper reports from production, as fractions."""

MOST_DAYS_SHOWN = 7
MOST_LOOKS = 14
SEQUENTIAL = "abtest.stats.sequential"


@dataclass(frozen=True)
class Design:
    """What is planned: users of all arms (None: as many as were seen), their split, alpha and power.

    `design` is fixed, or the bounds of daily looks: obf, pocock or always-valid.
    """

    users: int | None = None
    split: tuple[float, ...] = (0.5, 0.5)
    alpha: float = 0.05
    power: float = 0.8
    design: str = "fixed"

    def __post_init__(self) -> None:
        if self.users is not None and self.users < 4:
            raise ValueError(f"users is {self.users}; a plan needs 4 or more")
        if len(self.split) < 2 or min(self.split) <= 0:
            raise ValueError(f"split {list(self.split)} is none; give two or more shares above 0")
        if not 0 < self.alpha <= 0.5 or not 0.5 <= self.power < 1:
            raise ValueError(
                f"alpha is {self.alpha} and power {self.power}; alpha lies above 0 and is at most .5, power"
                " is at least .5 and below 1"
            )
        if self.design not in designs():
            raise ValueError(f"unknown design {self.design!r}; known: {', '.join(designs())}")


@dataclass(frozen=True)
class Seen:
    """A metric in days 1 to `day`: users of all arms exposed by then, its value and a user's variance."""

    day: int
    users: int
    value: float | None
    variance: float | None


@dataclass(frozen=True)
class Planned:
    """A metric's plan. Lifts are fractions; None where the past cannot tell.

    `mde_by_day`: (day, users by then, detectable lift). `target` is the lift asked about, with the power to
    see it at this size, the users that it takes, and the day by which this size sees it.
    """

    metric: str
    role: str
    mean: float | None
    deviation: float | None
    alpha: float
    inflation: float
    mde: float | None
    mde_by_day: tuple[tuple[int, int, float | None], ...]
    target: float | None
    target_from: str | None
    power_at_target: float | None
    is_seen: bool | None
    users_needed: int | None
    days_needed: int | None


def designs() -> list[str]:
    """The designs that this installation can plan."""
    if importlib.util.find_spec(SEQUENTIAL) is None:
        return ["fixed"]
    return ["fixed", *importlib.import_module(SEQUENTIAL).METHODS]


def plan(request: LogRequest, design: Design, lifts: Mapping[str, float]) -> dict[str, Any]:
    """The plan as a document. `lifts` asks about lifts by metric; metrics of the paper have its lifts."""
    name, metrics, seen = _past(request)
    unknown = [key for key in lifts if key not in seen]
    if unknown:
        raise LookupError(f"a lift is asked of {unknown[0]!r}; the metrics are: {', '.join(seen)}")
    n_goals = max(1, sum(metric.role == "goal" for metric in metrics))
    users = design.users or max(spans[-1].users for spans in seen.values())
    planned = [
        _planned(metric, seen[metric.name], design, users, n_goals * (len(design.split) - 1), lifts)
        for metric in metrics
    ]
    return {
        "source": name,
        "design": {**asdict(design), "users": users, "split": list(design.split)},
        "days": max(spans[-1].day for spans in seen.values()),
        "tests": n_goals * (len(design.split) - 1),
        "metrics": [asdict(one) for one in planned],
    }


def plan_sections(document: Mapping[str, Any]) -> list[Section]:
    """The plan as tables."""
    design, rows = document["design"], document["metrics"]
    shown = _spread([day for day, _, _ in rows[0]["mde_by_day"]])
    by_day = [
        [row["metric"], *(percent(mde, sign=False) for day, _, mde in row["mde_by_day"] if day in shown)]
        for row in rows
    ]
    targets = [
        [
            row["metric"],
            percent(row["target"]),
            row["target_from"] or MISSING,
            percent(row["mde"], sign=False),
            {True: "yes", False: "no", None: MISSING}[row["is_seen"]],
            percent(row["power_at_target"], sign=False),
            MISSING if row["users_needed"] is None else count(row["users_needed"]),
            MISSING if row["days_needed"] is None else str(row["days_needed"]),
        ]
        for row in rows
        if row["target"] is not None
    ]
    baseline = [
        [
            row["metric"],
            row["role"],
            number(row["mean"]),
            number(row["deviation"]),
            percent(row["mde"], sign=False),
            f"{row['alpha']:.3g}",
        ]
        for row in rows
    ]
    split = ", ".join(f"{share:.3g}" for share in design["split"])
    note = (
        f"Users: {count(design['users'])}, split {split}; {document['days']} days; power {design['power']:g};"
        f" design {design['design']}. MDE: the smallest lift found with that power. Alpha {design['alpha']:g}"
        f" is divided by the {document['tests']} tests of goals, the least that Holm's method gives; other"
        " metrics have all of it. No variance reduction is counted on."
    )
    sections = [
        Section(
            f"Plan from {document['source']}",
            ("metric", "role", "mean", "deviation", "MDE", "alpha"),
            baseline,
            (note,),
            n_text=2,
        ),
        Section("MDE after so many days", ("metric", *(f"day {day}" for day in shown)), by_day),
    ]
    if targets:
        headers = ("metric", "lift", "of", "MDE", "seen?", "power", "users needed", "days needed")
        notes = (
            "Users needed: of all arms, over all days. Days needed: with the users of the plan, within the"
            " days that were seen; - where they do not suffice.",
        )
        sections.append(Section("Could these lifts be seen?", headers, targets, notes, n_text=3))
    return sections


def parse_lifts(texts: Sequence[str]) -> dict[str, float]:
    """Lifts from "comments=1.5", in percent.

    >>> parse_lifts(["comments=1.5"])
    {'comments': 0.015}
    """
    found = {}
    for text in texts:
        name, separator, value = text.rpartition("=")
        try:
            found[name] = float(value.removesuffix("%")) / 100
        except ValueError:
            found[name] = 0.0
        if not separator or not found[name] > 0:
            raise ValueError(
                f"lift {text!r} is not METRIC=PERCENT with a percent above 0, such as comments=1"
            )
    return found


def parse_split(text: str | None) -> tuple[float, ...]:
    """Shares from percents such as "80,20", the control first; halves for None.

    >>> parse_split("80,20")
    (0.8, 0.2)
    """
    try:
        parts = [float(part) for part in (text or "50,50").split(",")]
    except ValueError:
        parts = []
    if len(parts) < 2 or min(parts) <= 0 or abs(sum(parts) - 100) > 1e-9:
        raise ValueError(f"split {text!r} is not positive percents that sum to 100, such as 80,20")
    return tuple(part / 100 for part in parts)


# Steps


def _past(request: LogRequest) -> tuple[str, Sequence[Metric], dict[str, list[Seen]]]:
    """Name, metrics, and each metric in days 1 to d, from a log or a recorded run."""
    from abtest.analysis import Window

    if request.mapping is not None or request.config is not None:
        from abtest.logs import declared, open_log, study_of, usable_moments

        declaration = declared(request)
        with open_log(request, declaration, needs_arm=False) as log:
            study = study_of(log, declaration, request, needs_arms=False)
            windows = [Window(1, day) for day in range(1, study.span.days + 1)]
            exposed = log.exposed(study.span)
            rows = usable_moments(log, study, windows, exposed)
            control = study.experiment.control if log.mapping.arm else None
            return log.name, study.metrics, _seen(rows, windows, study.metrics, control, study.unusable)
    from warehouse.store import Warehouse

    place = Path(request.places[0])
    database = place / "events.duckdb" if place.is_dir() else place
    if len(request.places) > 1 or "://" in request.places[0] or not database.exists():
        raise LookupError(
            f"no run at {request.places[0]}; give a run folder, or a log with --map user=uid,ts=time"
        )
    with Warehouse.open(database, read_only=True) as warehouse:
        settings = warehouse.experiment(None)
        experiment = Experiment.from_settings(settings)
        windows = [Window(1, day) for day in range(1, experiment.days + 1)]
        rows = warehouse.moments(experiment.name, windows, columns=columns_of(METRICS))
        return str(place), METRICS, _seen(rows, windows, METRICS, experiment.control, {})


def _seen(
    rows: Sequence[Any],
    windows: Sequence[tuple[int, int]],
    metrics: Sequence[Metric],
    control: str | None,
    unusable: Mapping[str, str],
) -> dict[str, list[Seen]]:
    from abtest.stats.means import mean_estimate, ratio_estimate
    from abtest.stats.moments import Moments

    found: dict[str, list[Seen]] = {metric.name: [] for metric in metrics}
    for window in windows:
        here = [row for row in rows if row.window == window]
        users = sum(row.n for row in here)
        mine = [row for row in here if control is None or row.arm == control]
        moments = [Moments(row.n, row.sums, row.products) for row in mine if row.n]
        for metric in metrics:
            usable = moments and not set(metric.columns) & set(unusable)
            if not usable:
                found[metric.name].append(Seen(window[1], users, None, None))
                continue
            estimate = (
                mean_estimate(moments[0], metric.numerator, scale=metric.scale)
                if metric.denominator is None
                else ratio_estimate(moments[0], metric.numerator, metric.denominator, scale=metric.scale)
            )
            variance = None if estimate.variance is None else estimate.variance * estimate.n
            found[metric.name].append(Seen(window[1], users, estimate.value, variance))
    return found


def _planned(
    metric: Metric,
    spans: Sequence[Seen],
    design: Design,
    users: int,
    n_tests: int,
    lifts: Mapping[str, float],
) -> Planned:
    from abtest.stats.planning import power_at
    from abtest.stats.power import users_needed

    last = spans[-1]
    alpha = design.alpha / n_tests if metric.role == "goal" else design.alpha
    inflation = _inflation(design, alpha, spans)
    by_day = tuple(
        (span.day, n, _mde(span, design, n, alpha, inflation))
        for span in spans
        for n in [round(users * span.users / max(last.users, 1))]
    )
    mde = by_day[-1][2]
    target = lifts.get(metric.name, PAPER_LIFTS.get(metric.name))
    source = "asked" if metric.name in lifts else "the paper" if target is not None else None
    power = needed = days = seen = None
    if target is not None and mde is not None and last.value is not None and last.variance is not None:
        power = power_at(target, mde, alpha=alpha, power=design.power)
        seen = mde <= target
        pair = design.split[0] + _smallest(design)
        for_two = users_needed(
            abs(last.value),
            last.variance,
            target / inflation,
            alpha=alpha,
            power=design.power,
            control_share=design.split[0] / pair,
        )
        needed = round(for_two / pair)
        days = next((day for day, _, least in by_day if least is not None and least <= target), None)
    return Planned(
        metric.name,
        metric.role,
        last.value,
        None if last.variance is None else last.variance**0.5,
        alpha,
        inflation,
        mde,
        by_day,
        target,
        source,
        power,
        seen,
        needed,
        days,
    )


def _mde(span: Seen, design: Design, users: int, alpha: float, inflation: float) -> float | None:
    from abtest.stats.power import detectable_lift

    n_control, n_treatment = round(users * design.split[0]), round(users * _smallest(design))
    if not span.value or not span.variance or min(n_control, n_treatment) < 2:
        return None
    return inflation * detectable_lift(
        abs(span.value), span.variance, n_control, n_treatment, alpha=alpha, power=design.power
    )


def _inflation(design: Design, alpha: float, spans: Sequence[Seen]) -> float:
    """What daily looks cost, with information as the past has it; 1 for a fixed design."""
    if design.design == "fixed":
        return 1.0
    from abtest.stats.planning import looks_inflation

    raw = [
        span.users * span.value**2 / span.variance if span.value and span.variance else 0.0 for span in spans
    ]
    shares = [value / raw[-1] for value in raw] if raw[-1] else []
    kept: list[float] = []
    for share in shares[:-1]:
        if 0 < share < 1 and (not kept or share > kept[-1] + 0.01):
            kept.append(share)
    information = [*[share for share in kept if share < 0.99], 1.0]
    information = information[:: -(len(information) // MOST_LOOKS + 1)][::-1]
    levels = importlib.import_module(SEQUENTIAL).nominal_levels(
        design.design, alpha, information, tuned_alpha=alpha
    )
    return looks_inflation(levels, information, alpha=alpha, power=design.power)


def _smallest(design: Design) -> float:
    """The share of the smallest treatment, whose lift is hardest to see."""
    return min(design.split[1:])


def _spread(days: Sequence[int]) -> list[int]:
    step = -(-len(days) // MOST_DAYS_SHOWN)
    return sorted({*list(days)[::-1][::step]})

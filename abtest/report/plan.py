"""A plan as tables with power curves in block characters, and as a figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abtest.report.numbers import MISSING, count, number, percent
from abtest.report.section import Document, Section

MOST_DAYS_SHOWN = 7
BLOCKS = "▁▂▃▄▅▆▇█"
CUPED_WORDS = {
    True: "Less variance: what the users' totals before the start take out (CUPED), rho their correlation"
    " with the metric; MDE and curves count on it.",
    False: "What users' totals before the start would take out of the variance is not counted on.",
    None: "No pre-period is known, so no reduction of variance is counted on.",
}

STRATA_NOTE = (
    "Less by strata: the share of the variance that lies between the strata of {column}; MDE and curves count"
    " on an analysis that is post-stratified by it. MDE without: neither."
)
PHASES_NOTE = (
    "The past has {n} phases, in which other shares of the users were in the control: its users are weighed"
    " by phase, as all users came. The plan is of an experiment whose split does not change."
)


def plan_sections(document: Document) -> list[Section]:
    """The plan as tables."""
    found = [
        _metrics(document),
        _by_day(document),
        _by_lift(document),
        _targets(document),
        _by_users(document),
    ]
    return [section for section in found if section.rows]


def bar(power: float | None) -> str:
    """A power as a block: the eight of them, in a row, are a curve.

    >>> "".join(map(bar, (0.02, 0.3, 0.6, 0.99)))
    '▁▃▅█'
    """
    return " " if power is None else BLOCKS[min(int(power * len(BLOCKS)), len(BLOCKS) - 1)]


def figure(document: Document) -> bytes:
    """Power by lift at the planned size, and by users at the lifts asked about: the PNG's bytes. Diagnostics
    are left to the table, unless there is nothing else."""
    import altair as alt
    import vl_convert

    wanted = document["design"]["power"]
    drawn = [row for row in document["metrics"] if row["role"] != "diagnostic"] or document["metrics"]
    users = count(document["design"]["users"])
    by_lift = [
        {"metric": row["metric"], "x": 100 * lift, "power": power}
        for row in drawn
        for lift, power in row["power_by_lift"]
        if power is not None
    ]
    by_users = [
        {"metric": f"{row['metric']} {percent(row['target'])}", "x": n, "power": power}
        for row in document["metrics"]
        for n, power in row["power_by_users"]
        if power is not None
    ]
    panels = [
        _panel(values, title, x, wanted)
        for values, title, x in (
            (by_lift, f"Power by true lift, {users} users", "lift, %"),
            (by_users, "Power by users, at the lifts asked about", "users of all arms"),
        )
        if values
    ]
    if not panels:
        raise ValueError("no metric has a mean and a variance, so there is no power to draw")
    chart: Any = alt.hconcat(*panels).resolve_scale(color="independent")
    png: bytes = vl_convert.vegalite_to_png(chart.to_json(), scale=2)
    return png


def write_figure(document: Document, path: Path) -> None:
    """Write the figure. ValueError where that cannot be."""
    try:
        path.write_bytes(figure(document))
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}; give another file") from error


def _panel(values: list[dict[str, Any]], title: str, x: str, wanted: float) -> Any:
    import altair as alt

    line = (
        alt.Chart(alt.Data(values=values), title=title)
        .mark_line(point=True, interpolate="monotone")
        .encode(
            x=alt.X("x:Q", title=x, scale=alt.Scale(type="log", nice=False)),
            y=alt.Y("power:Q", title="power", scale=alt.Scale(domain=[0, 1])),
            color=alt.Color("metric:N", title=None, sort=None),
        )
    )
    rule = alt.Chart(alt.Data(values=[{"power": wanted}])).mark_rule(strokeDash=[4, 4]).encode(y="power:Q")
    return (line + rule).properties(width=380, height=260)


def _metrics(document: Document) -> Section:
    design, rows = document["design"], document["metrics"]
    known = any(row["variance_reduction"] is not None for row in rows)
    parted = document["stratify"] is not None
    less = [*(["rho", "less variance"] if known else []), *(["less by strata"] if parted else [])]
    less += ["MDE without"] if less else []
    table = [
        (
            row["metric"],
            row["role"],
            number(row["mean"]),
            number(row["deviation"]),
            *_reductions(row, known=known, parted=parted),
            percent(row["mde"], sign=False),
            f"{row['alpha']:.3g}",
            f"{row['power']:.3g}",
        )
        for row in rows
    ]
    split = ", ".join(f"{share:.3g}" for share in design["split"])
    note = (
        f"Users: {count(design['users'])}, split {split}; {document['days']} days; design {design['design']}."
        f" MDE: the smallest lift found with the power shown. Alpha {design['alpha']:g} is divided by the"
        f" {document['tests']} tests of goals, the least that Holm's method gives; guardrails are shown to"
        " stay within their margins at .025, each with power enough that all pass together; others have all"
        f" of alpha. {CUPED_WORDS[design['cuped'] if known else None]}"
    )
    notes = [note]
    if parted:
        notes.append(STRATA_NOTE.format(column=document["stratify"]))
    if document["phases"] > 1:
        notes.append(PHASES_NOTE.format(n=document["phases"]))
    headers = ("metric", "role", "mean", "deviation", *less, "MDE", "alpha", "power")
    return Section(f"Plan from {document['source']}", headers, table, notes, n_text=2)


def _reductions(row: Document, *, known: bool, parted: bool) -> list[str]:
    cells = []
    if known:
        rho = MISSING if row["rho"] is None else f"{row['rho']:.2f}"
        cells += [rho, percent(row["variance_reduction"], sign=False)]
    if parted:
        cells.append(percent(row["strata_reduction"], sign=False))
    return [*cells, percent(row["mde_plain"], sign=False)] if cells else []


def _by_day(document: Document) -> Section:
    rows = document["metrics"]
    shown = _spread([day for day, _, _ in rows[0]["mde_by_day"]])
    table = [
        [row["metric"], *(percent(mde, sign=False) for day, _, mde in row["mde_by_day"] if day in shown)]
        for row in rows
    ]
    return Section("MDE after so many days", ("metric", *(f"day {day}" for day in shown)), table)


def _by_lift(document: Document) -> Section:
    rows = document["metrics"]
    lifts = [lift for lift, _ in rows[0]["power_by_lift"]]
    table = [_curve(row["metric"], row["power_by_lift"]) for row in rows if lifts]
    headers = ("metric", "curve", *(percent(lift) for lift in lifts))
    return Section(
        f"Power at {count(document['design']['users'])} users, by true lift", headers, table, n_text=2
    )


def _targets(document: Document) -> Section:
    table = [
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
        for row in document["metrics"]
        if row["target"] is not None
    ]
    headers = ("metric", "lift", "of", "MDE", "seen?", "power", "users needed", "days needed")
    note = (
        "Users needed: of all arms, over all days. Days needed: with the users of the plan, within the days"
        " that were seen; - where they do not suffice. A guardrail's lift is its margin, the loss that can be"
        " ruled out."
    )
    return Section("Could these lifts be seen?", headers, table, (note,), n_text=3)


def _by_users(document: Document) -> Section:
    asked = [row for row in document["metrics"] if row["power_by_users"]]
    sizes = [n for n, _ in asked[0]["power_by_users"]] if asked else []
    table = [_curve(f"{row['metric']} {percent(row['target'])}", row["power_by_users"]) for row in asked]
    return Section(
        "Power to see these lifts, by users of all arms",
        ("lift", "curve", *(count(n) for n in sizes)),
        table,
        n_text=2,
    )


def _curve(name: str, points: Sequence[tuple[float, float | None]]) -> tuple[str, ...]:
    powers = [power for _, power in points]
    cells = [MISSING if power is None else f"{100 * power:.0f} %" for power in powers]
    return (name, "".join(map(bar, powers)), *cells)


def _spread(days: Sequence[int]) -> list[int]:
    step = -(-len(days) // MOST_DAYS_SHOWN)
    return sorted({*list(days)[::-1][::step]})

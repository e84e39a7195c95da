"""What a report says of an experiment's design: who was not in it, and its phases."""

from abtest.report.numbers import MISSING, count, percent
from abtest.report.section import Document, Section
from warehouse.events import DAY_MS

PHASES_NOTE = (
    "Users belong to the phase in which they got their arm. Arms are compared within phases and differences"
    " weighed by the phases' shares of users: pooled users of phases with other weights would compare other"
    " mixes of users (Simpson's paradox). Means are weighed in the same way."
)


def outside_note(document: Document) -> list[str]:
    """Who of the world was in no arm, and what served them; nothing where all users could be in one."""
    experiment = document["experiment"]
    if experiment.get("ignored"):
        arms = ", ".join(f"{arm}: {count(n)} users" for arm, n in experiment["ignored"].items())
        return [f"Left out, in no count and no weight: {arms}."]
    counts, layer, holdout = (experiment.get(key) for key in ("population", "layer", "holdout"))
    if not counts or counts["in_experiment"] == sum(counts.values()):
        return []
    held = f"{count(counts['holdout'])} held out"
    if holdout:
        held += f" (salt {holdout['salt']})"
    parts = [held]
    if layer:
        span = f"{100 * layer['start']:g}-{100 * layer['end']:g} %"
        parts.append(
            f"{count(counts['other_layer_parts'])} in other parts of layer {layer['name']} (this: {span})"
        )
    parts.append(f"{count(counts['not_covered'])} not covered")
    n_in = count(counts["in_experiment"])
    return [
        f"Of the world's users {n_in} could be in an arm by the end; {', '.join(parts)}."
        " Those were served by the control's model and are in no count and no weight."
    ]


def phases_section(document: Document) -> list[Section]:
    """The phases with their weights and users, where there are several."""
    experiment, exposed = document["experiment"], document.get("exposed_by_phase", [])
    phases = experiment.get("phases") or []
    if len(phases) < 2:
        return []
    names = [arm["name"] for arm in experiment["arms"]]
    own = [arm["weight"] for arm in experiment["arms"]]
    everyone = sum(sum(counts.values()) for counts in exposed)
    rows = []
    for i, (phase, counts) in enumerate(zip(phases, exposed, strict=True), 1):
        weights = phase["weights"] or own
        users = sum(counts.values())
        rows.append(
            (
                str(i),
                _moment(phase["start_ms"]),
                percent(phase["coverage"], sign=False),
                ", ".join(percent(weight / sum(weights), sign=False) for weight in weights),
                ", ".join(count(counts[name]) for name in names),
                percent(users / everyone, sign=False) if everyone else MISSING,
            )
        )
    headers = (
        "phase",
        "from",
        "coverage",
        f"weights of {', '.join(names)}",
        "exposed users",
        "share of users",
    )
    return [Section("Phases", headers, rows, (PHASES_NOTE,), n_text=2)]


def _moment(start_ms: int) -> str:
    day, rest = divmod(start_ms, DAY_MS)
    return f"day {day + 1}" + (f", {rest / 3_600_000:.4g} h" if rest else "")

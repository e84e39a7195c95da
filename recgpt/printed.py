"""What the commands print: the table of `recgpt eval`, Table 1 of a data set, a line about a checkpoint."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baselines.data import Counts
    from recgpt.recommender import RecGPT


def summary(model: "RecGPT") -> str:
    run = model.runs[-1]
    value = "no validation" if run.best_value is None else f"validation NDCG@10 {run.best_value:.4f}"
    seconds = sum(epoch.cpu_s for epoch in run.epochs)
    text = f"epoch {run.best} of {len(run.epochs)}, {value}, {seconds:.0f} CPU seconds"
    if model.splits:
        text += ", recall " + " ".join(f"({split.m}, {split.n})" for split in model.splits.values())
    return text


def results_table(found: dict[str, Any]) -> str:
    metrics = [f"{name}@{k}" for k in (5, 10, 20) for name in ("hr", "ndcg")]
    names = [name.upper() for name in metrics]
    against = f"NDCG@10 - {found['results'][0]['model']} (95 %)"
    titles = ("model", *names, "(m, n)@10", "gained/lost@10", against, "users", "CPU s")
    lines = [titles]
    for row in found["results"]:
        recall = row.get("recall", {}).get("10")
        values = [f"{row[name]:.4f}" for name in metrics]
        split = f"({recall['m']}, {recall['n']})" if recall else "-"
        moved = f"{row['gained@10']}/{row['lost@10']}" if "gained@10" in row else "-"
        gap = _interval(row["difference"]) if "difference" in row else "-"
        counts = (f"{row['n_users']:,}", f"{row['seconds']:.0f}")
        lines.append((row["model"], *values, split, moved, gap, *counts))
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    head = f"{found['data']}, {found['split']}, all items ranked, masking: {found['masking']}"
    return "\n".join([head, *(_aligned(line, widths) for line in lines)])


def counts_table(counts: "Counts") -> str:
    titles = ("users", "items", "actions", "mean length", "sparsity", "repeats")
    numbers = [f"{n:,}" for n in (counts.n_users, counts.n_items, counts.n_actions)]
    values = (
        *numbers,
        f"{counts.mean_length:.1f}",
        f"{counts.sparsity_percent:.2f} %",
        f"{counts.n_repeats:,}",
    )
    widths = [max(len(title), len(value)) for title, value in zip(titles, values, strict=True)]
    return "\n".join(_aligned(line, widths) for line in (titles, values))


def _interval(difference: dict[str, Any]) -> str:
    """
    >>> _interval({"difference": 0.001, "low": -0.0005, "high": 0.0025})
    '+0.0010 (-0.0005 to +0.0025)'
    """
    return "{difference:+.4f} ({low:+.4f} to {high:+.4f})".format(**difference)


def _aligned(line: tuple[str, ...], widths: list[int]) -> str:
    first, *rest = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
    return "  ".join([first.lstrip().ljust(widths[0]), *rest])

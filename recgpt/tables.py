"""Tables of results, and what they compare: seeds of a cell, differences by user, corrected p-values."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from baselines.evaluate import Comparison, hits, two_way_comparison
from recgpt.cells import Cell
from recgpt.store import unpack

COMPARED_COLUMNS = ("difference of HR@10", "95 % interval", "adjusted p", "seeds")


class Table(NamedTuple):
    """A table of numbers: None is a missing cell. `notes` say how it was made."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    notes: tuple[str, ...] = ()


class Seeds(NamedTuple):
    """The results of one cell at several seeds, as far as they exist."""

    results: list[dict[str, Any]]

    def mean(self, metric: str, which: str = "one_step", masking: str = "seen") -> float | None:
        values = self.values(metric, which, masking)
        return float(np.mean(values)) if values else None

    def spread(self, metric: str, which: str = "one_step", masking: str = "seen") -> float | None:
        """The standard deviation over seeds, None for fewer than two."""
        values = self.values(metric, which, masking)
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def values(self, metric: str, which: str, masking: str) -> list[float]:
        parts = [r["valid"] if masking == "valid" else r["test"].get(masking) for r in self.results]
        return [part[which][metric] for part in parts if part is not None and metric in part.get(which, {})]

    def ranks(self, which: str = "one_step") -> "np.ndarray":
        """(seeds, users)."""
        return np.stack([unpack(r["test"]["seen"]["ranks"][which]) for r in self.results])


def find(cells: Mapping[str, Any], cell: Cell, n_seeds: int) -> Seeds:
    """The results of a cell at seeds 0 .. n_seeds - 1, those that exist."""
    keys = [cell.with_seed(seed).key for seed in range(n_seeds)]
    return Seeds([cells[key] for key in keys if key in cells])


def to_markdown(table: Table) -> str:
    lines = [f"### {table.title}", "", "| " + " | ".join(table.columns) + " |"]
    lines.append("|" + "|".join(" --- " if i == 0 else " ---: " for i in range(len(table.columns))) + "|")
    lines += ["| " + " | ".join(_shown(value) for value in row) + " |" for row in table.rows]
    return "\n".join([*lines, "", *table.notes])


def compare(a: Seeds, b: Seeds, of: str = "one_step", against: str = "one_step") -> Comparison | None:
    if not a.results or not b.results or (a.results is b.results and of == against):
        return None
    return two_way_comparison(hits(a.ranks(of), 10), hits(b.ranks(against), 10))


def holm(compared: Mapping[Any, Comparison | None]) -> dict[Any, float]:
    """Adjusted p-values of the comparisons that exist."""
    from statsmodels.stats.multitest import multipletests

    tested = {key: found.p for key, found in compared.items() if found is not None}
    return (
        dict(zip(tested, multipletests(list(tested.values()), method="holm")[1], strict=True))
        if tested
        else {}
    )


def compared(found: Comparison | None) -> tuple[float | None, str | None]:
    return (None, None) if found is None else (found.difference, f"{found.low:+.4f} to {found.high:+.4f}")


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)

"""Are the methods right? The same users are split again and again, and what is rejected is counted.

`python -m abtest.stats.calibration` draws a population of users with five days and a past, re-randomises it
10,000 times (an arm is a bit of a counter-based generator, sums come from one matrix product) and holds every
method and metric against its gate: false positives of fixed methods inside the exact binomial band at
.001 / cells, widened by .003; sequential methods and corrections below its upper end; intervals of
the lift hold the true one; p-values are uniform (those of a sparse count have their level, at three of them).
Exit code 1 where a gate fails.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import stdtr
from scipy.stats import binom, kstest

from abtest.stats.calibration_cells import SRM_THRESHOLD, Draft, more_cells
from abtest.stats.calibration_views import view_cells
from abtest.stats.multiplicity import CORRECTIONS
from abtest.stats.replicates import (
    ALPHA,
    Arms,
    Floats,
    Metric,
    cuped_arms,
    error_of,
    fieller_covers,
    look_law,
    mean_arms,
    population,
    ratio_arms,
    welch_p,
)
from abtest.stats.sequential import METHODS, nominal_levels

REPLICATES = 10_000
MARGIN = 0.05
TWIN_LIFT = 0.05
WIDENED = 0.003
SMALL_UPPER = 0.065


@dataclass(frozen=True)
class Cell:
    """One method on one metric: the rate seen and the gate it had to stay in (None: no such end)."""

    metric: str
    method: str
    users: int
    rate: float
    low: float | None
    high: float | None

    @property
    def passed(self) -> bool:
        return (self.low is None or self.rate >= self.low) and (self.high is None or self.rate <= self.high)


def calibrate(*, replicates: int = REPLICATES, n_users: int = 4000, seed: int = 0) -> list[Cell]:
    """All cells: fixed tests, CUPED, sequential tests, corrections, intervals, margins, uniformity."""
    metrics = population(n_users, seed)
    drafts: list[Draft] = []
    final: dict[str, Floats] = {}
    for name, metric in metrics.items():
        arms = _arms_of(metric, replicates, seed)
        p = welch_p(arms)
        final[name] = p[:, -1]
        fixed = "welch" if metric.y is None else "delta"
        drafts.append(Draft(name, fixed, n_users, float((p[:, -1] < ALPHA).mean()), "band"))
        drafts.append(Draft(name, "peeking daily", n_users, float((p < ALPHA).any(axis=1).mean()), "none"))
        for method in METHODS:
            levels = nominal_levels(method, ALPHA, *look_law(metric))
            drafts.append(Draft(name, method, n_users, float((p <= levels).any(axis=1).mean()), "upper"))
        if metric.y is None:
            adjusted = welch_p(cuped_arms(metric.x[:, -1:], metric.past, replicates, seed))
            drafts.append(Draft(name, "cuped", n_users, float((adjusted < ALPHA).mean()), "band"))
            drafts += _twins(name, metric, replicates, seed)
            drafts += _at_margin(name, metric, replicates, seed)
        if (metric.x[:, -1] > 0).sum() >= 1000:
            drafts.append(
                Draft(name, "uniform p", n_users, float(kstest(final[name][:5000], "uniform").pvalue), "ks")
            )
    drafts += _corrections(final, n_users)
    drafts += more_cells(metrics, replicates, n_users, seed)
    drafts += view_cells(metrics, replicates, n_users, seed)
    for n in (100, 400):
        for name, metric in population(n, seed + 1).items():
            p = welch_p(_arms_of(metric, replicates, seed))[:, -1]
            drafts.append(
                Draft(name, "welch" if metric.y is None else "delta", n, float((p < ALPHA).mean()), "small")
            )
    return [_gated(draft, replicates=draft.replicates or replicates, cells=len(drafts)) for draft in drafts]


def _arms_of(metric: Metric, replicates: int, seed: int) -> Arms:
    if metric.y is None:
        return mean_arms(metric.x, replicates, seed)
    return ratio_arms(metric.x, metric.y, replicates, seed)


def _twins(name: str, metric: Metric, replicates: int, seed: int) -> list[Draft]:
    """Coverage of the true lift where each user's outcome under treatment is known: it may over-cover."""
    plain = metric.x[:, -1:]
    treated = plain + np.random.default_rng(seed + 2).poisson(TWIN_LIFT * plain)
    true = float(treated.sum() / plain.sum() - 1)
    arms = mean_arms(plain, replicates, seed, treated=treated)
    rate = float(fieller_covers(arms, true).mean())
    return [Draft(name, "fieller covers the twins' lift", len(plain), rate, "coverage")]


def _at_margin(name: str, metric: Metric, replicates: int, seed: int) -> list[Draft]:
    """A treatment that is worse by the margin passes a guardrail once in forty."""
    plain = metric.x[:, -1:]
    arms = mean_arms(plain, replicates, seed, treated=plain * (1 - MARGIN))
    _, df = error_of(arms)
    statistic = (arms.t - (1 - MARGIN) * arms.c) / np.sqrt(arms.var_t + (1 - MARGIN) ** 2 * arms.var_c)
    return [
        Draft(
            name,
            "non-inferiority at the margin",
            len(plain),
            float((stdtr(df, -statistic) < 0.025).mean()),
            "margin",
        )
    ]


def _corrections(p: Mapping[str, Floats], n_users: int) -> list[Draft]:
    """Any false rejection among all metrics; with no effect anywhere that is the false discovery rate too."""
    rows = np.column_stack(list(p.values())).tolist()
    return [
        Draft(
            "all",
            name,
            n_users,
            float(np.mean([any(test.rejected for test in correct(row, ALPHA)) for row in rows])),
            "upper",
        )
        for name, correct in CORRECTIONS.items()
    ]


def _gated(draft: Draft, *, replicates: int, cells: int) -> Cell:
    def band(level: float) -> tuple[float, float]:
        low, high = binom.ppf([0.0005 / cells, 1 - 0.0005 / cells], replicates, level) / replicates
        return float(low) - WIDENED, float(high) + WIDENED

    gates: dict[str, tuple[float | None, float | None]] = {
        "band": band(ALPHA),
        "upper": (None, band(ALPHA)[1]),
        "margin": (None, band(0.025)[1]),
        "srm": (None, band(SRM_THRESHOLD)[1] - WIDENED),
        "small": (None, SMALL_UPPER),
        "few": (None, band(ALPHA)[1]),
        "coverage": (0.94, None),
        "covers": (0.94, 0.96),
        "covers, few": (0.93, None),
        "band 0.01": band(0.01),
        "band 0.10": band(0.1),
        "ks": (1e-4 / cells, None),
        "none": (None, None),
    }
    return Cell(draft.metric, draft.method, draft.users, draft.rate, *gates[draft.gate])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print all cells, as JSON with `--json`; 1 where a gate fails."""
    from argparse import ArgumentParser

    parser = ArgumentParser(prog="python -m abtest.stats.calibration", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the cells as JSON")
    parser.add_argument("--replicates", type=int, default=REPLICATES)
    parser.add_argument("--users", type=int, default=4000, help="of both arms, 4000 or more for the gates")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    cells = calibrate(replicates=given.replicates, n_users=given.users, seed=given.seed)
    passed = all(cell.passed for cell in cells)
    if given.json:
        rows = [{**asdict(cell), "passed": cell.passed} for cell in cells]
        print(json.dumps({"replicates": given.replicates, "passed": passed, "cells": rows}, indent=2))
        return 0 if passed else 1
    for cell in cells:
        ends = " to ".join("-" if end is None else f"{end:.4g}" for end in (cell.low, cell.high))
        outcome = "ok" if cell.passed else "FAILED"
        print(f"{cell.metric:18} {cell.method:30} {cell.users:6,} {cell.rate:8.4f}  {ends:18} {outcome}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

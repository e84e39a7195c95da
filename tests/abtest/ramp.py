"""An experiment of two phases whose users are known: what tests of metrics over phases and strata share."""

import json
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import statsmodels.api as sm

from tests.abtest.conftest import Command, analyse_table, metric_toml
from warehouse.events import DAY_MS

START = 31 * DAY_MS
N, DAYS = 1500, 3
DESIGN = """
control = "old"
start = 1970-02-01
days = 3
pre_days = 0
[map]
user = "uid"
ts = "ms"
ts_unit = "ms"
arm = "variant"
event = "kind"
value = "amount"
segment = "country"
[totals]
spent = { event = "buy", sum = "value" }
[[phases]]
day = 1
weights = { old = 0.9, new = 0.1 }
[[phases]]
day = 2
weights = { old = 0.5, new = 0.5 }
"""
METRICS = (
    metric_toml("capped", "spent", cap=0.95, role="goal", covariates=[])
    + metric_toml("basket", "spent", denominator="n_buy", cap=0.95, covariates=[])
    + metric_toml("p80", "spent", quantile=0.8, role="goal")
    + metric_toml("median_buy", "spent", quantile=0.5, over="events")
    + metric_toml("boot", "spent", method="bootstrap", draws=400)
    + metric_toml("permuted", "spent", method="permutation", draws=400)
    + metric_toml("spent", "spent", role="goal", covariates=[])
)


class Ramp(NamedTuple):
    """Users who spend much come on day 1, when few are new; the others on day 2. A row of the log a purchase,
    one of 0 at the first exposure."""

    early: np.ndarray
    new: np.ndarray
    country: np.ndarray
    buyer: np.ndarray
    day: np.ndarray
    amount: np.ndarray

    def spent(self, first: int = 1, last: int = DAYS, *, since: bool = False) -> np.ndarray:
        day = self.day - np.where(self.early, 0, 1)[self.buyer] if since else self.day
        inside = (day >= first) & (day <= last)
        return np.bincount(self.buyer[inside], self.amount[inside], minlength=N)


def make_ramp() -> Ramp:
    rng = np.random.default_rng(5)
    early = np.arange(N) < N // 2
    new = rng.random(N) < np.where(early, 0.1, 0.5)
    country = np.array(["FI", "日本", ""])[np.arange(N) % 3]
    n_bought = 1 + rng.poisson(np.where(early, 5, 2))
    buyer = np.repeat(np.arange(N), n_bought)
    is_first = np.r_[True, np.diff(buyer) > 0]
    day = np.where(is_first, np.where(early, 1, 2)[buyer], rng.integers(np.where(early, 1, 2)[buyer], 4))
    taste = rng.gamma(3, np.where(early, 30, 8))
    lift = 1 + 0.3 * new * (country == "FI")
    return Ramp(
        early, new, country, buyer, day, np.rint(rng.gamma(2, (taste * lift)[buyer])).astype(np.int64)
    )


def analyse_ramp(abtest: Command, ramp: Ramp, folder: Path, *options: str) -> dict[str, Any]:
    """report.json of its log, with the text of report.md."""
    hour = 3_600_000 * (np.arange(len(ramp.buyer)) % 23)
    hour[np.r_[True, np.diff(ramp.buyer) > 0]] = 0
    country = [name or None for name in ramp.country[ramp.buyer].tolist()]
    columns = {
        "uid": ramp.buyer,
        "ms": START + (ramp.day - 1) * DAY_MS + 3_600_000 + hour,
        "variant": np.where(ramp.new[ramp.buyer], "new", "old"),
        "kind": np.full(len(ramp.buyer), "buy"),
        "amount": ramp.amount,
        "country": country,
    }
    result = analyse_table(
        abtest, folder, columns, DESIGN + METRICS, "--json", "--out", str(folder), *options
    )
    assert result.exit_code == 0, result.output
    document = dict(json.loads(result.stdout))
    document["report.md"] = (folder / "report.md").read_text(encoding="utf-8")
    return document


def effect(found: dict[str, Any], metric: str, first: int = 1, last: int = DAYS) -> dict[str, Any]:
    (one,) = (
        e for e in found["effects"] if e["metric"] == metric and e["window"] == {"from": first, "to": last}
    )
    return dict(one)


def lin(
    ramp: Ramp, y: np.ndarray, inside: np.ndarray | None = None, cells: np.ndarray | None = None
) -> tuple[float, float]:
    """The effect and its error in Lin's regression on arm, cells (phases) and their products, cells centred
    (HC2)."""
    mask = np.ones(N, bool) if inside is None else inside
    arm, cell = ramp.new[mask] * 1.0, (ramp.early if cells is None else cells)[mask]
    dummies = (cell[:, None] == np.unique(cell)[1:]) * 1.0
    centred = dummies - dummies.mean(axis=0)
    columns = [np.ones(mask.sum()), arm, centred, arm[:, None] * centred]
    fit = sm.OLS(y[mask], np.column_stack(columns)).fit(cov_type="HC2")
    return float(fit.params[1]), float(fit.bse[1])


def by_cell(cells: np.ndarray, new: np.ndarray, arm: int) -> np.ndarray:
    """What each user of an arm weighs: one over the chance of the arm in the user's cell (phase)."""
    weights = np.zeros(len(cells))
    for cell in np.unique(cells):
        mine = (cells == cell) & (new == bool(arm))
        weights[mine] = (cells == cell).mean() / mine.sum()
    return weights


def resampled(
    ramp: Ramp, values: np.ndarray, owner: np.ndarray, q: float, cells: np.ndarray, draws: int = 150
) -> tuple[list[float], float]:
    """The weighed quantile of a value in both arms, and the deviation of their difference over resamples of
    the users of each arm and cell. `owner` is whose the values are."""

    def quantiles(copies: np.ndarray) -> list[float]:
        weights = [copies * by_cell(cells, ramp.new, arm) for arm in (0, 1)]
        return [weighted_mid_quantile(values, of_arm[owner], q) for of_arm in weights]

    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(draws):
        copies = np.zeros(N)
        for cell, side in product(np.unique(cells), (ramp.new, ~ramp.new)):
            mine = np.flatnonzero((cells == cell) & side)
            np.add.at(copies, rng.choice(mine, len(mine)), 1.0)
        old, new = quantiles(copies)
        drawn.append(new - old)
    return quantiles(np.ones(N)), float(np.std(drawn))


def half(interval: tuple[float, float]) -> float:
    return (interval[1] - interval[0]) / 2


def weighted_mid_quantile(x: np.ndarray, weights: np.ndarray, q: float) -> float:
    held = weights > 0
    values, place = np.unique(x[held], return_inverse=True)
    mass = np.bincount(place, weights[held]) / weights.sum()
    return float(np.interp(q, np.cumsum(mass) - mass / 2, values))

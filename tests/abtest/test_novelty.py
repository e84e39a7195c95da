"""Days since exposure in a report: against numpy on the users of a real file, and the level of the trend."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from abtest.analysis import Window
from abtest.experiment import Arm, Experiment
from abtest.metrics import Metric
from abtest.novelty import ONE_DAY, novelty_of, trend_days
from tests.abtest.conftest import Command, analyse_table
from tests.abtest.test_logs import START_MS, document
from warehouse.events import DAY_MS, day_name
from warehouse.panel.sums import Moments

DAYS = 4
CONFIG = f"""
name = "novel"
start = 2026-03-02
days = {DAYS}
[map]
user = "u"
ts = "at"
arm = "arm"
[[metrics]]
name = "plays"
numerator = "plays"
role = "goal"
[[metrics]]
name = "play_rate"
numerator = "plays"
denominator = "shown"
role = "goal"
"""


def log_of(effects: tuple[float, ...], n: int = 2000, seed: int = 1) -> dict[str, np.ndarray]:
    """Users of correlated days who come on day 1 or 2; `effects` by day since exposure, at first half."""
    rng = np.random.default_rng(seed)
    user, first = np.arange(n), rng.choice([0, 1], n, p=[0.8, 0.2])
    taste, arm = rng.gamma(2, 8, n), rng.integers(0, 2, n)
    parts = []
    for k in range(DAYS):
        mine = first + k < DAYS
        lift = 1 + arm[mine] * effects[k]
        shown = rng.poisson(taste[mine] * (0.5 if k == 0 else 1)) + 1
        plays = rng.poisson(shown * 0.3 * lift)
        at = START_MS + (first[mine] + k) * DAY_MS + rng.integers(DAY_MS // 2 * (k == 0), DAY_MS, mine.sum())
        parts.append((user[mine], at, np.array(["a", "b"])[arm[mine]], plays, shown))
    return dict(
        zip(("u", "at", "arm", "plays", "shown"), map(np.concatenate, zip(*parts, strict=True)), strict=True)
    )


def analysed(log: dict[str, np.ndarray], abtest: Command, folder: Path, *options: str) -> Any:
    columns = {**log, "at": pa.array(log["at"]).cast(pa.timestamp("ms"))}
    return analyse_table(abtest, folder, columns, CONFIG, *options)


def by_day(log: dict[str, np.ndarray], column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(users, days since exposure) of totals, each user's day of exposure and arm."""
    day = (log["at"] - START_MS) // DAY_MS
    n = log["u"].max() + 1
    first = np.full(n, DAYS)
    np.minimum.at(first, log["u"], day)
    values, arm = np.zeros((n, DAYS)), np.zeros(n, dtype=int)
    np.add.at(values, (log["u"], day - first[log["u"]]), log[column])
    arm[log["u"]] = log["arm"] == "b"
    return values, first, arm


def test_a_day_since_exposure_is_of_users_who_can_have_had_it(abtest: Command, tmp_path: Path) -> None:
    log = log_of((0.4, 0.2, 0.1, 0.0))
    found = document(analysed(log, abtest, tmp_path, "--json"))["since_exposure"]
    values, first, arm = by_day(log, "plays")
    seen = 0
    for effect in found["effects"]:
        a, b = effect["window"]["from"], effect["window"]["to"]
        could = first + b <= DAYS
        if effect["metric"] == "plays":
            x = values[:, a - 1 : b].sum(axis=1)
            control, treated = x[could & (arm == 0)], x[could & (arm == 1)]
            assert effect["control_mean"] == pytest.approx(control.mean(), rel=1e-12)
            assert effect["lift"] == pytest.approx(treated.mean() / control.mean() - 1, rel=1e-9)
            oracle = stats.ttest_ind(treated, control, equal_var=False)
            assert effect["p"] == pytest.approx(oracle.pvalue, rel=1e-9)
            seen += 1
        assert effect["n_control"] == (could & (arm == 0)).sum()
    assert seen == 2 * DAYS - 1


def test_the_trend_is_the_slope_of_lifts_with_the_correlation_of_days(
    abtest: Command, tmp_path: Path
) -> None:
    log = log_of((0.4, 0.2, 0.1, 0.0))
    result = analysed(log, abtest, tmp_path, "--out", str(tmp_path / "report"))
    found = document(analysed(log, abtest, tmp_path, "--json"))["since_exposure"]["trends"]
    plays, first, arm = by_day(log, "plays")
    shown = by_day(log, "shown")[0]
    could = first == 0  # 80 % of all users
    w = np.arange(DAYS) - (DAYS - 1) / 2
    w = w / (w**2).sum()
    for trend in found:
        means, linear = [], []
        for of in (0, 1):
            mine = could & (arm == of)
            x, y = plays[mine], shown[mine] if trend["metric"] == "play_rate" else np.ones_like(plays[mine])
            ratio = x.sum(axis=0) / y.sum(axis=0)
            means.append(ratio)
            linear.append((x - ratio * y) / y.mean(axis=0))
        slope = (w * means[1] / means[0]).sum()
        z = [linear[0] @ (w * means[1] / means[0] ** 2), linear[1] @ (w / means[0])]
        spread = [(v.std(ddof=1), len(v)) for v in z]
        oracle = stats.ttest_ind_from_stats(slope, *spread[1], 0, *spread[0], equal_var=False)
        assert trend["days"] == DAYS
        assert (trend["n_control"], trend["n_treatment"]) == tuple(map(len, z))
        assert trend["slope"] == pytest.approx(slope, rel=1e-9)
        assert trend["p"] == pytest.approx(oracle.pvalue, rel=1e-6)
        assert trend["p_adjusted"] < 0.001
        assert trend["slope_ci"][1] < 0
    for text in (result.stdout, (tmp_path / "report/report.md").read_text(encoding="utf-8")):
        assert "b against a: days since exposure" in text
        assert "Trend of plays over days 1-4: its lift changes by -" in " ".join(text.split())


def course(x: np.ndarray, arm: str) -> Moments:
    """Of one column's days, as the warehouse gives it."""
    days = range(1, x.shape[1] + 1)
    return Moments(
        arm,
        Window(1, x.shape[1]),
        len(x),
        {day_name("x", k): int(x[:, k - 1].sum()) for k in days},
        {
            (day_name("x", i), day_name("x", j)): int(x[:, i - 1] @ x[:, j - 1])
            for i in days
            for j in days
            if i <= j
        },
    )


def test_a_constant_lift_has_no_trend_though_the_first_day_is_short() -> None:
    """600 experiments with a lift of 30 % on every day: 5 % rejected, in a band that .1 % of runs leave."""
    rng, metric = np.random.default_rng(5), Metric("x", "x", role="goal")
    experiment = Experiment("x", (Arm("a"), Arm("b")), days=3)
    length, rejected, n = np.array([0.3, 1.0, 1.0]), 0, 600
    for _ in range(n):
        rows = []
        for arm, lift in (("a", 1.0), ("b", 1.3)):
            taste = rng.gamma(2, 5, (400, 1))
            rows.append(course(rng.poisson(taste * length * lift), arm))
        (trend,) = novelty_of([([], rows)], experiment, [metric]).trends
        assert trend.p is not None
        rejected += trend.p < 0.05
    low, high = stats.binom.interval(0.999, n, 0.05)
    assert low - 1 <= rejected <= high + 1


def test_what_has_no_trend_says_why() -> None:
    experiment, metric = Experiment("x", (Arm("a"), Arm("b")), days=2), Metric("x", "x", role="goal")
    one_day = [course(np.ones((5, 1), dtype=int), arm) for arm in "ab"]
    (trend,) = novelty_of([([], one_day)], experiment, [metric]).trends
    assert (trend.p, trend.slope, trend.reason) == (None, None, ONE_DAY)
    nothing = [course(np.zeros((5, 2), dtype=int), arm) for arm in "ab"]
    (trend,) = novelty_of([([], nothing)], experiment, [metric]).trends
    assert (trend.p, trend.reason) == (None, "the lift of day 1 since exposure has no interval")
    constant = [course(np.full((5, 2), 3), arm) for arm in "ab"]
    (trend,) = novelty_of([([], constant)], experiment, [metric]).trends
    assert trend.p is None
    assert trend.reason
    drawn = Metric("x", "x", role="goal", method="bootstrap")
    (trend,) = novelty_of([([], nothing)], experiment, [drawn]).trends
    assert (trend.p, trend.reason) == (None, "the metric is tested by draws, a trend by the delta method")


def test_a_trend_is_over_the_days_that_half_of_the_users_can_have_had() -> None:
    rows = [Moments("a", Window(1, k), n, {}, {}) for k, n in ((1, 100), (2, 60), (3, 50), (4, 49))]
    assert trend_days(rows) == 3
    assert trend_days([]) == 1

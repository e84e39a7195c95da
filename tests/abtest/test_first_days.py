"""Metrics of users' first days since exposure: against numpy and SciPy on the users of real files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
from scipy import stats

from abtest.logs import analyse_log
from abtest.metrics import Metric
from abtest.recorded import analyse_place
from abtest.request import LogRequest
from tests.abtest.conftest import Command, analyse_table
from tests.abtest.test_logs import START_MS, document
from warehouse.events import DAY_MS, Kind

K = 3
METRICS = f"""
[[metrics]]
name = "plays"
numerator = "plays"
role = "goal"
first_days = {K}
covariates = []
[[metrics]]
name = "play_rate"
numerator = "plays"
denominator = "shown"
role = "goal"
first_days = {K}
covariates = []
[[metrics]]
name = "capped"
numerator = "plays"
cap_value = 20
role = "goal"
first_days = {K}
covariates = []
[[metrics]]
name = "median"
numerator = "plays"
quantile = 0.5
first_days = {K}
[[metrics]]
name = "whole"
numerator = "plays"
"""


def config(days: int) -> str:
    return f"""
name = "windows"
start = 2026-03-02
days = {days}
[map]
user = "u"
ts = "at"
arm = "arm"
segment = "country"
{METRICS}"""


def log_of(days: int, n: int = 1500, seed: int = 1, lift: float = 0.3) -> dict[str, np.ndarray]:
    """Users who come on any day, half of them on the first, and who differ in how much they do."""
    rng = np.random.default_rng(seed)
    first = np.where(rng.random(n) < 0.5, 0, rng.integers(0, days, n))
    taste, arm, country = rng.gamma(2, 3, n), rng.integers(0, 2, n), rng.integers(0, 3, n)
    parts = []
    for k in range(days):
        mine = np.flatnonzero((first + k < days) & ((rng.random(n) < 0.7) | (k == 0)))
        shown = rng.poisson(taste[mine]) + 1
        plays = rng.poisson(shown * 0.4 * (1 + arm[mine] * lift / (k + 1)))
        at = START_MS + (first[mine] + k) * DAY_MS + rng.integers(0, DAY_MS, len(mine))
        names = np.array(["DE", "FI", "PL"])[country[mine]]
        parts.append((mine, at, np.array(["a", "b"])[arm[mine]], plays, shown, names))
    columns = ("u", "at", "arm", "plays", "shown", "country")
    return dict(zip(columns, map(np.concatenate, zip(*parts, strict=True)), strict=True))


def first_totals(
    log: dict[str, np.ndarray], by_day: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Totals of the first K days of the users who have had them by the end of a day, arms and countries."""
    day = (log["at"] - START_MS) // DAY_MS + 1
    n = log["u"].max() + 1
    first = np.full(n, 10**6)
    np.minimum.at(first, log["u"], day)
    inside = day - first[log["u"]] < K
    totals = {
        name: np.bincount(log["u"][inside], log[name][inside], minlength=n) for name in ("plays", "shown")
    }
    treated, country = np.zeros(n, bool), np.zeros(n, "U2")
    treated[log["u"]], country[log["u"]] = log["arm"] == "b", log["country"]
    could = first + K - 1 <= by_day
    return {name: values[could] for name, values in totals.items()}, treated[could], country[could]


def linearised(metric: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A user's value with the variance of the metric: that of the delta method for a ratio."""
    if metric == "play_rate":
        return x.sum() / y.sum() + (x - x.sum() / y.sum() * y) / y.mean()
    return np.minimum(x, 20) if metric == "capped" else x


def analysed(
    log: dict[str, np.ndarray], abtest: Command, folder: Path, days: int, *options: str
) -> dict[str, Any]:
    columns = {**log, "at": pa.array(log["at"]).cast(pa.timestamp("ms"))}
    return document(analyse_table(abtest, folder, columns, config(days), "--json", *options))


@pytest.mark.parametrize("days", [5, 9, 64])
def test_the_first_days_are_those_of_users_who_have_had_them(
    abtest: Command, tmp_path: Path, days: int
) -> None:
    """A week or less, more, and more days than are summed by day of the first exposure."""
    log = log_of(days)
    found = analysed(log, abtest, tmp_path, days)
    seen = set()
    for effect in found["effects"]:
        metric, last = effect["metric"], effect["window"]["to"]
        if metric == "whole":
            continue
        assert effect["window"]["from"] == 1
        if last < K:
            assert (effect["status"], effect["p"]) == ("not_computable", None)
            assert effect["reason"] == f"nobody has had {K} days since exposure"
            continue
        totals, treated, _ = first_totals(log, last)
        assert effect["n_control"] == (~treated).sum()
        assert effect["n_treatment"] == treated.sum()
        if metric == "median":
            medians = [np.median(totals["plays"][side]) for side in (~treated, treated)]
            assert [effect["control_mean"], effect["treatment_mean"]] == pytest.approx(medians, abs=0.6)
            continue
        z = [linearised(metric, totals["plays"][side], totals["shown"][side]) for side in (~treated, treated)]
        assert effect["control_mean"] == pytest.approx(z[0].mean(), rel=1e-9)
        assert effect["difference"] == pytest.approx(z[1].mean() - z[0].mean(), rel=1e-9)
        oracle = stats.ttest_ind(z[1], z[0], equal_var=False)
        assert effect["p"] == pytest.approx(oracle.pvalue, rel=1e-8)
        seen.add((metric, last))
    assert len(seen) == 3 * (days - K + 1)
    assert found["metrics"][0]["unit"] == f"per user, first {K} days"


def test_segments_are_of_the_same_users_and_days(abtest: Command, tmp_path: Path) -> None:
    log = log_of(6)
    found = analysed(log, abtest, tmp_path, 6)
    totals, treated, country = first_totals(log, 6)
    assert len(found["segments"]) == 3 * 3
    for effect in found["segments"]:
        mine = country == effect["segment"]
        x, y = totals["plays"], totals["shown"]
        z = [linearised(effect["metric"], x[side & mine], y[side & mine]) for side in (~treated, treated)]
        oracle = stats.ttest_ind(z[1], z[0], equal_var=False)
        assert effect["p"] == pytest.approx(oracle.pvalue, rel=1e-8)


def test_strata_are_those_of_the_users_that_count(abtest: Command, tmp_path: Path) -> None:
    """Post-stratified from moments, and from users' values where a cap cuts nothing; against numpy."""
    log = log_of(6)
    columns = {**log, "at": pa.array(log["at"]).cast(pa.timestamp("ms"))}
    text = config(6).replace("cap_value = 20", "cap_value = 1000000")
    result = analyse_table(abtest, tmp_path, columns, text, "--json", "--stratify", "country")
    found = {
        effect["metric"]: effect for effect in document(result)["effects"] if effect["window"]["to"] == 6
    }
    assert found["plays"]["method"] == "post-stratified"
    for name in ("difference", "p", "n_control"):
        assert found["plays"][name] == pytest.approx(found["capped"][name], rel=1e-9)
    totals, treated, country = first_totals(log, 6)
    means = [
        np.array([totals["plays"][side & (country == name)].mean() for name in ("DE", "FI", "PL")])
        for side in (~treated, treated)
    ]
    shares = np.array([(country == name).mean() for name in ("DE", "FI", "PL")])
    assert found["plays"]["difference"] == pytest.approx(shares @ (means[1] - means[0]), rel=1e-9)


def test_csv_gives_the_same_as_parquet(abtest: Command, tmp_path: Path) -> None:
    log = log_of(5)
    found = analysed(log, abtest, tmp_path, 5)
    times = pa.array(log["at"]).cast(pa.timestamp("ms"))
    pa_csv.write_csv(pa.table({**log, "at": times}), tmp_path / "log.csv")
    again = document(
        abtest("analyze", str(tmp_path / "log.csv"), "--config", str(tmp_path / "x.toml"), "--json")
    )
    assert again["effects"] == found["effects"]


def test_looks_have_the_correlation_of_users_who_stay_as_they_are(abtest: Command, tmp_path: Path) -> None:
    """Of re-randomised users: later looks add users and change none."""
    days = 6
    log = log_of(days, n=4000, lift=0.0)
    analysed(log, abtest, tmp_path, days)
    found = analyse_log(LogRequest((str(tmp_path / "log.parquet"),), config=tmp_path / "x.toml"))
    goals = {goal.metric.name: goal.looks for goal in found.goals}
    users = [first_totals(log, day)[0] for day in range(K, days + 1)]
    rng = np.random.default_rng(3)
    day = (log["at"] - START_MS) // DAY_MS + 1
    first = np.full(log["u"].max() + 1, 99)
    np.minimum.at(first, log["u"], day)
    sides = rng.random((3000, len(first))) < 0.5
    for metric, below in (("plays", None), ("play_rate", "shown")):
        differences = []
        for last, totals in zip(range(K, days + 1), users, strict=True):
            x, y = totals["plays"], totals[below] if below else np.ones(len(totals["plays"]))
            side = sides[:, first + K - 1 <= last]
            differences.append((side @ x) / (side @ y) - (~side @ x) / (~side @ y))
        expected = np.corrcoef(differences)
        looks = goals[metric]
        assert looks is not None
        assert looks.days == (3, 4, 5, 6)
        assert looks.is_estimated
        assert np.array(looks.correlation) == pytest.approx(expected, abs=0.06)
        assert expected[0, -1] < 0.95


def test_an_interim_look_is_planned_for_the_users_to_come(abtest: Command, tmp_path: Path) -> None:
    """Of 9 planned days 5 are over: 3 of 7 days' users have had their first three."""
    log = log_of(9)
    early = {name: values[log["at"] < START_MS + 5 * DAY_MS] for name, values in log.items()}
    found = analysed(early, abtest, tmp_path, 9)
    looks = next(goal for goal in found["sequential"] if goal["metric"] == "plays")
    assert [look["information"] for look in looks["looks"]] == pytest.approx([1 / 7, 2 / 7, 3 / 7])
    assert [look["day"] for look in looks["looks"]] == [3, 4, 5]


def test_before_anybody_has_had_the_days_nothing_is_decided(abtest: Command, tmp_path: Path) -> None:
    log = log_of(9)
    early = {name: values[log["at"] < START_MS + 2 * DAY_MS] for name, values in log.items()}
    found = analysed(early, abtest, tmp_path, 9)
    plays = [effect for effect in found["effects"] if effect["metric"] == "plays"]
    assert {effect["reason"] for effect in plays} == {f"nobody has had {K} days since exposure"}
    assert found["verdict"]["decision"] == "keep_running"
    assert found["sequential"] == []


def test_days_that_cannot_be_are_one_sentence(abtest: Command, tmp_path: Path) -> None:
    log = log_of(5)
    columns = {**log, "at": pa.array(log["at"]).cast(pa.timestamp("ms"))}
    for given, words in (
        ("first_days = 0", "first_days 0; days since exposure are 1 or more"),
        ("first_days = 9", "is of users' first 9 days, and the experiment has 5"),
        ('first_days = "3"', "first_days = '3', which is no whole number"),
    ):
        text = config(5).replace(f"first_days = {K}", given, 1)
        result = analyse_table(abtest, tmp_path, columns, text)
        assert result.exit_code == 2
        assert words in result.output.replace("\n", " ")


def test_a_plan_has_the_variance_of_the_first_days(abtest: Command, tmp_path: Path) -> None:
    days = 7
    log = log_of(days, lift=0.0)
    columns = {**log, "at": pa.array(log["at"]).cast(pa.timestamp("ms"))}
    analyse_table(abtest, tmp_path, columns, config(days))
    result = abtest(
        "plan",
        str(tmp_path / "log.parquet"),
        "--config",
        str(tmp_path / "x.toml"),
        "--users",
        "3000",
        "--json",
    )
    assert result.exit_code == 0, result.output
    row = next(row for row in json.loads(result.stdout)["metrics"] if row["metric"] == "plays")
    totals, treated, _ = first_totals(log, days)
    mine = totals["plays"][~treated]
    assert row["mean"] == pytest.approx(mine.mean(), rel=1e-9)
    assert row["deviation"] == pytest.approx(mine.std(ddof=1), rel=1e-9)
    by_day = {day: (users, mde) for day, users, mde in row["mde_by_day"]}
    assert by_day[2][1] is None
    assert by_day[K][0] == round(3000 * len(first_totals(log, K)[1]) / 1500)
    assert by_day[days][0] == round(3000 * len(treated) / 1500)
    assert by_day[days][1] < by_day[K][1]


@pytest.mark.parametrize("k", [1, 2])
def test_a_run_has_them_too_and_caps_that_cut_nothing_change_nothing(finished_run: Path, k: int) -> None:
    """From moments of the database, adjusted for the warm-up, and from single users' values."""
    whole = Metric("plays", "n_play", "n_impression", first_days=k)
    found = analyse_place(finished_run, metrics=[whole, replace(whole, name="capped", cap_value=1e9)])
    deciding = [effect for effect in found.effects if effect.is_deciding]
    assert [effect.metric for effect in deciding] == ["plays", "capped"]
    for name in ("difference", "p", "lift", "n_control", "n_treatment"):
        assert getattr(deciding[0], name) == pytest.approx(getattr(deciding[1], name), rel=1e-9), name
    assert deciding[0].method == "cuped"
    start, days = found.settings["start_ts"], found.settings["days"]
    with duckdb.connect(str(finished_run / "events.duckdb"), read_only=True) as db:
        rows = db.execute(
            f"""WITH mine AS (SELECT user, (first_ts - {start}) // {DAY_MS} AS day, first_ts FROM exposures
                  WHERE arm = ? AND (first_ts - {start}) // {DAY_MS} + {k} <= {days})
                SELECT (SELECT count(*) FROM mine), count(*) FROM events JOIN mine USING (user)
                WHERE kind = ? AND ts >= first_ts AND (ts - {start}) // {DAY_MS} < day + {k}""",
            [deciding[0].control, int(Kind.play)],
        ).fetchone()
    assert rows is not None
    n_users, n_plays = rows
    assert deciding[0].n_control == n_users
    (only,) = analyse_place(finished_run, metrics=[Metric("p", "n_play", first_days=k)]).effects[-1:]
    assert only.control_mean == pytest.approx(n_plays / n_users, rel=1e-12)


def test_a_run_of_fewer_days_is_refused_before_it_begins(abtest: Command, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(METRICS, encoding="utf-8")
    result = abtest(
        "run", "--config", str(tmp_path / "x.toml"), "--days", "2", "--out", str(tmp_path / "out")
    )
    assert result.exit_code == 2
    assert f"is of users' first {K} days, and the experiment has 2" in result.output
    assert not (tmp_path / "out").exists()

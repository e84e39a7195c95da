"""Plans against simulated experiments of the planned size, statsmodels, and known answers."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower

from abtest.plan import Design, designs, parse_lifts, parse_split
from abtest.stats.planning import looks_inflation, power_at
from tests.abtest.conftest import Command

HAS_LOOKS = importlib.util.find_spec("abtest.stats.sequential") is not None
OBF = [2 * stats.norm.sf(z) for z in (4.877, 3.357, 2.680, 2.290, 2.031)]
POCOCK = [2 * stats.norm.sf(2.413)] * 5
FIFTHS = [0.2, 0.4, 0.6, 0.8, 1.0]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A log of 2,000 users, four days, no arms; half of the users come only on days 3 and 4."""
    rng = np.random.default_rng(0)
    n = 30_000
    user = rng.integers(0, 2000, n)
    day = np.where(user % 2 == 0, rng.integers(0, 4, n), rng.integers(2, 4, n))
    path = tmp_path_factory.mktemp("plan") / "log.parquet"
    table = {
        "uid": user,
        "ts": 1_772_409_600 + day * 86_400 + rng.integers(0, 86_400, n),
        "kind": rng.choice(["comments", "view"], n, p=[0.2, 0.8]),
    }
    pq.write_table(pa.table(table), path)
    return str(path)


MAP = "user=uid,ts=ts,event=kind"


def test_power_is_that_of_statsmodels_for_many_users() -> None:
    solver = TTestIndPower()
    mde = solver.solve_power(nobs1=5000, alpha=0.01, power=0.8)
    for share in (0.3, 0.8, 1.0, 1.7):
        oracle = solver.power(share * mde, 5000, 0.01, alternative="two-sided")
        assert power_at(share * mde, mde, alpha=0.01) == pytest.approx(oracle, abs=2e-4)


@pytest.mark.parametrize(("levels", "power_of_fixed"), [(OBF, 0.790), (POCOCK, 0.708)])
def test_looks_cost_what_is_known_of_five_equal_ones(levels: list[float], power_of_fixed: float) -> None:
    """At the effect that a fixed test finds with .8, O'Brien-Fleming bounds have .790, Pocock's .708."""
    inflation = looks_inflation(levels, FIFTHS)
    z = stats.norm.ppf([0.975, 0.8]).sum()
    rng = np.random.default_rng(1)
    paths = (rng.standard_normal((200_000, 5)) * np.sqrt(0.2)).cumsum(axis=1) / np.sqrt(FIFTHS)
    bounds = stats.norm.isf(np.array(levels) / 2)
    drift = np.sqrt(FIFTHS) * z
    assert (paths + drift > bounds).any(axis=1).mean() == pytest.approx(power_of_fixed, abs=0.004)
    assert (paths + inflation * drift > bounds).any(axis=1).mean() == pytest.approx(0.8, abs=0.01)


def test_one_look_costs_nothing() -> None:
    assert looks_inflation([0.05], [1.0]) == pytest.approx(1.0, abs=0.01)
    with pytest.raises(ValueError, match="shares must grow"):
        looks_inflation([0.01, 0.05], [0.5, 0.5])


def test_a_plan_from_a_log_without_arms_finds_its_mde_in_simulated_experiments(
    abtest: Command, log: str
) -> None:
    """1,000 experiments of the planned size; fails by chance with probability below 1e-6."""
    result = abtest("plan", log, "--map", MAP, "--users", "4000", "--alpha", "0.1", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    row = next(row for row in document["metrics"] if row["metric"] == "n_comments")
    assert (document["days"], document["tests"], row["alpha"]) == (4, 2, 0.05)
    rng = np.random.default_rng(2)
    table = pq.read_table(log)
    counts = np.bincount(table["uid"].to_numpy()[table["kind"].to_numpy() == "comments"], minlength=2000)
    assert row["mean"] == pytest.approx(counts.mean(), rel=1e-12)
    assert row["deviation"] == pytest.approx(counts.std(ddof=1), rel=1e-9)
    found = 0
    for _ in range(1000):
        control, treatment = (rng.choice(counts, 2000).astype(float) for _ in range(2))
        shifted = treatment + row["mde"] * counts.mean()
        found += stats.ttest_ind(shifted, control, equal_var=False).pvalue < 0.05
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], 1000, 0.8)
    assert low <= found <= high


def test_users_needed_make_the_mde_the_lift_that_was_asked_about(abtest: Command, log: str) -> None:
    first = json.loads(abtest("plan", log, "--map", MAP, "--lift", "n_view=0.5", "--json").stdout)
    row = next(row for row in first["metrics"] if row["metric"] == "n_view")
    assert row["is_seen"] is False
    assert row["days_needed"] is None
    users = str(row["users_needed"])
    again = json.loads(
        abtest("plan", log, "--map", MAP, "--lift", "n_view=0.5", "--users", users, "--json").stdout
    )
    row = next(row for row in again["metrics"] if row["metric"] == "n_view")
    assert row["mde"] == pytest.approx(0.005, rel=1e-3)
    assert (row["is_seen"], row["days_needed"]) == (True, 4)
    assert row["power_at_target"] == pytest.approx(0.8, abs=1e-3)


def test_fewer_users_are_there_on_early_days(abtest: Command, log: str) -> None:
    document = json.loads(abtest("plan", log, "--map", MAP, "--users", "20000", "--json").stdout)
    (view,) = [row for row in document["metrics"] if row["metric"] == "n_view"]
    days, users, mdes = zip(*view["mde_by_day"], strict=True)
    assert days == (1, 2, 3, 4)
    assert users[1] < 0.6 * users[3] == 12000
    assert list(mdes) == sorted(mdes, reverse=True)


def test_an_unequal_split_and_more_arms_cost_what_theory_says(abtest: Command, log: str) -> None:
    def mde(*options: str) -> float:
        document = json.loads(
            abtest("plan", log, "--map", MAP, "--users", "200000", *options, "--json").stdout
        )
        return float(next(row for row in document["metrics"] if row["metric"] == "n_view")["mde"])

    half = mde()
    assert mde("--split", "90,10") / half == pytest.approx(np.sqrt(1 / 0.9 + 1 / 0.1) / 2, rel=1e-3)
    three = mde("--split", "50,25,25")
    z = stats.norm.isf(0.05 / 4 / 2) + stats.norm.isf(0.2)
    z_half = stats.norm.isf(0.05 / 2 / 2) + stats.norm.isf(0.2)
    assert three / half == pytest.approx(np.sqrt(1 / 0.5 + 1 / 0.25) / 2 * z / z_half, rel=1e-3)


def test_a_run_is_asked_about_the_lifts_of_the_paper(abtest: Command, finished_run: Path) -> None:
    result = abtest("plan", str(finished_run), "--users", "100000000")
    assert result.exit_code == 0, result.output
    shown = result.stdout
    for lift in ("+0.77 %", "+0.34 %", "+0.14 %", "+0.027 %", "+0.017 %"):
        assert lift in shown
    document = json.loads(abtest("plan", str(finished_run), "--users", "100000000", "--json").stdout)
    seen = {row["metric"]: row["is_seen"] for row in document["metrics"] if row["target"] is not None}
    assert set(seen) == {"comments", "shares", "plays", "follows", "watch_s"}
    small = json.loads(abtest("plan", str(finished_run), "--json").stdout)
    assert not any(row["is_seen"] for row in small["metrics"])


@pytest.mark.skipif(not HAS_LOOKS, reason="sequential designs are not installed")
def test_daily_looks_cost_a_little_and_always_valid_ones_more(abtest: Command, log: str) -> None:
    mde = {}
    for design in designs():
        document = json.loads(abtest("plan", log, "--map", MAP, "--design", design, "--json").stdout)
        mde[design] = next(row for row in document["metrics"] if row["metric"] == "n_view")["mde"]
    assert 1 <= mde["obf"] / mde["fixed"] < 1.06
    assert mde["obf"] < mde["pocock"] < mde["always-valid"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--split", "80"], "split '80'"),
        (["--split", "80,30"], "split '80,30'"),
        (["--lift", "n_view"], "lift 'n_view' is not METRIC=PERCENT"),
        (["--lift", "n_vew=1"], "a lift is asked of 'n_vew'; the metrics are: n_comments, n_view"),
        (["--users", "3"], "users is 3"),
        (["--alpha", "0"], "alpha is 0.0"),
        (["--design", "peek"], "unknown design 'peek'; known: fixed"),
    ],
)
def test_a_plan_that_cannot_be_is_one_sentence(
    abtest: Command, log: str, options: list[str], words: str
) -> None:
    result = abtest("plan", log, "--map", MAP, *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_lifts_and_splits_are_read() -> None:
    assert parse_lifts(["a=b=2%"]) == {"a=b": 0.02}
    assert parse_split(None) == (0.5, 0.5)
    with pytest.raises(ValueError, match="two or more shares above 0"):
        Design(split=(1.0,))

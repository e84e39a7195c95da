"""Plans against simulated experiments of the planned size, statsmodels, and known answers."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower

from abtest.plan import DESIGNS, Design, lift_ladder, parse_lifts, shares_of, user_ladder
from abtest.stats.planning import drifts_needed, looks_inflation, power_at_drift
from abtest.stats.power import detectable_lift, power_of_lift
from tests.abtest.conftest import Command

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


@pytest.mark.parametrize(("n_control", "n_treatment"), [(20, 20), (900, 100), (5000, 5000), (10**6, 10**4)])
@pytest.mark.parametrize("alpha", [0.05, 0.002])
def test_power_and_detectable_lift_are_those_of_statsmodels(
    n_control: int, n_treatment: int, alpha: float
) -> None:
    solver, mean, variance = TTestIndPower(), 3.0, 4.0
    ratio = n_treatment / n_control
    size = detectable_lift(mean, variance, n_control, n_treatment, alpha=alpha) * mean / variance**0.5
    oracle = solver.power(size, n_control, alpha / 2, ratio=ratio, alternative="larger")
    assert oracle == pytest.approx(0.8, abs=1e-6)
    for share in (0.3, 0.8, 1.0, 1.3):
        oracle = solver.power(share * size, n_control, alpha / 2, ratio=ratio, alternative="larger")
        lift = share * size * variance**0.5 / mean
        found = power_of_lift(lift, mean, variance, n_control, n_treatment, alpha=alpha)
        assert found == pytest.approx(oracle, abs=2e-4)


@pytest.mark.parametrize(("levels", "power_of_fixed"), [(OBF, 0.790), (POCOCK, 0.708)])
def test_looks_cost_what_is_known_of_five_equal_ones(levels: list[float], power_of_fixed: float) -> None:
    """At the effect that a fixed test finds with .8, O'Brien-Fleming bounds have .790, Pocock's .708."""
    needed = drifts_needed(levels, FIFTHS)
    inflation = looks_inflation(needed)
    z = stats.norm.ppf([0.975, 0.8]).sum()
    rng = np.random.default_rng(1)
    paths = (rng.standard_normal((200_000, 5)) * np.sqrt(0.2)).cumsum(axis=1) / np.sqrt(FIFTHS)
    bounds = stats.norm.isf(np.array(levels) / 2)
    drift = np.sqrt(FIFTHS) * z
    assert (paths + drift > bounds).any(axis=1).mean() == pytest.approx(power_of_fixed, abs=0.004)
    assert (paths + inflation * drift > bounds).any(axis=1).mean() == pytest.approx(0.8, abs=0.01)
    for share in (0.4, 1.0, 1.5):
        simulated = (paths + share * drift > bounds).any(axis=1).mean()
        assert power_at_drift(needed, share * z) == pytest.approx(simulated, abs=0.01)


def test_one_look_costs_nothing() -> None:
    assert looks_inflation(drifts_needed([0.05], [1.0])) == pytest.approx(1.0, abs=0.01)
    with pytest.raises(ValueError, match="shares must grow"):
        drifts_needed([0.01, 0.05], [0.5, 0.5])


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


def test_daily_looks_cost_a_little_and_always_valid_ones_more(abtest: Command, log: str) -> None:
    mde = {}
    for design in DESIGNS:
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
        (["--plot", "no/such/folder/power.png"], "no/such/folder/power.png"),
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
    assert shares_of(None) == (0.5, 0.5)
    with pytest.raises(ValueError, match="two or more shares above 0"):
        Design(split=(1.0,))


@pytest.fixture(scope="module")
def log_with_past(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A wide log of 3,000 users: what each bought on a day before the start and on one after it."""
    rng = np.random.default_rng(5)
    taste = rng.gamma(4, 5, 3000)
    before, bought, seen = (rng.poisson(factor * taste) for factor in (1, 1, 3))
    folder = tmp_path_factory.mktemp("past")
    start = 1_772_409_600
    table = {
        "uid": np.tile(np.arange(3000), 2),
        "ts": np.repeat([start - 50_000, start + 50_000], 3000),
        "bought": np.concatenate([before, bought]),
        "seen": np.concatenate([rng.poisson(3 * taste), seen]),
    }
    pq.write_table(pa.table(table), folder / "log.parquet")
    (folder / "plan.toml").write_text(
        "start = 2026-03-02\ndays = 1\n[map]\nuser = 'uid'\nts = 'ts'\n"
        "[[metrics]]\nname = 'bought'\nnumerator = 'bought'\nrole = 'goal'\n"
        "[[metrics]]\nname = 'rate'\nnumerator = 'bought'\ndenominator = 'seen'\nrole = 'goal'\n"
        "[[metrics]]\nname = 'views'\nnumerator = 'seen'\nrole = 'guardrail'\nmargin = 0.03\n"
    )
    return folder, {"before": before, "bought": bought, "seen": seen}


def test_what_the_pre_period_takes_out_is_measured_and_found_in_simulated_experiments(
    abtest: Command, log_with_past: tuple[Path, dict[str, np.ndarray]]
) -> None:
    """1,000 experiments with regression on the past; fails by chance with probability below 1e-6."""
    folder, users = log_with_past
    args = ("plan", str(folder / "log.parquet"), "--config", str(folder / "plan.toml"), "--users", "2000")
    rows = {row["metric"]: row for row in json.loads(abtest(*args, "--json").stdout)["metrics"]}
    row, x, y = rows["bought"], users["before"], users["bought"]
    rho = np.corrcoef(x, y)[0, 1]
    assert row["covariates"] == ["pre_bought"]
    assert row["rho"] == pytest.approx(rho, rel=1e-3)
    assert row["variance_reduction"] == pytest.approx(rho**2, rel=1e-3)
    assert row["mde"] / row["mde_plain"] == pytest.approx((1 - rho**2) ** 0.5, rel=1e-3)
    assert 0 < rows["rate"]["variance_reduction"] < 0.3
    rng = np.random.default_rng(6)
    found = 0
    for _ in range(1000):
        drawn = rng.integers(0, 3000, 2000)
        past, value = x[drawn] - x[drawn].mean(), y[drawn].astype(float)
        value[1000:] += row["mde"] * y.mean()
        arm = np.repeat([0.0, 1.0], 1000)
        within = value - np.where(arm, value[1000:].mean(), value[:1000].mean())
        theta = (within * past).sum() / (past**2).sum()
        adjusted = value - theta * past
        found += stats.ttest_ind(adjusted[1000:], adjusted[:1000], equal_var=False).pvalue < 0.025
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], 1000, 0.8)
    assert low <= found <= high
    plain = {
        row["metric"]: row for row in json.loads(abtest(*args, "--no-cuped", "--json").stdout)["metrics"]
    }
    assert plain["bought"]["mde"] == plain["bought"]["mde_plain"] == row["mde_plain"]


def test_a_guardrail_is_asked_about_its_margin_at_a_level_and_power_of_its_own(
    abtest: Command, log_with_past: tuple[Path, dict[str, np.ndarray]]
) -> None:
    folder, _ = log_with_past
    args = ("plan", str(folder / "log.parquet"), "--config", str(folder / "plan.toml"), "--json")
    rows = {row["metric"]: row for row in json.loads(abtest(*args, "--split", "40,30,30").stdout)["metrics"]}
    views = rows["views"]
    assert (views["target"], views["target_from"], views["alpha"]) == (0.03, "its margin", 0.05)
    assert views["power"] == pytest.approx(0.9)  # two treatments with one guardrail each: 1 - .2 / 2
    assert (rows["bought"]["alpha"], rows["bought"]["power"]) == (0.0125, 0.8)


@pytest.mark.parametrize("design", ["fixed", "obf"])
def test_the_power_curves_pass_through_the_mde_and_the_users_needed(
    abtest: Command, log: str, design: str
) -> None:
    args = ("plan", log, "--map", MAP, "--design", design, "--users", "20000", "--lift", "n_view=1")
    row = json.loads(abtest(*args, "--json").stdout)["metrics"][1]
    lifts, powers = zip(*row["power_by_lift"], strict=True)
    assert list(powers) == sorted(powers)
    assert np.interp(np.log(row["mde"]), np.log(lifts), powers) == pytest.approx(0.8, abs=0.12)
    sizes, by_size = zip(*row["power_by_users"], strict=True)
    assert list(by_size) == sorted(by_size)
    assert sizes[-1] >= row["users_needed"]


def test_the_figure_and_the_blocks_show_the_curves(abtest: Command, log: str, tmp_path: Path) -> None:
    path = tmp_path / "power.png"
    result = abtest("plan", log, "--map", MAP, "--lift", "n_view=1", "--plot", str(path))
    assert result.exit_code == 0, result.output
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "Power at 2,000 users, by true lift" in result.stdout
    assert "█" in result.stdout
    assert "No pre-period is known" in " ".join(result.stdout.split())


def test_ladders_are_round_and_short() -> None:
    assert lift_ladder([]) == []
    assert len(lift_ladder([1e-5, 1.0])) <= 8
    assert user_ladder([1000]) == [1000]
    assert user_ladder([1001]) == [1000, 10_000]

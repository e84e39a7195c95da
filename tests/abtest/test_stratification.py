"""Post-stratification by a column of the log or of the assignment, against regressions with strata."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import statsmodels.api as sm

from abtest.stats.moments import Moments
from abtest.stats.poststratify import LEAST_USERS, cells_of, post_stratify
from tests.abtest.conftest import Command, analyse_table, metric_toml
from warehouse.events import DAY_MS

N = 1200
Users = dict[str, np.ndarray]


def population(seed: int = 0, *, pull: float = 30.0) -> Users:
    """Users whose country says much of what they do, and their past says more."""
    rng = np.random.default_rng(seed)
    country = rng.choice(4, N, p=[0.5, 0.3, 0.15, 0.05])
    past = rng.poisson(20, N)
    y = rng.poisson(10 + pull * country + past)
    return {
        "country": country,
        "treated": rng.random(N) < 0.4,
        "past": past,
        "y": y,
        "d": 1 + rng.poisson(3 + 2 * country),
    }


def cells(users: Users, **options: Any) -> list[Any]:
    return cells_of(
        {
            str(k): {
                arm: Moments.from_arrays(**{name: users[name][mask] for name in ("y", "d", "past")})
                for arm, side in (("a", ~users["treated"]), ("b", users["treated"]))
                for mask in [(users["country"] == k) & side]
            }
            for k in np.unique(users["country"])
        },
        **options,
    )


def design(users: Users) -> np.ndarray:
    """Arm, strata and their products, strata centred."""
    arm = users["treated"] * 1.0
    countries = np.unique(users["country"])
    dummies = (users["country"][:, None] == countries[1:]) * 1.0
    centred = dummies - dummies.mean(axis=0)
    return np.column_stack([np.ones(N), arm, centred, arm[:, None] * centred])


def test_a_mean_is_the_regression_with_centred_strata() -> None:
    users = population()
    found = post_stratify(cells(users, least=2), "y")
    assert found is not None
    fit = sm.OLS(users["y"], design(users)).fit(cov_type="HC2")
    a, b = found.adjusted["a"], found.adjusted["b"]
    assert (b.value or 0) - (a.value or 0) == pytest.approx(fit.params[1], rel=1e-9)
    assert (a.variance or 0) + (b.variance or 0) == pytest.approx(fit.bse[1] ** 2, rel=1e-9)


def test_a_covariate_has_one_slope_within_strata_and_arms() -> None:
    users = population()
    found = post_stratify(cells(users, least=2), "y", covariates=["past"])
    assert found is not None
    fit = sm.OLS(users["y"], np.column_stack([design(users), users["past"]])).fit(cov_type="HC2")
    assert found.theta["past"] == pytest.approx(fit.params[-1], rel=1e-9)
    a, b = found.adjusted["a"], found.adjusted["b"]
    assert (b.value or 0) - (a.value or 0) == pytest.approx(fit.params[1], rel=1e-9)
    assert (a.variance or 0) + (b.variance or 0) == pytest.approx(fit.bse[1] ** 2, rel=0.02)
    assert (a.variance or 0) < (found.alone["a"].variance or 0)


def test_a_ratio_is_total_over_total_of_weighed_means_and_its_linearised_regression() -> None:
    users = population()
    found = post_stratify(cells(users, least=2), "y", "d", scale=10)
    assert found is not None
    share = np.bincount(users["country"]) / N
    for arm, side in (("a", ~users["treated"]), ("b", users["treated"])):
        x, y = (
            sum(share[k] * users[name][side & (users["country"] == k)].mean() for k in range(4))
            for name in ("y", "d")
        )
        assert found.adjusted[arm].value == pytest.approx(x / y / 10, rel=1e-12)
        z = (users["y"] - x / y * users["d"]) / y / 10
        variance = sum(
            share[k] ** 2 * z[mine].var(ddof=1) / mine.sum()
            for k in range(4)
            for mine in [side & (users["country"] == k)]
        )
        assert found.adjusted[arm].variance == pytest.approx(variance, rel=1e-9)
        assert sum(w for w in found.shares) == pytest.approx(1)


@pytest.mark.parametrize("denominator", [None, "d"])
def test_errors_are_those_of_re_randomised_users(denominator: str | None) -> None:
    """150 splits of the same users; strata that say nothing cost no more than 1 in 20 of the error."""
    users = population(1)
    rng = np.random.default_rng(2)
    differences, errors, plain, blind = [], [], [], []
    for _ in range(150):
        users["treated"] = rng.random(N) < 0.4
        found = post_stratify(cells(users, least=2), "y", denominator)
        shuffled = {**users, "country": rng.permutation(users["country"])}
        other = post_stratify(cells(shuffled, least=2), "y", denominator)
        whole = post_stratify(cells({**users, "country": np.zeros(N, int)}, least=2), "y", denominator)
        assert found is not None
        assert other is not None
        assert whole is not None
        a, b = found.adjusted["a"], found.adjusted["b"]
        differences.append((b.value or 0) - (a.value or 0))
        for result, kept in ((found, errors), (whole, plain), (other, blind)):
            kept.append(sum(e.variance or 0 for e in result.adjusted.values()) ** 0.5)
    assert np.mean(errors) == pytest.approx(np.std(differences), rel=0.15)
    assert np.mean(errors) < 0.95 * np.mean(plain)
    assert np.mean(blind) < 1.05 * np.mean(plain)


def test_small_strata_are_pooled_with_each_other_or_with_the_smallest_other() -> None:
    def stratum(a: int, b: int) -> dict[str, Moments]:
        return {arm: Moments.from_arrays(y=np.arange(n)) for arm, n in (("a", a), ("b", b))}

    big, middle = stratum(500, 400), stratum(100, 90)
    few = {f"s{i}": stratum(12, 14) for i in range(3)}
    assert [cell.names for cell in cells_of({"x": big, "y": middle, **few})] == [
        ("x",), ("y",), ("s0", "s1", "s2"),
    ]  # fmt: skip
    found = cells_of({"x": big, "y": middle, "s0": few["s0"]})
    assert [cell.names for cell in found] == [("x",), ("s0", "y")]
    assert found[1].arms["a"].n == 112
    assert len(cells_of({"x": big, "s": stratum(LEAST_USERS - 1, 40)})) == 1
    one_arm = {"x": stratum(300, 0), "y": stratum(200, 0)}
    assert len(cells_of(one_arm)) == 2  # of a plan's only arm


def log_of(users: Users, days: int = 3) -> Users:
    """A row a user and day from the first exposure on, and one of the past on the day before the start."""
    rng = np.random.default_rng(3)
    first = rng.integers(1, 3, N)
    uid = np.tile(np.arange(N), days + 1)
    day = np.repeat(np.arange(days + 1), N)
    kept = (day == 0) | (day >= first[uid])
    amount = np.where(day == 0, users["past"][uid], rng.poisson(users["y"][uid]))
    ms = 31 * DAY_MS + (day - 1) * DAY_MS + 23 * 3_600_000
    return {
        "uid": uid[kept],
        "ms": ms[kept],
        "amount": amount[kept],
        "variant": np.where(users["treated"], "new", "old")[uid[kept]],
        "country": np.array(["FI", "日本 'x'; --", "SE", None])[users["country"][uid[kept]]],
    }


CONFIG = """
control = "old"
weights = {{ old = 0.6, new = 0.4 }}
start = 1970-02-01
days = 3
{more}
[map]
user = "uid"
ts = "ms"
ts_unit = "ms"
arm = "variant"
[[metrics]]
name = "amount"
numerator = "amount"
role = "goal"
[[metrics]]
name = "per_row"
numerator = "amount"
denominator = "n_rows"
covariates = []
[[metrics]]
name = "capped"
numerator = "amount"
cap = 0.99
"""


@pytest.fixture(scope="module")
def analysed(abtest: Command, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("strata")
    users = population(4)
    log = log_of(users)
    columns = {name: pa.array(x.tolist()) for name, x in log.items()}
    found: dict[str, Any] = {"users": users, "log": log, "folder": folder}
    for name, more in (("plain", ""), ("strata", 'stratify = "country"')):
        options = "--json", "--out", str(folder)
        result = analyse_table(abtest, folder, columns, CONFIG.format(more=more), *options)
        assert result.exit_code == 0, result.output
        found[name] = json.loads(result.stdout)
    return found


def last(document: dict[str, Any], metric: str, part: str = "effects") -> dict[str, Any]:
    (one,) = (r for r in document[part] if r["metric"] == metric and r["window"] == {"from": 1, "to": 3})
    return dict(one)


def test_a_log_is_post_stratified_by_a_column(analysed: dict[str, Any]) -> None:
    users, log = analysed["users"], analysed["log"]
    total, before = (
        np.bincount(log["uid"][mask], log["amount"][mask], minlength=N)
        for mask in (log["ms"] >= 31 * DAY_MS, log["ms"] < 31 * DAY_MS)
    )
    one = last(analysed["strata"], "amount")
    pooled = {**users, "country": np.minimum(users["country"], 2)}
    fit = sm.OLS(total, np.column_stack([design(pooled), before])).fit()
    assert one["method"] == "post-stratified, cuped"
    assert one["difference"] == pytest.approx(fit.params[1], rel=1e-9)
    assert last(analysed["strata"], "per_row")["method"] == "post-stratified"
    cut = np.minimum(total, np.quantile(total, 0.99, method="inverted_cdf"))
    fit = sm.OLS(cut, np.column_stack([design(pooled), before])).fit()
    capped = last(analysed["strata"], "capped")
    assert capped["method"] == "post-stratified, cuped"
    assert capped["difference"] == pytest.approx(fit.params[1], rel=1e-9)
    gain = last(analysed["strata"], "amount", "stratification")
    assert (gain["n_strata"], gain["column"], gain["status"]) == (3, "country", "ok")
    assert gain["pooled"] == ["", "SE"]
    assert gain["variance_reduction"] > 0.3
    plain = last(analysed["plain"], "amount")
    widths = [e["lift_ci"][1] - e["lift_ci"][0] for e in (one, plain)]
    assert widths[0] < 0.9 * widths[1]
    assert one["control_mean"] == plain["control_mean"]  # as observed


def test_all_else_is_as_without_strata(analysed: dict[str, Any]) -> None:
    """The strata's sums add up to those of the arms; the column is no segment of the report."""
    plain, strata = analysed["plain"], analysed["strata"]
    assert strata["since_exposure"] == plain["since_exposure"]
    assert strata["segments"] == [] == plain["segments"]
    assert (strata["exposed"], plain["stratification"]) == (plain["exposed"], [])
    names = {check["name"]: check["status"] for check in strata["checks"]}
    assert names["sample_ratio_by_segment"] == "ok"


def test_looks_are_correlated_within_strata(analysed: dict[str, Any]) -> None:
    (test,) = (t for t in analysed["strata"]["sequential"] if t["metric"] == "amount")
    assert test["correlation"] == "estimated"
    text = (analysed["folder"] / "report.md").read_text(encoding="utf-8").replace("\\", "")
    assert "Post-stratified by country: arms are compared within strata" in text
    assert "Pooled, having few users: (none), SE." in text


def test_the_correlation_of_stratified_looks_is_that_of_one_stratum_where_all_are_alike(
    abtest: Command, analysed: dict[str, Any], tmp_path: Path
) -> None:
    """Two copies of the same users in two strata: estimates, errors and bounds are those of the copies
    without strata, up to the degrees of freedom."""
    log = {name: x for name, x in analysed["log"].items() if name != "country"}
    twice = {name: np.concatenate([x, x]) for name, x in log.items()}
    twice["uid"] = np.concatenate([log["uid"], log["uid"] + N])
    twice["half"] = np.repeat(["one", "two"], len(log["uid"]))
    looks = []
    for options in ((), ("--stratify", "half")):
        result = analyse_table(abtest, tmp_path, twice, CONFIG.format(more=""), *options, "--json")
        looks.append(json.loads(result.stdout)["sequential"][0]["looks"])
    for one, other in zip(*looks, strict=True):
        assert one["information"] == pytest.approx(other["information"], rel=1e-3)
        assert one["level"] == pytest.approx(other["level"], rel=1e-2)


@pytest.mark.parametrize("place", ["assignment", "one row a user"])
def test_strata_of_an_assignment_table_and_of_a_table_of_users(
    abtest: Command, tmp_path: Path, place: str
) -> None:
    users = population(5)
    arm = np.where(users["treated"], "b", "a")
    rows = {"u": np.arange(N), "y": users["y"]}
    who = {"arm": arm, "c": users["country"].astype(str)}
    options = ["--map", "user=u,arm=arm", "--stratify", "c", "--control", "a", "--json"]
    if place == "assignment":
        pq.write_table(pa.table({"u": np.arange(N), **who}), tmp_path / "who.parquet")
        options += ["--assignment", str(tmp_path / "who.parquet")]
    else:
        rows |= who
    result = analyse_table(abtest, tmp_path, rows, metric_toml("y", "y", role="goal"), *options)
    document = json.loads(result.stdout)
    (effect,) = document["effects"]
    found = post_stratify(cells(users), "y")
    assert found is not None
    a, b = found.adjusted["a"].value, found.adjusted["b"].value
    assert effect["difference"] == pytest.approx((b or 0) - (a or 0), rel=1e-12)


def test_what_cannot_be_stratified_is_said(abtest: Command, finished_run: Path, tmp_path: Path) -> None:
    users = population(6)
    rows = {"u": np.arange(N), "arm": np.where(np.arange(N) % 2, "b", "a"), "y": users["y"]}
    pq.write_table(pa.table({**rows, "c": np.full(N, "x")}), tmp_path / "rows.parquet")
    options = ("--map", "user=u,arm=arm", "--stratify")
    result = abtest("analyze", str(tmp_path / "rows.parquet"), *options, "c")
    assert result.exit_code == 0
    assert "fewer than two strata with 30 users in each arm" in " ".join(result.output.split())
    result = abtest("analyze", str(tmp_path / "rows.parquet"), *options, "town")
    assert (result.exit_code, "no column 'town'" in result.output) == (2, True)
    result = abtest("analyze", str(finished_run), "--stratify", "c")
    assert (result.exit_code, "--stratify is a column of an event log" in result.output) == (2, True)


def test_a_plan_weighs_the_controls_users_by_phase_and_shows_what_strata_take_out(
    abtest: Command, tmp_path: Path
) -> None:
    """Those who do much came when nine in ten were in the control, the others when half were."""
    rng = np.random.default_rng(7)
    early, country = np.arange(N) < N // 2, rng.integers(0, 3, N)
    new = rng.random(N) < np.where(early, 0.1, 0.5)
    y = rng.poisson(np.where(early, 60, 20) + 10 * country)
    rows = {
        "u": np.r_[np.arange(N), np.arange(N)],
        "ms": 31 * DAY_MS + np.r_[np.where(early, 0, DAY_MS), np.full(N, 2 * DAY_MS - 1)],
        "arm": np.where(np.r_[new, new], "b", "a"),
        "y": np.r_[y, np.zeros(N, int)],
        "c": np.array(["x", "y", "z"])[np.r_[country, country]],
    }
    pq.write_table(pa.table(rows), tmp_path / "log.parquet")
    phases = (
        "[[phases]]\nday = 1\nweights = {a = 0.9, b = 0.1}\n[[phases]]\nday = 2\nweights = {a = 1, b = 1}\n"
    )
    (tmp_path / "x.toml").write_text(
        'start = 1970-02-01\ndays = 2\ncontrol = "a"\n'
        '[map]\nuser = "u"\nts = "ms"\nts_unit = "ms"\narm = "arm"\n'
        + phases
        + '[[metrics]]\nname = "y"\nnumerator = "y"\nrole = "goal"\n',
        encoding="utf-8",
    )
    log = str(tmp_path / "log.parquet")
    options = ("--config", str(tmp_path / "x.toml"), "--stratify", "c")
    document = json.loads(abtest("plan", log, *options, "--json").stdout)
    (row,) = document["metrics"]
    weights = np.where(early, 1 / (early & ~new).sum(), 1 / (~early & ~new).sum())[~new] / 2
    mine = y[~new]
    mean = weights @ mine
    assert row["mean"] == pytest.approx(mean, rel=1e-9)
    assert abs(mean - mine.mean()) > 3  # pooled it is that of the first phase's users
    variance = weights @ (mine - mean) ** 2
    assert row["deviation"] == pytest.approx(variance**0.5, rel=2e-3)
    within = sum(
        weights[of] @ (mine[of] - weights[of] @ mine[of] / weights[of].sum()) ** 2
        for k in range(3)
        for of in [country[~new] == k]
    )
    assert row["strata_reduction"] == pytest.approx(1 - within / variance, abs=5e-3)
    assert row["mde"] == pytest.approx(row["mde_plain"] * (within / variance) ** 0.5, rel=5e-3)
    text = " ".join(abtest("plan", log, *options).output.split())
    assert "The past has 2 phases" in text
    assert "less by strata" in text
    assert "Less by strata: the share of the variance that lies between the strata of c" in text

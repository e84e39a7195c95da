"""`abtest analyze` on real files: the same document as for a run, checked against scipy and a plain loop."""

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tests.abtest.conftest import Command

START_MS = 1_772_409_600_000  # 2026-03-02 UTC
DAY_MS = 86_400_000
MAP = "user=uid,ts=at,arm=variant,event=kind,value=amount"
CONFIG = """
name = "checkout"
control = "old"
weights = { old = 0.5, new = 0.5 }
start = 2026-03-02
days = 3
ignore = ["holdout"]

[map]
user = "uid"
ts = "at"
arm = "variant"
event = "kind"
value = "amount"
segment = ["country"]

[totals]
revenue = { event = "buy", sum = "value" }
bought = { event = "buy", any = true }

[[metrics]]
name = "revenue"
numerator = "revenue"
role = "goal"

[[metrics]]
name = "conversion"
numerator = "bought"
role = "goal"

[[metrics]]
name = "basket"
numerator = "revenue"
denominator = "n_buy"
unit = "per purchase"

[[metrics]]
name = "views"
numerator = "n_view"
role = "guardrail"
margin = 0.2
"""


def events(seed: int = 0, n_users: int = 1200, lift: float = 1.0) -> dict[str, np.ndarray]:
    """A long log of three days before and three days of an experiment; users come on day 1, 2 or 3."""
    rng = np.random.default_rng(seed)
    n = n_users * 12
    user = rng.integers(0, n_users, n)
    arm = np.array(["old", "new"])[user % 2]
    at = START_MS + rng.integers(-3 * DAY_MS, 3 * DAY_MS, n)
    kind = rng.choice(["buy", "view"], n, p=[0.3, 0.7])
    amount = np.where(
        kind == "buy", rng.gamma(2, 10, n) * np.where((arm == "new") & (at >= START_MS), lift, 1.0), 0.0
    )
    country = np.array(["FI", "SE"])[user // 2 % 2]
    return {"uid": user, "at": at, "variant": arm, "kind": kind, "amount": amount, "country": country}


def write(path: Path, columns: dict[str, Any]) -> str:
    table = pa.table({**columns, "at": pa.array(columns["at"]).cast(pa.timestamp("ms"))})
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with duckdb.connect() as connection:
            connection.register("t", table)
            connection.execute(f"COPY t TO '{path}' (HEADER)")
    return str(path)


def document(result: Any, code: int = 0) -> dict[str, Any]:
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def checks(found: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in found["checks"]}


def effect(found: dict[str, Any], metric: str, first: int = 1, last: int = 3) -> dict[str, Any]:
    (one,) = [
        e for e in found["effects"] if e["metric"] == metric and e["window"] == {"from": first, "to": last}
    ]
    return dict(one)


def per_user(log: dict[str, np.ndarray], arm: str, values: np.ndarray) -> np.ndarray:
    """Sums over the experiment by user of an arm, 0 for users with nothing; all are exposed."""
    inside = log["at"] >= START_MS
    users = np.unique(log["uid"][inside & (log["variant"] == arm)])
    sums = np.zeros(log["uid"].max() + 1)
    np.add.at(sums, log["uid"][inside], values[inside])
    return np.asarray(sums[users])


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("config") / "checkout.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_declared_experiment_is_welch_on_what_each_user_did(
    abtest: Command, config: str, tmp_path: Path, form: str
) -> None:
    log = events(lift=1.5)
    path = write(tmp_path / f"log.{form}", log)
    found = document(abtest("analyze", path, "--config", config, "--json"))
    revenue = {arm: per_user(log, arm, log["amount"]) for arm in ("old", "new")}
    bought = {arm: per_user(log, arm, (log["kind"] == "buy") * 1.0) > 0 for arm in ("old", "new")}
    for name, values in (("revenue", revenue), ("conversion", bought)):
        oracle = stats.ttest_ind(values["new"] * 1.0, values["old"] * 1.0, equal_var=False)
        one = effect(found, name)
        assert (one["n_control"], one["n_treatment"]) == (len(values["old"]), len(values["new"]))
        assert one["control_mean"] == pytest.approx(values["old"].mean(), rel=1e-12)
        if one["method"] == "welch":  # with a pre-period, CUPED may have taken variance out
            assert one["p"] == pytest.approx(oracle.pvalue, rel=1e-9)
    basket = effect(found, "basket")
    n_buy = per_user(log, "old", (log["kind"] == "buy") * 1.0)
    assert basket["control_mean"] == pytest.approx(revenue["old"].sum() / n_buy.sum(), rel=1e-12)
    assert found["experiment"]["name"] == "checkout"
    assert found["verdict"]["decision"] == "ship"
    assert set(checks(found).values()) <= {"ok", "not_run"}
    assert checks(found)["sample_ratio_by_segment"] == checks(found)["pre_period"] == "ok"


def test_reports_are_written_and_the_terminal_shows_the_same(
    abtest: Command, config: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "log.parquet", events())
    result = abtest("analyze", path, "--config", config, "--out", str(tmp_path / "report"))
    assert result.exit_code == 0, result.output
    assert "checkout" in result.stdout
    assert (tmp_path / "report/report.md").exists()
    assert json.loads((tmp_path / "report/report.json").read_text())["experiment"]["name"] == "checkout"


def test_a_wide_table_of_users_needs_no_times(abtest: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    x, big = rng.normal(1e8, 1, 400), rng.integers(0, 10**12, 400)
    pq.write_table(
        pa.table({"id": np.arange(400), "arm": ["control", "new"] * 200, "x": x, "big": big}),
        tmp_path / "users.parquet",
    )
    found = document(abtest("analyze", str(tmp_path / "users.parquet"), "--map", "user=id,arm=arm", "--json"))
    for name, values in (("x", x - 1e8), ("big", big.astype(float))):
        oracle = stats.ttest_ind(values[1::2], values[::2], equal_var=False)
        assert effect(found, name, 1, 1)["p"] == pytest.approx(oracle.pvalue, rel=1e-6)
    assert found["experiment"]["name"] == "users"


def test_values_that_are_no_numbers_withhold_their_metric_and_say_why(
    abtest: Command, tmp_path: Path
) -> None:
    path = tmp_path / "odd.parquet"
    odd = [float("nan"), *([1.0, 2.5, None] * 33)]
    good = [-1.5, *([2.0, 3.0, -4.0] * 33)]
    pq.write_table(pa.table({"u": np.arange(100), "arm": ["a", "b"] * 50, "odd": odd, "good": good}), path)
    found = document(abtest("analyze", str(path), "--map", "user=u,arm=arm", "--json"))
    one = effect(found, "odd", 1, 1)
    assert (one["status"], one["p"], one["lift"], one["control_mean"]) == ("not_computable", None, None, None)
    assert one["reason"] == "1 values of 'odd' are NaN or infinite"
    assert effect(found, "good", 1, 1)["p"] is not None
    assert checks(found)["rows"] == "warning"
    shown = abtest("analyze", str(path), "--map", "user=u,arm=arm").stdout
    assert "1 values of 'odd' are NaN or infinite" in " ".join(shown.split())


def test_names_that_are_sql_are_only_names(abtest: Command, tmp_path: Path) -> None:
    evil = 'x"\'; DROP TABLE "log"; -- é 日本 %s :p'
    path = tmp_path / "evil.duckdb"
    table = pa.table({evil: np.arange(200), "arm": [evil, "b'"] * 100, "v": np.arange(200)})
    with duckdb.connect(str(path)) as connection:
        connection.register("t", table)
        connection.execute('CREATE TABLE "ta""b\'le" AS SELECT * FROM t')
    config = tmp_path / "evil.toml"
    config.write_text(
        f"[map]\nuser = {json.dumps(evil)}\narm = 'arm'\n[[metrics]]\nname = {json.dumps(evil)}\n"
        f"numerator = {json.dumps(evil)}\nrole = 'goal'\n",
        encoding="utf-8",
    )
    found = document(abtest("analyze", str(path), "--config", str(config), "--control", evil, "--json"))
    assert found["exposed"] == {evil: 100, "b'": 100}
    assert found["effects"][0]["metric"] == evil
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.sql("SELECT count(*) FROM duckdb_tables()").fetchall() == [(1,)]


# health


def test_a_lost_share_of_one_arm_withholds_the_verdict_with_exit_code_3(
    abtest: Command, config: str, tmp_path: Path
) -> None:
    log = events(n_users=4000)
    kept = ~((log["variant"] == "new") & (log["uid"] % 20 < 4))
    path = write(tmp_path / "log.parquet", {name: column[kept] for name, column in log.items()})
    found = document(abtest("analyze", path, "--config", config, "--json"), 3)
    assert found["verdict"]["decision"] == "invalid"
    assert found["checks"][0]["status"] == "failed"
    assert checks(found)["sample_ratio"] == "failed"


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("pre-period", "pre_period"),
        ("missing day", "missing_days"),
        ("doubled", "duplicates"),
        ("no user", "rows"),
    ],
)
def test_each_fault_of_a_log_fails_its_own_check(
    abtest: Command, config: str, tmp_path: Path, fault: str, check: str
) -> None:
    log: dict[str, Any] = events()
    day = (log["at"] - START_MS) // DAY_MS
    if fault == "pre-period":
        log["kind"] = np.where((day < 0) & (log["variant"] == "new"), "view", log["kind"])
    elif fault == "missing day":
        log = {name: column[day != 1] for name, column in log.items()}
    elif fault == "doubled":
        again = (log["variant"] == "new") & (np.arange(len(day)) % 20 == 0)
        log = {name: np.concatenate([column, column[again]]) for name, column in log.items()}
    else:
        log["uid"] = pa.array([None if i % 50 == 0 else int(u) for i, u in enumerate(log["uid"])])
    found = document(abtest("analyze", write(tmp_path / "log.parquet", log), "--config", config, "--json"), 3)
    assert {name for name, status in checks(found).items() if status == "failed"} == {check}
    assert found["checks"][0]["name"] == check


def test_users_in_two_arms_are_dropped_and_counted(abtest: Command, config: str, tmp_path: Path) -> None:
    log = events()
    switched = (log["uid"] % 25 == 0) & (np.arange(len(log["uid"])) % 2 == 0)
    log["variant"] = np.where(switched, np.where(log["variant"] == "old", "new", "old"), log["variant"])
    found = document(abtest("analyze", write(tmp_path / "log.parquet", log), "--config", config, "--json"))
    assert checks(found)["crossovers"] == "warning"
    assert sum(found["exposed"].values()) < 1200 * 0.97


def test_a_holdout_is_in_no_count(abtest: Command, config: str, tmp_path: Path) -> None:
    log = events()
    log["variant"] = np.where(log["uid"] % 10 == 9, "holdout", log["variant"])
    log["variant"] = np.where(log["uid"] % 10 == 8, "holdout", log["variant"])
    found = document(abtest("analyze", write(tmp_path / "log.parquet", log), "--config", config, "--json"))
    assert set(found["exposed"]) == {"old", "new"}
    assert checks(found)["sample_ratio"] == "ok"
    held = set(log["uid"][(log["variant"] == "holdout") & (log["at"] >= START_MS)].tolist())
    assert found["experiment"]["ignored"] == {"holdout": len(held)}
    text = abtest("analyze", str(tmp_path / "log.parquet"), "--config", config).stdout
    assert f"Left out, in no count and no weight: holdout: {len(held)} users." in text


def test_an_assignment_file_counts_users_without_events_as_zeros(
    abtest: Command, config: str, tmp_path: Path
) -> None:
    log = events()
    path = write(tmp_path / "log.parquet", {k: v for k, v in log.items() if k not in ("variant", "country")})
    users = np.arange(2400)
    pq.write_table(
        pa.table({"uid": users, "variant": np.array(["old", "new"])[users % 2], "country": ["FI"] * 2400}),
        tmp_path / "assigned.parquet",
    )
    assigned = str(tmp_path / "assigned.parquet")
    found = document(abtest("analyze", path, "--config", config, "--assignment", assigned, "--json"))
    one = effect(found, "revenue")
    assert (one["n_control"], one["n_treatment"]) == (1200, 1200)
    inside = (log["at"] >= START_MS) & (log["variant"] == "old")
    assert one["control_mean"] == pytest.approx(log["amount"][inside].sum() / 1200, rel=1e-12)


@pytest.mark.parametrize("correction", ["holm", "hochberg", "bh"])
@pytest.mark.parametrize("sequential", ["obf", "pocock", "always-valid", "none"])
def test_a_log_declares_its_looks_and_correction(
    abtest: Command, tmp_path: Path, sequential: str, correction: str
) -> None:
    """Only a run could, once: every log was tested daily by O'Brien and Fleming and corrected by Holm."""
    path = write(tmp_path / "log.parquet", events(n_users=400))
    config = tmp_path / "design.toml"
    config.write_text(f'sequential = "{sequential}"\ncorrection = "{correction}"\n{CONFIG}', encoding="utf-8")
    found = document(abtest("analyze", path, "--config", str(config), "--json"))
    assert (found["experiment"]["sequential"], found["experiment"]["correction"]) == (sequential, correction)
    assert {test["method"] for test in found["sequential"]} == (
        set() if sequential == "none" else {sequential}
    )
    goals = [e for e in found["effects"] if e["p_adjusted"] is not None]
    last = [goal["looks"][-1]["p_sequential"] for goal in found["sequential"]] or [e["p"] for e in goals]
    oracle = multipletests(
        last, 0.05, {"holm": "holm", "hochberg": "simes-hochberg", "bh": "fdr_bh"}[correction]
    )
    assert [e["p_adjusted"] for e in goals] == pytest.approx(list(oracle[1]), rel=1e-9)


# bad input


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("nam = 'x'", "unknown key 'nam'"),
        ("[[phases]]\nweights = { a = 1 }", "needs a start (a date or time) or a day"),
        ("[[phases]]\nday = 1\ncover = 3", "has other keys than start, day and weights"),
        ("[[phases]]\nday = 0", "a phase starts on day 0"),
        ("weights = { old = 'much' }", "the weight of 'old' is 'much', no number"),
        ("weights = { old = 1.0, neu = 1.0 }", "the log holds arm 'new', which weights do not name"),
        ("days = 0", "days is 1 or more"),
        ("start = '2026'", "start = '2026' is not a date"),
        ("start = 2027-01-01", "after the log's end"),
        ("exposure = 'open'", "exposure is event 'open'; the log holds: "),
        ("[totals]\nx = 3", "total 'x' is 3"),
        ("[totals]\nx = { evnt = 'buy' }\n[[metrics]]\nname='x'\nnumerator='x'", "unknown key 'evnt'"),
        ("[[metrics]]\nname = 'x'\nnumerator = 'n_by'", "total 'n_by' is of event 'by'; the log holds: "),
        ("[[metrics]]\nname = 'x'\nnumerator = 'n_buy'\nrole = 'gaol'", "role 'gaol'"),
        (
            "[[metrics]]\nname = 'x'\nnumerator = 'n_buy'\nscale = 'm'",
            "scale = 'm', which is no whole number",
        ),
        ("[[metrics]]\nname = 'x'", "metric 'x' has numerator = None; give text"),
        ("[[metrics]]\nname = 'x'\nnumerator = 'country'", "'country' holds text, no numbers"),
        ("control = 'alt'", "unknown control 'alt'"),
        ("looks = 'weekly'", "looks is 'weekly'; allowed: daily, final"),
        ("sequential = 'obrien'", "sequential is 'obrien'; allowed: obf, pocock, always-valid, none"),
        ("correction = 3", "correction = 3 is not holm, hochberg or bh"),
        (
            "[[metrics]]\nname = 'x'\nnumerator = 'n_buy'\ncovariates = ['sum_nope']",
            "'sum_nope' is of event 'nope'",
        ),
    ],
)
def test_a_wrong_declaration_is_one_sentence(abtest: Command, tmp_path: Path, toml: str, words: str) -> None:
    path = write(tmp_path / "log.parquet", events(n_users=50))
    config = tmp_path / "wrong.toml"
    config.write_text(toml, encoding="utf-8")
    result = abtest("analyze", path, "--map", MAP, "--config", str(config))
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_log_without_a_mapping_and_one_with_one_arm_are_refused(abtest: Command, tmp_path: Path) -> None:
    log = events(n_users=50)
    path = write(tmp_path / "log.csv", log)
    result = abtest("analyze", path, path)
    assert (result.exit_code, "--map" in result.stderr) == (2, True)
    log["variant"] = np.full(len(log["uid"]), "old")
    result = abtest("analyze", write(tmp_path / "one.csv", log), "--map", MAP)
    assert (result.exit_code, "holds 1 arms (old)" in result.stderr) == (2, True)

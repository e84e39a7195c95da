"""Caps, quantiles, bootstrap, permutation, equivalence and the Bayesian view, from declaration to report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from statsmodels.stats.weightstats import ttost_ind

from abtest.analysis import analyse
from abtest.experiment import Arm, Experiment
from abtest.manifest import manifest, write_json
from abtest.metrics import METRICS, Metric, with_method
from abtest.recorded import recorded_metrics
from abtest.resume import reopen
from abtest.run import describe
from abtest.settings import prepare, settings_from
from abtest.verdict import rule_of
from tests.abtest.conftest import Command
from tests.abtest.test_logs import document, effect, events, per_user, write

CONFIG = """
name = "checkout"
control = "old"
start = 2026-03-02
days = 3
pre_days = 0

[map]
user = "uid"
ts = "at"
arm = "variant"
event = "kind"
value = "amount"

[totals]
revenue = { event = "buy", sum = "value" }

[[metrics]]
name = "capped"
numerator = "revenue"
cap = 0.95
role = "goal"

[[metrics]]
name = "capped_basket"
numerator = "revenue"
denominator = "n_buy"
cap = 0.9
margin = 0.9

[[metrics]]
name = "views"
numerator = "n_view"
cap_value = 5
margin = 0.02

[[metrics]]
name = "p90"
numerator = "revenue"
quantile = 0.9

[[metrics]]
name = "median_purchase"
numerator = "revenue"
quantile = 0.5
over = "events"

[[metrics]]
name = "median_purchase_2"
numerator = "revenue"
quantile = 0.5
over = "events"
method = "bootstrap"
draws = 250

[[metrics]]
name = "median_purchases"
numerator = "n_buy"
quantile = 0.5

[[metrics]]
name = "boot"
numerator = "revenue"
method = "bootstrap"
prior_sd = 0.05
draws = 250

[[metrics]]
name = "permuted"
numerator = "revenue"
denominator = "n_buy"
method = "permutation"
cap = 0.9
draws = 250
"""


@pytest.fixture(scope="module")
def log() -> dict[str, np.ndarray]:
    return events(n_users=600, lift=1.3)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("values") / "checkout.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def report(
    abtest: Command, log: dict[str, np.ndarray], config: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("report")
    path = write(folder / "log.parquet", log)
    result = abtest("analyze", path, "--config", config, "--out", str(folder))
    assert result.exit_code == 0, result.output
    (folder / "terminal.txt").write_text(result.stdout, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def found(report: Path) -> dict[str, Any]:
    return dict(json.loads((report / "report.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def revenue(log: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [per_user(log, arm, log["amount"]) for arm in ("old", "new")]


@pytest.fixture(scope="module")
def purchases(log: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [per_user(log, arm, (log["kind"] == "buy") * 1.0) for arm in ("old", "new")]


def row(found: dict[str, Any], part: str, metric: str) -> dict[str, Any]:
    last = {"from": 1, "to": found["experiment"]["days"]}
    (one,) = [r for r in found[part] if r["metric"] == metric and r.get("window", last) == last]
    return dict(one)


def test_a_capped_mean_is_welch_on_values_cut_at_the_pooled_quantile(
    found: dict[str, Any], revenue: list[np.ndarray]
) -> None:
    cap = np.quantile(np.concatenate(revenue), 0.95, method="inverted_cdf")
    old, new = (np.minimum(x, cap) for x in revenue)
    one = effect(found, "capped")
    assert one["method"] == "welch"
    assert one["control_mean"] == pytest.approx(old.mean(), rel=1e-12)
    assert one["p"] == pytest.approx(stats.ttest_ind(new, old, equal_var=False).pvalue, rel=1e-9)
    used = row(found, "caps", "capped")
    (one_cap,) = used["caps"]
    assert one_cap["value"] == pytest.approx(cap, rel=1e-12)
    assert one_cap["n_above"] == sum(int((x > one_cap["value"]).sum()) for x in revenue)


def test_a_capped_ratio_cuts_each_column_at_its_own_quantile_of_the_same_users(
    found: dict[str, Any], revenue: list[np.ndarray], purchases: list[np.ndarray]
) -> None:
    cuts = [np.quantile(np.concatenate(x), 0.9, method="inverted_cdf") for x in (revenue, purchases)]
    expected = np.minimum(revenue[1], cuts[0]).sum() / np.minimum(purchases[1], cuts[1]).sum()
    assert effect(found, "capped_basket")["treatment_mean"] == pytest.approx(expected, rel=1e-12)
    assert [cap["value"] for cap in row(found, "caps", "capped_basket")["caps"]] == pytest.approx(
        cuts, rel=1e-12
    )


def test_a_fixed_cap_cuts_the_numerator_and_equivalence_is_that_of_statsmodels(
    found: dict[str, Any], log: dict[str, np.ndarray]
) -> None:
    old, new = (np.minimum(per_user(log, arm, (log["kind"] == "view") * 1.0), 5) for arm in ("old", "new"))
    assert effect(found, "views")["control_mean"] == pytest.approx(old.mean(), rel=1e-12)
    one = row(found, "equivalence", "views")
    # the margin is a lift, of the control mean: statsmodels takes that as known
    margin = 0.02 * old.mean()
    p = ttost_ind(new, old, -margin, margin, usevar="unequal")[0]
    assert one["p_equivalent"] == pytest.approx(p, rel=0.05)
    assert one["result"] == "not shown"
    assert row(found, "equivalence", "capped_basket")["result"] == "equivalent"


def test_quantiles_are_those_of_numpy(
    found: dict[str, Any], log: dict[str, np.ndarray], revenue: list[np.ndarray]
) -> None:
    assert effect(found, "p90")["method"] == "quantile"
    assert effect(found, "p90")["treatment_mean"] == pytest.approx(
        np.quantile(revenue[1], 0.9, method="hazen"), rel=1e-9
    )
    bought = (log["kind"] == "buy") & (log["at"] >= log["at"].max() - 3 * 86_400_000 + 1)
    bought &= log["at"] >= 1_772_409_600_000
    amounts = log["amount"][bought & (log["variant"] == "old")]
    one, other = effect(found, "median_purchase"), effect(found, "median_purchase_2")
    assert one["control_mean"] == pytest.approx(np.quantile(amounts, 0.5, method="hazen"), rel=1e-9)
    assert other["control_mean"] == one["control_mean"]
    assert other["method"] == "quantile, bootstrap"
    widths = [e["difference_ci"][1] - e["difference_ci"][0] for e in (one, other)]
    assert widths[1] == pytest.approx(widths[0], rel=0.3)


def test_a_quantile_among_ties_is_absent_with_its_reason_in_every_report(
    found: dict[str, Any], report: Path
) -> None:
    one = effect(found, "median_purchases")
    assert one["status"] == "not_computable"
    assert (one["p"], one["difference_ci"], one["lift_ci"], one["mde"]) == (None,) * 4
    assert one["reason"].startswith("one value at the quantile holds 10 %")
    assert row(found, "bayes", "median_purchases")["reason"] == one["reason"]
    for name in ("report.md", "terminal.txt"):
        text = " ".join((report / name).read_text(encoding="utf-8").replace("\\_", "_").split())
        assert "Not computable for median_purchases: one value at the quantile holds 10 %" in text


def test_draws_replace_student_and_agree_with_him(
    found: dict[str, Any], revenue: list[np.ndarray], purchases: list[np.ndarray]
) -> None:
    one = effect(found, "boot")
    welch = stats.ttest_ind(revenue[1], revenue[0], equal_var=False)
    low, high = welch.confidence_interval()
    assert one["method"] == "bootstrap"
    assert one["difference"] == pytest.approx(revenue[1].mean() - revenue[0].mean(), rel=1e-9)
    assert one["difference_ci"] == pytest.approx([low, high], abs=0.2 * (high - low))
    assert (one["p"] < 0.05) == (one["difference_ci"][0] > 0) == (one["lift_ci"][0] > 0)
    assert effect(found, "permuted")["method"] == "permutation"
    cuts = [np.quantile(np.concatenate(x), 0.9, method="inverted_cdf") for x in (revenue, purchases)]
    expected = np.minimum(revenue[0], cuts[0]).sum() / np.minimum(purchases[0], cuts[1]).sum()
    assert effect(found, "permuted")["control_mean"] == pytest.approx(expected, rel=1e-12)


def test_the_bayesian_view_shrinks_towards_the_prior_and_states_it(
    found: dict[str, Any], report: Path
) -> None:
    flat, believed = (row(found, "bayes", name) for name in ("p90", "boot"))
    assert flat["prior"] is None
    assert believed["prior"] == {"mean": 0.0, "sd": 0.05}
    lift = effect(found, "boot")["lift"]
    assert 0 < believed["lift"] < lift
    assert believed["chance_to_win"] > 0.5
    assert 0 <= believed["loss_if_shipped"] < believed["loss_if_kept"]
    text = (report / "report.md").read_text(encoding="utf-8")
    for title in ("capped metrics", "equivalence", "Bayesian view"):
        assert f"## new against old: {title}\n" in text
    assert "normal, +0 % +- 5.0 %" in text


def test_the_rule_names_goals_that_are_tested_in_another_way() -> None:
    metrics = [
        Metric("a", "n_play", role="goal"),
        Metric("b", "n_play", role="goal", method="permutation"),
        Metric("c", "n_play", role="goal", quantile=0.5, method="bootstrap"),
    ]
    experiment = Experiment("x", (Arm("a"), Arm("b")), "a")
    assert "Not by Welch's t: b (permutation), c (quantile, bootstrap)." in rule_of(experiment, metrics)
    assert "Not by Welch" not in rule_of(experiment, metrics[:1])


def test_the_order_of_rows_does_not_matter(
    abtest: Command, log: dict[str, np.ndarray], found: dict[str, Any], tmp_path: Path
) -> None:
    few = tmp_path / "few.toml"
    few.write_text(CONFIG.split('[[metrics]]\nname = "p90"')[0], encoding="utf-8")
    order = np.random.default_rng(0).permutation(len(log["uid"]))
    path = write(tmp_path / "log.parquet", {name: column[order] for name, column in log.items()})
    again = document(abtest("analyze", path, "--config", str(few), "--json"))
    names = {metric["name"] for metric in again["metrics"]}
    for part in ("effects", "bayes", "caps", "equivalence"):
        assert again[part] == [r for r in found[part] if r["metric"] in names]


RUN_METRICS = """
[[metrics]]
name = "watch_capped"
numerator = "watch_ms"
cap = 0.9
role = "goal"
[[metrics]]
name = "view_median"
numerator = "watch_ms"
quantile = 0.5
over = "events"
[[metrics]]
name = "watch"
numerator = "watch_ms"
role = "goal"
[[metrics]]
name = "plays"
numerator = "n_play"
"""


def test_a_run_is_analysed_again_with_other_metrics(
    abtest: Command, finished_run: Path, tmp_path: Path
) -> None:
    from warehouse.store import UserTotals, Warehouse

    config = tmp_path / "metrics.toml"
    config.write_text(RUN_METRICS, encoding="utf-8")
    result = abtest("analyze", str(finished_run), "--config", str(config), "--json")
    found = document(result, result.exit_code)
    assert result.exit_code in (0, 3)
    assert [metric["name"] for metric in found["metrics"]] == [
        "watch_capped",
        "view_median",
        "watch",
        "plays",
    ]
    methods = {e["metric"]: e["method"] for e in found["effects"]}
    assert methods == {"watch_capped": "cuped", "view_median": "quantile", "watch": "cuped", "plays": "cuped"}
    looks = {test["metric"]: test["correlation"] for test in found["sequential"]}
    assert looks == {"watch_capped": "independent increments", "watch": "estimated"}
    with Warehouse.open(finished_run / "events.duckdb", read_only=True) as warehouse:
        name = found["experiment"]["name"]
        control = found["effects"][0]["control"]
        views = warehouse.event_values(name, (1, 2), "watch_ms")[control].values
        watched = [
            x.columns["watch_ms"]
            for x in warehouse.user_values(name, UserTotals((1, 2), ["watch_ms"])).values()
        ]
    cap = np.quantile(np.concatenate(watched), 0.9, method="inverted_cdf")
    assert row(found, "caps", "watch_capped")["caps"][0]["value"] == cap
    median = effect(found, "view_median", 1, 2)["control_mean"]
    assert abs(median - np.quantile(views, 0.5)) <= 1


def test_a_run_takes_its_metrics_from_its_file_and_the_warehouse_keeps_them(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("days = 2\n" + RUN_METRICS, encoding="utf-8")
    plan = prepare(settings_from(config, {"arms": "poprec,comirec"}))
    assert plan.settings.metrics is not None
    kept = json.loads(json.dumps(describe(plan, 0)))
    assert recorded_metrics(kept) == plan.settings.metrics
    write_json(tmp_path / "manifest.json", manifest(plan))
    assert reopen(tmp_path, config, {}).settings == plan.settings  # a run that was cut off has them too
    assert recorded_metrics({"name": "before there were declared metrics"}) == METRICS


def test_a_method_for_all_metrics_leaves_guardrails_and_named_ones(tmp_path: Path) -> None:
    declared = (
        Metric("a", "n_play"),
        Metric("b", "n_play", role="guardrail", margin=0.1),
        Metric("c", "n_play", quantile=0.5),
        Metric("d", "n_play", method="bootstrap"),
    )
    found = with_method(declared, "permutation", "x.toml")
    assert [metric.method for metric in found] == ["permutation", None, None, "bootstrap"]
    config = tmp_path / "run.toml"
    config.write_text('method = "bootstrap"\n', encoding="utf-8")
    asked = settings_from(config, {}).metrics
    assert asked is not None
    assert {metric.method for metric in asked} == {"bootstrap"}
    config.write_text('method = "jackknife"\n', encoding="utf-8")
    with pytest.raises(ValueError, match="method = 'jackknife' is unknown; allowed: bootstrap, permutation"):
        settings_from(config, {})


def test_a_recorded_run_keeps_what_is_not_a_metric(
    abtest: Command, finished_run: Path, tmp_path: Path
) -> None:
    config = tmp_path / "x.toml"
    config.write_text("days = 3\nalpha = 0.1\n" + RUN_METRICS, encoding="utf-8")
    result = abtest("analyze", str(finished_run), "--config", str(config))
    assert result.exit_code == 2
    assert "declares days, alpha; of a recorded run only metrics" in result.output


TRAPS = """
[map]
user = "u"
arm = "arm"
[[metrics]]
name = "capped"
numerator = "v"
cap = 0.9
[[metrics]]
name = "quantile"
numerator = "v"
quantile = 0.5
[[metrics]]
name = "events"
numerator = "v"
quantile = 0.5
over = "events"
[[metrics]]
name = "boot"
numerator = "v"
method = "bootstrap"
draws = 100
[[metrics]]
name = "permuted"
numerator = "v"
method = "permutation"
draws = 100
"""


@pytest.mark.parametrize(
    ("case", "computed"),
    [
        ("nan", ""),
        ("infinite", ""),
        ("nulls", "capped quantile events boot permuted"),
        ("negative", "capped quantile events boot permuted"),
        ("tiny", "capped quantile events boot permuted"),
        ("huge", "capped quantile events boot permuted"),
        ("wide integers", "capped quantile events boot permuted"),
        ("constant", ""),
        ("one user", ""),
    ],
)
def test_values_of_every_kind_give_a_number_or_a_reason(
    abtest: Command, tmp_path: Path, case: str, computed: str
) -> None:
    rng = np.random.default_rng(1)
    n = 200
    arms = np.array(["nouveau é", "old'; DROP--"] * (n // 2))
    v: list[Any] = (rng.normal(50, 3, n) + (arms == "nouveau é")).tolist()
    if case in ("nan", "infinite"):
        v[3] = float("nan") if case == "nan" else float("inf")
    if case == "nulls":
        v[::3] = [None] * len(v[::3])
    scale = {"negative": -1.0, "tiny": 1e-12, "huge": 1e12}.get(case, 1.0)
    v = [None if x is None else x * scale for x in v]
    if case == "wide integers":
        v = [int(x * 10**12) for x in v]
    if case == "constant":
        v = [7.0] * n
    if case == "one user":
        arms[2::2] = "old'; DROP--"
    path, config = tmp_path / "t.parquet", tmp_path / "t.toml"
    pq.write_table(pa.table({"u": [f"ü'{i}" for i in range(n)], "arm": arms, "v": v}), path)
    config.write_text('control = "old\'; DROP--"\n' + TRAPS, encoding="utf-8")
    code = 3 if case == "one user" else 0
    found = document(abtest("analyze", str(path), "--config", str(config), "--json"), code)
    for one in found["effects"]:
        if one["metric"] in computed.split():
            assert one["p"] is not None, one
            assert one["status"] == "ok", one
            assert (one["p"] < one["level"]) or one["p"] <= 1
        else:
            assert (one["p"], one["difference_ci"], one["status"]) == (None, None, "not_computable")
            assert one["reason"]
    by_name = {one["metric"]: one for one in found["effects"]}
    if computed and case != "nulls":
        values = np.array(v, float)
        expected = np.quantile(values[arms != "nouveau é"], 0.5, method="hazen")
        assert by_name["quantile"]["control_mean"] == pytest.approx(expected, rel=1e-9)
        assert by_name["boot"]["control_mean"] == pytest.approx(values[arms != "nouveau é"].mean(), rel=1e-9)


def test_an_arm_without_users_and_three_arms(abtest: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    path, config = tmp_path / "t.parquet", tmp_path / "t.toml"
    arms = np.array(["a", "b", "c"] * 60)
    v = rng.normal(50, 3, 180) + 3.0 * (arms == "c")
    pq.write_table(pa.table({"u": np.arange(180), "arm": arms, "v": v}), path)
    weights = 'control = "a"\nweights = { a = 1, b = 1, c = 1, none = 0 }\n'
    config.write_text(weights + TRAPS, encoding="utf-8")
    found = document(abtest("analyze", str(path), "--config", str(config), "--json"))
    for one in found["effects"]:
        if one["treatment"] == "none":
            assert (one["p"], one["status"], one["n_treatment"]) == (None, "not_computable", 0), one
        elif one["treatment"] == "c":
            assert one["p"] < 0.05, one
        else:
            assert one["p"] is not None, one
    shown = abtest("analyze", str(path), "--config", str(config)).stdout
    assert "none against a: Bayesian view" not in shown  # no goals there: nothing to be read


def test_metrics_that_need_users_values_are_refused_where_only_moments_are_given() -> None:
    settings = {
        "name": "x",
        "days": 1,
        "arms": [
            {"name": name, "model": None, "weight": 1.0, "role": role}
            for name, role in (("a", "control"), ("b", "treatment"))
        ],
    }
    from warehouse.store import Moments

    rows = [Moments(arm, (1, 1), 5, {}, {}) for arm in ("a", "b")]  # type: ignore[arg-type]
    with pytest.raises(LookupError, match="needs the values of users"):
        analyse(settings, rows, exposed={"a": 5, "b": 5}, metrics=[Metric("m", "n_play", quantile=0.5)])

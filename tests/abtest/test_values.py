"""Caps, quantiles, bootstrap, permutation, equivalence and the Bayesian view, from declaration to report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import ttost_ind

from abtest.experiment import Arm, Experiment
from abtest.metrics import Metric
from abtest.verdict import rule_of
from tests.abtest.conftest import Command, metric_toml
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
"""
CAPPED = (
    metric_toml("capped", "revenue", cap=0.95, role="goal")
    + metric_toml("capped_basket", "revenue", denominator="n_buy", cap=0.9, margin=0.9)
    + metric_toml("views", "n_view", cap_value=5, margin=0.02)
)
OTHERS = (
    metric_toml("p90", "revenue", quantile=0.9)
    + metric_toml("median_purchase", "revenue", quantile=0.5, over="events")
    + metric_toml("median_purchase_2", "revenue", quantile=0.5, over="events", method="bootstrap", draws=250)
    + metric_toml("median_purchases", "n_buy", quantile=0.5)
    + metric_toml("boot", "revenue", method="bootstrap", prior_sd=0.05, draws=250)
    + metric_toml("permuted", "revenue", denominator="n_buy", method="permutation", cap=0.9, draws=250)
)


@pytest.fixture(scope="module")
def log() -> dict[str, np.ndarray]:
    return events(n_users=600, lift=1.3)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("values") / "checkout.toml"
    path.write_text(CONFIG + CAPPED + OTHERS, encoding="utf-8")
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
    few.write_text(CONFIG + CAPPED, encoding="utf-8")
    order = np.random.default_rng(0).permutation(len(log["uid"]))
    path = write(tmp_path / "log.parquet", {name: column[order] for name, column in log.items()})
    again = document(abtest("analyze", path, "--config", str(few), "--json"))
    names = {metric["name"] for metric in again["metrics"]}
    for part in ("effects", "bayes", "caps", "equivalence"):
        assert again[part] == [r for r in found[part] if r["metric"] in names]

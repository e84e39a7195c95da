"""A recorded run measured by other metrics than its own: caps, quantiles, draws; and where it keeps them."""

import json
from pathlib import Path

import numpy as np
import pytest

from abtest.manifest import manifest, write_json
from abtest.metrics import METRICS, Metric, with_method
from abtest.recorded import recorded_metrics
from abtest.resume import reopen
from abtest.run import describe
from abtest.settings import prepare, settings_from
from tests.abtest.conftest import Command, metric_toml
from tests.abtest.test_logs import document, effect
from tests.abtest.test_values import row

RUN_METRICS = (
    metric_toml("watch_capped", "watch_ms", cap=0.9, role="goal")
    + metric_toml("view_median", "watch_ms", quantile=0.5, over="events")
    + metric_toml("watch", "watch_ms", role="goal")
    + metric_toml("plays", "n_play")
)


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

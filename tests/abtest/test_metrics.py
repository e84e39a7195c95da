"""Metrics are declarations that make sense and read what the warehouse has."""

from typing import Any

import pytest

from abtest.metrics import METRICS, Metric, columns_of
from warehouse.events import Kind

TOTALS = {f"n_{kind.name}" for kind in Kind} | {
    "watch_ms",
    "panel_ms",
    "profile_ms",
    "session_ms",
    "active_days",
}


def test_every_metric_reads_columns_that_the_warehouse_sums() -> None:
    assert set(columns_of(METRICS)) <= TOTALS


def test_the_columns_of_metrics_are_named_once() -> None:
    rate, plays = Metric("rate", "n_like", "n_play"), Metric("plays", "n_play")
    assert columns_of([rate, plays]) == ["n_like", "n_play"]


def test_names_differ_and_every_metric_is_described() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert all(metric.description for metric in METRICS)


def test_the_goals_are_the_engagement_metrics() -> None:
    goals = [metric.name for metric in METRICS if metric.role == "goal"]
    assert goals == ["comments", "shares", "plays", "follows", "watch_s"]


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"role": "target"}, "role 'target'"),
        ({"direction": "left"}, "direction 'left'"),
        ({"scale": 0}, "scale 0"),
        ({"role": "guardrail"}, "guardrails need a margin"),
        ({"role": "goal", "margin": 2.0}, "margin 2.0"),
        ({"cap": 120.0}, "cap 120.0; a quantile"),
        ({"cap": 0.99, "cap_value": 5.0}, "cap 0.99 and cap_value 5.0"),
        ({"cap_value": float("inf")}, "cap_value inf"),
        ({"quantile": 1.5}, "quantile 1.5"),
        ({"quantile": 0.5, "denominator": "n_impression"}, "a quantile has no denominator"),
        ({"quantile": 0.5, "cap": 0.9}, "a quantile has no cap"),
        ({"quantile": 0.5, "method": "permutation"}, "its methods: the default, or bootstrap"),
        ({"over": "events"}, "no quantile"),
        ({"over": "days", "quantile": 0.5}, "over 'days'"),
        ({"method": "t"}, "method 't'"),
        ({"method": "bootstrap", "role": "guardrail", "margin": 0.1}, "margins are tested by the default"),
        ({"method": "bootstrap", "draws": 10}, "draws 10"),
        ({"prior_sd": 0.0}, "prior_sd 0.0"),
        ({"role": "guardrail", "margin": 2.0}, "margin 2.0"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(declared: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Metric("x", "n_play", **declared)

"""Values of every kind under caps, quantiles and draws: a number, or a reason why there is none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abtest.analysis import analyse
from abtest.metrics import Metric
from tests.abtest.conftest import USERS, Command, analyse_table, metric_toml
from tests.abtest.test_logs import document

TRAPS = (
    USERS
    + metric_toml("capped", "v", cap=0.9)
    + metric_toml("quantile", "v", quantile=0.5)
    + metric_toml("events", "v", quantile=0.5, over="events")
    + metric_toml("boot", "v", method="bootstrap", draws=100)
    + metric_toml("permuted", "v", method="permutation", draws=100)
)


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
    users = {"u": [f"ü'{i}" for i in range(n)], "arm": arms, "v": v}
    config = 'control = "old\'; DROP--"\n' + TRAPS
    code = 3 if case == "one user" else 0
    found = document(analyse_table(abtest, tmp_path, users, config, "--json"), code)
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
    arms = np.array(["a", "b", "c"] * 60)
    v = rng.normal(50, 3, 180) + 3.0 * (arms == "c")
    users = {"u": np.arange(180), "arm": arms, "v": v}
    config = 'control = "a"\nweights = { a = 1, b = 1, c = 1, none = 0 }\n' + TRAPS
    found = document(analyse_table(abtest, tmp_path, users, config, "--json"))
    for one in found["effects"]:
        if one["treatment"] == "none":
            assert (one["p"], one["status"], one["n_treatment"]) == (None, "not_computable", 0), one
        elif one["treatment"] == "c":
            assert one["p"] < 0.05, one
        else:
            assert one["p"] is not None, one
    shown = analyse_table(abtest, tmp_path, users, config).stdout
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

"""The whole of `abtest analyze` against tea-tasting, an independent package, on the same random users."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from abtest.logs import analyse_log
from abtest.request import LogRequest
from tests.abtest.conftest import USERS, metric_toml

CONFIG = (
    'control = "a"\n'
    + USERS
    + metric_toml("mean", "x", covariates=[])
    + metric_toml("cuped", "x", covariates=["past_x"])
    + metric_toml("share", "bought", covariates=[])
    + metric_toml("ratio", "x", denominator="y", covariates=[])
    + metric_toml("decimal", "money", covariates=[])
)


def users(seed: int, n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arm = rng.random(n) < 0.5
    taste = rng.gamma(2, 3, n)
    y = 1 + rng.poisson(taste)
    return {
        "u": np.arange(n),
        "arm": np.where(arm, "b", "a"),
        "x": rng.poisson(y * (1 + 0.05 * arm)),
        "y": y,
        "past_x": rng.poisson(taste),
        "past_y": 1 + rng.poisson(taste),
        "bought": (rng.random(n) < 0.1 + 0.02 * arm).astype(int),
        "money": rng.lognormal(2, 1.5, n),
    }


def theta(users: dict[str, np.ndarray], arms: list[np.ndarray]) -> float:
    """Least squares of x on its past, around the means of these groups."""
    x, past = (
        np.concatenate([users[name][mask] - users[name][mask].mean() for mask in arms])
        for name in ("x", "past_x")
    )
    return float(x @ past / (past @ past))


@pytest.mark.parametrize(("seed", "n"), [(0, 400), (1, 20_000)])
def test_means_ratios_shares_and_cuped_are_those_of_tea_tasting(tmp_path: Path, seed: int, n: int) -> None:
    """Difference, its interval and p agree to rounding. With a covariate tea-tasting takes theta around the
    mean of all users and we around those of the arms: the difference is that of the thetas, exactly."""
    tt: Any = pytest.importorskip("tea_tasting", reason="tea-tasting is not installed (extra `test`)")
    drawn = users(seed, n)
    table = pa.table(drawn)
    pq.write_table(table, tmp_path / "users.parquet")
    (tmp_path / "x.toml").write_text(CONFIG, encoding="utf-8")
    request = LogRequest((str(tmp_path / "users.parquet"),), config=tmp_path / "x.toml")
    ours = {effect.metric: effect for effect in analyse_log(request).effects}
    oracle = tt.Experiment(
        {
            "mean": tt.Mean("x"),
            "cuped": tt.Mean("x", covariate="past_x"),
            "share": tt.Mean("bought"),
            "ratio": tt.RatioOfMeans("x", "y"),
            "decimal": tt.Mean("money"),
        },
        variant="arm",
    ).analyze(table, control="a")
    for name, effect in ours.items():
        theirs = oracle[name]
        found = [effect.difference, *(effect.difference_ci or ()), effect.p]
        expected = [
            theirs.effect_size,
            theirs.effect_size_ci_lower,
            theirs.effect_size_ci_upper,
            theirs.pvalue,
        ]
        if name == "cuped":
            assert found == pytest.approx(expected, rel=0.02)
            a, b = drawn["arm"] == "a", drawn["arm"] == "b"
            thetas = theta(drawn, [a | b]) - theta(drawn, [a, b])
            gap = drawn["past_x"][b].mean() - drawn["past_x"][a].mean()
            found, expected = found[:1], [expected[0] + thetas * gap]
        assert found == pytest.approx(expected, rel=1e-9), name

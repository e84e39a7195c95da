"""Segments in a report: against Welch, Holm and Cochran's Q of scipy and statsmodels on real files."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests

from abtest.stats.heterogeneity import cochran_q, lift_variance
from abtest.stats.means import Estimate
from tests.abtest.conftest import Command
from tests.abtest.test_logs import checks, document
from warehouse.events import DAY_MS

Columns = dict[str, np.ndarray]


def users_of(seed: int = 3, n: int = 3000) -> Columns:
    """Users whose country and platform are known; the lift is large in FI, none elsewhere."""
    rng = np.random.default_rng(seed)
    country = rng.choice(["FI", "SE", "日本"], n, p=[0.5, 0.3, 0.2])
    arm = rng.choice(["control", "new"], n)
    plays = rng.gamma(2, 3, n) * np.where((arm == "new") & (country == "FI"), 1.4, 1)
    return {
        "u": np.arange(n),
        "arm": arm,
        "country": country,
        "platform": rng.choice(["ios", "web"], n),
        "plays": plays,
        "shares": rng.poisson(0.5, n),
    }


@pytest.fixture(scope="module")
def users() -> Columns:
    return users_of()


@pytest.fixture(scope="module")
def path(users: Columns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("segments") / "users.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.register("t", pa.table(users))
        connection.execute("CREATE TABLE users AS FROM t")
    return path


@pytest.fixture(scope="module")
def found(path: Path, abtest: Command) -> dict[str, Any]:
    options = ("--map", "user=u,arm=arm", "--segments", "country,platform", "--json")
    return document(abtest("analyze", str(path), *options))


def test_each_segment_is_welch_on_its_users_and_all_are_corrected_together(
    found: dict[str, Any], users: Columns
) -> None:
    p_values = []
    for effect in found["segments"]:
        inside = users[effect["dimension"]] == effect["segment"]
        x = users[effect["metric"]]
        control, new = (x[inside & (users["arm"] == arm)] for arm in ("control", "new"))
        oracle = stats.ttest_ind(new, control, equal_var=False)
        assert (effect["n_control"], effect["n_treatment"]) == (len(control), len(new))
        assert effect["p"] == pytest.approx(oracle.pvalue, rel=1e-9)
        p_values.append(oracle.pvalue)
    assert len(p_values) == 2 * (3 + 2)
    adjusted = multipletests(p_values, method="holm")[1]
    assert [effect["p_adjusted"] for effect in found["segments"]] == pytest.approx(adjusted, rel=1e-9)
    for effect in found["segments"]:
        low, high = effect["lift_ci"]
        assert (low > 0 or high < 0) == (effect["p_adjusted"] < 0.05)
    assert [e["segment"] for e in found["segments"][:3]] == ["FI", "SE", "日本"]  # the largest first


def test_heterogeneity_is_cochrans_q_of_the_lifts(found: dict[str, Any], users: Columns) -> None:
    tests = {(t["dimension"], t["metric"]): t for t in found["heterogeneity"]}
    p_values = []
    for (dimension, metric), test in tests.items():
        lifts, variances = [], []
        for segment in np.unique(users[dimension]):
            inside = users[dimension] == segment
            control, new = (users[metric][inside & (users["arm"] == arm)] for arm in ("control", "new"))
            c, t = control.mean(), new.mean()
            lifts.append(t / c - 1)
            variances.append(
                new.var(ddof=1) / len(new) / c**2 + t**2 / c**4 * control.var(ddof=1) / len(control)
            )
        oracle = combine_effects(np.array(lifts), np.array(variances)).test_homogeneity()
        assert test["q"] == pytest.approx(oracle.statistic, rel=1e-8)
        assert (test["df"], test["n_segments"]) == (len(lifts) - 1, len(lifts))
        assert test["p"] == pytest.approx(oracle.pvalue, rel=1e-8)
        p_values.append(oracle.pvalue)
    adjusted = multipletests(p_values, method="holm")[1]
    assert [test["p_adjusted"] for test in tests.values()] == pytest.approx(adjusted, rel=1e-8)
    assert tests["country", "plays"]["p_adjusted"] < 0.001
    assert tests["platform", "plays"]["p_adjusted"] > 0.05


def test_the_segments_stand_in_all_reports_and_their_users_are_checked(
    found: dict[str, Any], path: Path, abtest: Command, tmp_path: Path
) -> None:
    options = ("--map", "user=u,arm=arm", "--segments", "country,platform", "--out", str(tmp_path))
    result = abtest("analyze", str(path), *options)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    for text in (result.stdout, markdown):
        for words in (
            "new against control: by country",
            "日本",
            "by platform",
            "Does the lift of plays differ",
        ):
            assert words in text
    assert checks(found)["sample_ratio_by_segment"] == "ok"


def test_an_arm_that_loses_users_of_one_segment_fails_its_check(
    users: Columns, abtest: Command, tmp_path: Path
) -> None:
    kept = ~((users["arm"] == "new") & (users["country"] == "日本") & (users["u"] % 3 > 0))
    pq.write_table(
        pa.table({name: column[kept] for name, column in users.items()}), tmp_path / "lost.parquet"
    )
    options = ("--map", "user=u,arm=arm", "--segments", "country", "--json")
    lost = document(abtest("analyze", str(tmp_path / "lost.parquet"), *options), 3)
    assert checks(lost)["sample_ratio_by_segment"] == "failed"
    assert lost["verdict"]["decision"] == "invalid"


def test_more_than_twenty_segments_are_the_largest_twenty_and_all_others(
    users: Columns, abtest: Command, tmp_path: Path
) -> None:
    city = np.where(users["u"] % 60 < 30, users["u"] % 2, users["u"] % 60)
    pq.write_table(pa.table({**users, "city": city.astype(str)}), tmp_path / "cities.parquet")
    options = ("--map", "user=u,arm=arm", "--segments", "city", "--json")
    shown = document(abtest("analyze", str(tmp_path / "cities.parquet"), *options))["segments"]
    names = list(dict.fromkeys(e["segment"] for e in shown))
    assert (len(names), names[-1]) == (21, "(others)")
    of_plays = [e for e in shown if e["metric"] == "plays"]
    assert sum(e["n_control"] + e["n_treatment"] for e in of_plays) == len(users["u"])


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        ("town", "; its columns: u, arm, country, platform, plays, shares"),
        ("country,", "--segments 'country,' are no columns, each once"),
        ("country,country", "are no columns, each once"),
        ("u", "segment 'u' has more than 1,000 values; map a column with fewer"),
    ],
)
def test_segments_that_cannot_be_are_one_sentence(
    path: Path, abtest: Command, segments: str, words: str
) -> None:
    result = abtest("analyze", str(path), "--map", "user=u,arm=arm", "--segments", segments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


def test_a_run_parts_users_by_their_plays_before_it(finished_run: Path, abtest: Command) -> None:
    found = document(abtest("analyze", str(finished_run), "--json"))
    names = list(dict.fromkeys(e["segment"] for e in found["segments"]))
    assert [name.split()[0] for name in names][-3:] == ["light", "middle", "heavy"]
    start = found["experiment"]["start_ts"]
    sql = f"""
      SELECT arm, n, count(*) FROM (
        SELECT x.user, any_value(x.arm) AS arm, count(e.ts) AS n FROM exposures x LEFT JOIN events e
          ON e.user = x.user AND e.kind = 2 AND e.ts < {start} AND e.ts >= {start - DAY_MS} GROUP BY x.user)
      GROUP BY ALL"""
    with duckdb.connect(str(finished_run / "events.duckdb"), read_only=True) as connection:
        rows = connection.execute(sql).fetchall()
    control = found["effects"][0]["control"]
    for name in names:
        numbers = [
            int(text.replace(",", "")) for text in name.split("(")[1].split()[0].split("-") if text != "no"
        ]
        low, high = (0, 0) if not numbers else (numbers[0], 10**9 if "more" in name else numbers[-1])
        seen = next(e for e in found["segments"] if e["segment"] == name)
        assert seen["n_control"] == sum(
            n for arm, plays, n in rows if arm == control and low <= plays <= high
        )
    assert checks(found)["sample_ratio_by_segment"] == "ok"
    refused = abtest("analyze", str(finished_run), "--segments", "country")
    assert (refused.exit_code, "--map" in refused.stderr) == (2, True)


@pytest.mark.parametrize("k", [2, 5])
def test_cochrans_q_is_that_of_statsmodels(k: int) -> None:
    rng = np.random.default_rng(k)
    values, variances = rng.normal(0, 1, k), rng.uniform(0.1, 2, k)
    oracle = combine_effects(values, variances).test_homogeneity()
    found = cochran_q(list(values), list(variances))
    assert (found.q, found.df, found.p) == pytest.approx((oracle.statistic, k - 1, oracle.pvalue), rel=1e-10)


def test_too_few_segments_and_a_control_of_0_have_no_test() -> None:
    with pytest.raises(ValueError, match="1 values with 1 variances; give two or more"):
        cochran_q([1.0], [1.0])
    assert lift_variance(Estimate(9, 0.0, 1.0), Estimate(9, 1.0, 1.0)) is None

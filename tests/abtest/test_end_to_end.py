"""`abtest run` from the command line to the report, checked against plain SQL over its database."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import Result

from abtest.metrics import METRICS
from warehouse.events import DAY_MS

Command = Callable[..., Result]

TINY = ("--users", "150", "--days", "1")

PER_USER = """
    select x.arm, x.user,
           count(*) filter (e.kind = 1) impressions, count(*) filter (e.kind = 2) plays,
           count(*) filter (e.kind = 5) comments, count(*) filter (e.kind = 6) shares,
           count(*) filter (e.kind = 7) follows, coalesce(sum(e.value) filter (e.kind = 1), 0) watch_ms,
           count(distinct case when e.kind = 1 then e.ts // {day} end) active_days
    from exposures x left join events e
      on e.user = x.user and e.ts >= x.first_ts and e.ts >= {start} and e.ts < {end}
    where x.first_ts < {end}
    group by all
"""


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def event_hash(folder: Path) -> str:
    return json.loads((folder / "manifest.json").read_text())["event_hash"]


def steady(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in ("timings", "versions")}


@pytest.fixture(scope="module")
def tiny_run(run_small: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of TINY whose models lie in the folder `models` beside it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    run_small(folder, "poprec,comirec", *TINY, "--checkpoints", str(folder.parent / "models"))
    return folder


def test_the_report_has_every_key_of_its_contract(finished_run: Path) -> None:
    document = report(finished_run)
    assert set(document) >= {
        *("schema_version", "experiment", "exposed", "checks", "effects", "candidate_overlap", "verdict"),
        *("truth", "versions", "timings"),
    }
    assert set(document["experiment"]) >= {"name", "arms", "days", "seed", "n_users", "salt", "stage"}
    windows = {(effect["window"]["from"], effect["window"]["to"]) for effect in document["effects"]}
    assert windows == {(1, 1), (2, 2), (1, 2)}
    assert {effect["metric"] for effect in document["effects"]} == {metric.name for metric in METRICS}
    assert (finished_run / "report.md").read_text().startswith("#")


@pytest.mark.parametrize(
    ("metric", "column", "scale"),
    [
        ("comments", "comments", 1),
        ("shares", "shares", 1),
        ("plays", "plays", 1),
        ("follows", "follows", 1),
        ("watch_s", "watch_ms", 1000),
        ("impressions", "impressions", 1),
        ("active_days", "active_days", 1),
    ],
)
def test_counts_means_and_differences_equal_plain_sql_to_the_last_digit(
    finished_run: Path, metric: str, column: str, scale: int
) -> None:
    with duckdb.connect(str(finished_run / "events.duckdb"), read_only=True) as db:
        for effect in (e for e in report(finished_run)["effects"] if e["metric"] == metric):
            start = DAY_MS * effect["window"]["from"]  # one day of warm-up
            end = DAY_MS * (1 + effect["window"]["to"])
            rows = db.execute(
                f"select arm, count(*), sum({column})::double / count(*) / {scale}"
                f" from ({PER_USER.format(start=start, end=end, day=DAY_MS)}) group by arm"
            ).fetchall()
            found = {arm: (n, mean) for arm, n, mean in rows}
            control, treatment = found[effect["control"]], found[effect["treatment"]]
            assert (effect["n_control"], effect["n_treatment"]) == (control[0], treatment[0])
            assert (effect["control_mean"], effect["treatment_mean"]) == (control[1], treatment[1])
            (cuped,) = (
                row
                for row in report(finished_run)["cuped"]
                if (row["metric"], row["window"]) == (metric, effect["window"])
            )
            assert cuped["unadjusted_difference"] == treatment[1] - control[1]


def test_a_run_has_both_arms_and_real_engagement(finished_run: Path) -> None:
    exposed = report(finished_run)["exposed"]
    assert set(exposed) == {"poprec", "comirec"}
    assert min(exposed.values()) > 50
    plays = next(e for e in report(finished_run)["effects"] if e["metric"] == "plays")
    assert plays["control_mean"] > 1


def test_the_same_seed_gives_the_same_report_and_events_and_another_seed_does_not(
    finished_run: Path, tiny_run: Path, run_small: Command, tmp_path: Path
) -> None:
    run_small(tmp_path / "again", "poprec,comirec")
    run_small(tmp_path / "other", "poprec,comirec", *TINY, "--seed", "1")
    assert steady(report(tmp_path / "again")) == steady(report(finished_run))
    assert event_hash(tmp_path / "again") == event_hash(finished_run)
    assert event_hash(tmp_path / "other") != event_hash(tiny_run)


def test_two_names_of_one_model_share_a_checkpoint_and_are_an_a_a(run_small: Command, tmp_path: Path) -> None:
    run_small(tmp_path / "aa", "comirec,comirec", *TINY)
    assert len(list((tmp_path / "aa/checkpoints").iterdir())) == 1
    document = report(tmp_path / "aa")
    assert [arm["name"] for arm in document["experiment"]["arms"]] == ["comirec", "comirec-2"]
    assert document["candidate_overlap"]["pairs"][0]["share"] == 1


def test_a_checkpoint_of_an_equal_run_is_reused(tiny_run: Path, run_small: Command, tmp_path: Path) -> None:
    models = tiny_run.parent / "models"
    before = {path: path.stat().st_mtime_ns for path in models.iterdir()}
    assert before
    run_small(tmp_path / "two", "poprec,comirec", *TINY, "--checkpoints", str(models))
    assert {path: path.stat().st_mtime_ns for path in models.iterdir()} == before
    assert steady(report(tiny_run)) == steady(report(tmp_path / "two"))


def test_analyze_repeats_the_report_from_the_database_alone(finished_run: Path, abtest: Command) -> None:
    result = abtest("analyze", str(finished_run), "--json")
    assert result.exit_code in (0, 3), result.output
    assert json.loads(result.stdout)["effects"] == report(finished_run)["effects"]


def test_an_own_model_is_an_arm_by_its_import_path(
    run_small: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mymodels.py").write_text(
        "import numpy as np\n"
        "class Newest:\n"
        "    def fit(self, interactions, progress=None):\n"
        "        self.items = np.arange(interactions.n_items, 0, -1)\n"
        "        return self\n"
        "    def recommend(self, users, histories, k, exclude):\n"
        "        return np.stack([self.items[~np.isin(self.items, row)][:k] for row in exclude])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    run_small(tmp_path / "own", "poprec,mine=mymodels:Newest", "--stage", "feed", *TINY)
    assert set(report(tmp_path / "own")["exposed"]) == {"poprec", "mine"}


def test_the_pre_period_takes_variance_out_and_daily_looks_have_bounds(finished_run: Path) -> None:
    document = report(finished_run)
    plays = [row for row in document["cuped"] if row["metric"] == "plays"]
    assert all(row["status"] == "ok" and row["covariates"] == ["pre_n_play"] for row in plays)
    assert all(0 < row["variance_reduction"] < 1 for row in plays)
    tests = {test["metric"]: test for test in document["sequential"]}
    goals = {metric.name for metric in METRICS if metric.role == "goal"}
    assert set(tests) <= goals
    for test in tests.values():
        assert test["correlation"] == "estimated"
        assert test["looks"][-1]["information"] == 1
        assert test["looks"][-1]["alpha_spent"] == pytest.approx(test["alpha"], rel=1e-9)
    assert "O'Brien and Fleming" in document["verdict"]["rule"]


def test_a_run_passes_the_checks_of_its_days_and_of_its_assignment(
    abtest: Command, finished_run: Path
) -> None:
    document = json.loads(abtest("analyze", str(finished_run), "--json").stdout)
    checks = {check["name"]: check["status"] for check in document["checks"]}
    names = ("sample_ratio_assigned", "assignment", "sample_ratio_by_day", "missing_days", "late_data")
    assert [checks[name] for name in names] == ["ok"] * 5


def test_a_run_whose_users_were_served_another_arm_is_invalid(
    abtest: Command, finished_run: Path, tmp_path: Path
) -> None:
    """As after a wrong salt in a second service: the arms hold the right numbers of the wrong users."""
    path = tmp_path / "events.duckdb"
    shutil.copy(finished_run / "events.duckdb", path)
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "UPDATE exposures SET arm = CASE arm WHEN 'poprec' THEN 'comirec' ELSE 'poprec' END "
            "WHERE user < 50"
        )
    result = abtest("analyze", str(path), "--json")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert document["checks"][0]["name"] == "assignment"
    assert document["verdict"]["decision"] == "invalid"

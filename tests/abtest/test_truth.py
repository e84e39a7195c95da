"""`abtest truth`: lives held against the run itself, in which the same users live the same days."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from click.testing import Result

from abtest.progress import Progress
from abtest.stats.paired import SAME_LIVES
from abtest.truth import NO_TWINS, find_truth, overlap, prepare

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def lived(finished_run: Path, abtest: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose truth was found, with its lives."""
    folder = tmp_path_factory.mktemp("truth") / "run"
    shutil.copytree(finished_run, folder)
    result = abtest("truth", str(folder), "--keep", "--quiet")
    assert result.exit_code == 0, result.output
    assert "Less variance" in result.output
    return folder


def truth_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "truth.json").read_text())


def effect(found: dict[str, Any], metric: str, last_day: int = 2) -> dict[str, Any]:
    (one,) = [e for e in found["effects"] if e["metric"] == metric and e["window"]["to"] == last_day]
    return one


def test_users_live_in_the_run_as_in_the_life_under_their_arm(lived: Path) -> None:
    start = json.loads((lived / "report.json").read_text())["experiment"]["start_ts"]
    with duckdb.connect(str(lived / "events.duckdb"), read_only=True) as db:
        for i, arm in enumerate(("poprec", "comirec")):
            db.execute(f"ATTACH '{lived}/lives/arm-{i + 1}.duckdb' AS life_{i} (READ_ONLY)")
            mine = f"user IN (SELECT user FROM exposures WHERE arm = '{arm}')"
            rows = [
                f"SELECT * FROM {place} WHERE ts >= {start} AND {mine}"
                for place in ("events", f"life_{i}.events")
            ]
            (n,) = db.execute(f"SELECT count(*) FROM ({rows[0]})").fetchone() or (0,)
            (missing,) = db.execute(f"SELECT count(*) FROM ({rows[0]} EXCEPT {rows[1]})").fetchone() or (1,)
            (more,) = db.execute(f"SELECT count(*) FROM ({rows[1]} EXCEPT {rows[0]})").fetchone() or (1,)
            assert (n > 1000, missing, more) == (True, 0, 0)


@pytest.mark.parametrize(("metric", "kind"), [("plays", 2), ("likes", 4), ("impressions", 1)])
@pytest.mark.parametrize("last_day", [1, 2])
def test_values_are_those_of_plain_sql_over_the_lives(
    lived: Path, metric: str, kind: int, last_day: int
) -> None:
    found = effect(truth_of(lived), metric, last_day)
    end = (1 + last_day) * 86_400_000
    for i, mean in enumerate((found["control_mean"], found["treatment_mean"])):
        with duckdb.connect(f"{lived}/lives/arm-{i + 1}.duckdb", read_only=True) as db:
            (expected,) = db.execute(
                f"SELECT (SELECT count(*) FROM events WHERE kind = {kind} AND ts < {end})"
                f" / (SELECT count(*) FROM exposures WHERE first_ts < {end})"
            ).fetchone() or (None,)
        assert mean == pytest.approx(expected, rel=1e-12)


def test_comments_and_shares_are_counted_by_their_chances(lived: Path) -> None:
    """Within four standard errors of the events, and not the events themselves."""
    for metric, kind in (("comments", 5), ("shares", 6)):
        found = effect(truth_of(lived), metric)
        assert found["from"] == "chances"
        for i, mean in enumerate((found["control_mean"], found["treatment_mean"])):
            with duckdb.connect(f"{lived}/lives/arm-{i + 1}.duckdb", read_only=True) as db:
                n, users = db.execute(
                    f"SELECT (SELECT count(*) FROM events WHERE kind = {kind}),"
                    " (SELECT count(*) FROM exposures)"
                ).fetchone() or (0, 1)
            assert 0 < abs(mean - n / users) < 4 * (mean / users) ** 0.5
    assert effect(truth_of(lived), "plays")["from"] == "events"


def test_twins_see_smaller_effects_than_a_split(lived: Path) -> None:
    report = json.loads((lived / "report.json").read_text())
    assert report["truth"] == truth_of(lived)
    for metric in ("plays", "impressions", "play_rate"):
        found = effect(report["truth"], metric)
        assert found["less_variance"] > 1.5
        assert found["lift_ci"][0] <= found["lift"] <= found["lift_ci"][1]
    (share,) = [pair["share"] for pair in report["truth"]["feeds"]]
    assert 0.1 < share < 1


def test_splits_of_the_lives_reject_equal_arms_once_in_twenty(lived: Path) -> None:
    found = {split["metric"]: split for split in truth_of(lived)["splits"]}
    for metric in ("plays", "watch_s", "impressions", "sessions"):
        assert 0.04 < found[metric]["false_positives"] < 0.06, metric
        assert found[metric]["coverage"] > 0.94, metric
    assert found["plays"]["power"] > found["plays"]["false_positives"]


def test_the_truth_stands_in_every_report(lived: Path, abtest: Command) -> None:
    lift = f"{100 * effect(truth_of(lived), 'play_rate')['lift']:+.1f}"
    lines = (lived / "report.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("| play\\_rate") and "times" in line]
    assert lift in line
    again = abtest("analyze", str(lived), "--json")
    assert json.loads(again.output)["truth"] == truth_of(lived)
    known = abtest("truth", str(lived), "--json", "--quiet")
    assert json.loads(known.output) == truth_of(lived)


class Stops(Progress):
    """Breaks off when the second life begins."""

    def stage(self, name: str) -> Any:
        if name == "life under comirec":
            raise KeyboardInterrupt
        return super().stage(name)


@pytest.mark.parametrize("shards", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_shards_and_a_break_change_nothing(
    shards: int, lived: Path, finished_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    with pytest.raises(KeyboardInterrupt):
        find_truth(prepare(folder, shards), Stops(quiet=True))
    assert not (folder / "truth.json").exists()
    assert (folder / f"lives-{shards}" / "life-0" / "midnights").is_dir()
    assert find_truth(prepare(folder, shards), Progress(quiet=True)) == truth_of(lived)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in lived.iterdir() if path.name != "lives"
    )


def test_equal_arms_differ_by_exactly_0_and_only_users_in_the_experiment_count(
    run_small: Command, tmp_path: Path
) -> None:
    folder, config = tmp_path / "run", tmp_path / "metrics.toml"
    config.write_text(
        '[[metrics]]\nname = "plays"\nnumerator = "n_play"\n'
        '[[metrics]]\nname = "rate"\nnumerator = "n_play"\ndenominator = "n_impression"\n'
        '[[metrics]]\nname = "capped"\nnumerator = "n_play"\ncap_value = 50\n'
    )
    flags = ["--users", "150", "--days", "1", "--holdout", "30", "--explore", "20", "--config", str(config)]
    result = run_small(folder, "poprec,poprec", *flags, "--truth")
    assert "every user did the same in both lives" in " ".join(result.output.split())
    found = truth_of(folder)
    assert [(e["metric"], e["difference"], e["lift"], e["reason"]) for e in found["effects"]] == [
        ("plays", 0.0, 0.0, SAME_LIVES),
        ("rate", 0.0, 0.0, SAME_LIVES),
        ("capped", None, None, NO_TWINS),
    ]
    assert all(e["control_mean"] > 0 for e in found["effects"][:2])
    assert found["feeds"] == [{"arms": ["poprec", "poprec-2"], "share": 1.0}]
    population = json.loads((folder / "report.json").read_text())["experiment"]["population"]
    assert found["users"] == population["in_experiment"] < 150
    assert f"Not computable for capped: {NO_TWINS}." in (folder / "report.md").read_text()


def test_the_overlap_of_feeds_counts_what_both_lives_met() -> None:
    assert overlap(np.array([1, 2, 3]), np.array([2, 3, 4, 5])) == pytest.approx(4 / 7)
    assert overlap(np.zeros(0, np.int64), np.zeros(0, np.int64)) is None


def test_what_has_no_truth_is_one_sentence(
    lived: Path, finished_run: Path, abtest: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    written = json.loads((folder / "manifest.json").read_text())

    def refused(*words: str, place: Path = folder, flags: tuple[str, ...] = ()) -> None:
        result = abtest("truth", str(place), *flags, "--quiet")
        assert result.exit_code == 2, result.output
        assert len(result.output.strip().splitlines()) == 1
        assert all(word in result.output for word in words)

    refused("no run to live again", place=tmp_path)
    refused("workers is 0; 1 to 600", flags=("--workers", "0"))
    known = tmp_path / "known"
    shutil.copytree(lived, known, ignore=shutil.ignore_patterns("lives"))
    refused("lives were not kept", "truth.json", place=known, flags=("--keep",))
    (known / "truth.json").write_text("{")
    refused("truth.json cannot be read (", "remove it", place=known)
    (known / "truth.json").write_text("[]")
    refused("holds no truth of a run", place=known)
    (folder / "report.json").rename(folder / "elsewhere.json")
    refused("has no report.json any more")
    (folder / "manifest.json").write_text(json.dumps({**written, "code": "other"}))
    refused("the code of the run", "has changed since it began (from other to")
    (folder / "manifest.json").write_text(json.dumps({**written, "finished": False}))
    refused("is not finished; go on with abtest run --resume")
    assert not list(folder.glob("lives*"))

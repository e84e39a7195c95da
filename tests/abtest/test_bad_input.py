"""Bad input ends in one sentence, exit code 2, and nothing written."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import Result

Command = Callable[..., Result]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--arms", "comirec,recgtp"], ["recgtp", "Did you mean 'recgpt'"]),
        (["--arms", "a=poprec,a=comirec"], ["'a'", "twice"]),
        (["--arms", "comirec"], ["two arms"]),
        (["--arms", "poprec,x=nowhere.at_all:Model"], ["nowhere.at_all"]),
        (["--arms", "poprec,x=json:Nothing"], ["Nothing"]),
        (["--days", "0"], ["days is 0", "1 or more"]),
        (["--users", "0"], ["users is 0"]),
        (["--users", "-5"], ["users is -5"]),
        (["--warmup-days", "0"], ["warmup-days is 0"]),
        (["--split", "50,40"], ["sums to 90"]),
        (["--split", "50,x"], ["'50,x'"]),
        (["--split", "nan,50"], ["nan"]),
        (["--name", "a/b"], ["'a/b'"]),
        (["--checkpoints", f"{__file__}/x", "--arms", "poprec,poprec"], ["cannot write"]),
        (["--split", "50,25,25"], ["3 parts for 2 arms"]),
        (["--control", "nobody"], ["nobody"]),
        (["--seed", "-1"], ["seed is -1"]),
        (["--stage", "ranking"], ["ranking", "retrieval, feed"]),
        (["--device", "tpu"], ["tpu"]),
        (["--retrain", "daily"], ["'daily'", "frozen, own, pooled"]),
        (["--retrain-epochs", "1"], ["retrain-epochs is 1", "2 or more"]),
        (["--explore", "101"], ["explore is 101", "0 to 100"]),
        (["--uploads", "-1"], ["uploads is -1", "0 to 100"]),
        (["--uploads", "nan"], ["uploads is nan", "0 to 100"]),
        (["--uploads", "5", "--sequences", "x"], ["uploads is 5", "built from --sequences", "leave one"]),
        (["--log", "no/such/log"], ["no/such/log"]),
        (["--layer", "feed:0-50", "--beside", "x:40-60"], ["'x' (40-60)", "overlap in layer 'feed'"]),
        (["--layer", "feed:50"], ["'feed:50' is not NAME:FROM-TO"]),
        (["--layer", "feed:50-20"], ["the range 50-20", "ends above its start"]),
        (["--beside", "x:40-60"], ["no layer is named"]),
        (["--holdout", "100"], ["the holdout is 100 percent"]),
        (["--phases", "1:50,2:20"], ["covers 20 percent", "coverage may only grow"]),
        (["--phases", "1:50,9:100"], ["day 9 of an experiment of 5 days"]),
        (["--phases", "soon"], ["'soon' is not DAY:PERCENT"]),
        (["--hashing", "md5"], ["'md5'", "blake2b, growthbook"]),
    ],
)
def test_one_sentence_and_exit_code_2(
    flags: list[str], words: list[str], tmp_path: Path, abtest: Command
) -> None:
    result = abtest("run", *flags, "--out", str(tmp_path / "run"))
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ('numerator = "n_foo"', ["'n_foo'", "no total of a run's users", "n_play"]),
        ('numerator = "n_play"\ndenominator = "n_foo"', ["'n_foo'"]),
        ('numerator = "n_play"\ncovariates = ["past_plays"]', ["'past_plays'"]),
        ('numerator = "n_play"\nfirst_days = 6', ["first 6 days", "has 5"]),
        ('numerator = "n_play"\nquantile = 0.5\nover = "events"', ["hold no value", "watch_ms"]),
    ],
)
def test_a_metric_that_cannot_be_is_found_before_the_run(
    metric: str, words: list[str], tmp_path: Path, abtest: Command
) -> None:
    (tmp_path / "x.toml").write_text(f'[[metrics]]\nname = "x"\n{metric}\n', encoding="utf-8")
    result = abtest("run", "--config", str(tmp_path / "x.toml"), "--out", str(tmp_path / "run"))
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert not (tmp_path / "run").exists()


def test_a_log_with_a_broken_file_is_refused(tmp_path: Path, abtest: Command) -> None:
    log = tmp_path / "log"
    log.mkdir()
    (log / "kuairand_pure_log_0425_0508.parquet").write_text("not parquet")
    result = abtest("run", "--log", str(log), "--out", str(tmp_path / "run"))
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("days = ", ["not valid TOML"]),
        ("dayz = 3", ["unknown key 'dayz'"]),
        ("days = 'three'", ["days", "whole number"]),
        ("days = 0", ["days is 0"]),
        ("[[phases]]\nday = 1\nshare = 3", ["unknown key 'share'"]),
        ("[[phases]]\nday = 1\nsplit = '50'", ["1 parts for 2 arms"]),
        ("phases = [3]", ["a phase is 3"]),
        ("phases = 3", ["phases = 3", "[[phases]]"]),
    ],
)
def test_a_broken_configuration_is_refused(
    text: str, words: list[str], tmp_path: Path, abtest: Command
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(text)
    result = abtest("run", "--config", str(config), "--out", str(tmp_path / "run"))
    assert result.exit_code == 2, result.output
    assert all(word in result.stderr for word in words), result.stderr
    assert not (tmp_path / "run").exists()


def test_flags_win_over_the_configuration(tmp_path: Path, abtest: Command) -> None:
    config = tmp_path / "run.toml"
    config.write_text("days = 0\n")
    result = abtest(
        "run", "--config", str(config), "--days", "1", "--users", "0", "--out", str(tmp_path / "run")
    )
    assert "users is 0" in result.stderr


def test_a_run_folder_in_use_is_left_as_it_is(tmp_path: Path, abtest: Command) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = abtest("run", "--arms", "poprec,poprec", "--out", str(tmp_path))
    assert result.exit_code == 2
    assert "in use" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_unwritable_run_folder_is_refused(tmp_path: Path, abtest: Command) -> None:
    (tmp_path / "file").write_text("")
    result = abtest("run", "--arms", "poprec,poprec", "--out", str(tmp_path / "file" / "run"))
    assert result.exit_code == 2
    assert "cannot write run folder" in result.stderr


def test_analysing_what_is_not_there_is_refused(tmp_path: Path, abtest: Command) -> None:
    result = abtest("analyze", str(tmp_path))
    assert result.exit_code == 2
    assert "no database" in result.stderr


def test_debug_shows_the_traceback(abtest: Command) -> None:
    result = abtest("run", "--days", "0", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr


def test_more_users_than_the_log_has_are_refused(abtest: Command, tmp_path: Path) -> None:
    log = Path(__file__).parents[2] / "../shared/data/kuairand"
    if not log.exists():
        pytest.skip("needs ../shared/data")
    result = abtest("run", "--log", str(log), "--users", "1000000", "--out", str(tmp_path / "run"))
    assert result.exit_code == 2, result.output
    assert "users is 1000000" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_full_disk_ends_in_one_sentence_and_the_run_goes_on_later(tmp_path: Path, abtest: Command) -> None:
    """No file may grow above 500 kB, which the database does. Then it may, and the run goes on to its end."""
    flags = [
        "--arms",
        "poprec,poprec",
        "--users",
        "60",
        "--days",
        "1",
        "--warmup-days",
        "1",
        "--threads",
        "1",
    ]
    with largest_file(500_000):
        result = abtest("run", *flags, "--quiet", "--out", str(tmp_path / "run"))
    assert result.exit_code == 1, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert f"abtest run --resume {tmp_path / 'run'}" in result.stderr
    assert abtest("run", "--resume", str(tmp_path / "run"), "--quiet").exit_code in (0, 3)


def test_an_export_that_does_not_fit_leaves_nothing(
    finished_run: Path, tmp_path: Path, abtest: Command
) -> None:
    with largest_file(10_000):
        result = abtest("export", str(finished_run), "--out", str(tmp_path / "feeds.parquet"))
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """For a while, no file of this process may grow further: the nearest thing to a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

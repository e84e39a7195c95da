"""`kill -9` at any moment, then `abtest run --resume`: the same events and the same report."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import Result

from warehouse.events import EVENT_KEY

Command = Callable[..., Result]

FLAGS = ["--arms", "a=baselines.poprec:PopRec,b=baselines.poprec:PopRec", "--stage", "feed"]
FLAGS += [
    "--retrain",
    "own",
    "--explore",
    "10",
    "--uploads",
    "20",
    "--phases",
    "1:50,2:100",
    "--holdout",
    "10",
]
FLAGS += ["--users", "120", "--warmup-days", "1", "--days", "2", "--threads", "1", "--quiet"]
DAY_DONE = "midnights/live-00001"
"""The first day of the experiment has been lived."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, abtest: Command) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "whole"
    result = abtest("run", *FLAGS, "--out", str(folder))
    assert result.exit_code in (0, 3), result.output
    return folder


def killed(folder: Path, *flags: str, when: Callable[[], bool], after_s: float = 0.0) -> int:
    """Start the run in a process of its own and kill it as soon as `when()`; its return code."""
    command = [
        sys.executable,
        "-c",
        "from abtest.cli import main; main()",
        "run",
        *FLAGS,
        *flags,
        "--out",
        str(folder),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not when():
        time.sleep(0.005)
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    return process.wait()


def ended_by_killing_a_worker(folder: Path, when: Callable[[], bool]) -> tuple[int, str]:
    """The return code and what was said of a run with two workers, one of which is killed once both are there
    and `when()`."""
    command = [sys.executable, "-c", "from abtest.cli import main; main()", "run", *FLAGS, "--workers", "2"]
    process = subprocess.Popen([*command, "--out", str(folder)], stderr=subprocess.PIPE, text=True)
    workers: list[int] = []
    while process.poll() is None and not (len(workers) == 2 and when()):
        time.sleep(0.005)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(workers[-1], signal.SIGKILL)
    _, said = process.communicate()
    return process.returncode, said


def read(folder: Path) -> tuple[dict[str, Any], str, str]:
    """The report without its clock, the event hash, and a fingerprint of all other rows."""
    document = json.loads((folder / "report.json").read_text())
    steady = {key: value for key, value in document.items() if key != "timings"}
    with duckdb.connect(str(folder / "events.duckdb"), read_only=True) as db:
        keys = ", ".join(EVENT_KEY)
        (doubled,) = db.execute(f"SELECT count(*) - count(DISTINCT ({keys})) FROM events").fetchone() or (1,)
        assert doubled == 0
        rows = [
            db.execute(f"SELECT bit_xor(hash(t)), count(*) FROM {table} t").fetchone()
            for table in ("exposures", "propensities", "users", "items")
        ]
    return steady, json.loads((folder / "manifest.json").read_text())["event_hash"], repr(rows)


def resumed(folder: Path, abtest: Command, *flags: str) -> Result:
    return abtest("run", "--resume", str(folder), "--quiet", *flags)


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "cut-off"
    assert killed(folder, when=(folder / DAY_DONE).exists) == -signal.SIGKILL
    return folder


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--users", "130"], ["began with users 120, not 130"]),
        (["--workers", "2"], ["began with workers 1, not 2"]),
        (["--arms", "poprec,comirec"], ["began with arms"]),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(
    cut_off: Path, abtest: Command, flags: list[str], words: list[str]
) -> None:
    result = resumed(cut_off, abtest, *flags)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert all(word in result.stderr for word in words), result.stderr


def test_a_run_is_not_resumed_by_other_code(cut_off: Path, abtest: Command) -> None:
    manifest = cut_off / "manifest.json"
    began = manifest.read_text()
    document = json.loads(began)
    manifest.write_text(json.dumps({**document, "code": "0" * 32}))
    result = resumed(cut_off, abtest)
    manifest.write_text(began)
    assert result.exit_code == 2
    assert "the code of the run" in result.stderr


def test_a_killed_run_resumes_to_the_same_events_and_report(
    uninterrupted: Path, cut_off: Path, abtest: Command
) -> None:
    result = resumed(cut_off, abtest)
    assert result.exit_code in (0, 3), result.output
    assert read(cut_off) == read(uninterrupted)
    names = {path.name for path in cut_off.iterdir()}
    assert names == {"events.duckdb", "manifest.json", "report.json", "report.md"}, "nothing else is kept"
    again = resumed(cut_off, abtest)
    assert again.exit_code == 2
    assert "is finished" in again.stderr


def test_there_is_nothing_to_resume_in_an_empty_folder(tmp_path: Path, abtest: Command) -> None:
    result = abtest("run", "--resume", str(tmp_path))
    assert result.exit_code == 2
    assert "no run to resume" in result.stderr


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="workers are found in /proc")
@pytest.mark.parametrize("begun", [pytest.param("manifest.json", marks=pytest.mark.slow), DAY_DONE])
def test_a_killed_worker_is_one_sentence_and_the_run_resumes(
    begun: str, tmp_path: Path, uninterrupted: Path, abtest: Command
) -> None:
    folder = tmp_path / "cut-off"
    code, said = ended_by_killing_a_worker(folder, (folder / begun).exists)
    assert code == 1, said
    assert said.strip().splitlines()[-1].startswith("abtest: a worker process was killed"), said
    assert "--resume" in said
    result = resumed(folder, abtest)
    assert result.exit_code in (0, 3), result.output
    assert read(folder) == read(uninterrupted)


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(
    tmp_path: Path, uninterrupted: Path, abtest: Command
) -> None:
    luck = random.Random(20)
    for number in range(10):
        folder = tmp_path / f"cut-{number}"
        flags = ("--workers", "2") if number % 2 else ()
        killed(folder, *flags, when=(folder / "manifest.json").exists, after_s=luck.uniform(0.0, 4.0))
        if not json.loads((folder / "manifest.json").read_text()).get("finished"):
            result = resumed(folder, abtest)
            assert result.exit_code in (0, 3), result.output
        assert read(folder) == read(uninterrupted), number

"""Models that are trained in processes beside each other are those that are trained one after the other."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from abtest import checkpoints
from abtest.checkpoints import fit_model, fit_side_by_side
from abtest.executor import KILLED, processes
from abtest.settings import RunSettings
from baselines.base import Interactions

NAMES = ("poprec", "sasrec", "comirec")


@pytest.fixture
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints.os, "cpu_count", lambda: 2)


def interactions() -> Interactions:
    generator = np.random.default_rng(0)
    users = np.repeat(np.arange(60), 12)
    return Interactions.from_arrays(users, generator.integers(1, 40, len(users)), n_users=60, n_items=40)


def settings(**other: Any) -> RunSettings:
    return RunSettings(users=60, epochs=2, max_targets=500, **{"threads": 1, "workers": 2, **other})


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "checkpoints").glob("*")}


def test_the_checkpoints_are_those_of_one_training_after_the_other(
    two_processors: None, tmp_path: Path
) -> None:
    told: list[tuple[str, float]] = []
    data, silent = interactions(), lambda detail, fraction: None
    fit_side_by_side(
        NAMES, data, settings(), tmp_path / "two", lambda detail, share: told.append((detail, share))
    )
    made = files(tmp_path / "two")
    assert {name.split("-")[0] for name in made} == set(NAMES)
    for model in NAMES:
        fit_model(model, data, settings(), tmp_path / "one", silent)
    assert made.keys() == files(tmp_path / "one").keys()
    for model in ("sasrec", "comirec"):
        taken = fit_model(model, data, settings(), tmp_path / "two", pytest.fail)
        own = fit_model(model, data, settings(), tmp_path / "one", pytest.fail)
        for a, b in zip(
            taken.recommender.network.parameters(), own.recommender.network.parameters(), strict=True
        ):
            assert (a == b).all()
    assert {detail.split(":")[0] for detail, _ in told} >= {"fit sasrec", "fit comirec"}
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


@pytest.mark.parametrize("alone", [{"workers": 1}, {"threads": 2}, {"executor": "dask://127.0.0.1:1"}])
def test_nothing_is_trained_ahead_where_one_process_is_all_there_is(
    alone: dict[str, Any], two_processors: None, tmp_path: Path
) -> None:
    fit_side_by_side(NAMES, interactions(), settings(**alone), tmp_path, pytest.fail)
    assert files(tmp_path) == {}


def test_an_error_of_a_training_is_raised_here(two_processors: None, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(OSError):
        fit_side_by_side(NAMES, interactions(), settings(), tmp_path, lambda detail, share: None)


def test_a_killed_worker_is_told_in_one_sentence() -> None:
    with pytest.raises(RuntimeError) as raised, processes(2) as pool:
        pool.submit(os._exit, 1).result()
    assert str(raised.value) == KILLED


def workers_of(parent: int) -> list[int]:
    """Its processes of a pool, in the order in which they were started; [] where it has ended."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return [int(c) for c in children if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()]
    except FileNotFoundError:
        return []


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists() or (os.cpu_count() or 1) < 2,
    reason="two trainings beside each other need two processors, and finding their processes Linux",
)
def test_a_run_whose_training_was_killed_resumes_to_the_same_events(
    tmp_path: Path, abtest: Callable[..., Result]
) -> None:
    """Two processes live the warm-up; those that are started after them train."""
    flags = ["--arms", "sasrec,comirec", "--users", "200", "--warmup-days", "1", "--days", "1"]
    flags += ["--epochs", "1", "--max-targets", "2000", "--workers", "2", "--threads", "1", "--quiet"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command = [sys.executable, "-c", "from abtest.cli import main; main()", "run", *flags, "--out", str(cut)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while run.poll() is None and len(workers := workers_of(run.pid)) < 4:
        time.sleep(0.01)
    assert run.poll() is None, "the run had ended before its trainings were seen"
    os.kill(workers[-1], signal.SIGKILL)
    _, told = run.communicate(timeout=60)
    assert run.returncode == 1
    assert told == f"abtest: {KILLED}\n"
    resumed = abtest("run", "--resume", str(cut), "--quiet")
    assert resumed.exit_code in (0, 3), resumed.output
    assert abtest("run", *flags, "--out", str(whole)).exit_code in (0, 3)
    hashes = [json.loads((f / "manifest.json").read_text())["event_hash"] for f in (whole, cut)]
    assert hashes[0] == hashes[1]

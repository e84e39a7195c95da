"""Models that are trained in processes beside each other are those that are trained one after the other."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abtest import checkpoints
from abtest.checkpoints import fit_model, fit_side_by_side
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
    return RunSettings(users=60, max_targets=500, **{"epochs": 2, "threads": 1, "workers": 2, **other})


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


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="workers are found in /proc")
def test_a_killed_training_is_one_sentence_and_can_be_done_again(
    two_processors: None, tmp_path: Path
) -> None:
    def kill_one(detail: str, share: float) -> None:
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        workers = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(workers[-1], signal.SIGKILL)

    with pytest.raises(RuntimeError, match="a worker process was killed, perhaps because memory ran out"):
        fit_side_by_side(NAMES, interactions(), settings(epochs=50), tmp_path, kill_one)
    fit_side_by_side(NAMES, interactions(), settings(epochs=50), tmp_path, lambda detail, share: None)
    assert {name.split("-")[0] for name in files(tmp_path)} == set(NAMES)

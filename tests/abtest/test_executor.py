"""Shards in other processes and on a cluster give the events of one process."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Command = Callable[..., Result]

ARMS = "a=baselines.poprec:PopRec,b=baselines.poprec:PopRec"
SIZES = ["--users", "80", "--warmup-days", "1", "--days", "2", "--stage", "feed", "--threads", "1", "--quiet"]
SIZES += ["--phases", "1:40,2:100", "--holdout", "10"]


def event_hash(abtest: Command, folder: Path, *flags: str) -> str:
    result = abtest("run", "--arms", ARMS, *SIZES, *flags, "--out", str(folder))
    assert result.exit_code in (0, 3), result.output
    assert not (folder / "partitions").exists()
    return json.loads((folder / "manifest.json").read_text())["event_hash"]


@pytest.fixture(scope="module")
def alone(abtest: Command, tmp_path_factory: pytest.TempPathFactory) -> str:
    return event_hash(abtest, tmp_path_factory.mktemp("alone") / "run")


def test_two_processes_give_the_same_events(abtest: Command, alone: str, tmp_path: Path) -> None:
    assert event_hash(abtest, tmp_path / "run", "--workers", "2") == alone


def test_a_dask_cluster_gives_the_same_events(abtest: Command, alone: str, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None
    ) as cluster:
        flags = ("--executor", cluster.scheduler_address.replace("tcp://", "dask://"), "--workers", "3")
        assert event_hash(abtest, tmp_path / "run", *flags) == alone


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--executor", "dask://127.0.0.1:1"], ["dask://127.0.0.1:1", "dask scheduler"]),
        (["--executor", "spark"], ["unknown executor 'spark'", "dask://HOST:PORT"]),
        (["--workers", "0"], ["workers is 0"]),
        (["--workers", "9", "--users", "8"], ["workers is 9"]),
    ],
)
def test_what_cannot_run_shards_is_refused_before_anything_is_written(
    flags: list[str], words: list[str], tmp_path: Path, abtest: Command
) -> None:
    if "dask" in flags[1]:
        pytest.importorskip("distributed")
    result = abtest("run", "--arms", "poprec,poprec", *flags, "--out", str(tmp_path / "run"))
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert not (tmp_path / "run").exists()

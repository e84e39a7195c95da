"""The command as a function, what makes logs and declarations, and one small finished run for the tests that
read it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from abtest.cli import main

if TYPE_CHECKING:
    from tests.abtest.ramp import Ramp

Command = Callable[..., Result]

USERS = '[map]\nuser = "u"\narm = "arm"\n'
"""The mapping of a table of users, in TOML."""


def metric_toml(name: str, numerator: str, **more: Any) -> str:
    """A metric's table in TOML."""
    keys = {"name": name, "numerator": numerator, **more}
    return "[[metrics]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


def analyse_table(
    abtest: Command, folder: Path, columns: Mapping[str, Any], config: str, *options: str
) -> Result:
    """`abtest analyze` of a table, under this declaration."""
    pq.write_table(pa.table(dict(columns)), folder / "log.parquet")
    (folder / "x.toml").write_text(config, encoding="utf-8")
    return abtest("analyze", str(folder / "log.parquet"), "--config", str(folder / "x.toml"), *options)


@pytest.fixture(scope="session")
def abtest() -> Command:
    """abtest("run", "--days", "0"): the command in this process."""
    return lambda *args: CliRunner().invoke(main, args)


@pytest.fixture(scope="session")
def run_small(abtest: Command) -> Command:
    """run_small(folder, arms, *flags): a run of seconds, which must end with a report."""

    def run(folder: Path, arms: str, *flags: str) -> Result:
        sizes = ["--users", "600", "--warmup-days", "1", "--days", "2"]
        budget = ["--epochs", "1", "--max-targets", "4000", "--threads", "1", "--quiet"]
        result = abtest("run", "--arms", arms, *sizes, *budget, *flags, "--out", str(folder))
        assert result.exit_code in (0, 3), result.output
        return result

    return run


@pytest.fixture(scope="session")
def finished_run(run_small: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    run_small(folder, "poprec,comirec")
    return folder


@pytest.fixture(scope="session")
def ramp() -> "Ramp":
    from tests.abtest.ramp import make_ramp

    return make_ramp()

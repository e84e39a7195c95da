"""The command as a function, and one small finished run that the end-to-end tests read."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from abtest.cli import main
from tests.abtest.ramp import Ramp, make_ramp

Command = Callable[..., Result]


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
def ramp() -> Ramp:
    return make_ramp()

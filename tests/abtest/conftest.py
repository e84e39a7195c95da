"""One small finished run that the end-to-end tests read."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from abtest.cli import main

SMALL = [
    *("--users", "600", "--warmup-days", "1", "--days", "2"),
    *("--epochs", "1", "--max-targets", "4000", "--threads", "1", "--quiet"),
]


def abtest(*args: str) -> Result:
    return CliRunner().invoke(main, args)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    result = abtest("run", "--arms", "poprec,comirec", *SMALL, "--out", str(folder))
    assert result.exit_code in (0, 3), result.output
    return folder

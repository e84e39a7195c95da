"""Property tests draw the same examples everywhere and have no time limit of their own; the whole suite runs
in two processes, each with one thread of torch and numpy."""

import os

import pytest
from hypothesis import settings

PROCESSES = 2

settings.register_profile("lab", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("lab")

# Read when numpy and torch are loaded, which is later. Threads of the tests that ask for two wait asleep.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """`pytest` alone, without a path, divides the files among PROCESSES where pytest-xdist is installed, so
    that fixtures of a file are made once; -n 0 keeps them in one. Fewer files are not worth the start."""
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    is_worker = hasattr(config, "workerinput")
    if (
        is_whole
        and not is_worker
        and not config.getoption("usepdb")
        and config.getoption("numprocesses", default=0) is None
    ):
        config.option.numprocesses, config.option.dist = PROCESSES, "loadfile"

"""The README says what is true: models, metrics, commands, files, and an excerpt of a real report."""

import json
import re
from pathlib import Path

import click
import pytest

from abtest.arms import known_models
from abtest.cli import main as abtest
from abtest.declaration import read_declaration
from abtest.metrics import METRICS
from abtest.report import to_markdown
from recgpt.cli import main as recgpt

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    (f"{program} {name}", command)
    for program, group in (("abtest", abtest), ("recgpt", recgpt))
    for name, command in sorted(group.commands.items())
]


@pytest.mark.parametrize("model", sorted(known_models()))
def test_every_model_is_in_the_readme(model: str) -> None:
    assert f"`{model}`" in README


@pytest.mark.parametrize("metric", [metric.name for metric in METRICS])
def test_every_metric_is_in_the_readme(metric: str) -> None:
    assert f"`{metric}`" in README


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_every_command_has_an_example_and_stands_in_the_readme(name: str, command: click.Command) -> None:
    assert re.search(r"Examples?:", command.help or "")
    assert name in (command.help or "")
    assert name in README


def test_every_option_in_the_readme_exists() -> None:
    options = {option for _, command in COMMANDS for p in command.params for option in p.opts}
    for line in README.splitlines():
        if line.startswith(("abtest ", "recgpt ")):
            for option in re.findall(r"(?<= )--[a-z-]+", line):
                assert option in options, line


def test_every_file_in_the_readme_exists() -> None:
    table = README.split("## Where is it?")[1].split("## ")[0]
    answers = " ".join(re.findall(r"\| ([^|]+) \|$", table, re.M))
    named = re.findall(r"[a-z0-9_]+/[a-z0-9_/]*(?:\.(?:py|toml))?", answers)
    assert len(named) > 10
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_declaration_in_the_readme_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "experiment.toml"
    path.write_text(README.split("```toml")[1].split("```")[0], encoding="utf-8")
    declaration = read_declaration(path)
    assert [metric.role for metric in declaration.metrics or ()] == ["goal", "guardrail"]
    assert declaration.map["segment"] == ["country"]


def test_the_report_in_the_readme_is_what_the_code_makes_of_a_recorded_run() -> None:
    """docs/example/report.json is the report of `abtest run --days 5 --arms comirec,recgpt`."""
    document = json.loads((ROOT / "docs/example/report.json").read_text(encoding="utf-8"))
    lines = to_markdown(document).splitlines()
    assert (ROOT / "docs/example/report.md").read_text(encoding="utf-8").splitlines() == lines
    excerpt = README.split("<!-- report -->")[1].splitlines()
    assert len([line for line in excerpt if line.strip()]) >= 10
    assert not [line for line in excerpt if line.strip() and line not in lines]


def test_ci_runs_the_commands_of_the_readme() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    block = README.split("## Set-up")[1].split("```")[1]
    first, second = block.strip().splitlines()
    assert first == "pip install -e . && abtest run --days 5 --arms comirec,recgpt"
    assert second == "pip install -e '.[test]' && pytest"
    for command in ("pip install -q -e .\n", "pip install -q -e '.[test]'", "\npytest\n"):
        assert command in script
    assert "abtest run" in script

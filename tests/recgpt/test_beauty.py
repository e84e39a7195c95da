"""The claims of bench/RESULTS.md on real data: minutes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from recgpt.cli import main


@pytest.mark.slow
def test_best_ranks_beauty_well_within_fifteen_minutes_of_cpu():
    data = Path(__file__).parents[2] / "../shared/data/sequential/Beauty.txt"
    if not data.exists():
        pytest.skip("needs ../shared/data")
    result = CliRunner().invoke(main, ["eval", str(data), "--models", "recgpt", "--json"])
    pretrained, tuned, two_step = json.loads(result.stdout)["results"]
    assert min(pretrained["hr@10"], tuned["hr@10"], two_step["hr@10"]) >= 0.0928
    assert two_step["hr@10"] > pretrained["hr@10"] - 0.002  # a standard error
    assert two_step["seconds"] < 900

"""The claim of the README on real data: minutes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from recgpt.cli import main


@pytest.mark.slow
def test_defaults_rank_beauty_well_within_ten_minutes_of_cpu():
    data = Path(__file__).parents[2] / "../shared/data/sequential/Beauty.txt"
    if not data.exists():
        pytest.skip("needs ../shared/data")
    result = CliRunner().invoke(main, ["eval", str(data), "--models", "recgpt", "--json"])
    pretrained, tuned, two_step = json.loads(result.stdout)["results"]
    assert min(tuned["hr@10"], two_step["hr@10"]) >= 0.083
    assert two_step["hr@10"] > pretrained["hr@10"] - 0.002  # a standard error
    assert two_step["seconds"] < 600

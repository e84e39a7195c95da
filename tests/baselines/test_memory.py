"""What an evaluation holds at once: blocks of users, never users x items."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
N_USERS = N_ITEMS = 20_000
"""All scores would be 1,526 MB of float32."""

LIMIT_MB = 350
"""What data, network, a short training, validation and evaluation may hold together, beyond the imports (270
and 280 MB were measured, 200 of them before the evaluation). Not even a mask of users x items (381 MB)
fits."""


def peak_mb() -> float:
    """Of this process so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def program(name: str) -> dict[str, float]:
    """Peak memory after the imports, and after a model that knows next to nothing has been validated and
    evaluated on all users."""
    from baselines.base import Interactions
    from baselines.data import leave_one_out
    from baselines.evaluate import evaluate_split, validator
    from baselines.sasrec import SASRec
    from baselines.settings import TrainingSettings
    from recgpt.recommender import RecGPT
    from recgpt.stages import measure

    imported = peak_mb()
    generator = np.random.default_rng(0)
    lengths = generator.integers(5, 20, N_USERS)
    users = np.repeat(np.arange(N_USERS), lengths)
    items = generator.integers(1, N_ITEMS + 1, len(users))
    split = leave_one_out(Interactions.from_arrays(users, items, None, N_USERS, N_ITEMS))
    training = TrainingSettings(epochs=2, max_targets=2000, evaluate_users=64, threads=1)
    kind = RecGPT if name == "recgpt" else SASRec
    model = kind(training=training).fit(split.train)
    fitted = peak_mb()
    validated = validator(model.network.encode, model.network.table, split.valid, max_users=N_USERS)()
    if isinstance(model, RecGPT):
        found = measure(model, split.test)[-1].ndcg(10)
    else:
        found = evaluate_split(model, split.test).ndcg[10]
    assert max(found, validated) < 0.01
    return {"imported": imported, "fitted": fitted, "evaluated": peak_mb()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sasrec", "recgpt"])
def test_an_evaluation_of_20000_users_and_items_stays_below_its_limit(name: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, __file__, name], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    peak = json.loads(result.stdout)
    assert peak["evaluated"] - peak["imported"] < LIMIT_MB, peak


if __name__ == "__main__":
    print(json.dumps(program(sys.argv[1])))

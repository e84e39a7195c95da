"""What a training target costs here and in RecBole, for the models that both have.

    pip install --no-deps recbole, and what it imports: pandas scikit-learn ray colorlog texttable thop
    python bench/peers.py BEAUTY.txt --out bench/peers.json

Both train 64 wide with a softmax over all items (BPR: its own loss) and Adam on the same training part,
one thread; SASRec has 2 layers and 1 head. RecBole makes a row of 50 slots of each prefix of a history, which
is one target; here a row of a history trains all its prefixes at once. CPU seconds of a few batches, the two
taking turns, after one batch each that does not count. (BERT4Rec is left out: its targets are drawn.)
"""

import argparse
import json
import logging
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from baselines import load_model
from baselines.base import Interactions
from baselines.batches import batches, windows
from baselines.data import leave_one_out, read_sequences
from recgpt.cells import head_commit

MODELS = {
    "sasrec": "SASRec",
    "gru4rec": "GRU4Rec",
    "narm": "NARM",
    "stamp": "STAMP",
    "caser": "Caser",
    "bpr": "BPR",
}
RECBOLE_BATCH = 2048
Step = Callable[[], int]
"""Train on a batch; how many targets it had."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batches", type=int, default=2, help="of 2,048 targets, in each of two turns")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train = leave_one_out(read_sequences(arguments.data)).train
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        _write_atomic(train, Path(folder) / "data")
        for name in arguments.models.split(","):
            ours, theirs = _take_turns(_ours(name, train), _theirs(name, Path(folder)), arguments.batches)
            rows.append(
                {
                    "model": name,
                    "us_per_target": round(ours, 1),
                    "recbole_us_per_target": round(theirs, 1),
                    "ratio": round(theirs / ours, 1),
                }
            )
            print(rows[-1], flush=True)
    found = {
        "commit": head_commit(),
        "data": arguments.data.stem,
        "batches": arguments.batches,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rows": rows,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")


def _take_turns(ours: Step, theirs: Step, n_batches: int) -> tuple[float, float]:
    """CPU microseconds a target of each."""
    ours(), theirs()
    seconds, targets = [0.0, 0.0], [0, 0]
    for _ in range(2):
        for side, step in enumerate((ours, theirs)):
            started, wanted = time.process_time(), targets[side] + n_batches * RECBOLE_BATCH
            while targets[side] < wanted:
                targets[side] += step()
            seconds[side] += time.process_time() - started
    return 1e6 * seconds[0] / targets[0], 1e6 * seconds[1] / targets[1]


def _ours(name: str, train: Interactions) -> Step:
    model = load_model(name).preset("paper" if name == "bpr" else "best")
    network = model.build(train.n_users, train.n_items)
    network.train()
    cut, generator = windows(train), torch.Generator().manual_seed(0)
    order = np.random.default_rng(0)
    adam = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)

    def endless() -> Iterator[Any]:
        while True:
            yield from batches(cut, model.training.batch_targets, order, None)

    source = endless()

    def step() -> int:
        batch = next(source)
        adam.zero_grad(set_to_none=False)
        network.loss(batch, generator).backward()
        adam.step()
        return int(batch.n_targets)

    return step


def _theirs(name: str, folder: Path) -> Step:
    for old, new in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
        if not hasattr(np, old):  # RecBole 1.2 asks for names that NumPy 2 no longer has
            setattr(np, old, new)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model

    is_bpr = name == "bpr"
    config = Config(
        model=MODELS[name],
        dataset="data",
        config_dict={
            "data_path": str(folder),
            "checkpoint_dir": str(folder),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "USER_ID_FIELD": "user_id",
            "ITEM_ID_FIELD": "item_id",
            "TIME_FIELD": "timestamp",
            "MAX_ITEM_LIST_LENGTH": 50,
            "embedding_size": 64,
            "hidden_size": 64,
            "n_layers": 2,
            "n_heads": 1,
            "num_layers": 1,
            "loss_type": "BPR" if is_bpr else "CE",
            "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1} if is_bpr else None,
            "train_batch_size": RECBOLE_BATCH,
            "eval_args": {
                "split": {"LS": "valid_and_test"},
                "order": "TO",
                "group_by": "user",
                "mode": "full",
            },
            "device": "cpu",
            "use_gpu": False,
            "show_progress": False,
            "state": "ERROR",
        },
    )
    loader, _, _ = data_preparation(config, create_dataset(config))
    network = get_model(config["model"])(config, loader.dataset).to("cpu")
    adam = torch.optim.Adam(network.parameters(), lr=1e-3)
    source = cycle(islice(iter(loader), 16))

    def step() -> int:
        rows = next(source)
        adam.zero_grad()
        network.calculate_loss(rows).backward()
        adam.step()
        return len(rows)

    return step


def _write_atomic(train: Interactions, folder: Path) -> None:
    """The training part in RecBole's format, with two more items a user, which its split takes off again."""
    folder.mkdir()
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    last: dict[int, tuple[int, int]] = {}
    for place, (user, item) in enumerate(zip(train.users.tolist(), train.items.tolist(), strict=True)):
        lines.append(f"{user}\t{item}\t{place}")
        last[user] = (item, place)
    for user, (item, _) in last.items():
        lines += [f"{user}\t{item}\t{len(lines) + extra}" for extra in (1, 2)]
    (folder / "data.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

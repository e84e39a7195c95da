"""What training and ranking cost, as ratios measured in one run: python bench/cost.py BEAUTY.txt --out FILE.

- an epoch as it is (rows of similar length share a batch) against the same windows padded to 50 slots;
- against SASRec at S3-Rec's settings: 64 wide, 2 layers, 2 heads, 256 users a batch padded to 50 slots, BCE
  with one negative computed for all slots and masked;
- the full softmax, value and gradients, against its three matrix products alone;
- the best 20 of a block of 64 users against the matrix product alone;
- where the time of a training step goes, by torch's profiler;
- the full ranking of all test users by SASRec (its best preset, after one step of training, as what is in the
  weights costs nothing) against the matrix product and the best 20 alone.

CPU seconds of one thread. Every figure is the median of several rounds that take turns. FILE keeps what the
parts that are not asked for gave before.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch.nn import functional as F

from baselines.base import Interactions
from baselines.batches import Batch, Windows, batches, uniform_negatives, windows
from baselines.data import Split, leave_one_out, read_sequences
from baselines.evaluate import evaluate_split, full_ranks
from baselines.losses import FullSoftmax
from baselines.sasrec import SASRec, SASRecNetwork, SASRecSettings
from baselines.toplist import padded_width, top_items
from recgpt.pretrain import pretraining_loss
from recgpt.recommender import RecGPT
from recgpt.tune import tuning_loss

LENGTH = 50
Step = Callable[[Batch], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default="training,ranking")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    split = leave_one_out(read_sequences(arguments.data))
    found = {}
    if arguments.out and arguments.out.exists():
        found = json.loads(arguments.out.read_text(encoding="utf-8"))
    if "training" in arguments.parts.split(","):
        found |= measure(split.train, arguments.rounds)
    if "ranking" in arguments.parts.split(","):
        found["ranking"] = ranking(split, arguments.rounds)
    text = json.dumps(found, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


def measure(train: Interactions, rounds: int) -> dict[str, Any]:
    model = RecGPT.preset("best")
    decoder = model.build(train.n_users, train.n_items)
    decoder.train()
    cut = windows(train)
    generator = torch.Generator().manual_seed(0)
    loss = pretraining_loss(decoder, model.settings.loss)
    tuned = tuning_loss(decoder, model.settings.tune_loss or model.settings.loss, model.settings)
    rival = SASRecNetwork(train.n_items, SASRecSettings(heads=2, dropout=0.5)).train()
    n_slots = model.training.batch_targets

    def ours() -> Iterator[Batch]:
        return batches(cut, n_slots, np.random.default_rng(0))

    def padded() -> Iterator[Batch]:
        return (_to_length(batch) for batch in ours())

    epochs = {
        "pre-training": lambda: _epoch(decoder, lambda b: loss(b, generator), ours()),
        "pre-training, padded to 50": lambda: _epoch(decoder, lambda b: loss(b, generator), padded()),
        "prompt-tuning": lambda: _epoch(decoder, lambda b: tuned(b, generator), ours()),
        "SASRec at S3-Rec's settings": lambda: _epoch(
            rival, lambda b: _s3rec_loss(rival, b, generator), _by_users(cut, 256)
        ),
    }
    seconds = _take_turns(epochs, rounds)
    kernels = _kernels(train.n_items, model.settings.dim, n_slots, rounds * 5)
    return {
        "threads": 1,
        "epoch_cpu_s": {name: round(value, 2) for name, value in seconds.items()},
        "epoch_ratio": {
            name: round(seconds[name] / seconds["pre-training"], 2) for name in list(seconds)[1:]
        },
        "kernel_ms": {name: round(1000 * value, 2) for name, value in kernels.items()},
        "kernel_ratio": {
            "full softmax / its products": round(kernels["full softmax"] / kernels["its products"], 2),
            "top 20 / product": round(kernels["product and top 20"] / kernels["product"], 2),
        },
        "step_share": _profile(decoder, loss, ours(), generator),
    }


def ranking(split: Split, rounds: int) -> dict[str, Any]:
    """An evaluation of all test users, what of it is the network, and the product with the best 20."""
    best = SASRec.preset("best")
    once = replace(best.training, epochs=1, max_targets=1, validation_users=0)
    model = SASRec(best.settings, once).fit(split.train)
    test, n_items = split.test, split.train.n_items
    width = padded_width(n_items + 1)
    users, by_column = torch.randn(len(test.users), best.settings.dim), torch.randn(best.settings.dim, width)
    scores = torch.empty(64, width)
    network = model._fitted()
    two_items, ones = network.table()[:2], np.ones(len(test.users), np.int64)
    seen = np.zeros((len(test.users), 0), np.int64)

    def products(depth: int | None) -> None:
        for start in range(0, len(users), 64):
            block = users[start : start + 64]
            out = torch.mm(block, by_column, out=scores[: len(block)])
            if depth is not None:
                out[:, 0] = -torch.inf
                top_items(out.numpy(), depth)

    timed: dict[str, Callable[[], object]] = {
        "evaluation": lambda: evaluate_split(model, test, (5, 10, 20)),
        "its network": lambda: full_ranks(network.encode, two_items, test.users, test.histories, ones, seen),
        "product and top 20": lambda: products(20),
        "product": lambda: products(None),
    }
    seconds = _take_turns(timed, rounds)
    return {
        "users": len(test.users),
        "items": n_items,
        "cpu_s": {name: round(value, 2) for name, value in seconds.items()},
        "ratio": {
            name: round(seconds[name] / seconds["product and top 20"], 2)
            for name in ("evaluation", "its network", "product")
        },
    }


def _epoch(network: torch.nn.Module, step: Step, feed: Iterator[Batch]) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    for batch in feed:
        optimizer.zero_grad(set_to_none=False)
        step(batch).backward()
        optimizer.step()


def _to_length(batch: Batch) -> Batch:
    right = (0, LENGTH - batch.items.shape[1])
    return Batch(batch.users, F.pad(batch.items, right), F.pad(batch.targets, right))


def _by_users(cut: Windows, n_users: int) -> Iterator[Batch]:
    """Batches of so many windows of any length, padded to 50 slots."""
    order = np.random.default_rng(0).permutation(len(cut.users))
    column = np.arange(LENGTH)
    for start in range(0, len(order), n_users):
        rows = order[start : start + n_users]
        inside = column < cut.lengths[rows][:, None]
        at = np.where(inside, cut.starts[rows][:, None] + column, 0)
        items = np.where(inside, cut.items[at], 0)
        targets = np.where(inside, cut.items[np.where(inside, at + 1, 0)], 0)
        yield Batch(*(torch.from_numpy(array) for array in (cut.users[rows], items, targets)))


def _s3rec_loss(network: SASRecNetwork, batch: Batch, generator: torch.Generator) -> torch.Tensor:
    x = network._embed(batch.items)
    for block in network.blocks:
        x = block(x)
    table = network.table()
    negatives = uniform_negatives(len(table) - 1, tuple(batch.items.shape), generator)
    positive = (x * F.embedding(batch.targets, table)).sum(2)
    negative = (x * F.embedding(negatives, table)).sum(2)
    slots = F.softplus(-positive) + F.softplus(negative)
    real = (batch.targets > 0).float()
    return (slots * real).sum() / real.sum()


def _kernels(n_items: int, dim: int, rows: int, rounds: int) -> dict[str, float]:
    h = torch.randn(rows, dim, requires_grad=True)
    table = (torch.randn(n_items + 1, dim) * 0.1).requires_grad_()
    targets = torch.randint(1, n_items + 1, (rows,))
    softmax = FullSoftmax()
    low_h, low_table = h.detach().to(softmax.dtype), table.detach().to(softmax.dtype)
    logits = torch.empty(softmax.chunk_rows, n_items + 1, dtype=softmax.dtype)
    width = padded_width(n_items + 1)
    by_column, block = torch.randn(dim, width), torch.randn(64, dim)
    scores = torch.empty(64, width)

    def products() -> None:
        for start in range(0, rows, softmax.chunk_rows):
            part = low_h[start : start + softmax.chunk_rows]
            p = torch.mm(part, low_table.T, out=logits[: len(part)])
            _ = p @ low_table
            _ = p.T @ part

    def best() -> None:
        torch.mm(block, by_column, out=scores)
        scores[:, 0] = -torch.inf
        top_items(scores.numpy(), 20)

    timed = {
        "full softmax": lambda: softmax(h, table, targets).backward(),
        "its products": products,
        "product and top 20": best,
        "product": lambda: torch.mm(block, by_column, out=scores),
    }
    return _take_turns(timed, rounds)


def _take_turns(timed: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(rounds + 1):
        for name, run in timed.items():
            started = time.process_time()
            run()
            if number:
                seconds[name].append(time.process_time() - started)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def _profile(
    decoder: torch.nn.Module, loss: Any, feed: Iterator[Batch], generator: torch.Generator
) -> dict[str, float]:
    """The share of CPU time of the ten most expensive operations over 20 steps."""
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-4, fused=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for batch, _ in zip(feed, range(20), strict=False):
            optimizer.zero_grad(set_to_none=False)
            loss(batch, generator).backward()
            optimizer.step()
    events = sorted(profile.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return {event.key: round(event.self_cpu_time_total / total, 3) for event in events[:10]}


if __name__ == "__main__":
    main()

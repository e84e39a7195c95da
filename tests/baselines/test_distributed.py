"""Several processes: what two ranks of torchrun compute together is what one process computes.

torchrun runs this file itself as the program of each rank, once for all fast tests.
"""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from baselines.base import Interactions
from baselines.batches import windows
from baselines.checkpoint import load_checkpoint
from baselines.data import Validation, leave_one_out
from baselines.distributed import (
    average_gradients,
    from_first,
    local_device,
    pick_device,
    rank,
    total,
    usable_device,
)
from baselines.evaluate import evaluate_split, validator
from baselines.losses import FullSoftmax, LossSettings
from baselines.sasrec import SASRec
from baselines.settings import TrainingSettings
from baselines.training import seeded, train

ROOT = Path(__file__).parents[2]
EVERYTHING = {
    "averaging": 0.9,
    "schedule": "cosine",
    "warmup_steps": 3,
    "clip_norm": 0.5,
    "weight_decay": 0.01,
}
VALUES = [0.1, 0.4, 0.2, 0.3, 0.5, 0.1]


def ring(n_users=90, n_items=30, seed=0):
    """Users walk a ring of items: the next item follows from the last."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, 12, n_users)
    starts = np.repeat(generator.integers(0, n_items, n_users), lengths)
    steps = np.concatenate([np.arange(length) for length in lengths])
    return Interactions.from_arrays(
        np.repeat(np.arange(n_users), lengths),
        (starts + steps) % n_items + 1,
        n_users=n_users,
        n_items=n_items,
    )


def tiny_network(p_drop=0.0):
    """Doubles, so that sums in another order agree; one weight never learns."""
    with seeded(3):
        network = nn.Sequential(nn.Embedding(31, 6), nn.Dropout(p_drop), nn.Linear(6, 31))
        network.register_parameter("unused", nn.Parameter(torch.ones(3)))
        return network.double()


def loss_of(network, noise=0.0):
    def loss(batch, generator):
        real = batch.targets > 0
        value = nn.functional.cross_entropy(
            network[2](network[1](network[0](batch.items[real]))), batch.targets[real]
        )
        return value * (1 + noise * torch.rand((), generator=generator))

    return loss


def settings(**changes):
    """Batches of 13 slots: of two rows, or of one, which leaves the second rank without any."""
    return TrainingSettings(
        **{"epochs": 6, "batch_targets": 13, "lr": 0.05, "patience": 6, "threads": 1, **changes}
    )


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).double().numpy()


def trained_exactly():
    """The weights after a training without dropout and negatives: they do not depend on who computes them."""
    network = tiny_network()
    run = train(network, windows(ring(20)), loss_of(network), settings(**EVERYTHING))
    return weights(network), [epoch.loss for epoch in run.epochs]


def measured():
    """(validation of a network that never learned, the users whom this process encoded for it)"""
    split, users = leave_one_out(ring()), []
    network = tiny_network()

    def encode(given, items):
        users.extend(given.tolist())
        return network[0](items).sum(dim=1)

    return validator(encode, lambda: network[2].weight, split.valid, block=7)(), users


def small_sasrec():
    model = SASRec(training=settings(epochs=10, batch_targets=64, lr=1e-2, device="cpu"))
    model.settings = replace(model.settings, dim=16, loss=LossSettings("sampled", 16))
    split = leave_one_out(ring())
    return model.fit(split.train, validation=split.valid), split.test


def rank_program(folder):
    """What each rank does; what it finds goes to a file of its own."""
    found = {}
    dense, unused, sometimes = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    table = nn.Parameter(torch.zeros(4, 2))
    dense.grad = torch.tensor([1.0, 2.0]) * (rank() + 1)
    if rank() == 1:
        sometimes.grad = torch.tensor([4.0, 8.0])
    table.grad = torch.sparse_coo_tensor([[rank()]], [[1.0, 1.0]], (4, 2))
    share = (0.25, 0.75)[rank()]
    loss = average_gradients([dense, unused, sometimes, table], torch.tensor(float(rank())), share)
    found["gradients"] = [
        None if p.grad is None else p.grad.tolist() for p in (dense, unused, sometimes, table)
    ]
    found["loss"] = float(loss)
    found["total"] = total(1.5, rank())
    found["first"] = from_first(lambda: f"made by {rank()}")

    def refuse():
        raise ValueError(f"rank {rank()} says no")

    try:
        from_first(refuse)
    except ValueError as error:
        found["refusal"] = str(error)
    found["validation"] = measured()
    found["exact"] = trained_exactly()[1]

    # An interrupted training with everything random, and the same unbroken. Ranks see values of their own,
    # but the first one's count.
    offset = rank() * 0.01
    options = settings(**EVERYTHING, patience=2)
    whole, broken, again = (tiny_network(0.3) for _ in range(3))
    data, path = windows(ring(20)), folder / "resume.safetensors"
    values = iter([value + offset for value in VALUES])
    run = train(whole, data, loss_of(whole, 0.5), options, validate=values.__next__)
    found["values"] = [epoch.value for epoch in run.epochs]
    short = iter([value + offset for value in VALUES[:2]])
    with contextlib.suppress(StopIteration):
        train(broken, data, loss_of(broken, 0.5), options, validate=short.__next__, resume=path)
    rest = iter([value + offset for value in VALUES[2:]])
    train(again, data, loss_of(again, 0.5), options, validate=rest.__next__, resume=path)
    found["resumed"] = bool(np.array_equal(weights(again), weights(whole)))

    if rank() == 1:
        torch.manual_seed(9)  # other initial weights: those of the first rank count
    model, test = small_sasrec()
    model.save(folder / "sasrec.safetensors")
    found["ndcg"] = evaluate_split(model, test).ndcg[10]
    found["runs"] = [[epoch.value for epoch in run.epochs] for run in model.runs]
    found["cpu_s"] = [epoch.cpu_s for epoch in model.runs[0].epochs]
    np.savez(
        folder / f"{rank()}.npz",
        exact=trained_exactly()[0],
        whole=weights(whole),
        sasrec=weights(model.network),
    )
    (folder / f"{rank()}.json").write_text(json.dumps(found))


def torchrun(*arguments, n=2):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        n,
        *arguments,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(word) for word in command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """(found, arrays, folder): what rank 0 and rank 1 found."""
    folder = tmp_path_factory.mktemp("ranks")
    result = torchrun(__file__, folder)
    assert result.returncode == 0, result.stderr
    found = [json.loads((folder / f"{number}.json").read_text()) for number in (0, 1)]
    return found, [dict(np.load(folder / f"{number}.npz")) for number in (0, 1)], folder


def test_gradients_are_averaged_over_ranks_by_their_shares(ranks):
    for found in ranks[0]:
        dense, unused, sometimes, table = found["gradients"]
        assert dense == [0.25 + 0.75 * 2, 2 * (0.25 + 0.75 * 2)]
        assert unused is None
        assert sometimes == [3.0, 6.0]
        assert table == [[0.25, 0.25], [0.75, 0.75], [0.0, 0.0], [0.0, 0.0]]
        assert found["loss"] == 0.75
        assert found["total"] == [3.0, 1.0]
        assert (found["first"], found["refusal"]) == ("made by 0", "rank 0 says no")


def test_two_ranks_take_the_steps_of_one_process(ranks):
    expected, losses = trained_exactly()
    for found, arrays in zip(*ranks[:2], strict=True):
        np.testing.assert_allclose(arrays["exact"], expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found["exact"], losses, rtol=1e-9)


def test_ranks_end_with_equal_weights_and_the_same_decisions(ranks):
    (first, second), (a, b), _ = ranks
    for name in ("whole", "sasrec"):
        assert np.array_equal(a[name], b[name])
    assert first["values"] == second["values"] == VALUES[:4], "the first rank's values; patience ends both"
    assert first["runs"] == second["runs"]
    assert first["cpu_s"] == second["cpu_s"]


def test_a_training_on_two_ranks_resumes_bit_for_bit(ranks):
    assert all(found["resumed"] for found in ranks[0])
    network = tiny_network(0.3)
    with pytest.raises(ValueError, match="was written by 2 processes, and these are 1; start as many"):
        train(
            network,
            windows(ring(20)),
            loss_of(network),
            settings(**EVERYTHING, patience=2),
            resume=ranks[2] / "resume.safetensors",
        )


def test_two_ranks_learn_as_much_as_one_process(ranks):
    """The task is learned by both (a guess has an NDCG@10 of .15), up to the noise of 90 users."""
    model, test = small_sasrec()
    alone = evaluate_split(model, test).ndcg[10]
    for found in ranks[0]:
        assert found["ndcg"] == pytest.approx(alone, abs=0.1)
        assert min(found["ndcg"], alone) > 0.6
    assert not np.array_equal(ranks[1][0]["sasrec"], weights(model.network)), (
        "negatives are drawn by each rank"
    )


def test_the_first_rank_writes_a_checkpoint_that_loads(ranks):
    _, (arrays, _), folder = ranks
    loaded = SASRec.load(folder / "sasrec.safetensors")
    assert np.array_equal(weights(loaded.network), arrays["sasrec"])
    assert not list(folder.glob("*.partial"))


def test_a_world_without_an_address_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(
        ValueError, match=r"WORLD_SIZE is 2, but .*MASTER_ADDR.* not set; start .* with torchrun"
    ):
        total(1.0)


def test_ranks_divide_the_users_of_a_validation_among_them(ranks):
    value, users = measured()
    for found in ranks[0]:
        assert found["validation"][0] == pytest.approx(value, rel=1e-12)
    parts = [found["validation"][1] for found in ranks[0]]
    assert min(len(part) for part in parts) > 0
    assert sorted(parts[0] + parts[1]) == sorted(users)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_sentence(tmp_path):
    assert pick_device("auto") == usable_device("cuda:3") == "cpu"
    with pytest.raises(ValueError, match="device 'cuda' needs a GPU, and torch sees none"):
        pick_device("cuda")
    with pytest.raises(ValueError, match="device 'tpu' is unknown; known devices: cpu, cuda"):
        local_device("tpu")
    network = tiny_network()
    with pytest.raises(ValueError, match="device 'cuda' needs a GPU"):
        train(network, windows(ring(20)), loss_of(network), settings(device="cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_learns_on_a_gpu_and_its_checkpoint_serves_on_the_cpu(tmp_path, name, make_model, world):
    model = make_model(name, epochs=2)
    if not hasattr(model, "training"):
        pytest.skip("nothing is trained")
    model.training = replace(model.training, device="cuda")
    model.fit(world).save(tmp_path / "model.safetensors")
    users, histories = np.arange(world.n_users), world.histories()
    on_cpu = type(model).load(tmp_path / "model.safetensors", device="cpu")
    here, there = (m.recommend(users, histories, 10, histories) for m in (on_cpu, model))
    assert np.mean(here == there) > 0.95, "up to scores that nearly tie"


def test_a_model_makes_its_tensors_on_its_own_device(name, make_model, world):
    """torch's default device is one on which nothing can be computed; whatever is created without saying
    where ends there, and the next sum with it fails."""
    model = make_model(name, epochs=2)
    if not hasattr(model, "training"):
        pytest.skip("nothing is trained")
    model.training = replace(model.training, max_targets=300)
    for loss in (LossSettings("sampled", 30), LossSettings("full"), LossSettings("bce", 2)):
        if name.startswith("comirec") and loss.kind != "sampled":
            model.settings = replace(model.settings, interest_of="target")
        model.settings = replace(model.settings, loss=loss)
        network = model.build(world.n_users, world.n_items)  # initial weights are always made on the CPU
        model.build = lambda *_, network=network: network
        with torch.device("meta"):
            model.fit(world)
            histories = world.histories()
            lists = model.recommend(np.arange(world.n_users), histories, 5, histories)
            histories[0] = 0
            evaluate_split(
                model, Validation(np.arange(world.n_users), histories, world.items[: world.n_users])
            )
        assert lists.min() > 0
        del model.build


def test_the_losses_of_full_softmax_keep_their_buffers_where_the_table_is():
    h, table, targets = torch.ones(3, 2), torch.ones(5, 2), torch.tensor([1, 2, 3])
    with torch.device("meta"):
        assert FullSoftmax()(h, table, targets).device.type == "cpu"


@pytest.mark.slow
def test_the_commands_run_under_torchrun(tmp_path):
    interactions = ring()
    offsets, items = interactions.sequences()
    data = tmp_path / "ring.txt"
    lines = [[user + 1, *items[offsets[user] : offsets[user + 1]]] for user in range(interactions.n_users)]
    data.write_text("".join(" ".join(map(str, line)) + "\n" for line in lines))
    few = ["--epochs", 8, "--device", "cpu"]
    out = tmp_path / "out"
    results = [
        torchrun("-m", "recgpt.cli", "pretrain", data, "--out", out, "--dim", 16, "--lr", 1e-2, *few),
        torchrun(
            *("-m", "recgpt.cli", "tune", data, "--from", out, "--out", out),
            *("--tune-epochs", 2, "--device", "cpu"),
        ),
        torchrun("-m", "recgpt.cli", "eval", data, "--checkpoint", out, "--json"),
        torchrun("-m", "recgpt.cli", "eval", data, "--models", "sasrec,poprec", "--json", "--lr", 1e-2, *few),
    ]
    for result in results:
        assert result.returncode == 0, result.stderr
    pretrained, tuned, stages, models = results
    assert pretrained.stdout.count("pretrained.safetensors:") == tuned.stdout.count("tuned.safetensors:") == 1
    assert pretrained.stderr.count("recgpt pretrain: epoch 8") == 1
    assert sorted(path.name for path in out.iterdir()) == ["pretrained.safetensors", "tuned.safetensors"]
    rows = json.loads(stages.stdout)["results"]
    assert [row["model"] for row in rows] == ["recgpt:pretrain", "recgpt:tuned", "recgpt"]
    assert [row["model"] for row in json.loads(models.stdout)["results"]] == ["sasrec", "poprec"]
    assert rows[1]["ndcg@10"] > 0.6
    header = load_checkpoint(out / "tuned.safetensors")[1]
    assert header["training"]["device"] == "cpu"
    missing = torchrun("-m", "recgpt.cli", "eval", tmp_path / "none.txt")
    assert missing.returncode != 0
    assert missing.stderr.count("Error: no file") == 1


if __name__ == "__main__":
    rank_program(Path(sys.argv[1]))

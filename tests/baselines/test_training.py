"""The training loop: early stopping, resume, seeds, settings; and checkpoints."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from baselines.base import Interactions
from baselines.batches import windows
from baselines.checkpoint import load_checkpoint, save_checkpoint
from baselines.sasrec import SASRec
from baselines.training import TrainingSettings, seeded, torch_threads, train

DATA = windows(Interactions.from_arrays([0] * 6 + [1] * 6, [1, 2, 3, 1, 2, 3, 3, 2, 1, 3, 2, 1]))


def tiny_network():
    with seeded(3):
        return nn.Sequential(nn.Embedding(4, 5), nn.Dropout(0.2), nn.Linear(5, 4))


def loss_of(network):
    def loss(batch, generator):
        noise = torch.rand((), generator=generator)
        logits = network(batch.items).flatten(0, 1)
        return nn.functional.cross_entropy(logits, batch.targets.flatten(), ignore_index=0) * (1 + noise)

    return loss


def settings(**changes):
    return TrainingSettings(**{"epochs": 6, "lr": 0.05, "patience": 6, "threads": 1, **changes})


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_training_lowers_the_loss_and_ends_in_eval_mode():
    network = tiny_network()
    run = train(network, DATA, loss_of(network), settings(epochs=40))
    assert run.epochs[-1].loss < 0.9 * run.epochs[0].loss
    assert not network.training
    assert run.best == 40
    assert run.best_value is None


def test_the_best_epoch_is_kept_and_training_stops_when_patience_ends():
    network, kept = tiny_network(), {}
    values = iter([0.1, 0.5, 0.3, 0.5, 0.2, 0.9])

    def validate():
        value = next(values)
        kept[value] = weights(network) if value not in kept else kept[value]
        return value

    run = train(network, DATA, loss_of(network), settings(patience=3), validate=validate)
    assert [epoch.value for epoch in run.epochs] == [0.1, 0.5, 0.3, 0.5, 0.2]
    assert (run.best, run.best_value) == (2, 0.5)
    assert torch.equal(weights(network), kept[0.5])


def test_a_seed_decides_everything_and_the_global_stream_stays():
    before = torch.random.get_rng_state()
    first, same, other = tiny_network(), tiny_network(), tiny_network()
    for network, seed in ((first, 1), (same, 1), (other, 2)):
        train(network, DATA, loss_of(network), settings(seed=seed))
    assert torch.equal(weights(first), weights(same))
    assert not torch.equal(weights(first), weights(other))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_resumed_run_ends_where_an_unbroken_one_ends(tmp_path):
    whole, broken, again = tiny_network(), tiny_network(), tiny_network()
    values = [0.1, 0.4, 0.2, 0.3, 0.5, 0.1]
    train(whole, DATA, loss_of(whole), settings(), validate=iter(values).__next__)

    def interrupted():
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(values[len(seen)])
        return seen[-1]

    seen = []
    path = tmp_path / "resume.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(broken, DATA, loss_of(broken), settings(), validate=interrupted, resume=path)
    run = train(again, DATA, loss_of(again), settings(), validate=iter(values[3:]).__next__, resume=path)
    assert [epoch.value for epoch in run.epochs] == values
    assert torch.equal(weights(whole), weights(again))
    with pytest.raises(ValueError, match="other training settings"):
        train(again, DATA, loss_of(again), settings(lr=0.1), resume=path)


def test_a_diverged_loss_is_an_error():
    network = tiny_network()
    with pytest.raises(ArithmeticError, match="the loss of epoch 1 is nan; try a lower lr"):
        train(network, DATA, lambda batch, _: network(batch.items).sum() * torch.nan, settings())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"epochs": 0}, "epochs is 0"), ({"lr": -1.0}, "lr is -1.0"), ({"max_targets": 0}, "max_targets is 0")],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**change)


def test_threads_are_set_inside_and_restored():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    tensors = {"b": torch.arange(6).view(2, 3).T, "a": torch.tensor(1.5)}
    save_checkpoint(tmp_path / "new" / "x.safetensors", tensors, {"model": "sasrec", "n": 3})
    read, header = load_checkpoint(tmp_path / "new" / "x.safetensors", "sasrec")
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert (header["model"], header["n"]) == ("sasrec", 3)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.safetensors"]


def test_a_damaged_or_foreign_checkpoint_is_one_clear_sentence(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match=r"no checkpoint at .*x.safetensors; fit a model"):
        load_checkpoint(path)
    save_checkpoint(path, {"a": torch.zeros(100)}, {"model": "comirec"})
    with pytest.raises(ValueError, match="holds a 'comirec', not a 'sasrec'"):
        SASRec.load(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="is no readable checkpoint"):
        load_checkpoint(path)
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ValueError, match="is no readable checkpoint"):
        load_checkpoint(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not one of ours"):
        load_checkpoint(path)


def test_weights_that_do_not_fit_their_header_are_refused(tmp_path, make_model, world):
    path = tmp_path / "x.safetensors"
    make_model("sasrec", epochs=1).fit(world).save(path)
    tensors, header = load_checkpoint(path)
    del tensors["network.positions.weight"]
    save_checkpoint(path, tensors, header)
    with pytest.raises(ValueError, match="does not fit the model that its header describes"):
        SASRec.load(path)

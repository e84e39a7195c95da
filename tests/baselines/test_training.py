"""The training loop: early stopping, resume, seeds, settings."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from baselines.base import Interactions
from baselines.batches import windows
from baselines.checkpoint import load_checkpoint, save_checkpoint
from baselines.settings import SCHEDULES, TrainingSettings
from baselines.training import seeded, torch_threads, train

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
    return TrainingSettings(
        **{"epochs": 6, "batch_targets": 5, "lr": 0.05, "patience": 6, "threads": 1, **changes}
    )


OPTIONS = {
    "averaging": {"averaging": 0.9},
    "linear": {"schedule": "linear"},
    "cosine": {"schedule": "cosine"},
    "warmup": {"warmup_steps": 5},
    "clipping": {"clip_norm": 0.1},
    "together": {"averaging": 0.99, "schedule": "cosine", "warmup_steps": 3, "clip_norm": 0.5},
}
"""Changes of the settings that a resumed run must not notice."""


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


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("epochs_done", [1, 4])
def test_a_run_resumes_after_any_epoch_with_every_option(option, epochs_done, tmp_path):
    values = [0.1, 0.4, 0.2, 0.3, 0.5, 0.1]
    whole, broken = tiny_network(), tiny_network()
    asked = settings(**OPTIONS[option])
    plain = tiny_network()
    train(plain, DATA, loss_of(plain), settings(), validate=iter(values).__next__)
    expected = train(whole, DATA, loss_of(whole), asked, validate=iter(values).__next__)
    path = tmp_path / "resume.safetensors"
    with pytest.raises(StopIteration):
        train(
            broken,
            DATA,
            loss_of(broken),
            asked,
            validate=iter(values[:epochs_done]).__next__,
            resume=path,
        )
    again = tiny_network()
    run = train(again, DATA, loss_of(again), asked, validate=iter(values[epochs_done:]).__next__, resume=path)
    assert torch.equal(weights(again), weights(whole))
    assert not torch.equal(weights(plain), weights(whole)), "the option does something"
    assert [epoch._replace(cpu_s=0) for epoch in run.epochs] == [
        epoch._replace(cpu_s=0) for epoch in expected.epochs
    ]


def test_the_average_of_the_weights_is_what_is_validated_and_kept():
    """Against an average computed here from the weights after each step of a run without averaging."""
    plain, averaged, path = tiny_network(), tiny_network(), []
    inner = loss_of(plain)

    def watched(batch, generator):
        path.append(weights(plain))
        return inner(batch, generator)

    train(plain, DATA, watched, settings())
    path.append(weights(plain))
    expected = path[0].double()
    for step, now in enumerate(path[1:]):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * now.double()
    seen = []

    def validate():
        seen.append(weights(averaged))
        return float(len(seen))

    train(averaged, DATA, loss_of(averaged), settings(averaging=0.5), validate=validate)
    assert len(path) == 13, "two steps an epoch"
    torch.testing.assert_close(weights(averaged).double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(seen[-1], weights(averaged))
    without = tiny_network()
    train(without, DATA, loss_of(without), settings(averaging=0.5))
    assert torch.equal(weights(without), weights(averaged)), "without validation: the last epoch's average"


def test_the_rate_follows_its_schedule():
    rates = {
        name: [settings(schedule=name, lr=2.0).rate(epoch, 7) for epoch in range(1, 7)] for name in SCHEDULES
    }
    assert rates["constant"] == [2.0] * 6
    assert np.allclose(np.diff(rates["linear"]), -2.0 * 0.95 / 5)
    for name in ("linear", "cosine"):
        assert (rates[name][0], pytest.approx(rates[name][-1])) == (2.0, 0.1)
        assert rates[name] == sorted(rates[name], reverse=True)
    assert rates["cosine"][2] + rates["cosine"][3] == pytest.approx(2.1), "symmetric about the middle"
    warm = settings(warmup_steps=4, lr=2.0)
    assert [warm.rate(1, step) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert settings(epochs=1, schedule="linear", lr=2.0).rate(1, 0) == 2.0


def test_a_clipped_step_is_as_long_as_allowed():
    network = tiny_network()

    def loss(batch, generator):
        return 1000 * loss_of(network)(batch, generator)

    with pytest.raises(StopIteration):
        train(network, DATA, loss, settings(clip_norm=0.25), validate=iter(()).__next__)
    gradient = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    assert float(gradient.norm()) == pytest.approx(0.25, rel=1e-4)


def test_as_many_users_measure_an_epoch_as_the_settings_say(make_model, world):
    values = []
    for n_users in (1, 20):
        model = make_model("sasrec", epochs=3)
        model.training = replace(model.training, evaluate_users=n_users)
        values.append([epoch.value for epoch in model.fit(world).runs[0].epochs])
    one, twenty = values
    gains = {0.0, *(1 / np.log2(np.arange(2, 12)))}
    assert all(any(np.isclose(value, gain) for gain in gains) for value in one), "NDCG@10 of one user"
    assert one != twenty


def half_trained(path, **made_of):
    """A network whose training stopped after an epoch and left its resume file."""
    network = tiny_network()
    with pytest.raises(StopIteration):
        train(
            network,
            DATA,
            loss_of(network),
            settings(),
            validate=iter([0.1]).__next__,
            resume=path,
            made_of=made_of,
        )
    return tiny_network()


def test_a_resume_file_of_another_training_is_one_clear_sentence(tmp_path):
    path = tmp_path / "resume.safetensors"
    network = half_trained(path, dim=5)

    def resume(data=DATA, network=network, made_of=None, **changes):
        made_of = made_of or {"dim": 5}
        train(network, data, loss_of(network), settings(**changes), resume=path, made_of=made_of)

    others = windows(Interactions.from_arrays([0] * 6, [3, 2, 1, 3, 2, 1]))
    with pytest.raises(ValueError, match=r"resume.safetensors was written for other interactions; delete it"):
        resume(data=others)
    with pytest.raises(ValueError, match=r"under other training settings \(lr 0.05, now 0.1\); delete it"):
        resume(lr=0.1)
    with pytest.raises(
        ValueError, match=r"other settings of the model \(dim 5, now 7, loss None, now 'bce'\)"
    ):
        resume(made_of={"dim": 7, "loss": "bce"})
    with torch.no_grad():
        network[0].weight += 1
    with pytest.raises(ValueError, match="a training that began with other weights"):
        resume(network=network)
    resume(network=tiny_network())


def test_a_damaged_resume_file_is_one_clear_sentence(tmp_path):
    path = tmp_path / "resume.safetensors"
    network = half_trained(path)
    whole = path.read_bytes()
    tensors, header = load_checkpoint(path)

    def refused(match):
        before = weights(network)
        with pytest.raises(ValueError, match=match):
            train(network, DATA, loss_of(network), settings(), resume=path)
        assert torch.equal(weights(network), before)

    for n_bytes in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:n_bytes])
        refused("is no readable checkpoint")
    save_checkpoint(path, tensors, {name: header[name] for name in ("model", "training", "reached")})
    refused("was written by another version of this program; delete it to start again")
    old = {name: value for name, value in header["training"].items() if name != "averaging"}
    save_checkpoint(path, tensors, {**header, "training": old})
    refused(r"other training settings \(averaging None, now 0.0\)")
    save_checkpoint(path, tensors, {**header, "model": "pretrain"})
    refused("holds a 'pretrain', not a 'fit'")


def test_weights_that_diverge_in_the_last_step_are_an_error(tmp_path):
    """The loss of an epoch is that of the weights before each step, so it says nothing about the last one;
    such a model was saved."""
    network = tiny_network()
    path = tmp_path / "resume.safetensors"
    with pytest.raises(ArithmeticError, match=r"weights are no numbers after epoch 1; try a lower lr"):
        train(network, DATA, loss_of(network), settings(lr=1e39, batch_targets=1000), resume=path)
    assert not path.exists()


def test_a_diverged_loss_is_an_error():
    network = tiny_network()
    with pytest.raises(ArithmeticError, match="the loss of epoch 1 is nan; try a lower lr"):
        train(network, DATA, lambda batch, _: network(batch.items).sum() * torch.nan, settings())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be above 0"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"max_targets": 0}, "max_targets is 0"),
        ({"averaging": 1.0}, r"averaging is 1.0; it must be 0 \(none\) to below 1"),
        ({"averaging": -0.1}, "averaging is -0.1"),
        ({"schedule": "step"}, "schedule 'step' is unknown; known schedules: constant, linear, cosine"),
        ({"warmup_steps": -1}, "warmup_steps is -1; it must be 0 or more"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0; give a number above 0, or None"),
        ({"evaluate_users": 0}, "evaluate_users is 0; it must be above 0"),
        ({"lr": float("inf")}, "lr is inf; give a finite rate"),
        ({"threads": 100_000}, "threads is 100000; it must be 1 to 256"),
        ({"seed": 2**63}, r"seed is 9223372036854775808; it must be below 2\^63"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**change)


def test_threads_are_set_inside_and_restored():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_sizes_that_torch_cannot_make_are_one_sentence(make_model, world):
    model = make_model("sasrec")
    model.settings = replace(model.settings, dim=10**12)
    with pytest.raises(ValueError, match=r"sasrec cannot be built for 120 users .* such as to a dim of 64"):
        model.fit(world)

"""The one training loop: epochs over batches of similar length, validation, early stopping, resume.

A stage of training is a call: train(network, windows(interactions), loss, settings, validate=...). Models
with several stages call it several times with other losses; nothing is inherited.

Under torchrun (baselines.distributed) each rank takes a part of every batch; `batch_targets` is the whole
batch, so any number of ranks trains the same way, up to the draws of dropout and negatives.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from baselines.base import Progress, silent
from baselines.batches import Batch, Windows, batches
from baselines.checkpoint import load_checkpoint, restore, save_checkpoint
from baselines.distributed import (
    average_gradients,
    copy_first,
    from_first,
    local_device,
    n_ranks,
    rank,
    total,
)
from baselines.settings import TrainingSettings

Loss = Callable[[Batch, torch.Generator], Tensor]
"""Mean loss of a batch; draws (negatives) come from the generator, dropout from torch's own seeded stream."""

Validate = Callable[[], float]
"""How good the network is now; higher is better."""


class Epoch(NamedTuple):
    """What one epoch cost, over all ranks, and gave; `value` is the validation's, None without one."""

    number: int
    loss: float
    value: float | None
    cpu_s: float


class TrainingRun(NamedTuple):
    """The epochs of a stage; `best` is the number of the one whose weights were kept."""

    epochs: tuple[Epoch, ...]
    best: int

    @property
    def best_value(self) -> float | None:
        return next((epoch.value for epoch in self.epochs if epoch.number == self.best), None)


def train(
    network: nn.Module,
    windows: Windows,
    loss: Loss,
    settings: TrainingSettings,
    *,
    validate: Validate | None = None,
    label: str = "fit",
    progress: Progress = silent,
    resume: str | Path | None = None,
    made_of: Mapping[str, Any] | None = None,
) -> TrainingRun:
    """Train `network` in place with Adam and leave it in eval mode with the weights of its best epoch (the
    last one without `validate`). With averaging, the averaged weights are what is validated and kept.

    Each epoch draws from streams seeded by (seed, epoch), so a run that is resumed from the file `resume`
    (written after every epoch where given) ends in the same weights. A file that is of other settings,
    interactions, number of ranks or `made_of` (JSON values: what the network and the loss are made of) is
    refused. Raises ValueError for that and for empty data, ArithmeticError when the loss is no longer a
    number.
    """
    if not len(windows.users):
        raise ValueError("nothing to learn from: no user has two interactions")
    device = local_device(settings.device)
    network.to(device)
    copy_first(network.state_dict().values())
    state = _State(network, settings)
    identity: dict[str, Any] = {}
    if resume is not None:
        identity = _identity(network, windows, settings, made_of or {})
        found = from_first(lambda: load_checkpoint(resume, label) if Path(resume).exists() else None)
        if found is not None:
            state.load(*found, identity, resume)
    with torch_threads(settings.threads), _kept_streams(device):
        while not state.finished():
            started = time.process_time()
            mean_loss = _epoch(state, windows, loss, len(state.epochs) + 1, device)
            network.eval()
            with state.averaged():
                own = None if validate is None else validate()
                value = from_first(lambda: own)  # noqa: B023 - called at once
                state.close(mean_loss, value, *total(time.process_time() - started))
            if resume is not None and rank() == 0:
                state.save(resume, label, identity)
            if rank() == 0:
                progress(f"{label}: {_describe(state.epochs[-1])}", len(state.epochs) / settings.epochs)
    network.load_state_dict(state.best_weights)
    network.eval()
    return TrainingRun(tuple(state.epochs), state.best)


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """torch computes with n threads inside: sums then have one order, whatever the caller uses."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global stream on the CPU is seeded inside (initial weights) and untouched outside."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def _kept_streams(device: torch.device) -> Iterator[None]:
    """torch's global streams on the CPU and on `device` are untouched outside."""
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device.index]):
        yield


class _State:
    """All that a stage of training changes, hence all that a resume file holds."""

    def __init__(self, network: nn.Module, settings: TrainingSettings) -> None:
        self.network, self.settings = network, settings
        self.optimizer = torch.optim.Adam(
            network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.steps = 0
        self.average: list[Tensor] = []
        if settings.averaging:
            self.average = [weight.detach().clone() for weight in network.parameters()]
        self.epochs: list[Epoch] = []
        self.best, self.best_weights = 0, _copy(network)

    def step(self, epoch: int) -> None:
        """Move the weights along their gradients, and the average after them."""
        s = self.settings
        if s.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), s.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = s.rate(epoch, self.steps)
        self.optimizer.step()
        if self.average:
            decay = min(s.averaging, (1 + self.steps) / (10 + self.steps))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, list(self.network.parameters()), 1 - decay)
        self.steps += 1

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network has the averaged weights inside, where there are any."""
        if not self.average:
            yield
            return
        weights: list[Tensor] = list(self.network.parameters())
        trained = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            torch._foreach_copy_(weights, self.average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, trained)

    def close(self, loss: float, value: float | None, cpu_s: float) -> None:
        """End an epoch: the network's weights of now are kept where they are the best."""
        self.epochs.append(Epoch(len(self.epochs) + 1, loss, value, cpu_s))
        if value is None or self.best == 0 or value > (self.epochs[self.best - 1].value or 0.0):
            self.best, self.best_weights = len(self.epochs), _copy(self.network)

    def finished(self) -> bool:
        n = len(self.epochs)
        return n >= self.settings.epochs or (n > 0 and n - self.best >= self.settings.patience)

    def save(self, path: str | Path, label: str, identity: dict[str, Any]) -> None:
        tensors = {f"now.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best_weights.items()}
        tensors |= {f"average.{number}": tensor for number, tensor in enumerate(self.average)}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": tensor for name, tensor in state.items()}
        reached = {"steps": self.steps, "epochs": self.epochs, "best": self.best}
        header = {"model": label, **identity, "reached": reached}
        save_checkpoint(path, {name: tensor.clone() for name, tensor in tensors.items()}, header)

    def load(
        self, tensors: dict[str, Tensor], header: dict[str, Any], identity: dict[str, Any], path: str | Path
    ) -> None:
        _check_identity(header, identity, path)
        reached = header["reached"]
        restore(self.network, _part(tensors, "now."), path)
        state = self.optimizer.state_dict()
        state["state"] = {}
        for name, tensor in _part(tensors, "adam.").items():
            number, field = name.split(".", 1)
            state["state"].setdefault(int(number), {})[field] = tensor
        self.optimizer.load_state_dict(state)
        for name, tensor in _part(tensors, "average.").items():
            self.average[int(name)].copy_(tensor)
        self.steps, self.best = reached["steps"], reached["best"]
        self.epochs = [Epoch(*epoch) for epoch in reached["epochs"]]
        self.best_weights = _part(tensors, "best.")


def _identity(
    network: nn.Module, windows: Windows, settings: TrainingSettings, made_of: Mapping[str, Any]
) -> dict[str, Any]:
    """What a resume file and the training that continues it must have in common, as JSON returns it."""
    weights = hashlib.sha256()
    for tensor in network.state_dict().values():
        weights.update(tensor.cpu().numpy().tobytes())
    identity = {
        "interactions": windows.content_hash(),
        "training": asdict(settings),
        "made_of": dict(made_of),
        "first_weights": weights.hexdigest()[:32],
        "processes": n_ranks(),
    }
    found: dict[str, Any] = json.loads(json.dumps(identity))
    return found


def _check_identity(header: dict[str, Any], identity: dict[str, Any], path: str | Path) -> None:
    if not {*identity, "reached"} <= set(header):
        raise ValueError(f"{path} was written by another version of this program; delete it to start again")
    if header["interactions"] != identity["interactions"]:
        raise ValueError(f"{path} was written for other interactions; delete it to start again")
    for part, words in (("training", "other training settings"), ("made_of", "other settings of the model")):
        then, now = header[part], identity[part]
        differ = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
        if differ:
            changes = ", ".join(f"{name} {then.get(name)!r}, now {now.get(name)!r}" for name in differ)
            raise ValueError(f"{path} was written under {words} ({changes}); delete it to start again")
    if header["first_weights"] != identity["first_weights"]:
        raise ValueError(f"{path} was written for a training that began with other weights; delete it")
    if header["processes"] != identity["processes"]:
        raise ValueError(
            f"{path} was written by {header['processes']} processes, and these are {identity['processes']}; "
            "start as many as then, or delete it to start again"
        )


def _epoch(state: _State, windows: Windows, loss: Loss, number: int, device: torch.device) -> float:
    """Train for one epoch; its mean loss. All ranks draw the same batches, and each its own dropout and
    negatives."""
    settings = state.settings
    torch.manual_seed(_stream(settings.seed, number, 0 + 3 * rank()))
    generator = torch.Generator(device).manual_seed(_stream(settings.seed, number, 1 + 3 * rank()))
    order = np.random.default_rng(_stream(settings.seed, number, 2))
    state.network.train()
    sum_of_losses = torch.zeros((), device=device)
    n_batches = 0
    for batch in batches(windows, settings.batch_targets, order, settings.max_targets):
        state.optimizer.zero_grad(set_to_none=False)
        sum_of_losses += _gradients(state.network, batch, loss, generator)
        state.step(number)
        n_batches += 1
    mean = float(sum_of_losses) / n_batches
    if not np.isfinite(mean):
        raise ArithmeticError(f"the loss of epoch {number} is {mean}; try a lower lr than {settings.lr}")
    if not all(bool(weight.isfinite().all()) for weight in state.network.parameters()):
        raise ArithmeticError(
            f"weights are no numbers after epoch {number}; try a lower lr than {settings.lr}"
        )
    return mean


def _gradients(network: nn.Module, batch: Batch, loss: Loss, generator: torch.Generator) -> Tensor:
    """Leave the gradients of the batch's mean loss in the network; that loss."""
    own = batch.part(rank(), n_ranks())
    value = torch.zeros((), device=generator.device)
    if len(own.users):  # a batch may have fewer rows than there are ranks
        value = loss(own.to(generator.device), generator)
        value.backward()
    share = own.n_targets / batch.n_targets
    return average_gradients(list(network.parameters()), value.detach(), share)


def _stream(seed: int, epoch: int, purpose: int) -> int:
    return int(np.random.SeedSequence((seed, epoch, purpose)).generate_state(1, np.uint64)[0] >> 1)


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _describe(epoch: Epoch) -> str:
    value = "" if epoch.value is None else f", ndcg@10 {epoch.value:.4f}"
    return f"epoch {epoch.number}, loss {epoch.loss:.3f}{value}"


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

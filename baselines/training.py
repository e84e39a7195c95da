"""The one training loop: epochs over batches of similar length, validation, early stopping, resume.

A stage of training is a call: train(network, windows(interactions), loss, settings, validate=...). Models
with several stages call it several times with other losses; nothing is inherited.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from baselines.base import Progress, silent
from baselines.batches import Batch, Windows, batches
from baselines.checkpoint import load_checkpoint, save_checkpoint

Loss = Callable[[Batch, torch.Generator], Tensor]
"""Mean loss of a batch; draws (negatives) come from the generator, dropout from torch's own seeded stream."""

Validate = Callable[[], float]
"""How good the network is now; higher is better."""


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how to train. The defaults are a bounded budget of minutes; the presets of a model are for
    the last digit on a benchmark."""

    epochs: int = 12
    max_targets: int | None = 100_000  # of an epoch, drawn anew each time; None = everything
    batch_targets: int = 512  # slots of a batch: rows times longest row
    lr: float = 1e-3
    weight_decay: float = 0.0
    patience: int = 3  # epochs without a better validation before training stops
    validation_users: int = 2000  # whose last item is held out when no validation is given; 0 = none
    seed: int = 0
    device: str = "cpu"
    threads: int = 2

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_targets", "patience", "threads", "lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.max_targets is not None and self.max_targets <= 0:
            raise ValueError(f"max_targets is {self.max_targets}; give a number above 0, or None for all")


class Epoch(NamedTuple):
    """What one epoch cost and gave; `value` is the validation's, None without one."""

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
) -> TrainingRun:
    """Train `network` in place with Adam and leave it in eval mode with the weights of its best epoch (the
    last one without `validate`).

    Each epoch draws from streams seeded by (seed, epoch), so a run that is resumed from the file `resume`
    (written after every epoch where given) ends in the same weights. Raises ValueError for empty data and
    ArithmeticError when the loss is no longer a number.
    """
    if not len(windows.users):
        raise ValueError("nothing to learn from: no user has two interactions")
    network.to(settings.device)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
    )
    epochs: list[Epoch] = []
    best, best_weights = 0, _copy(network)
    if resume is not None and Path(resume).exists():
        epochs, best, best_weights = _resume(resume, network, optimizer, settings, label)
    with torch_threads(settings.threads), torch.random.fork_rng(devices=[]):
        while len(epochs) < settings.epochs and not _out_of_patience(epochs, best, settings.patience):
            number = len(epochs) + 1
            started = time.process_time()
            mean_loss = _epoch(network, windows, loss, settings, optimizer, number)
            network.eval()
            value = None if validate is None else validate()
            epochs.append(Epoch(number, mean_loss, value, time.process_time() - started))
            if value is None or best == 0 or value > (epochs[best - 1].value or 0.0):
                best, best_weights = number, _copy(network)
            if resume is not None:
                _suspend(resume, network, optimizer, settings, label, epochs, best, best_weights)
            progress(f"{label}: {_describe(epochs[-1])}", number / settings.epochs)
    network.load_state_dict(best_weights)
    network.eval()
    return TrainingRun(tuple(epochs), best)


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
    """torch's global stream is seeded inside (initial weights) and untouched outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _epoch(
    network: nn.Module,
    windows: Windows,
    loss: Loss,
    settings: TrainingSettings,
    optimizer: torch.optim.Optimizer,
    number: int,
) -> float:
    torch.manual_seed(_stream(settings.seed, number, 0))
    generator = torch.Generator(settings.device).manual_seed(_stream(settings.seed, number, 1))
    order = np.random.default_rng(_stream(settings.seed, number, 2))
    network.train()
    total = torch.zeros((), device=settings.device)
    n_batches = 0
    for batch in batches(windows, settings.batch_targets, order, settings.max_targets):
        value = loss(batch.to(settings.device), generator)
        optimizer.zero_grad(set_to_none=False)
        value.backward()
        optimizer.step()
        total += value.detach()
        n_batches += 1
    mean = float(total) / n_batches
    if not np.isfinite(mean):
        raise ArithmeticError(f"the loss of epoch {number} is {mean}; try a lower lr than {settings.lr}")
    return mean


def _stream(seed: int, epoch: int, purpose: int) -> int:
    return int(np.random.SeedSequence((seed, epoch, purpose)).generate_state(1, np.uint64)[0] >> 1)


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _out_of_patience(epochs: list[Epoch], best: int, patience: int) -> bool:
    return len(epochs) - best >= patience and bool(epochs)


def _describe(epoch: Epoch) -> str:
    value = "" if epoch.value is None else f", ndcg@10 {epoch.value:.4f}"
    return f"epoch {epoch.number}, loss {epoch.loss:.3f}{value}"


def _suspend(
    path: str | Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: TrainingSettings,
    label: str,
    epochs: list[Epoch],
    best: int,
    best_weights: dict[str, Tensor],
) -> None:
    tensors = {f"now.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best_weights.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{number}.{name}": tensor for name, tensor in state.items()}
    header = {"model": label, "training": asdict(settings), "epochs": epochs, "best": best}
    save_checkpoint(path, {name: tensor.clone() for name, tensor in tensors.items()}, header)


def _resume(
    path: str | Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: TrainingSettings,
    label: str,
) -> tuple[list[Epoch], int, dict[str, Tensor]]:
    tensors, header = load_checkpoint(path, label)
    if header["training"] != asdict(settings):
        raise ValueError(f"{path} was written under other training settings; delete it to start again")
    network.load_state_dict(_part(tensors, "now."))
    state = optimizer.state_dict()
    state["state"] = {}
    for name, tensor in _part(tensors, "adam.").items():
        number, field = name.split(".", 1)
        state["state"].setdefault(int(number), {})[field] = tensor
    optimizer.load_state_dict(state)
    return [Epoch(*epoch) for epoch in header["epochs"]], header["best"], _part(tensors, "best.")


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

"""Several processes train one network together, as `torchrun --nproc-per-node N` starts them.

Every process (a rank) has the same weights and computes the gradient of its own part of each batch; their
weighted sum is the gradient of the whole batch, so all take the same step. One process alone exchanges
nothing: no process group is started. Whatever is called here must be called by all ranks, in the same order.
"""

import atexit
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn

T = TypeVar("T")


def n_ranks() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """0 is the first; it alone writes and prints."""
    return int(os.environ.get("RANK", "0")) if n_ranks() > 1 else 0


def pick_device(name: str) -> str:
    """The name of a device that is there; "auto" is "cuda" where there is a GPU. Raises ValueError."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    local_device(name)
    return name


def local_device(name: str) -> torch.device:
    """The device of this rank. "cuda" is the GPU with the rank's number on its machine, the first one for a
    process alone. Raises ValueError for an unknown device and for a GPU that is not there."""
    if name == "cpu":
        return torch.device("cpu")
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise ValueError(f"device {name!r} is unknown; known devices: cpu, cuda, cuda:0, cuda:1, ...")
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    local_rank = int(os.environ.get("LOCAL_RANK", "0")) if n_ranks() > 1 else 0
    number = int(name.removeprefix("cuda:")) if ":" in name else local_rank
    if n_gpus == 0:
        raise ValueError(f"device {name!r} needs a GPU, and torch sees none on this machine; use 'cpu'")
    if number >= n_gpus:
        raise ValueError(
            f"GPU {number} is asked for, and this machine has {n_gpus} (they count from 0); start at most "
            "one process for each GPU, or use 'cpu'"
        )
    return torch.device("cuda", number)


def usable_device(name: str) -> str:
    """The device of that name, or the CPU where it is not there."""
    try:
        return pick_device(name)
    except ValueError:
        return "cpu"


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns, or raises, on rank 0: the same on all ranks. It is not called on the others."""
    if n_ranks() == 1:
        return make()
    _join()
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box[0] = make()
        except Exception as error:  # the others would wait for ever
            box[1] = error
    torch.distributed.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    made: T = box[0]
    return made


def total(*values: float) -> tuple[float, ...]:
    """Each value summed over ranks."""
    if n_ranks() == 1:
        return values
    _join()
    sums = torch.tensor(values, dtype=torch.float64)
    torch.distributed.all_reduce(sums)
    return tuple(sums.tolist())


@torch.no_grad()
def copy_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite the tensors of all ranks with those of rank 0."""
    if n_ranks() == 1:
        return
    _join()
    for tensor in tensors:
        torch.distributed.broadcast(tensor, src=0)


@torch.no_grad()
def average_gradients(weights: Sequence[nn.Parameter], loss: Tensor, share: float) -> Tensor:
    """Replace each weight's gradient by the mean over ranks, each counting with its `share` (they add up to
    1), and return the same mean of the loss.

    A gradient that no rank has stays None. Sparse ones come back dense.
    """
    if n_ranks() == 1:
        return loss
    _join()
    there = loss.new_tensor([weight.grad is not None for weight in weights], dtype=loss.dtype)
    everything = torch.cat([*(_dense(weight) for weight in weights), there, loss.reshape(1)]) * share
    torch.distributed.all_reduce(everything)
    *gradients, there, loss = everything.split([*(weight.numel() for weight in weights), len(weights), 1])
    somewhere = [True] * len(weights)
    if any(weight.grad is None for weight in weights):
        somewhere = (there > 0).tolist()
    for weight, gradient, known in zip(weights, gradients, somewhere, strict=True):
        if known:
            weight.grad = gradient.view_as(weight).to(weight.dtype)
    return loss[0]


def _dense(weight: nn.Parameter) -> Tensor:
    gradient = weight.grad
    if gradient is None:
        return torch.zeros_like(weight).flatten()
    return (gradient.to_dense() if gradient.is_sparse else gradient).flatten()


def _join() -> None:
    """Meet the other ranks, the first time."""
    if torch.distributed.is_initialized():
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(
            f"WORLD_SIZE is {n_ranks()}, but {' and '.join(missing)} are not set; start the processes with "
            "torchrun, or unset WORLD_SIZE"
        )
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    atexit.register(torch.distributed.destroy_process_group)

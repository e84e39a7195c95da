"""Checkpoints: tensors in a safetensors file with a JSON header, never pickle."""

import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from baselines.distributed import rank

FAMILY = "short-video-lab checkpoint"
FORMAT = f"{FAMILY} 1"

T = TypeVar("T")


def save_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write `tensors` and `header` (JSON values). A crash leaves the old file, never half of a new one. Of
    the ranks of a distributed training only the first writes."""
    if rank() > 0:
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    text = json.dumps({"format": FORMAT, **header}, sort_keys=True)
    partial = target.with_name(target.name + ".partial")
    try:
        save_file(plain, partial, metadata={"header": text})
    except SafetensorError as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"cannot write {target}: {error}") from error
    partial.replace(target)


def load_checkpoint(path: str | Path, model: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, header). Raises ValueError in one sentence where the file is missing, damaged or foreign, or
    holds another model than `model`."""
    if not Path(path).is_file():
        raise ValueError(f"no checkpoint at {path}; fit a model and save it there first")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        header = json.loads(metadata.get("header", "{}"))
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise ValueError(f"{path} is no readable checkpoint ({error}); copy or train it again") from error
    written = header.get("format") if isinstance(header, dict) else None
    if written != FORMAT and str(written).startswith(FAMILY):
        raise ValueError(
            f"{path} has the format {written!r}, and this version of the program reads {FORMAT!r}; load it "
            "with the version that wrote it, or train the model again"
        )
    if written != FORMAT:
        raise ValueError(
            f"{path} is a safetensors file but not one of ours (format {written!r}, wanted {FORMAT!r}); "
            "train the model again"
        )
    if model is not None and header.get("model") != model:
        raise ValueError(f"{path} holds a {header.get('model')!r}, not a {model!r}; load it by that name")
    return tensors, header


def restore(network: torch.nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Put the tensors into the network. Raises ValueError where names or shapes differ."""
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit the model that its header describes: {reason}") from error
    for name, tensor in network.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{path} has weights that are no numbers, in {name}; train the model again")


def settings_of(kind: type[T], fields: Any, path: str | Path) -> T:
    """Settings, a dataclass, from what a header says; what it does not say has its default. Raises ValueError
    for a field that the dataclass does not have or a value that it refuses."""
    known = get_type_hints(kind)
    unknown = sorted(set(fields) - set(known)) if isinstance(fields, dict) else [repr(fields)]
    if unknown:
        raise ValueError(
            f"{path} has settings that {kind.__name__} does not know ({', '.join(unknown)}), so another "
            "version of this program wrote it; load it with that version, or train the model again"
        )
    values = {}
    for name, value in fields.items():
        field = known[name]
        if isinstance(field, type) and is_dataclass(field):
            value = settings_of(field, value, path)
        values[name] = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} has settings that {kind.__name__} refuses: {error}") from error

"""Checkpoints: tensors in a safetensors file with a JSON header, never pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "short-video-lab checkpoint 1"


def save_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write `tensors` and `header` (JSON values). A crash leaves the old file, never half of a new one."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    text = json.dumps({"format": FORMAT, **header}, sort_keys=True)
    partial = target.with_name(target.name + ".partial")
    save_file(plain, partial, metadata={"header": text})
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
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path} is a safetensors file but not one of ours (format {header.get('format')!r}, "
            f"wanted {FORMAT!r}); train the model again"
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

"""Checkpoints of `transformers.Trainer`, read by the names that the live model has."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LARGEST = 2**30  # bytes of weights that are read back: seconds from a disk
FULL, ADAPTER = "model.safetensors", "adapter_model.safetensors"
PARTS = {"optimizer": "optimizer.pt", "schedule": "scheduler.pt"}
SHARDED = ("optimizer", "global_step", "pytorch_model_fsdp")  # how files of FSDP and DeepSpeed begin


def weights_in(folder: Path) -> Path | None:
    """The file of a checkpoint that holds the model's weights, or an adapter's; None for a sharded one."""
    return next((folder / name for name in (FULL, ADAPTER) if (folder / name).is_file()), None)


def saved_state(path: Path, model: nn.Module) -> Mapping[str, Tensor]:
    """A checkpoint by the live model's names: an adapter's file leaves out the adapter's own name."""
    from safetensors.torch import load_file

    state = load_file(path)
    if path.name != ADAPTER:
        return state
    adapters = tuple(getattr(model, "peft_config", {}))
    plain = {name: name.replace(f".{a}.", ".") for name in model.state_dict() for a in adapters if f".{a}." in name}
    known = {short: name for name, short in plain.items()}
    return {known.get(name, name): tensor for name, tensor in state.items()}


def resumed_from(folder: Path, model: nn.Module) -> dict[str, Any] | None:
    """What a checkpoint holds of a run that goes on, but for the random state, which the Trainer restores later.

    None where it is sharded, too large to be read in seconds, or holds what is not safe to load.
    """
    weights = weights_in(folder)
    if weights is None or weights.stat().st_size > LARGEST:
        return None
    files = {part: folder / name for part, name in PARTS.items() if (folder / name).is_file()}
    if "optimizer" not in files and any(file.name.startswith(SHARDED) for file in folder.iterdir()):
        return None
    try:
        parts = {part: torch.load(file, map_location="cpu", weights_only=True) for part, file in files.items()}
    except pickle.UnpicklingError:
        return None
    return {"weights": saved_state(weights, model), **parts}

"""Checkpoints of `transformers.Trainer`, read by the names that the live model has."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LARGEST = 2**30  # bytes of weights that are read back: seconds from a disk
FULL, ADAPTER = "model.safetensors", "adapter_model.safetensors"
PARTS = {"optimizer": "optimizer.pt", "schedule": "scheduler.pt"}
STATE = "trainer_state.json"
ENOUGH = 4  # tensors: weights that learn are equal in so many by no chance
STOPPED = "EarlyStoppingCallback"  # who ends a run before its last step on purpose
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

    None where it is sharded, too large to be read in seconds, or holds what is not safe to load; and where its weights
    are not the model's. The Trainer has just loaded those, so that it must have read them elsewhere.
    """
    weights = weights_in(folder)
    if weights is None or weights.stat().st_size > LARGEST:
        return None
    files = {part: folder / name for part, name in PARTS.items() if (folder / name).is_file()}
    if "optimizer" not in files and any(file.name.startswith(SHARDED) for file in folder.iterdir()):
        return None
    state, live = saved_state(weights, model), model.state_dict()
    if not all(name not in live or _equal(tensor, live[name]) for name, tensor in state.items()):
        return None
    try:
        parts = {part: torch.load(file, map_location="cpu", weights_only=True) for part, file in files.items()}
    except pickle.UnpicklingError:
        return None
    return {"weights": state, **parts}


def _equal(saved: Tensor, live: Tensor) -> bool:
    return saved.shape == live.shape and torch.equal(saved, live.detach().cpu().to(saved.dtype))


def left_off(output: Path, planned: int, batch: int, model: nn.Module) -> Path | None:
    """The last checkpoint of a run that was cut off, where a run of the same length begins with its very weights.

    It then goes on from there, whatever it says of its own step. None where that run came to its end, or was stopped.
    """
    places = {int(f.name.rpartition("-")[2]): f for f in output.glob("checkpoint-*") if f.name[11:].isdigit()}
    folder = places[max(places)] if places else None
    weights = weights_in(folder) if folder is not None else None
    if folder is None or weights is None or not (folder / STATE).is_file() or weights.stat().st_size > LARGEST:
        return None
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    same = (state.get("max_steps"), state.get("train_batch_size")) == (planned, batch)
    if not same or not 0 < state.get("global_step", 0) < planned or STOPPED in state.get("stateful_callbacks", {}):
        return None
    return folder if _begins_with(model, weights) else None


def _begins_with(model: nn.Module, weights: Path) -> bool:
    saved = saved_state(weights, model)
    learns = [(n, p) for n, p in model.named_parameters() if p.requires_grad and p.dim() > 1 and n in saved][:ENOUGH]
    return bool(learns) and all(torch.equal(p.detach().cpu(), saved[n].to(p.dtype)) for n, p in learns)

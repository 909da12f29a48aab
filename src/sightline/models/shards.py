"""Saved tensors by name: whole in safetensors files, or in the pieces that ranks wrote (`shards/`, torch's own format).

Both hold the same names, so what one layout wrote any other reads, whatever its number of ranks.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

SHARDS = "shards"
PARTS = ("model", "optimizer", "ema")  # files of a checkpoint, and the first word of a name in its shards


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as it was saved."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def empty(self) -> Tensor:
        """A tensor like it, on the CPU."""
        return torch.empty(self.shape, dtype=self.dtype)


def stored(folder: Path) -> dict[str, Stored]:
    """What the checkpoint `folder` holds, by part and name ("model.vision.weight")."""
    if (folder / SHARDS).is_dir():
        found = dcp.FileSystemReader(folder / SHARDS).read_metadata().state_dict_metadata
        return {
            name: Stored(tuple(each.size), each.properties.dtype)
            for name, each in found.items()
            if isinstance(each, TensorStorageMetadata)
        }
    names: dict[str, Stored] = {}
    for part in PARTS:
        if (folder / f"{part}.safetensors").is_file():
            with safe_open(folder / f"{part}.safetensors", "pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    shape = tuple(file.get_slice(name).get_shape())
                    # No element is read of what has any dimension: only its dtype is wanted.
                    dtype = (file.get_slice(name)[:0] if shape else file.get_tensor(name)).dtype
                    names[f"{part}.{name}"] = Stored(shape, dtype)
    return names


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Each rank writes what it holds of `tensors`; all ranks must call, with their own names."""
    dcp.save(dict(tensors), checkpoint_id=folder / SHARDS)


def read_shards(folder: Path, into: Mapping[str, Tensor], *, alone: bool = False) -> None:
    """Fill `into` in place, wherever its tensors lie.

    Args:
        alone: only this process reads; else all ranks must call.
    """
    alone = alone or not dist.is_initialized()
    with warnings.catch_warnings():  # torch says that a process that reads alone reads alone
        warnings.simplefilter("ignore", UserWarning)
        dcp.load(dict(into), checkpoint_id=folder / SHARDS, no_dist=alone)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The model's tensors of a checkpoint or an exported model, whole and on the CPU, read by this process alone."""
    if not (folder / SHARDS).is_dir():
        return load_file(folder / f"{PARTS[0]}.safetensors")
    prefix = f"{PARTS[0]}."
    found = {name: each.empty() for name, each in stored(folder).items() if name.startswith(prefix)}
    read_shards(folder, found, alone=True)
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def is_checkpoint(folder: Path) -> bool:
    """Whether `folder` holds a model's tensors in either form."""
    return (folder / SHARDS).is_dir() or (folder / f"{PARTS[0]}.safetensors").is_file()

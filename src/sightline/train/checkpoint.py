"""Checkpoints: everything that a run needs to go on as if it had never stopped, written whole or not at all.

A checkpoint is a folder `checkpoints/<stage>-<step>`:

    model.safetensors       the VLM's weights and buffers
    optimizer.safetensors   optimizer state, one tensor a parameter and kind ("vision.conv.weight.exp_avg")
    ema.safetensors         averages, where the stage keeps them
    shards/                 in place of these three, where the run's layout spreads them: what each rank holds of them
    weighting.safetensors   learned weights of the losses, where the stage has them, and their optimizer's state
    rng.safetensors         random states of torch and its devices
    state.json              position, optimizer groups, loss scale, random states of Python and NumPy

It is written beside its place, flushed to disk and renamed; `latest` and `best` are links to the folders.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from sightline.atomic import sync_folder
from sightline.errors import UserError
from sightline.models.shards import PARTS, write_shards
from sightline.recipe.schema import Parallel
from sightline.train.ema import Ema
from sightline.train.objectives.balance import Balance
from sightline.train.parallel.layout import Layout
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.saved import load_weights as load_weights
from sightline.train.parallel.saved import read
from sightline.train.precision import Precision


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run is: the stage, the steps done in it and in all, and what early stopping and logging carry along."""

    stage: int = 0
    step: int = 0
    global_step: int = 0
    best: float | None = None
    stale: int = 0  # validations since `best`
    window_loss: float | Tensor = 0.0  # loss summed since the last logged step, so that a resumed log is the same log
    window_tokens: int = 0
    window_skipped: float | Tensor = 0.0  # steps that an overflow made the loss scaler skip, since the last logged one

    def advanced(self, **changes: Any) -> Position:
        """A copy with `changes`."""
        return replace(self, **changes)


WHOLE = Layout(Parallel(), Ranks(0, 1, torch.device("cpu")))  # a process alone


@dataclass(frozen=True, slots=True)
class Learner:
    """The live objects that a checkpoint holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    precision: Precision
    ema: Ema | None
    balance: Balance | None = None
    layout: Layout = WHOLE


def save(folder: Path, learner: Learner, position: Position) -> Path:
    """Write the checkpoint `folder` (its name included) and point `latest` at it. Every process of the run calls it.

    Raises:
        UserError: the disk is full or cannot be written; the checkpoint before it is untouched.
    """
    ranks = learner.layout.ranks
    unfinished = folder.parent / f".{folder.name}.tmp"
    try:
        if ranks.main:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        ranks.barrier()
        averages = learner.ema.values if learner.ema is not None else {}
        tensors = learner.layout.state(learner.model, learner.optimizer, averages)
        if learner.layout.sharded:
            write_shards(unfinished, tensors)
            tensors = {}
        if ranks.main:
            _write(unfinished, learner, position, tensors)
            _put_in_place(unfinished, folder)
        ranks.barrier()
    except (OSError, SafetensorError, CheckpointException) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        kept = latest(folder.parent)
        survivor = f"the checkpoint before it is whole: {kept}" if kept else "there is no earlier checkpoint"
        fix = f"make room on that disk, then resume; {survivor}"
        raise UserError(f"the checkpoint could not be written: {error}", where=str(folder), fix=fix) from error
    return folder


def _put_in_place(unfinished: Path, folder: Path) -> None:
    for file in unfinished.rglob("*"):
        if file.is_file():
            _flush(file)
    sync_folder(unfinished)
    if folder.exists():  # the same step again, e.g. a stage's end that is also a periodic save
        shutil.rmtree(folder)
    os.replace(unfinished, folder)
    sync_folder(folder.parent)
    point("latest", folder)


def point(name: str, folder: Path) -> None:
    """Make `name` (latest, best) a link to the checkpoint `folder`, atomically."""
    link = folder.parent / name
    temporary = folder.parent / f".{name}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    os.replace(temporary, link)
    sync_folder(folder.parent)


def latest(checkpoints: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    link = checkpoints / "latest"
    if (link / "state.json").is_file():
        return checkpoints / os.readlink(link)
    whole = [path.parent for path in checkpoints.glob("[!.]*/state.json") if not path.parent.is_symlink()]
    return max(whole, key=lambda path: (path / "state.json").stat().st_mtime, default=None)


def prune(checkpoints: Path, keep: int) -> None:
    """Delete all but the last `keep` checkpoints, and never one that `latest` or `best` point at."""
    linked = {os.readlink(link) for name in ("latest", "best") if (link := checkpoints / name).is_symlink()}
    whole = [path.parent for path in checkpoints.glob("[!.]*/state.json") if not path.parent.is_symlink()]
    whole.sort(key=lambda path: json.loads((path / "state.json").read_text())["position"]["global_step"])
    for folder in whole[:-keep]:
        if folder.name not in linked:
            shutil.rmtree(folder)


def read_position(folder: Path) -> Position:
    """Where the run was when `folder` was saved."""
    return Position(**_state(folder)["position"])


def load_averages(folder: Path, ema: Ema) -> None:
    """Take up the averages alone."""
    ema.take_up(lambda into: read(folder, {f"ema.{name}": value for name, value in into.items()}))


def load(folder: Path, learner: Learner) -> Position:
    """Take up a checkpoint: weights, optimizer, scaler, averages and, last, the random states."""
    state = _state(folder)
    learner.layout.take_up(folder, learner.model, learner.optimizer, state["optimizer_groups"])
    learner.precision.scaler.load_state_dict(state["scaler"])
    if learner.ema is not None:
        load_averages(folder, learner.ema)
    if learner.balance is not None and learner.balance.module is not None:
        learner.balance.load(load_file(folder / "weighting.safetensors"))
    _restore_random(load_file(folder / "rng.safetensors"), state)
    return Position(**state["position"])


def _state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return state


def _write(folder: Path, learner: Learner, position: Position, tensors: Mapping[str, Tensor]) -> None:
    """The main rank's files. `tensors`: what is written whole, by part and name."""
    for part in PARTS:
        own = {name.removeprefix(f"{part}."): each for name, each in tensors.items() if name.startswith(f"{part}.")}
        if own or (part == "optimizer" and tensors):
            save_file(_plain(own), folder / f"{part}.safetensors")
    if learner.balance is not None and (weighting := learner.balance.state()):
        save_file(_plain(weighting), folder / "weighting.safetensors")
    save_file(_random_tensors(), folder / "rng.safetensors")
    kind, keys, index, has_gauss, cached = np.random.get_state()
    state = {
        "position": asdict(position),
        "optimizer_groups": [_settings(group) for group in learner.optimizer.param_groups],
        "scaler": learner.precision.scaler.state_dict(),
        "python_random": random.getstate(),
        "numpy_random": [kind, np.asarray(keys).tolist(), index, has_gauss, cached],
    }
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """All of an optimizer's group but its parameters, which the optimizer's tensors name."""
    return {key: value for key, value in group.items() if key != "params"}


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous, and each storage once under every name: safetensors refuses tied weights."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        shared = tensor.numel() > 0 and tensor.data_ptr() in seen
        seen.add(tensor.data_ptr())
        plain[name] = tensor.detach().clone() if shared else tensor.detach().contiguous()
    return plain


def _random_tensors() -> dict[str, Tensor]:
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors


def _restore_random(tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    version, internal, gauss = state["python_random"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, index, has_gauss, cached = state["numpy_random"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), index, has_gauss, cached))


def _flush(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())

"""What gloo processes hold of a small model under DeepSpeed's ZeRO."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sightline.losses.next_token import next_token
from sightline.plan.layouts import Layout
from sightline.plan.memory import StateBytes
from sightline.plan.sample import sample
from sightline.recipe.parallel import Sizes
from sightline.recipe.schema import Parallel
from sightline.train.objectives import NextToken
from sightline.train.parallel.ranks import Ranks
from sightline.train.precision import pick_precision
from tests.plan.rehearsed import ROWS, model, real, stage
from tests.ports import free_port

ZERO: tuple[Layout, ...] = ("zero1", "zero2", "zero3")


def held_by_a_rank(
    world: int, learn: Mapping[str, Any], size: Mapping[str, int], folder: Path
) -> dict[str, StateBytes]:
    """The state of rank 0 of `world` under each kind."""
    torch.multiprocessing.spawn(_hold, args=(world, free_port(), dict(learn), dict(size), str(folder)), nprocs=world)
    return {kind: StateBytes(**each) for kind, each in json.loads((folder / "held.json").read_text()).items()}


def _hold(rank: int, world: int, port: int, learn: dict[str, Any], size: dict[str, int], folder: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    told = {kind: asdict(_state(kind, Ranks(rank, world, torch.device("cpu")), learn, size)) for kind in ZERO}
    if rank == 0:
        (Path(folder) / "held.json").write_text(json.dumps(told))
    dist.destroy_process_group()


def _state(kind: Layout, ranks: Ranks, learn: dict[str, Any], size: dict[str, int]) -> StateBytes:
    """Gradients after a pass that is not the step's last, all else after the first step."""
    from sightline.train.parallel.deepspeed import Zero

    layout = Zero(Parallel(kind=kind), ranks, Sizes(1, 1, ranks.world, 1))
    made, spec = real(model(learn, **size)), stage(learn)
    layout.check(made, spec, NextToken(), pick_precision("bf16", ranks.device))
    away = layout.place(made, spec)
    engine = layout.engine
    batch = sample(away, ROWS, 2)
    for name in ("image_places", "rows"):
        setattr(batch, name, torch.arange(len(getattr(batch, name))))
    gradients = 0
    for last in (False, True):
        engine.set_gradient_accumulation_boundary(last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = next_token(*engine(batch))[0]
        engine.backward(loss)
        if not last:
            inner = engine.optimizer
            kept = (inner.averaged_gradients, getattr(inner, "all_grad_tensors", {}))
            parts = [each for found in kept for some in found.values() for each in some or ()]
            gradients = _bytes([p.grad for p in away.parameters()] + parts)
    engine.step()
    return StateBytes(
        weights=_bytes([each for p in away.parameters() for each in (p.data, getattr(p, "ds_tensor", None))]),
        buffers=_bytes(away.buffers()),
        gradients=gradients,
        optimizer=_bytes(value for state in engine.basic_optimizer.state.values() for value in state.values()),
        masters=_bytes(layout.pieces.flat),
    )


def _bytes(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of their storages, each once."""
    storages = [tensor.untyped_storage() for tensor in tensors if tensor is not None]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}.values())

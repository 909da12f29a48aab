"""State bytes under DeepSpeed's ZeRO against what gloo processes really hold, to the byte."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from sightline.losses.next_token import next_token
from sightline.plan.layouts import Layout, World, state_of
from sightline.plan.memory import StateBytes
from sightline.plan.sample import sample
from sightline.recipe.parallel import Sizes
from sightline.recipe.schema import Parallel
from sightline.train.objectives import NextToken
from sightline.train.parallel.ranks import Ranks
from sightline.train.precision import pick_precision
from tests.plan.rehearsed import ALIGN, ROWS, TUNE, model, real, stage
from tests.ports import free_port

ZERO: tuple[Layout, ...] = ("zero1", "zero2", "zero3")
WIDTH = 384  # so that some weights have more elements than those that ZeRO-3 keeps whole

pytestmark = [
    pytest.mark.ddp,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed (sightline[deepspeed])"),
]


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("learn", [ALIGN, TUNE], ids=["frozen-language", "language-learns"])
def test_zero_state_is_what_a_process_holds(learn: dict[str, str], world: int, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(hold, args=(world, free_port(), learn, str(tmp_path)), nprocs=world)
    held = {kind: StateBytes(**each) for kind, each in json.loads((tmp_path / "held.json").read_text()).items()}
    made = model(learn, words=501, width=WIDTH)
    planned = {kind: sum(state_of(made, kind, World(world, 1, 1.0, 1.0)).values(), StateBytes()) for kind in ZERO}
    assert planned == held


def hold(rank: int, world: int, port: int, learn: dict[str, Any], folder: str) -> None:
    """Write down what rank 0 holds under each kind."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    told = {kind: asdict(state_held(kind, Ranks(rank, world, torch.device("cpu")), learn)) for kind in ZERO}
    if rank == 0:
        (Path(folder) / "held.json").write_text(json.dumps(told))
    dist.destroy_process_group()


def state_held(kind: Layout, ranks: Ranks, learn: dict[str, Any]) -> StateBytes:
    """Gradients after a pass that is not the step's last, all else after the first step."""
    from sightline.train.parallel.deepspeed import Zero

    layout = Zero(Parallel(kind=kind), ranks, Sizes(1, 1, ranks.world, 1))
    made, spec = real(model(learn, words=501, width=WIDTH)), stage(learn)
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
            gradients = held([p.grad for p in away.parameters()] + parts)
    engine.step()
    return StateBytes(
        weights=held([each for p in away.parameters() for each in (p.data, getattr(p, "ds_tensor", None))]),
        buffers=held(away.buffers()),
        gradients=gradients,
        optimizer=held(value for state in engine.basic_optimizer.state.values() for value in state.values()),
        masters=held(layout.pieces.flat),
    )


def held(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of their storages, each once."""
    storages = [tensor.untyped_storage() for tensor in tensors if tensor is not None]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}.values())

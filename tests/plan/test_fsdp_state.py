"""State bytes under FSDP2 and on tensor ranks against what two gloo processes really hold, to the byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from sightline.plan.layouts import World, state_of
from sightline.plan.memory import StateBytes
from sightline.plan.tensor import narrowed
from sightline.train.parallel.tensor import cuts, split
from tests.plan.rehearsed import ALIGN, TUNE, forward, model, real

WORLD = 2


@pytest.mark.slow
@pytest.mark.parametrize("learn", [ALIGN, TUNE], ids=["frozen-language", "language-learns"])
def test_fsdp_state_is_what_a_process_holds(learn: dict[str, str], tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_hold, args=(learn, "fsdp", str(tmp_path)), nprocs=WORLD)
    held = StateBytes(**json.loads((tmp_path / "held.json").read_text()))
    made = model(learn, words=501)
    assert sum(state_of(made, "fsdp", World(WORLD, 1, 1.0, 1.0)).values(), StateBytes()) == held


@pytest.mark.slow
@pytest.mark.parametrize("learn", [ALIGN, TUNE], ids=["frozen-language", "language-learns"])
def test_tensor_state_is_what_a_process_holds(learn: dict[str, str], tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_hold, args=(learn, "tensor", str(tmp_path)), nprocs=WORLD)
    held = StateBytes(**json.loads((tmp_path / "held.json").read_text()))
    made = narrowed(model(learn, words=501), WORLD, cuts)
    assert sum(state_of(made, "one", World(1, 1, 1.0, 1.0)).values(), StateBytes()) == held


def _hold(rank: int, learn: dict[str, str], layout: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    made = real(model(learn, words=501))  # a vocabulary that two ranks do not divide
    if layout == "tensor":
        split(made, init_device_mesh("cpu", (WORLD,)), torch.device("cpu"))
    else:
        for tower in made.towers:
            for block in made.blocks(tower):
                fully_shard(block)
        fully_shard(made)
    learning = [parameter for parameter in made.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, foreach=False)
    forward(2, casting=False, checkpointing=False)(made).backward()
    optimizer.step()
    gradients = [parameter.grad for parameter in made.parameters() if parameter.grad is not None]
    states = [value for state in optimizer.state.values() for value in state.values()]
    held = StateBytes(
        weights=_bytes(list(made.parameters())),
        buffers=_bytes(list(made.buffers())),
        gradients=_bytes(gradients),
        optimizer=_bytes(states),
    )
    if rank == 0:
        told = {"weights": held.weights, "buffers": held.buffers}
        told |= {"gradients": held.gradients, "optimizer": held.optimizer}
        (Path(folder) / "held.json").write_text(json.dumps(told))
    dist.destroy_process_group()


def _bytes(tensors: list[Tensor]) -> int:
    local = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    storages = [tensor.untyped_storage() for tensor in local]  # gradients of a block are pieces of one
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

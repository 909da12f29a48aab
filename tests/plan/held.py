"""What gloo processes hold of a small model after a step that the trainer's own layouts make of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from sightline.data.batch import Batch
from sightline.models.vlm import VLM
from sightline.plan.memory import StateBytes
from sightline.plan.sample import sample
from sightline.recipe.schema import Parallel
from sightline.train.objectives import NextToken
from sightline.train.parallel.choose import layout_of
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.sharded import local
from sightline.train.precision import pick_precision
from sightline.train.rounding import halve
from tests.plan.rehearsed import ROWS, model, real, stage

SIZE: dict[str, Any] = {"words": 501, "depth": 2, "sight": 2}  # a vocabulary that two ranks do not divide
BATCH = {"batch": 8, "micro_batch": 2}


def make(learn: Mapping[str, Any], weights: str) -> VLM:
    """The model on the meta device, with weights of that format."""
    made = model(dict(learn), **SIZE)
    if weights == "bf16":
        halve(made)
    return made


def held(ranks: Ranks, parallel: Mapping[str, Any], learn: Mapping[str, Any], weights: str, rounding: str) -> Any:
    """Bytes of this rank: gradients between two micro-batches, all else after the first step."""
    made, settings = real(make(learn, weights)), Parallel.model_validate(parallel)
    spec = stage(dict(learn), **BATCH, optimizer={"rounding": rounding})
    layout, precision = layout_of(settings, ranks), pick_precision("bf16", ranks.device)
    objective: Any = NextToken()
    layout.check(made, spec, objective, precision)
    placed = layout.place(made, spec)
    optimizer, module = layout.optimizer(placed, spec), layout.wrap(placed, objective)
    seen: list[int] = []
    objective.loss = _told(objective.loss, lambda: seen.append(_bytes(_gradients(placed))))
    layout.backward(objective, module, [_batch(made), _batch(made)], {"next-token": 1.0}, precision, optimizer)
    after = _bytes(p.grad for p in placed.parameters())
    layout.update(optimizer, precision, None)
    states = (value for state in optimizer.state.values() for value in state.values())
    buffers = _bytes(placed.buffers())
    return asdict(StateBytes(_bytes(placed.parameters()), buffers, after, _bytes(states))) | {
        "between": max(seen, default=0)
    }


def _told(loss: Any, look: Any) -> Any:
    def looked(*args: Any) -> Any:
        look()
        return loss(*args)

    return looked


def _batch(made: Any) -> Batch:
    batch = sample(made, ROWS, 2)
    for name in ("image_places", "rows"):
        setattr(batch, name, torch.arange(len(getattr(batch, name))))
    return batch


def _gradients(placed: nn.Module) -> Iterable[Tensor | None]:
    """Those of parameters, and those that FSDP keeps whole until a step's last micro-batch."""
    yield from (parameter.grad for parameter in placed.parameters())
    for module in placed.modules():
        if isinstance(module, FSDPModule):
            state: Any = module._get_fsdp_state()
            for group in [state._fsdp_param_group] if state._fsdp_param_group else []:
                for each in group.fsdp_params:
                    yield each.unsharded_accumulated_grad
                    yield getattr(getattr(each, "_unsharded_param", None), "grad", None)


def _bytes(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of this rank's part of them, each storage once."""
    storages = [local(tensor).untyped_storage() for tensor in tensors if tensor is not None]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}.values())

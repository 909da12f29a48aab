"""Ranks in several directions: tensor ranks inside, which share each matrix, and data ranks outside.

Tensor ranks are fed the same rows and are twins: they draw the same random numbers, and what they hold whole gets the
same gradients to the bit, so it needs no exchange to stay alike.
"""

from __future__ import annotations

import logging

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.optim import Optimizer

from sightline.errors import UserError
from sightline.models.composed import ComposedVLM
from sightline.models.vlm import VLM
from sightline.recipe.parallel import Sizes
from sightline.recipe.schema import AdaptiveClip, Parallel, Stage
from sightline.train.objectives import Objective
from sightline.train.parallel.fsdp import share_out, undivided
from sightline.train.parallel.layout import Layout
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.sharded import local, one_by_one
from sightline.train.parallel.spread import double
from sightline.train.parallel.tensor import cuts, split
from sightline.train.precision import Precision

DIRECTIONS = ("pipeline", "replicate", "shard", "tensor")  # neighbours in rank are tensor ranks


class Grid(Layout):
    """Matrices cut over tensor ranks, and gradients averaged over data ranks when a step's backward passes are done."""

    sharded = True
    spreads = True
    one_pass = "tensor ranks take one"

    def __init__(self, settings: Parallel, everyone: Ranks, sizes: Sizes) -> None:
        self.parted = settings.kind != "ddp"
        self.everyone, self.mesh = everyone, _mesh(everyone, sizes)
        place = dict(zip(DIRECTIONS, self.mesh.get_coordinate() or (), strict=True))
        data = place["replicate"] * sizes.shard + place["shard"]
        twin = place["pipeline"] * sizes.tensor + place["tensor"]
        super().__init__(settings, Ranks(data, sizes.data, everyone.device, _data_group(self.mesh, sizes), twin))
        self.shares = self.mesh["replicate", "shard"] if sizes.replicate > 1 else self.mesh["shard"]
        self.summed: list[nn.Module] = []  # whose gradients are sums over tensor ranks
        # It would tell each rank to flatten its mesh, for norms and for whole tensors, which are not taken often.
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)

    def check(self, model: VLM, stage: Stage, objective: Objective, precision: Precision) -> None:
        """See `Layout.check`."""
        super().check(model, stage, objective, precision)
        if precision.name == "fp16":
            what = "fp16 does not go with tensor or pipeline ranks"
            raise UserError(what, where="precision", fix="set precision=bf16")
        if type(model) is not ComposedVLM:
            what = f"a {type(model).__name__} cannot be cut over tensor ranks: towers joined by a connector can"
            raise UserError(what, where="parallel.tensor", fix="set parallel: fsdp")
        if self.settings.tensor == 1:
            return
        if isinstance(stage.optimizer.clip, AdaptiveClip) or stage.optimizer.kind == "lamb":
            what = "adaptive clipping and LAMB look at whole matrices, and each rank has a part"
            fix = "clip by a number, and use adamw; or set parallel: ddp"
            raise UserError(what, where=f"stages.{stage.name}.optimizer", fix=fix)
        cuts(model, self.settings.tensor)

    def place(self, home: VLM, stage: Stage) -> VLM:
        """See `Layout.place`."""
        away = double(home)
        self.lay(away, stage)
        return away

    def lay(self, away: VLM, stage: Stage) -> None:
        """Cut the matrices of `away` over tensor ranks, and bring the rest to this rank's device, in place."""
        tensor = self.settings.tensor
        self.summed = split(away, self.mesh["tensor"], self.ranks.device) if tensor > 1 else []
        if self.settings.kind == "ddp":
            _move(away, self.ranks)
        else:
            share_out(away, stage, self.shares, self.settings, self.ranks.device)

    def wrap(self, model: VLM, objective: Objective) -> nn.Module:
        """See `Layout.wrap`: gradients are averaged by `exchange`."""
        return model

    def optimizer(self, model: VLM, stage: Stage) -> Optimizer:
        """See `Layout.optimizer`."""
        return self.in_parts(super().optimizer(model, stage))

    def in_parts(self, optimizer: Optimizer) -> Optimizer:
        """Let `optimizer` move one tensor at a time: cut and whole ones do not go together into one operation."""
        one_by_one(optimizer.param_groups if self.settings.tensor > 1 else ())
        return optimizer

    def exchange(self, objective: Objective, optimizer: Optimizer) -> None:
        """See `Layout.exchange`."""
        for parameter in (each for module in self.summed for each in module.parameters()):
            if parameter.grad is not None:
                dist.all_reduce(local(parameter.grad), group=self.mesh.get_group("tensor"))
        whole = self.settings.kind == "ddp"
        own = [p for group in optimizer.param_groups for p in group["params"]] if whole else undivided(optimizer)
        self.ranks.average_gradients(own)

    @property
    def parts(self) -> Ranks:
        """See `Layout.parts`."""
        return self.everyone

    def agreed(self, stop: bool) -> bool:
        """See `Layout.agreed`."""
        return self.everyone.sum([float(stop)])[0] > 0


def _mesh(everyone: Ranks, sizes: Sizes) -> DeviceMesh:
    shape = (sizes.pipeline, sizes.replicate, sizes.shard, sizes.tensor)
    return init_device_mesh(everyone.device.type, shape, mesh_dim_names=DIRECTIONS)


def _data_group(mesh: DeviceMesh, sizes: Sizes) -> dist.ProcessGroup:
    """This process and all that are fed other rows and hold the same part of the depth and of each matrix."""
    if sizes.replicate == 1:
        return mesh.get_group("shard")
    if sizes.shard == 1:
        return mesh.get_group("replicate")
    parts = mesh.mesh.permute(0, 3, 1, 2).reshape(-1, sizes.data).tolist()
    own, _ = dist.new_subgroups_by_enumeration(parts)
    return own


def _move(model: nn.Module, ranks: Ranks) -> None:
    """What was not cut, to this rank's device; what learns, into memory of its own."""
    for parameter in model.parameters():
        if local(parameter) is parameter:
            parameter.data = parameter.data.to(ranks.device, copy=parameter.requires_grad)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(ranks.device)

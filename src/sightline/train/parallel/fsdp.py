"""Weights, gradients and optimizer state shared out over ranks by torch's FSDP2 (`fully_shard`), block by block.

Hybrid: shared out within a group of ranks (those of one machine), and copied from group to group, so that weights are
gathered over fast links alone (arXiv 2304.11277, section 3.2.2).

An objective may go through parts of the model by themselves (`PARTS`): each gathers what it needs, as a whole forward
pass does, and every backward pass shares out its own gradients, which add up. A single number (a temperature, a bias)
cannot be cut: each rank has it, and its gradients are averaged at the step's end.

Weights that do not learn in a stage have no gradients to share out. Replicated they are never gathered at all. Shared
out, a block that gradients pass through keeps its gathered weights from its forward to its backward pass: no frozen
weight is gathered twice for one micro-batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from sightline.errors import UserError
from sightline.models.composed import ComposedVLM
from sightline.models.pair import PairVLM
from sightline.models.pairs import PairModel
from sightline.models.vlm import VLM
from sightline.recipe.parallel import Sizes
from sightline.recipe.schema import AdaptiveClip, Parallel, Stage, Tower
from sightline.train.objectives import Objective
from sightline.train.parallel.layout import Layout
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.sharded import divided, one_by_one
from sightline.train.parallel.spread import double
from sightline.train.precision import Precision

GOES_ALONG = (ComposedVLM,)  # no subclasses: they treat a batch of text otherwise
PARTS = ("unseen", "represent", "match", "caption", "unmask")  # of a `PairModel`, called beside its forward pass


class Fsdp(Layout):
    """FSDP2 over all data ranks, or hybrid."""

    sharded = True
    spreads = True
    parted = True

    def __init__(self, settings: Parallel, everyone: Ranks, sizes: Sizes) -> None:
        super().__init__(settings, everyone)
        self.mesh = data_mesh(everyone.device, sizes)

    def check(self, model: VLM, stage: Stage, objective: Objective, precision: Precision) -> None:
        """See `Layout.check`."""
        super().check(model, stage, objective, precision)
        where = f"stages.{stage.name}"
        if stage.adversarial is not None and type(model) not in GOES_ALONG:
            what = f"a {type(model).__name__} cannot go along with other ranks' attacks where it has no image"
            raise UserError(what, where=f"{where}.adversarial", fix="set parallel: ddp")
        if stage.weighting.kind == "gradnorm":
            what = "gradnorm compares gradients of whole matrices, and each rank has a part"
            raise UserError(what, where=f"{where}.weighting", fix="set kind to uncertainty, or parallel: ddp")
        if precision.name == "fp16" and any(p.ndim == 0 and p.requires_grad for p in model.parameters()):
            what = "fp16 does not go with a temperature that learns beside shared out weights"
            raise UserError(what, where="precision", fix="set precision=bf16, or parallel: ddp")
        if isinstance(stage.optimizer.clip, AdaptiveClip):
            what = "adaptive clipping looks at whole rows of a matrix, and each rank has a part"
            raise UserError(what, where=f"{where}.optimizer.clip", fix="set a number, or parallel: ddp")
        if self.settings.gather == "bf16" and precision.name != "bf16":
            what = f"weights sent in bf16 are not multiplied in {precision.kind}"
            raise UserError(what, where="parallel.gather", fix="set precision=bf16, or leave gather out")
        if precision.name == "fp16" and precision.device.type == "cpu":
            raise UserError("fp16 with shared out weights needs a GPU", where="precision", fix="set precision=bf16")

    def place(self, home: VLM, stage: Stage) -> VLM:
        """See `Layout.place`."""
        away = double(home)
        share_out(away, stage, self.mesh, self.settings, self.ranks.device)
        return away

    def wrap(self, model: VLM, objective: Objective) -> nn.Module:
        """See `Layout.wrap`: a model that is shared out exchanges its gradients by itself."""
        return model

    def optimizer(self, model: VLM, stage: Stage) -> Optimizer:
        """See `Layout.optimizer`."""
        made = super().optimizer(model, stage)
        one_by_one(group for group in made.param_groups if len(set(map(type, group["params"]))) > 1)
        return made

    def exchange(self, objective: Objective, optimizer: Optimizer) -> None:
        """See `Layout.exchange`."""
        self.ranks.average_gradients(undivided(optimizer))


def share_out(model: VLM, stage: Stage, mesh: DeviceMesh, settings: Parallel, device: torch.device) -> None:
    """Share out the weights of `model` over `mesh`, block by block, in place."""
    # A batch of text alone must gather what the other ranks' batches gather. Who cannot run a tower without an
    # image keeps it with the root, which is gathered by every batch.
    policy = sent(settings)
    along = type(model) in GOES_ALONG
    model.goes_along = ("connector" if stage.cache_features else "vision") if along else None
    idle: tuple[Tower, ...] = ("vision",) if stage.cache_features else ()
    towers = model.towers if settings.frozen == "replicate" else idle
    kept = {p for tower in towers for _, p in model.tower_parameters(tower) if not p.requires_grad}
    kept |= {p for p in model.parameters() if p.ndim == 0}
    followed = _followed(model)
    kept |= {p for p, leader in followed.items() if leader in kept}
    for parameter in kept:  # what moves, in memory of its own
        parameter.data = parameter.data.to(device, copy=parameter.requires_grad or parameter in followed)
    for parameter in model.parameters():  # filters of a convolution may lie channels last, which FSDP does not cut
        if parameter not in kept and not parameter.is_contiguous():
            parameter.data = parameter.data.contiguous()
    everywhere = along or isinstance(model, PairVLM)  # a pair has an image
    for each in (model,) if model.slow is None else (model.slow, model):
        for tower in model.towers if everywhere else ("language",):
            blocks = each.blocks(tower)
            for block in blocks:
                if not kept.issuperset(block.parameters()):
                    # The last block of all, too: the one behind it would gather it ahead, for no backward pass.
                    passed = each is model and (tower != "vision" or model.learns(tower) or block is blocks[-1])
                    _share_out(block, mesh, kept, policy, passed)
        _share_out(each, mesh, kept, policy, passed=each is model)
        for part in PARTS if isinstance(each, PairModel) else ("unseen",):
            register_fsdp_forward_method(each, part)
        for module in divided(each) if each is not model else ():
            module.set_unshard_in_backward(False)  # nor does anything gather the slow copy ahead
    for name, buffer in model.named_buffers():
        _set_buffer(model, name, buffer.to(device))


def sent(settings: Parallel) -> MixedPrecisionPolicy:
    """In what weights are gathered. Gradients add up in fp32, and what is computed in which format autocast decides."""
    if settings.gather == "fp32":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)


def _share_out(
    module: nn.Module, mesh: DeviceMesh, kept: set[nn.Parameter], policy: MixedPrecisionPolicy, passed: bool = True
) -> None:
    """All of `module` but what is `kept` whole, and what is shared out already.

    Args:
        passed: whether gradients come back to it.
    """
    held = passed and any(not p.requires_grad for p in module.parameters() if p not in kept)
    # None: given back after the forward pass, but for the root, which the backward pass begins with
    again = False if held else None
    fully_shard(module, mesh=mesh, reshard_after_forward=again, ignored_params=kept, mp_policy=policy)


def _followed(model: VLM) -> dict[nn.Parameter, nn.Parameter]:
    """Each parameter of the copy that follows `model`, with the one that it follows."""
    leaders, slow = dict(model.named_parameters()), model.slow
    return {p: leaders[name] for name, p in slow.named_parameters()} if slow is not None else {}


def undivided(optimizer: Optimizer) -> list[Tensor]:
    """What `optimizer` moves and every rank has whole."""
    return [p for group in optimizer.param_groups for p in group["params"] if not isinstance(p, DTensor)]


def data_mesh(device: torch.device, sizes: Sizes) -> DeviceMesh:
    """The data ranks: those that share out a copy, or copies by shares."""
    if sizes.replicate == 1:
        return init_device_mesh(device.type, (sizes.shard,), mesh_dim_names=("shard",))
    return init_device_mesh(device.type, (sizes.replicate, sizes.shard), mesh_dim_names=("replicate", "shard"))


def _set_buffer(model: nn.Module, name: str, value: torch.Tensor) -> None:
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    module._buffers[own] = value

"""Pipeline ranks: each holds some of the depth, and micro-batches pass through them in turn (torch's own schedules).

Where the depth is cut is decided by what blocks cost (`plan/`): a vision tower that is frozen has no backward pass, so
it takes fewer ranks. Nothing goes back to it either: torch sends gradients only of what requires them. The order is one
forward and one backward pass in turn (1F1B, Narayanan et al. 2021), or all forward passes first where a step has fewer
micro-batches than there are stages. Every rank of a pipeline is fed the same rows and takes from them what it needs;
only what blocks make of them is sent.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.optim import Optimizer

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.losses.next_token import next_token
from sightline.models.composed import ComposedVLM
from sightline.models.vision import VisionTower
from sightline.models.vlm import VLM
from sightline.plan.divided import Division
from sightline.plan.pipeline import balanced
from sightline.plan.sample import row_shape, sample
from sightline.plan.tensor import Split, narrowed
from sightline.plan.trace import rehearse
from sightline.recipe.parallel import Sizes
from sightline.recipe.schema import AdaptiveClip, Clip, Parallel, Stage
from sightline.train.clip import Norms
from sightline.train.feed import plan_steps
from sightline.train.groups import build_optimizer, parameters_by_tower
from sightline.train.objectives import NextToken, Objective, Term
from sightline.train.parallel.depth import Part, Shapes, alike, crossing, holders, in_a_row, leave_out, place_of
from sightline.train.parallel.grid import Grid
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.saved import read
from sightline.train.parallel.sharded import fill, local, norm, whole
from sightline.train.parallel.spread import double
from sightline.train.parallel.tensor import cuts
from sightline.train.precision import Precision

WHERE = "parallel.pipeline"


class Pipeline(Grid):
    """Stages of the depth, in each of which tensor and data ranks share the work as in `Grid`."""

    layered = False
    watched = False

    def __init__(self, settings: Parallel, everyone: Ranks, sizes: Sizes) -> None:
        super().__init__(settings, everyone, sizes)
        self.parted = True
        self.group = self.mesh.get_group("pipeline")
        self.stage, self.stages = dist.get_rank(self.group), sizes.pipeline
        self.sizes: list[int] = []  # blocks of each stage
        self.part: Part
        self.home: ComposedVLM
        self.held_by: dict[str, tuple[int, ...]] = {}
        self.factor = 0.0  # what a step's losses are multiplied by
        self.learning: list[bool] = []  # of each stage, whether something in it or before it learns
        self.ends: dist.ProcessGroup | None = None  # both holders of tied embeddings
        self._schedules: dict[bool, tuple[Any, Any]] = {}  # the one in use, by whether it trains, with its shapes

    def check(self, model: VLM, stage: Stage, objective: Objective, precision: Precision) -> None:
        """See `Layout.check`."""
        where = f"stages.{stage.name}"
        if type(objective) is not NextToken:
            what = "pipeline stages learn by next-token prediction alone"
            raise UserError(what, where=f"{where}.objective", fix="set it to next-token, or parallel: fsdp")
        if type(model) is not ComposedVLM or not isinstance(model.vision, VisionTower):
            what = "pipeline stages are cut from a vision transformer, a connector and a causal language model"
            raise UserError(what, where=WHERE, fix="set parallel: fsdp")
        if not in_a_row(model.vision, model.blocks("vision")):
            what = "the vision tower's blocks do not stand in one row, so its depth cannot be cut (a convolutional one)"
            raise UserError(what, where=WHERE, fix="set parallel: fsdp")
        if self.settings.kind != "ddp":
            what = f"{self.settings.kind} does not go with pipeline stages"
            raise UserError(what, where="parallel.kind", fix="set it to ddp, or pipeline to 1")
        if isinstance(stage.optimizer.clip, AdaptiveClip):
            what = "adaptive clipping does not go with pipeline stages"
            raise UserError(what, where=f"{where}.optimizer.clip", fix="set a number")
        if stage.cache_features:
            what = "kept features would leave the vision tower's stages without work"
            raise UserError(what, where=f"{where}.cache_features", fix="set it to false, or pipeline to 1")
        super().check(model, stage, objective, precision)
        self.sizes = stage_sizes(model, stage, self.stages, self.settings.tensor)
        count = plan_steps(stage, {}, self.ranks.world).accumulate
        if count < self.stages and self.ranks.main:
            told = f"stages.{stage.name}: {count} micro-batches a step keep {self.stages} pipeline stages waiting"
            warnings.warn(f"{told}: set micro_batch lower, or batch higher", stacklevel=2)

    def place(self, home: VLM, stage: Stage) -> VLM:
        """See `Layout.place`."""
        assert isinstance(home, ComposedVLM)
        self.home, self._schedules = home, {}
        away = double(home)
        assert isinstance(away, ComposedVLM)
        self.held_by = holders(away, self.sizes)
        first = min(self.held_by[name][0] for name, p in away.named_parameters() if p.requires_grad)
        self.learning = [number >= first for number in range(self.stages)]
        self._join_ends()
        # A tower is in training mode where some of it learns, be it on another stage.
        decided = {tower: home.learns(tower) for tower in home.towers}
        away.learns = decided.__getitem__  # type: ignore[method-assign, assignment]
        place = place_of(away, self.sizes, self.stage)
        leave_out(away, place, {name for name, stages in self.held_by.items() if self.stage in stages})
        self.part = Part(away, place)
        self.lay(away, stage)
        return away

    def _join_ends(self) -> None:
        """A group of those that hold the same tied embeddings, where two stages do."""
        pairs = {stages for stages in self.held_by.values() if len(stages) > 1}
        self.ends = None
        columns = self.mesh.mesh.flatten(1).T.tolist()
        for pair in sorted(pairs):
            for column in columns:
                group = dist.new_group([column[stage] for stage in pair])
                if self.everyone.rank in [column[stage] for stage in pair]:
                    self.ends = group

    def optimizer(self, model: VLM, stage: Stage) -> Optimizer:
        """All groups of the whole model, of which this rank has some of the parameters: any layout reads them back."""
        whole = double(self.home)
        names = {id(p): name for name, p in whole.named_parameters()}
        own = dict(model.named_parameters())
        built = build_optimizer(whole, stage)
        for group in built.param_groups:
            group["params"] = [own[names[id(p)]] for p in group["params"] if names[id(p)] in own]
        return self.in_parts(built)

    def backward(
        self,
        objective: Objective,
        module: nn.Module,
        batches: Sequence[Batch],
        factors: Mapping[Term, float],
        precision: Precision,
        optimizer: Optimizer,
    ) -> dict[Term, Tensor]:
        """See `Layout.backward`."""
        assert isinstance(objective, NextToken)
        losses = {objective.name: self._run(objective, batches, precision, factors[objective.name])}
        if self.ends is not None:
            for name, parameter in self.part.model.named_parameters():
                if len(self.held_by[name]) > 1 and parameter.grad is not None:
                    dist.all_reduce(local(parameter.grad), group=self.ends)
        self.exchange(objective, optimizer)
        return losses

    def value(self, objective: Objective, model: VLM, batch: Batch) -> dict[Term, tuple[Tensor, float]]:
        """See `Layout.value`."""
        assert isinstance(objective, NextToken)
        return {objective.name: (self._run(objective, [batch]), float(objective.count(batch)))}

    def _run(
        self,
        objective: NextToken,
        batches: Sequence[Batch],
        precision: Precision | None = None,
        factor: float | None = None,
    ) -> Tensor:
        """The summed loss of `batches` on every rank; with a `factor`, gradients of that times the loss."""
        part, device = self.part, self.ranks.device
        padded, shapes = alike(batches, part.model.vision.image_size)
        part.load([batch.to(device) for batch in padded], objective, precision)
        schedule = self._schedule(shapes, len(batches), factor is not None)
        self.factor = factor or 0.0
        ends: dict[str, Any] = {"target": torch.arange(len(batches)), "losses": []} if part.place.last else {}
        (schedule.eval if factor is None else schedule.step)(**ends, return_outputs=False)
        total = torch.stack(part.sums).sum() if part.place.last else torch.zeros((), device=device)
        part.load([], objective, None)
        dist.broadcast(total, dist.get_global_rank(self.group, self.stages - 1), group=self.group)
        return total

    def _schedule(self, shapes: Shapes, count: int, trains: bool) -> Any:
        """Torch's schedule for micro-batches of these shapes. It keeps buffers of their sizes, so there is one."""
        key = (shapes, count)
        if trains not in self._schedules or self._schedules[trains][0] != key:
            part, place = self.part, self.part.place
            before = place.stage > 0 and self.learning[place.stage - 1]
            stage = PipelineStage(
                part,
                place.stage,
                place.stages,
                self.ranks.device,
                input_args=crossing(part.model, place, shapes, trains and before, end=False),
                output_args=crossing(part.model, place, shapes, trains and self.learning[place.stage], end=True),
                group=self.group,
            )
            kind = Schedule1F1B if count >= place.stages else ScheduleGPipe
            self._schedules[trains] = key, kind(stage, count, loss_fn=self._weighed, scale_grads=False)
        return self._schedules[trains][1]

    def _weighed(self, loss: Tensor, _: Tensor) -> Tensor:
        return loss * self.factor

    def update(self, optimizer: Optimizer, precision: Precision, clip: Clip | None) -> Norms:
        """See `Layout.update`: the norms are of all stages' gradients."""
        assert not isinstance(clip, AdaptiveClip)
        towers = parameters_by_tower(optimizer)
        counted = {id(p) for name, p in self.part.model.named_parameters() if self.held_by[name][0] == self.stage}
        squares = torch.zeros(len(towers), device=self.ranks.device)
        for number, parameters in enumerate(towers.values()):
            if own := [p.grad for p in parameters if p.grad is not None and id(p) in counted]:
                squares[number] = norm(own).square()
        dist.all_reduce(squares, group=self.group)
        norms = dict(zip(towers, squares.sqrt().unbind(), strict=True))
        total = squares.sum().sqrt()
        each = {str(tower): most for tower, most in clip.items()} if isinstance(clip, dict) else {}
        for tower, parameters in towers.items():
            bound, size = (clip, total) if not isinstance(clip, dict) else (each.get(tower), norms[tower])
            if bound is not None and (gradients := [local(p.grad) for p in parameters if p.grad is not None]):
                torch._foreach_mul_(gradients, (bound / (size + 1e-6)).clamp(max=1.0))
        optimizer.step()
        return Norms(total, norms)

    def load_weights(self, folder: Path, model: nn.Module) -> None:
        """See `Layout.load_weights`: the blocks of this stage alone."""
        read(folder, {f"model.{name}": tensor for name, tensor in model.state_dict().items()})

    def collect(self, away: VLM, home: VLM) -> None:
        """See `Layout.collect`: each weight comes from the first stage that holds it."""
        own, whole_home = dict(away.named_parameters()), dict(home.named_parameters())
        for name, stages in self.held_by.items():
            if self.stage == stages[0]:
                value = whole(own[name].detach()).contiguous()
            else:
                value = torch.empty_like(whole_home[name], device=self.ranks.device, requires_grad=False)
            dist.broadcast(value, dist.get_global_rank(self.group, stages[0]), group=self.group)
            if self.keeps:
                fill(whole_home[name], value.to(whole_home[name].device))


def stage_sizes(model: ComposedVLM, stage: Stage, stages: int, tensor: int = 1) -> list[int]:
    """How many blocks each stage holds, by what they cost one of `tensor` ranks on rows as long as `stage` admits.

    Where that cannot be rehearsed, by their weights.

    Raises:
        UserError: fewer blocks than stages.
    """
    shape = row_shape(model, stage.max_length, None)

    def loss(made: VLM) -> Tensor:
        assert isinstance(made, ComposedVLM)
        return next_token(*made(sample(made, shape, 1)))[0]

    made = narrowed(double(model).to("meta"), tensor, cuts)
    try:
        seen = rehearse(made, loss)
    except (DataDependentOutputException, DynamicOutputShapeException):  # nothing that fake tensors can go through
        blocks = [block for tower in ("vision", "language") for block in model.blocks(tower)]
        return balanced([float(sum(p.numel() for p in block.parameters())) for block in blocks], stages)
    return Division(made, Split(tensor, stages), seen, seen, seen, 1, shape, stage.gradient_checkpointing).sizes

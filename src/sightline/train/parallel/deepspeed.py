"""Optimizer state (ZeRO-1), gradients too (ZeRO-2), weights too (ZeRO-3) shared out over ranks by DeepSpeed's engine.

Rajbhandari et al. 2020, arXiv 1910.02054. The engine is given our own optimizer with our own groups, and moves flat
pieces of the weights with it: this rank's part of each group. Rates are read from those groups in every step, so the
loop sets them as it does elsewhere. The engine is told by us which micro-batch of a step is the last one, and divides
nothing but the sum over ranks, as DDP does.

Checkpoints are written whole by the main rank, parameter by parameter (`deepspeed.utils.safe_get_full_*`), under the
names that all layouts use.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.models.shards import stored
from sightline.models.vlm import VLM
from sightline.recipe.parallel import Sizes
from sightline.recipe.schema import Clip, Parallel, Stage
from sightline.train.clip import Norms
from sightline.train.ema import Ema
from sightline.train.groups import build_optimizer
from sightline.train.objectives import Objective, Term
from sightline.train.parallel.fsdp import GOES_ALONG
from sightline.train.parallel.layout import Layout
from sightline.train.parallel.pieces import AVERAGE, PieceEma, Pieces, shape_of
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.saved import read
from sightline.train.parallel.spread import bring_buffers, double
from sightline.train.precision import Precision

deepspeed.utils.logger.setLevel(logging.WARNING)  # it tells of every buffer that it makes

STAGES = {"zero1": 1, "zero2": 2, "zero3": 3, "zero++": 3}


@dataclass(frozen=True, slots=True)
class _Driven(Precision):
    """A precision whose backward passes are run by the engine."""

    engine: Any = field(kw_only=True, repr=False)

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss, scale_wrt_gas=False)


class Zero(Layout):
    """ZeRO over all data ranks."""

    spreads = True
    one_pass = "the engine takes one"
    layered = False
    watched = False

    def __init__(self, settings: Parallel, everyone: Ranks, sizes: Sizes) -> None:
        super().__init__(settings, everyone)
        self.sizes = sizes
        self.together = self.parted = STAGES[settings.kind] == 3
        self.precision: Precision | None = None
        self.engine: Any = None
        self.home: VLM | None = None
        _forget_groups()

    def check(self, model: VLM, stage: Stage, objective: Objective, precision: Precision) -> None:
        """See `Layout.check`."""
        super().check(model, stage, objective, precision)
        self.precision, kind, where = precision, self.settings.kind, f"stages.{stage.name}"
        if stage.adversarial is not None:
            what = "an attack runs passes of its own, which the engine would take for the step's"
            raise UserError(what, where=f"{where}.adversarial", fix="set parallel: ddp")
        if stage.optimizer.clip is not None and not isinstance(stage.optimizer.clip, int | float):
            what = "the engine clips all gradients together, and neither each tower's nor each unit's"
            raise UserError(what, where=f"{where}.optimizer.clip", fix="set a number, or parallel: ddp")
        if stage.optimizer.kind == "lamb":
            what = "LAMB looks at whole matrices, and the engine moves flat pieces of all of them"
            raise UserError(what, where=f"{where}.optimizer.kind", fix="set adamw, or parallel: ddp")
        if kind == "zero++" and precision.device.type != "cuda":
            what = "zero++ sends weights and gradients in 8 and 4 bits, which only CUDA kernels make"
            raise UserError(what, where="parallel.kind", fix="set zero3, which sends them as they are")
        if precision.kind == "fp8" or any(p.dtype != torch.float32 for p in model.parameters()):
            what = "the engine moves fp32 copies of weights that it holds in the format of the forward pass by itself"
            raise UserError(
                what, where="precision", fix="set precision=bf16 and leave 'numbers' out, or parallel: fsdp"
            )
        if precision.name == "fp16" and not deepspeed.accelerator.get_accelerator().is_fp16_supported():
            what = f"the engine has no fp16 on this machine's {precision.device.type}"
            raise UserError(what, where="precision", fix="set precision=bf16")

    def place(self, home: VLM, stage: Stage) -> VLM:
        """See `Layout.place`."""
        assert self.precision is not None
        self.home, away = home, double(home)
        if self.together:
            along = type(away) in GOES_ALONG
            away.goes_along = ("connector" if stage.cache_features else "vision") if along else None
        clip = stage.optimizer.clip
        assert clip is None or isinstance(clip, int | float)
        told = config(self.settings, self.sizes, self.precision, clip)
        optimizer = build_optimizer(away, stage)
        optimizer.__dict__["zero_grad"] = _cleared  # offloaded, pieces keep their gradients' memory from step to step
        self.engine, *_ = deepspeed.initialize(model=away, optimizer=optimizer, config=told)
        self.pieces = Pieces(self.engine, away, self.ranks)
        own = home.state_dict()
        for parameter, (name, *_) in self.pieces.learning:  # which the engine made of weights that it had cast
            self.pieces.fill(parameter, own[name])
        return away

    def wrap(self, model: VLM, objective: Objective) -> nn.Module:
        """See `Layout.wrap`."""
        return self.engine

    def optimizer(self, model: VLM, stage: Stage) -> Optimizer:
        """See `Layout.optimizer`: with this rank's flat pieces in its groups."""
        return self.engine.basic_optimizer

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
        scaler = getattr(self.engine.optimizer, "loss_scaler", None)
        if precision.scales and scaler is not None:
            scaler.cur_scale = precision.scaler.get_scale()  # of a checkpoint, or as the last step left it
        driven = _Driven(precision.name, precision.device, precision.scaler, precision.kind, engine=self.engine)
        sums: dict[Term, Tensor] = {}
        for number, batch in enumerate(batches, 1):
            self.engine.set_gradient_accumulation_boundary(number == len(batches))
            for term, loss in objective.backward(module, [batch], factors, driven, self.ranks).items():
                sums[term] = sums[term] + loss if term in sums else loss
        return sums

    def value(self, objective: Objective, model: VLM, batch: Batch) -> dict[Term, tuple[Tensor, float]]:
        """See `Layout.value`: held-out pictures are not kept as features, so a batch of text runs the vision tower."""
        before = model.goes_along
        if before is not None:
            model.goes_along = "vision"
        found = objective.value(model, batch)
        model.goes_along = before
        return found

    def update(self, optimizer: Optimizer, precision: Precision, clip: Clip | None) -> Norms:
        """See `Layout.update`: the engine does all of it."""
        towers = self.pieces.gradient_norms(float(self.engine.optimizer.loss_scale))
        self.engine.step()
        if precision.scales:
            precision.scaler.scale(torch.ones((), device=self.ranks.device))  # has it make what it is told next
            precision.scaler.update(float(self.engine.optimizer.loss_scale))
        return Norms(torch.as_tensor(self.engine.get_global_grad_norm(), device=self.ranks.device), towers)

    def towers(self, optimizer: Optimizer) -> dict[str, list[Tensor]]:
        """See `Layout.towers`: this rank's flat pieces."""
        return self.pieces.towers()

    def state(self, model: nn.Module, optimizer: Optimizer, averages: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Layout.state`: whole tensors, one after the other, which the main rank keeps in the host's memory."""
        pieces, found = self.pieces, {f"model.{name}": tensor for name, tensor in self._still(model).items()}
        pieces.link()
        for parameter, names in pieces.learning:
            whole = self._kept(pieces.whole(parameter))
            found |= {f"model.{name}": whole for name in names}
            for kind, number in pieces.kinds().items():
                value = self._kept(pieces.whole(parameter, kind)) if number is None else number
                found[f"optimizer.{names[0]}.{kind}"] = value
        if averages:
            with pieces.lent(AVERAGE, list(averages.values())):
                for parameter, (name, *_) in pieces.learning:
                    found[f"ema.{name}"] = self._kept(pieces.whole(parameter, AVERAGE))
        return found

    def take_up(self, folder: Path, model: nn.Module, optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
        """See `Layout.take_up`."""
        if len(optimizer.param_groups) != len(groups):
            raise UserError("the saved optimizer groups its parameters otherwise", where=str(folder))
        for group, as_saved in zip(optimizer.param_groups, groups, strict=True):
            group |= {key: value for key, value in as_saved.items() if key != "params"}
            group["betas"] = tuple(group["betas"])  # JSON has no tuples
        self.load_weights(folder, model)
        saved = stored(folder)
        for number, (parameter, (name, *_)) in enumerate(self.pieces.learning):
            own = f"optimizer.{name}."
            state = {key.removeprefix(own): each.empty() for key, each in saved.items() if key.startswith(own)}
            read(folder, {f"{own}{kind}": each for kind, each in state.items()})
            alike = {kind for kind, each in state.items() if each.shape == shape_of(parameter) and each.ndim}
            if number == 0:
                self.pieces.begin({kind: None if kind in alike else each for kind, each in state.items()})
            for kind in sorted(alike):
                self.pieces.fill(parameter, state[kind], kind)

    def load_weights(self, folder: Path, model: nn.Module) -> None:
        """See `Layout.load_weights`."""
        read(folder, {f"model.{name}": tensor for name, tensor in self._still(model).items()})
        for parameter, (name, *_) in self.pieces.learning:
            whole = torch.empty(shape_of(parameter))
            read(folder, {f"model.{name}": whole})
            self.pieces.fill(parameter, whole)
        self.pieces.write_through()

    def averages(self, model: nn.Module, decay: float) -> Ema:
        """See `Layout.averages`."""
        return PieceEma(self.pieces, decay)

    def collect(self, away: VLM, home: VLM) -> None:
        """See `Layout.collect`."""
        bring_buffers(away, home, self.keeps)
        own = home.state_dict()
        for parameter, (name, *_) in self.pieces.learning:
            value = self.pieces.whole(parameter)
            if self.keeps:
                own[name].copy_(value)

    def _kept(self, whole: Tensor) -> Tensor:
        return whole.cpu() if self.ranks.main else whole.new_empty(0)

    def _still(self, model: nn.Module) -> dict[str, Tensor]:
        """What does not learn: frozen weights, whole as they are at home, and buffers."""
        assert self.home is not None
        moving = {name for _, names in self.pieces.learning for name in names}
        own = {name: tensor for name, tensor in self.home.state_dict().items() if name not in moving}
        return own | {name: buffer for name, buffer in model.named_buffers() if name in own}


def config(settings: Parallel, sizes: Sizes, precision: Precision, clip: float | None) -> dict[str, Any]:
    """What the engine reads: https://www.deepspeed.ai/docs/config-json/ (keys and defaults of 0.19)."""
    cuda = precision.device.type == "cuda"
    zero: dict[str, Any] = {"stage": STAGES[settings.kind]}
    waiting = {"device": "cpu", "pin_memory": cuda}
    if settings.offload != "none":
        zero["offload_optimizer"] = dict(waiting)
    if settings.offload == "all":
        zero["offload_param"] = dict(waiting)
    if settings.kind == "zero++":  # arXiv 2306.10209: int8 weights and int4 gradients on the way, a copy in each node
        zero |= {"zero_quantized_weights": cuda, "zero_quantized_gradients": cuda}
        if 1 < sizes.shard < sizes.data:
            zero["zero_hpz_partition_size"] = sizes.shard
    return {
        "train_micro_batch_size_per_gpu": 1,  # what is to be divided, `train/step.py` divides
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # offloaded, torch's own AdamW runs on the host
        "bf16": {"enabled": precision.name == "bf16"},
        "fp16": {  # as torch.amp.GradScaler does; its scale is set before each step
            "enabled": precision.name == "fp16",
            "loss_scale_window": precision.scaler.get_growth_interval() if precision.scales else 1,
            "hysteresis": 1,
        },
    }


def _cleared(set_to_none: bool = True) -> None:
    """In place of an optimizer's `zero_grad`: the engine has cleared gradients at the end of its step."""


def _forget_groups() -> None:
    """Let the engine make groups of this run's processes, where an earlier run of this process has left its own."""
    deepspeed.comm.comm.cdb = None
    deepspeed.utils.groups._release_process_group_references()

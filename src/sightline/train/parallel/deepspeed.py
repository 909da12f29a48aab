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
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_get_local_fp32_param,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.models.shards import stored
from sightline.models.vlm import VLM
from sightline.recipe.parallel import Sizes
from sightline.recipe.schema import Clip, Parallel, Stage
from sightline.train.clip import Norms
from sightline.train.groups import build_optimizer
from sightline.train.objectives import Objective, Term
from sightline.train.parallel.fsdp import GOES_ALONG
from sightline.train.parallel.layout import Layout
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.saved import read
from sightline.train.parallel.spread import double
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
    layered = False

    def __init__(self, settings: Parallel, everyone: Ranks, sizes: Sizes) -> None:
        super().__init__(settings, everyone)
        self.stage, self.sizes = STAGES[settings.kind], sizes
        self.together = self.stage == 3
        self.engine: Any = None
        self.home: VLM | None = None
        _forget_groups()

    def check(self, model: VLM, stage: Stage, objective: Objective, precision: Precision) -> None:
        """See `Layout.check`."""
        where = f"stages.{stage.name}"
        if not objective.overlaps:
            what = "losses that compare a step's pairs, and trades, run several passes at once, and the engine one"
            raise UserError(what, where=f"{where}.objective", fix="set parallel: ddp")
        if stage.optimizer.clip is not None and not isinstance(stage.optimizer.clip, int | float):
            what = "the engine clips all gradients together, and neither each tower's nor each unit's"
            raise UserError(what, where=f"{where}.optimizer.clip", fix="set a number, or parallel: ddp")

    def place(self, home: VLM, stage: Stage) -> VLM:
        """See `Layout.place`."""
        self.home, away = home, double(home)
        if self.together:
            along = type(away) in GOES_ALONG
            away.goes_along = ("connector" if stage.cache_features else "vision") if along else None
        optimizer = build_optimizer(away, stage)
        self.engine, *_ = deepspeed.initialize(model=away, optimizer=optimizer, config=self._config(stage))
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
        driven = _Driven(precision.name, precision.device, precision.scaler, engine=self.engine)
        sums: dict[Term, Tensor] = {}
        for number, batch in enumerate(batches, 1):
            self.engine.set_gradient_accumulation_boundary(number == len(batches))
            for term, loss in objective.backward(module, [batch], factors, driven, self.ranks).items():
                sums[term] = sums[term] + loss if term in sums else loss
        return sums

    def update(self, optimizer: Optimizer, precision: Precision, clip: Clip | None) -> Norms:
        """See `Layout.update`: the engine does all of it."""
        towers = self._tower_norms(float(self.engine.optimizer.loss_scale))
        self.engine.step()
        return Norms(torch.as_tensor(self.engine.get_global_grad_norm(), device=self.ranks.device), towers)

    def towers(self, optimizer: Optimizer) -> dict[str, list[Tensor]]:
        """See `Layout.towers`: this rank's flat pieces."""
        found: dict[str, list[Tensor]] = {}
        for group, piece in self._pieces():
            found.setdefault(group["tower"], []).append(piece)
        return found

    def state(self, model: nn.Module, optimizer: Optimizer, averages: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Layout.state`: whole tensors, one after the other, which the main rank keeps in the host's memory."""
        found = {f"model.{name}": tensor for name, tensor in self._still(model).items()}
        piece = self._pieces()[0][1]
        state = optimizer.state.get(piece, {})
        self._link(model, optimizer)
        for parameter, names in learning(model):
            whole = self._kept(safe_get_full_fp32_param(parameter))
            found |= {f"model.{name}": whole for name in names}
            for kind, value in state.items():
                alike = value.shape == piece.shape
                tensor = self._kept(safe_get_full_optimizer_state(parameter, kind)) if alike else value
                found[f"optimizer.{names[0]}.{kind}"] = tensor
        return found | {f"ema.{name}": value for name, value in averages.items()}

    def take_up(self, folder: Path, model: nn.Module, optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
        """See `Layout.take_up`."""
        if len(optimizer.param_groups) != len(groups):
            raise UserError("the saved optimizer groups its parameters otherwise", where=str(folder))
        for group, as_saved in zip(optimizer.param_groups, groups, strict=True):
            group |= {key: value for key, value in as_saved.items() if key != "params"}
            group["betas"] = tuple(group["betas"])  # JSON has no tuples
        read(folder, {f"model.{name}": tensor for name, tensor in self._still(model).items()})
        saved = stored(folder)
        for parameter, (name, *_) in learning(model):
            weights, own = f"model.{name}", f"optimizer.{name}."
            into = {key: each.empty() for key, each in saved.items() if key == weights or key.startswith(own)}
            read(folder, into)
            whole = into.pop(weights)
            state = {key.removeprefix(own): tensor for key, tensor in into.items()}
            self._begin(optimizer, {kind: each for kind, each in state.items() if each.shape != whole.shape}, state)
            self._link(model, optimizer)
            self._fill(parameter, whole, {kind: each for kind, each in state.items() if each.shape == whole.shape})

    def bring_home(self, away: VLM, home: VLM) -> None:
        """See `Layout.bring_home`."""
        own = home.state_dict()
        for name, buffer in away.named_buffers():
            if name in own:
                own[name].copy_(buffer)
        for parameter, (name, *_) in learning(away):
            own[name].copy_(safe_get_full_fp32_param(parameter))

    def _config(self, stage: Stage) -> dict[str, Any]:
        """What the engine reads: https://www.deepspeed.ai/docs/config-json/ ."""
        return {
            "train_micro_batch_size_per_gpu": 1,  # the step divides by itself what is to be divided
            "gradient_accumulation_steps": 1,
            "gradient_clipping": float(stage.optimizer.clip or 0.0),  # type: ignore[arg-type]  # see `check`
            "zero_optimization": {"stage": self.stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        }

    def _pieces(self) -> list[tuple[dict[str, Any], Tensor]]:
        """What this rank's optimizer moves: flat fp32 pieces of the weights, each with its group."""
        groups, inner = self.engine.basic_optimizer.param_groups, self.engine.optimizer
        if self.stage < 3:
            return [(group, piece) for group in groups for piece in group["params"]]
        number = inner.sub_group_to_group_id
        return [(groups[number[i]], piece) for i, piece in enumerate(inner.fp32_partitioned_groups_flat)]

    def _tower_norms(self, scale: float) -> dict[str, Tensor]:
        """Of the averaged gradients as the engine holds them between the last backward pass and its step."""
        squares: dict[str, float] = {}
        for number, (group, _) in enumerate(self._pieces()):
            parts = [each for each in self.engine.optimizer.averaged_gradients.get(number) or [] if each is not None]
            square = float(torch.stack(torch._foreach_norm(parts)).double().square().sum()) if parts else 0.0
            squares[group["tower"]] = squares.get(group["tower"], 0.0) + square
        totals = self.ranks.sum(list(squares.values()))
        return {tower: torch.tensor(math.sqrt(total) / scale) for tower, total in zip(squares, totals, strict=True)}

    def _kept(self, whole: Tensor) -> Tensor:
        return whole.cpu() if self.ranks.main else whole.new_empty(0)

    def _still(self, model: nn.Module) -> dict[str, Tensor]:
        """What does not learn: frozen weights, whole as they are at home, and buffers."""
        assert self.home is not None
        moving = {name for _, names in learning(model) for name in names}
        own = {name: tensor for name, tensor in self.home.state_dict().items() if name not in moving}
        return own | {name: buffer for name, buffer in model.named_buffers() if name in own}

    def _begin(self, optimizer: Optimizer, numbers: Mapping[str, Tensor], kinds: Collection[str]) -> None:
        """Give each piece state of these `kinds`, which it would have after its first step."""
        if not kinds or any(optimizer.state.get(piece) for _, piece in self._pieces()):
            return
        for _, piece in self._pieces():
            state = {kind: numbers[kind] if kind in numbers else torch.zeros_like(piece.detach()) for kind in kinds}
            optimizer.state[piece] = {kind: each.to(piece.device, copy=True) for kind, each in state.items()}

    def _link(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Tell each parameter of stages 1 and 2 where its state lies.

        The engine does it once, after the first group has moved, so it knows of no other group's state (0.19.8).
        """
        pieces = [piece for _, piece in self._pieces()]
        for parameter, _ in learning(model):
            place = getattr(parameter, "_hp_mapping", None)
            if place is not None:
                piece = pieces[place.param_group_index]
                place.set_optim_state_fragment(piece, optimizer.state.get(piece, {}))

    def _fill(self, parameter: nn.Parameter, whole: Tensor, state: Mapping[str, Tensor]) -> None:
        """Set a parameter, this rank's piece of it in fp32, and of its state."""
        if self.stage < 3:
            parameter.data.copy_(whole)
            safe_set_full_fp32_param(parameter, whole.to(parameter.device))
            for kind, value in state.items():
                safe_set_full_optimizer_state(parameter, value.to(parameter.device), kind)
            return
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if self.ranks.main:
                parameter.data.copy_(whole)
        # Not the functions that set all of it: they do not pad what the ranks cannot share out evenly (0.19.8).
        safe_set_local_fp32_param(parameter, self._own(parameter, whole))
        for kind, value in state.items():
            safe_set_local_optimizer_state(parameter, self._own(parameter, value), kind)

    def _own(self, parameter: nn.Parameter, whole: Tensor) -> Tensor:
        """ZeRO-3: this rank's part of `whole`, flat and padded as the engine does."""
        size = safe_get_local_fp32_param(parameter).numel()
        padded = nn.functional.pad(whole.flatten(), (0, size * self.ranks.world - whole.numel()))
        return padded[self.ranks.rank * size :][:size]


def learning(model: nn.Module) -> list[tuple[nn.Parameter, list[str]]]:
    """Each parameter that learns, and its names: tied weights have several."""
    found: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            found.setdefault(parameter, []).append(name)
    return list(found.items())


def _forget_groups() -> None:
    """Let the engine make groups of this run's processes, where an earlier run of this process has left its own."""
    deepspeed.comm.comm.cdb = None
    deepspeed.utils.groups._release_process_group_references()

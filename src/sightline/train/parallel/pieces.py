"""What DeepSpeed's ZeRO leaves of the weights on a rank: flat fp32 pieces that its optimizer moves, and their state.

A piece holds this rank's part of one parameter group, over the borders of parameters. Whole tensors are put together
from the pieces of all ranks, one parameter at a time, and taken apart again, so that checkpoints name parameters as all
layouts do. What is cast from the pieces (the weights that the forward pass reads) follows by `write_through`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

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

from sightline.train.ema import Ema
from sightline.train.parallel.ranks import Ranks

AVERAGE = "average"  # a moving average, where it is handled as state of the optimizer


class Pieces:
    """The pieces of `engine`, which trains `model`."""

    def __init__(self, engine: Any, model: nn.Module, ranks: Ranks) -> None:
        self.engine, self.ranks = engine, ranks
        self.optimizer, self.inner = engine.basic_optimizer, engine.optimizer
        self.parts_weights = engine.zero_optimization_partition_weights()  # stage 3
        self.learning = learning(model)
        groups = self.optimizer.param_groups
        if self.parts_weights:
            number = self.inner.sub_group_to_group_id
            self.flat = list(self.inner.fp32_partitioned_groups_flat)
            self.groups = [groups[number[i]] for i in range(len(self.flat))]
        else:
            self.flat = [piece for group in groups for piece in group["params"]]
            self.groups = list(groups)

    def towers(self) -> dict[str, list[Tensor]]:
        """The pieces of each tower."""
        found: dict[str, list[Tensor]] = {}
        for group, piece in zip(self.groups, self.flat, strict=True):
            found.setdefault(group["tower"], []).append(piece)
        return found

    def gradient_norms(self, scale: float) -> dict[str, Tensor]:
        """Each tower's norm over `scale`, of what the engine holds between the last backward pass and its step.

        All ranks must call.
        """
        squares: dict[str, float] = {}
        for number, (group, piece) in enumerate(zip(self.groups, self.flat, strict=True)):
            held = self.inner.averaged_gradients.get(number) or [piece.grad]  # offloaded, they wait with the piece
            parts = [each for each in held if each is not None]
            square = float(torch.stack(torch._foreach_norm(parts)).double().square().sum()) if parts else 0.0
            squares[group["tower"]] = squares.get(group["tower"], 0.0) + square
        totals = self.ranks.sum(list(squares.values()))
        return {tower: torch.tensor(math.sqrt(total) / scale) for tower, total in zip(squares, totals, strict=True)}

    # --- whole tensors -------------------------------------------------------------------------------------------

    def whole(self, parameter: nn.Parameter, kind: str | None = None) -> Tensor:
        """A parameter in fp32, or its state of `kind`, on every rank; all ranks must call."""
        if kind is None:
            return safe_get_full_fp32_param(parameter)
        return safe_get_full_optimizer_state(parameter, kind)

    def kinds(self) -> dict[str, Tensor | None]:
        """The kinds of state, each with its number where the whole piece has one (the step)."""
        state = self.optimizer.state.get(self.flat[0], {})
        alike = {kind: each.shape == self.flat[0].shape for kind, each in state.items()}
        return {kind: None if alike[kind] else each for kind, each in state.items()}

    def fill(self, parameter: nn.Parameter, value: Tensor, kind: str | None = None) -> None:
        """Set this rank's part of a parameter, or of its state, of the whole `value`."""
        if not self.parts_weights:
            value = value.to(parameter.device)
            if kind is None:
                safe_set_full_fp32_param(parameter, value)
            else:
                safe_set_full_optimizer_state(parameter, value, kind)
            return
        # Not by the functions that set all of it: they do not pad what ranks cannot share out evenly (0.19.8).
        size = safe_get_local_fp32_param(parameter).numel()
        padded = nn.functional.pad(value.flatten(), (0, size * self.ranks.world - value.numel()))
        own = padded[self.ranks.rank * size :][:size].to(parameter.device)
        if kind is None:
            safe_set_local_fp32_param(parameter, own)
        else:
            safe_set_local_optimizer_state(parameter, own, kind)

    def begin(self, kinds: Mapping[str, Tensor | None]) -> None:
        """Give each piece state of these `kinds`, as it has after its first step."""
        for piece in self.flat:
            state = {kind: torch.zeros_like(piece.detach()) if each is None else each for kind, each in kinds.items()}
            self.optimizer.state[piece] = {kind: each.to(piece.device, copy=True) for kind, each in state.items()}
        self.link()

    def link(self) -> None:
        """Tell each parameter of stages 1 and 2 where its state lies.

        The engine does so once, after the first group has moved, so it knows of no other group's state (0.19.8).
        """
        for parameter, _ in self.learning:
            place = getattr(parameter, "_hp_mapping", None)
            if place is not None:
                piece = self.flat[place.param_group_index]
                place.set_optim_state_fragment(piece, self.optimizer.state.get(piece, {}))

    @contextmanager
    def lent(self, kind: str, values: Sequence[Tensor]) -> Iterator[None]:
        """Inside the block, `values` (one of each piece's shape) are state of `kind`."""
        for piece, value in zip(self.flat, values, strict=True):
            self.optimizer.state[piece][kind] = value
        self.link()
        try:
            yield
        finally:
            for piece in self.flat:
                del self.optimizer.state[piece][kind]
            self.link()

    def write_through(self) -> None:
        """Cast the pieces to the weights that the forward pass reads; all ranks must call."""
        if not self.parts_weights:
            self.inner.update_lp_params()
            return
        self.inner.checkpoint_event_prologue()  # lets go of small weights that stay gathered
        for parameter, _ in self.learning:
            part: Any = parameter
            part.ds_tensor.data.copy_(safe_get_local_fp32_param(parameter))
        self.inner.checkpoint_event_epilogue()


class PieceEma(Ema):
    """A moving average of the pieces: each rank averages what it holds."""

    def __init__(self, pieces: Pieces, decay: float) -> None:
        self.decay, self.pieces = decay, pieces
        self._live = {str(number): piece for number, piece in enumerate(pieces.flat)}
        self.values = {number: piece.detach().clone() for number, piece in self._live.items()}

    def take_up(self, fill: Callable[[Mapping[str, Tensor]], None]) -> None:
        """See `Ema.take_up`: whole parameters, one after the other."""
        with self.pieces.lent(AVERAGE, list(self.values.values())):
            for parameter, (name, *_) in self.pieces.learning:
                whole = torch.empty(shape_of(parameter))
                fill({name: whole})
                self.pieces.fill(parameter, whole, AVERAGE)

    def adopt(self) -> None:
        """See `Ema.adopt`."""
        super().adopt()
        self.pieces.write_through()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """See `Ema.in_place`."""
        with super().in_place():
            yield
        self.pieces.write_through()


def learning(model: nn.Module) -> list[tuple[nn.Parameter, list[str]]]:
    """Each parameter that learns, and its names: tied weights have several."""
    found: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            found.setdefault(parameter, []).append(name)
    return list(found.items())


def shape_of(parameter: nn.Parameter) -> torch.Size:
    """A parameter's shape, also where this rank holds only a part of it."""
    return getattr(parameter, "ds_shape", parameter.shape)

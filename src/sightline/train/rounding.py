"""AdamW on bf16 weights without fp32 copies of them: what becomes of updates below a weight's spacing.

A bf16 number has 8 significant bits, so an update smaller than 0.2 to 0.4 % of its weight is rounded away by the usual
rule, at this step and at every later one. Two rules keep it (Zamirai et al. 2020, arXiv 2010.06192, sections 3.1 and
3.2): rounding up or down at random, so that the mean is right, and Kahan's summation, which carries what was rounded
away into the next step (a bf16 number more for each weight). Averages of gradients and their squares are fp32: of the
latter a step changes 0.1 %, which bf16 would lose, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.train.parallel.sharded import local

Rounding = Literal["nearest", "stochastic", "kahan"]
CUT = 16  # bits of fp32 that bf16 does not have


def halve(model: nn.Module) -> None:
    """Make the weights of `model` bf16, in place, and those buffers that a checkpoint keeps.

    The others follow from the configuration and stay as they are: of rotary positions that are computed from rounded
    frequencies, a late one would be off by more than a radian.
    """
    exact = [(each, name, each._buffers[name]) for each in model.modules() for name in each._non_persistent_buffers_set]
    model.to(torch.bfloat16)
    for module, name, buffer in exact:
        module._buffers[name] = buffer


def round_at_random(values: Tensor, generator: torch.Generator) -> Tensor:
    """fp32 `values` as bf16: each goes to one of its two neighbours, nearer ones more often, so that the mean stays.

    Bits drawn below the cut carry into what is kept as often as the cut part is large (arXiv 2010.06192, equation 2).
    """
    noise = torch.randint(1 << CUT, values.shape, dtype=torch.int32, device=values.device, generator=generator)
    bits = (values.contiguous().view(torch.int32) + noise) & -(1 << CUT)
    return torch.where(values.isfinite(), bits.view(torch.float32), values).bfloat16()


class RoundedAdamW(Optimizer):
    """AdamW (Loshchilov & Hutter 2019) whose arithmetic is fp32 and whose weights are bf16."""

    def __init__(
        self, params: Iterable[dict[str, Any]], *, betas: tuple[float, float], eps: float, rounding: Rounding
    ) -> None:
        super().__init__(params, {"lr": 1e-3, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self.rounding: Rounding = rounding

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move the weights that have a gradient. Ranks that hold copies of a weight round it alike."""
        loss = closure() if closure else None
        generators: dict[torch.device, torch.Generator] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self._state_of(parameter)
                state["step"] += 1
                device = local(parameter).device
                if device not in generators:  # the draws follow from the step alone, so that a resumed run has the same
                    generators[device] = torch.Generator(device).manual_seed(int(state["step"]))
                self._move(parameter, state, group, generators[device])
        return loss

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for kind in ("exp_avg", "exp_avg_sq"):
                state[kind] = torch.zeros_like(parameter, dtype=torch.float32, memory_format=torch.preserve_format)
            if self.rounding == "kahan":
                state["rest"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state

    def _move(
        self, parameter: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any], generator: torch.Generator
    ) -> None:
        (first, second), step = group["betas"], float(state["step"])
        weight, gradient = local(parameter), local(parameter.grad).float()  # type: ignore[arg-type]
        mean = local(state["exp_avg"]).lerp_(gradient, 1 - first)
        square = local(state["exp_avg_sq"]).mul_(second).addcmul_(gradient, gradient, value=1 - second)
        size = square.sqrt().div_((1 - second**step) ** 0.5).add_(group["eps"])
        whole = weight.float()
        if self.rounding == "kahan":
            whole += local(state["rest"])
        whole.mul_(1 - group["lr"] * group["weight_decay"])
        whole.addcdiv_(mean, size, value=-group["lr"] / (1 - first**step))
        weight.copy_(round_at_random(whole, generator) if self.rounding == "stochastic" else whole)
        if self.rounding == "kahan":
            local(state["rest"]).copy_(whole - weight.float())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state as it is: torch's own rule would make the fp32 averages bf16, as the weights are."""
        super().load_state_dict(state_dict)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, saved in state_dict["state"].items():
            for kind, value in saved.items():
                if kind in ("exp_avg", "exp_avg_sq"):
                    self.state[parameters[number]][kind] = value.to(parameters[number].device)

"""Which module is the first to give a value that is not finite? The forward pass is repeated, every output watched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sightline.guard.probes.call import Call
from sightline.guard.probes.restore import untouched


def first_non_finite(call: Call) -> str | None:
    """Where NaN or infinity first shows: a module whose output holds it, or what is between modules; None if nowhere.

    The innermost module counts: a parent finishes after its children. Where a child is given NaN already, it is its
    parent's own operations that made it, and for the whole model it is the batch. The repeat draws other random numbers
    than the host's pass did, so a fault that only one dropout mask shows may not be seen again. Masks made of -inf do
    not count.
    """
    found: list[str] = []
    names = {module: name or type(module).__name__ for name, module in call.model.named_modules()}
    within: list[nn.Module] = []

    def given(module: nn.Module, args: Any, kwargs: Any) -> None:
        if not found and any(bool(t.isnan().any()) for t in _tensors((*args, *kwargs.values()))):
            found.append(f"{names[within[-1]]} itself, on the way to {names[module]}" if within else "the batch itself")
        within.append(module)

    def watch(module: nn.Module, _: Any, output: Any) -> None:
        within.pop()
        if not found and not sound(output):
            found.append(names[module])

    handles = [module.register_forward_pre_hook(given, with_kwargs=True) for module in names]
    handles += [module.register_forward_hook(watch) for module in names]
    try:
        with untouched(call.model), torch.no_grad():
            call.run()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def sound(output: Any) -> bool:
    """Finite, or -inf alone beside finite values (an attention mask). Waits for the device."""
    return not any(bool(unsound(t)) for t in _tensors(output))


def unsound(tensor: Tensor) -> Tensor:
    """0-dim: whether any value is NaN or +inf."""
    return (tensor.isnan() | (tensor == float("inf"))).any()


def _tensors(output: Any) -> list[Tensor]:
    parts: Iterable[Any] = output if isinstance(output, tuple | list) else (output,)
    return [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]

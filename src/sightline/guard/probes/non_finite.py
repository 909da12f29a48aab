"""Which module is the first to give a value that is not finite? The forward pass is repeated, every output watched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sightline.guard.probes.call import Call
from sightline.guard.probes.restore import untouched


def first_non_finite(call: Call) -> str | None:
    """Name of the first module, in the order of execution, whose output holds NaN or infinity; None if none does.

    The innermost module counts: a parent finishes after its children. The repeat draws other random numbers than the
    host's pass did, so a fault that only one dropout mask shows may not be seen again. Masks made of -inf do not count.
    """
    found: list[str] = []
    names = {module: name for name, module in call.model.named_modules()}

    def watch(module: nn.Module, _: Any, output: Any) -> None:
        if not found and any(not _sound(t) for t in _tensors(output)):
            found.append(names[module] or type(module).__name__)

    handles = [module.register_forward_hook(watch) for module in names]
    try:
        with untouched(call.model), torch.no_grad():
            call.run()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _sound(tensor: Tensor) -> bool:
    """Finite, or -inf alone beside finite values (an attention mask)."""
    return not bool((tensor.isnan() | (tensor == float("inf"))).any())


def _tensors(output: Any) -> list[Tensor]:
    parts = output if isinstance(output, tuple | list) else (output,)
    return [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]

"""Which parameters does a model keep where `model.parameters()` does not find them, and nobody moves?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.alive import living
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.origins import ORIGINS
from sightline.guard.evidence import HiddenSeen

LOOKS = 3  # measured steps in which they have gradients: a part that was used once is no part of the model
DEEP = 2  # a list of lists or of tuples; deeper are a library's records
MANY = 256  # items of one container: layers come in fewer, data in more


class Hidden(Onlooker):
    """Looks through the plain containers of the model's modules once, and at what is there for a few steps."""

    shows: ClassVar = ("HiddenSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._found: dict[str, list[Tensor]] | None = None
        self._looks = 0

    def before_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Keep those that have gradients; after a few steps, those that no optimizer holds."""
        if not measured or self._looks >= LOOKS:
            return
        if self._found is None:
            self._found = hidden(self.recorder.model)
        self._found = {place: some for place, all_ in self._found.items() if (some := [p for p in all_ if _pulled(p)])}
        self._looks = self._looks + 1 if self._found else LOOKS
        if self._found and self._looks == LOOKS:
            show(self.recorder, unheld(self._found))
            self._found = {}

    def close(self, *, broken: bool) -> None:
        """What belongs to the host is let go."""
        self._found, self._looks = {}, LOOKS


def unheld(found: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
    """Those that no optimizer of the process holds, or ever did."""
    held = {id(p) for optimizer in living(Optimizer) for group in optimizer.param_groups for p in group["params"]}
    free = {place: [p for p in all_ if id(p) not in held and not ORIGINS.optimized(p)] for place, all_ in found.items()}
    return {place: rest for place, rest in free.items() if rest}


def show(recorder: Recording, left: dict[str, list[Tensor]], changed: list[Tensor] | None = None) -> None:
    """Offer them, with the norm of their gradients. `changed`: of plain tensors, numbers that are to be 0."""
    parameters = [p for rest in left.values() for p in rest]
    grads = [_values(p.grad).float().norm() for p in parameters if p.grad is not None]
    if not grads:
        return
    numel = sum(p.numel() for p in parameters)
    known = sum(p.numel() for p in recorder.model.parameters() if p.requires_grad)
    facts = recorder.step, tuple(left), len(parameters), numel, known
    device = parameters[0].device
    norm, other = (
        torch.stack([one.to(device) for one in ones]).norm() for ones in (grads, changed or [torch.zeros(())])
    )

    def arrived(values: list[Tensor]) -> None:
        if changed is None or (float(values[0]) and not float(values[1])):
            recorder.offer(HiddenSeen(*facts, float(values[0]), bare=changed is not None))

    recorder.mailbox.post([norm, other], arrived)


def hidden(model: nn.Module) -> dict[str, list[Tensor]]:
    """Place -> trainable leaf tensors in plain containers of the model's modules that the model does not know."""
    known = {id(p) for p in model.parameters()}
    found: dict[str, list[Tensor]] = {}
    for name, module in model.named_modules():
        for key, value in module.__dict__.items():
            if isinstance(value, list | tuple | dict) and key not in ("_modules", "_parameters", "_buffers"):
                for p in _parameters(value, DEEP):
                    if p.requires_grad and p.is_leaf and id(p) not in known:
                        known.add(id(p))
                        found.setdefault(f"{name}.{key}".lstrip("."), []).append(p)
    return found


def _parameters(container: Any, deep: int) -> Iterator[Tensor]:
    """Tensors, and the parameters of modules in train mode; an optimizer's groups or a trainer's state are neither."""
    if len(container) > MANY:
        return
    for item in container.values() if isinstance(container, dict) else container:
        if isinstance(item, nn.Module):
            yield from (p for p in item.parameters() if item.training)
        elif isinstance(item, Tensor):
            yield item
        elif deep > 1 and type(item) in (list, tuple, dict):
            yield from _parameters(item, deep - 1)


def _pulled(parameter: Tensor) -> bool:
    return parameter.grad is not None


def _values(tensor: Tensor) -> Tensor:
    local = (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach()
    return local.coalesce().values() if local.is_sparse else local

"""What hangs on some of a model's parameters, and what do they hang on? Told by graphs of passes of the guard's own."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sightline.guard.probes.call import Call
from sightline.guard.probes.fields import leaves
from sightline.guard.probes.reach import tensors_of
from sightline.guard.probes.restore import untouched


class Flow:
    """Asks one call of a model. All questions are by the names of parameters; `cut` are those whose modules end a way.

    Each question is one forward pass with a graph. Nothing is written, and everything is put back.
    """

    def __init__(self, call: Call, cut: Collection[str]) -> None:
        self._call, self._named = call, dict(call.model.named_parameters())
        self._owners = {name: call.model.get_submodule(name.rpartition(".")[0]) for name in self._named}
        self._cut = list({id(self._owners[name]): self._owners[name] for name in cut}.values())

    def into(self, source: Collection[str], targets: Collection[str], *, uncut: bool = True) -> set[str]:
        """Those of `targets` whose modules are called, and each time with an input that hangs on `source`."""
        return self._ask(source, targets, uncut=uncut)[0]

    def out(self, source: Collection[str], places: Collection[int], *, uncut: bool = True) -> bool:
        """Whether an output at one of `places` (see `tensors_of`) has a gradient with respect to `source`."""
        return self._ask(source, (), uncut=uncut, places=places)[1]

    def _ask(
        self, source: Collection[str], targets: Collection[str], *, uncut: bool, places: Collection[int] = ()
    ) -> tuple[set[str], bool]:
        hung: dict[int, bool] = {}  # id of a module -> whether all its calls hang on the source

        def called(module: nn.Module, args: Any, kwargs: Any) -> None:
            hangs = any(tensor.requires_grad for tensor in leaves(args, kwargs).values())
            hung[id(module)] = hangs and hung.get(id(module), True)

        with untouched(self._call.model), torch.enable_grad():
            for name, parameter in self._named.items():
                parameter.requires_grad_(name in source)
            owners = {id(self._owners[name]): self._owners[name] for name in targets}
            with _hooked(owners.values(), called, self._cut if uncut else ()):
                output = self._call.model(*self._call.args, **self._call.kwargs)
            outputs = tensors_of(output)
            chosen = [outputs[at] for at in places if at < len(outputs) and outputs[at].requires_grad]
            pulled = bool(chosen) and self._pulled(chosen, [self._named[name] for name in source])
        return {name for name in targets if hung.get(id(self._owners[name]))}, pulled

    @staticmethod
    def _pulled(outputs: list[Tensor], parameters: list[nn.Parameter]) -> bool:
        """Whether a gradient that differs from output to output comes to any of `parameters`."""
        weights = [torch.arange(o.numel(), dtype=o.dtype, device=o.device).view(o.shape).cos() for o in outputs]
        found = torch.autograd.grad(outputs, parameters, weights, allow_unused=True)
        return any(gradient is not None and bool(gradient.any()) for gradient in found)


@contextmanager
def _hooked(owners: Any, called: Any, cut: Any) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(called, with_kwargs=True) for module in owners]
    handles += [module.register_forward_hook(lambda _module, _args, output: _detached(output)) for module in cut]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _detached(output: Any) -> Any:
    """The same output without a graph: of a tensor, or of a tuple or list of tensors."""
    if isinstance(output, Tensor):
        return output.detach()
    if type(output) in (tuple, list):
        return type(output)(_detached(part) for part in output)
    for name, value in output.items() if isinstance(output, dict) else ():
        output[name] = _detached(value)
    return output

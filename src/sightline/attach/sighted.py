"""Which parts of a model are given pictures, where no convolution tells it: patches may be cut by reshaping, too.

Heard in the first forward passes only, and of models that read text and would be one tower otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from sightline.attach.towers import Towers, reads, resolve

CHANNELS, SIDE = (1, 3, 4), 4  # of a picture: its channels, and the least of its sides
DEEP = 3  # levels below the model at which a tower is looked for


class Sighted:
    """The parts that were handed pictures: tensors of (..., C, H, W) or (..., H, W, C) that nothing learnable made."""

    def __init__(self, model: nn.Module, towers: Towers) -> None:
        alone = set(towers.modules) == {"model"} and not towers.told and reads(model)
        self._model, self._parts = model, dict(_parts(model, "", DEEP)) if alone else {}
        self._found: set[str] = set()
        self._handles: list[Any] = []

    def listen(self, hook: Callable[[Callable[..., None]], Any]) -> None:
        """Hear what the parts are given."""
        self._handles = [
            part.register_forward_pre_hook(hook(functools.partial(self.given, name)))
            for name, part in self._parts.items()
        ]

    def given(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Forward pre-hook of the part `name`."""
        if args and _picture(args[0]):
            self._found.add(name)

    def remove(self) -> None:
        """Hear nothing more."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._parts = [], {}

    def towers(self) -> Towers | None:
        """The towers, where a part that was heard so far sees and another one reads; asked once."""
        self.remove()
        found, self._found = self._found, set()
        towers = resolve(self._model, None, found) if found else None
        return towers if towers is not None and "vision" in towers.modules else None


def _parts(module: nn.Module, prefix: str, deep: int) -> Iterator[tuple[str, nn.Module]]:
    """Modules that could be a tower. Those of torch itself are not heard: some compute otherwise with hooks."""
    for name, child in module.named_children():
        own = type(child).__module__.partition(".")[0] != "torch" or isinstance(child, nn.Sequential)
        if not own or not any(True for _ in child.children()) or isinstance(child, nn.TransformerEncoderLayer):
            continue
        path = f"{prefix}.{name}".strip(".")
        if not reads(child):
            yield path, child
        if deep > 1:
            yield from _parts(child, path, deep - 1)


def _picture(given: object) -> bool:
    if not isinstance(given, Tensor) or given.dim() < 4 or not given.is_floating_point() or given.requires_grad:
        return False
    *_, a, b, c = given.shape
    return (a in CHANNELS and min(b, c) >= SIDE) or (c in CHANNELS and min(a, b) >= SIDE)

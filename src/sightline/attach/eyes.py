"""What the first layer of a vision tower is given: pictures as they came from their files, or such as towers are made
for.

Heard in the first passes, of convolutions over colours. A tower is surely made for small numbers where no norm follows
(it would undo the scale) and it is as it was drawn, or one of transformers', which all take such.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.origins import ORIGINS
from sightline.attach.script.heap import compiled_parts
from sightline.attach.signals import Signals
from sightline.attach.towers import Towers

LOOKS = 4  # batches: the first may be one of blank pictures
COLOURS = (1, 3)
FEWEST = 4  # pictures, at once
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


class Eyes:
    """Listens at them, and keeps what they are given for the recorder's next evidence of signals."""

    def __init__(self, signals: Signals, towers: Towers) -> None:
        self._signals, self._looks = signals, LOOKS
        self._first = list(_first_layers(towers))
        self._handles: list[Any] = []

    def listen(self, hook: Callable[[Callable[..., None]], Any]) -> None:
        """Hear what they are given."""
        self._handles = [
            layer.register_forward_pre_hook(hook(functools.partial(self.given, small))) for layer, small in self._first
        ]

    def given(self, small: bool, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Forward pre-hook of a layer that is, or is not, made for `small` numbers."""
        pixels = args[0] if args else None
        if not isinstance(pixels, Tensor) or not pixels.is_floating_point() or pixels.requires_grad:
            return
        if pixels.dim() < 4 or len(pixels) < FEWEST or not pixels.numel():
            return
        self._looks -= 1
        with torch.no_grad():
            colours = pixels.detach().transpose(0, 1).flatten(1).float()
            least, most = colours.amin(dim=1), colours.amax(dim=1)
            size = colours.square().mean().sqrt()
            self._signals.pixels = torch.stack([least.min(), most.max(), size, (most - least).max()]), small
        if self._looks <= 0:
            self.remove()

    def remove(self) -> None:
        """Hear nothing more."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._first = [], []


def _first_layers(towers: Towers) -> Iterator[tuple[nn.Module, bool]]:
    for tower in towers.modules.get("vision", {}).values():
        leaves = [part for part in tower.modules() if not any(True for _ in part.children())]
        place = next((n for n, part in enumerate(leaves) if _over_colours(part)), None)
        if place is None or any(compiled_parts(part) for part in tower.modules()):
            continue
        layer, behind = leaves[place], leaves[place + 1 : place + 2]
        normed = any(isinstance(part, NORMS) for part in behind)
        yield layer, not normed and (_drawn(layer) or _of_library(tower, layer))


def _over_colours(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.Conv3d) and layer.in_channels in COLOURS


def _drawn(layer: nn.Module) -> bool:
    """Whether training began, or begins, with what an initialiser drew."""
    return isinstance(layer.weight, Tensor) and ORIGINS.began_anew(layer.weight)


def _of_library(tower: nn.Module, layer: nn.Module) -> bool:
    holders = (part for part in tower.modules() if any(child is layer for child in part.children()))
    return any(type(part).__module__.startswith("transformers.models.") for part in holders)

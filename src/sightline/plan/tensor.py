"""Tensor parallelism planned: a model as one of several ranks holds it, an ordinary one with narrower matrices.

Which matrices are cut, and how, is told by who cuts them (`train/parallel/tensor.py`): this room cannot know that one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from sightline.models.vlm import VLM

EXCHANGES = 2  # all-reduces of a block in its forward pass, and as many in its backward pass


@dataclass(frozen=True, slots=True)
class Split:
    """How a model lies across ranks that are fed the same rows: each matrix on `tensor`, the depth on `pipeline`."""

    tensor: int = 1
    pipeline: int = 1

    @property
    def size(self) -> int:
        """Ranks that hold one copy."""
        return self.tensor * self.pipeline


WHOLE = Split()


class Cut(Protocol):
    """How the blocks of a tower are cut: "colwise" or "rowwise" by the names of modules within a block."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The tower's blocks."""

    @property
    def words(self) -> Mapping[str, str]:
        """Module -> how it is cut."""


Cuts = Callable[[VLM, int], Sequence[Cut]]  # raises UserError where the ranks do not divide heads or widths


def narrowed(model: VLM, ranks: int, cuts: Cuts) -> VLM:
    """`model` (on the meta device, changed in place) as one of `ranks` tensor ranks holds it. Raises as `cuts`."""
    for cut in cuts(model, ranks) if ranks > 1 else ():
        for block in cut.blocks:
            for name, word in cut.words.items():
                if word in ("colwise", "rowwise"):
                    for linear in _cut_with(block.get_submodule(name), word):
                        _narrow(linear, ranks, by_output=word == "colwise")
            for module in block.modules():
                if hasattr(module, "q_proj") and isinstance(heads := getattr(module, "num_heads", None), int):
                    module.num_heads = heads // ranks  # type: ignore[assignment]  # some shape by it
    return model


def _cut_with(module: nn.Module, word: str) -> list[nn.Linear]:
    """The linear map and the side of its adapters that is cut with it."""
    adapters = getattr(module, "lora_B" if word == "colwise" else "lora_A", {})
    found = [getattr(module, "base_layer", module), *adapters.values()]
    return [each for each in found if isinstance(each, nn.Linear)]


def _narrow(linear: nn.Linear, ranks: int, *, by_output: bool) -> None:
    if by_output:
        linear.out_features //= ranks
        if linear.bias is not None:
            linear.bias = _like(linear.bias, (linear.out_features,))
    else:
        linear.in_features //= ranks
    linear.weight = _like(linear.weight, (linear.out_features, linear.in_features))


def _like(parameter: Tensor, shape: tuple[int, ...]) -> nn.Parameter:
    fresh = torch.empty(shape, dtype=parameter.dtype, device=parameter.device)
    return nn.Parameter(fresh, requires_grad=parameter.requires_grad)

"""What every VLM is to the rest of Sightline, composed or adopted: towers by name, and logits where labels are.

Shapes: B sequences, T tokens, N images, P tokens an image, S supervised positions, V vocabulary, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sightline.data.batch import Batch
from sightline.models.recompute import recompute
from sightline.recipe.schema import TOWERS, Lora, Tower


@dataclass(frozen=True, slots=True)
class Said:
    """A continuation: token ids up to but without EOS, and the log probability (nats) of all of it, EOS included.

    One that was cut off by the limit has no EOS, in neither.
    """

    tokens: list[int]
    log_p: float


class VLM(nn.Module, ABC):
    """A vision-language model whose parts are known by tower."""

    lora: Lora | None = None  # the adapters it carries
    towers: tuple[Tower, ...] = TOWERS  # that it has: an answer head comes on top
    goes_along: Tower | None = None  # from this tower on, all run on every batch: where each rank holds a part of each
    encodes_images_apart: bool = True  # whether `encode_images` works and its features may stand in for pixels

    @abstractmethod
    def tower_modules(self, tower: Tower) -> list[tuple[str, nn.Module]]:
        """The modules of `tower` with their dotted names in this model (no tower may share a parameter)."""

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[Float[Tensor, "S V"], Int[Tensor, " S"]]:
        """Logits at the supervised positions alone, and the tokens they should predict.

        Supervised position t predicts labels[:, t + 1]. On a batch without images every tower still takes part in the
        graph with weight zero, so that ranks of a distributed run issue the same collectives.
        """

    def unseen(self, *given: Any) -> Any:
        """`forward`, of which hooks that watch the model are not told."""
        return self.forward(*given)

    @abstractmethod
    def encode_images(self, pixel_values: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N P D"]:
        """Vision features that the connector takes (what `Batch.features` caches)."""

    def seen_by(self, vision: nn.Module, pixel_values: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N P D"]:
        """What the tower `vision` makes of images. A frozen one has no graph, unless the pixels want gradients."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and (self.learns("vision") or pixel_values.requires_grad)):
            return vision(pixel_values)

    @abstractmethod
    def say(self, batch: Batch, max_new_tokens: int) -> list[Said]:
        """Greedy continuations of the batch's prompts (one example a sequence)."""

    def generate(self, batch: Batch, max_new_tokens: int) -> list[list[int]]:
        """The tokens alone of what the model says to the batch's prompts."""
        return [said.tokens for said in self.say(batch, max_new_tokens)]

    @abstractmethod
    def stream(self, batch: Batch, max_new_tokens: int) -> Iterator[int]:
        """The tokens of one prompt's greedy continuation, as they come."""

    @abstractmethod
    def blocks(self, tower: Tower) -> list[nn.Module]:
        """The repeated layers of `tower`, first to last (empty where it has none)."""

    @abstractmethod
    def save(self, folder: Path) -> str:
        """Write a model that loads without Sightline where its architecture exists there; returns how to load it."""

    @abstractmethod
    def describe(self, folder: Path) -> None:
        """Write configurations, tokenizer and image facts: all that `saved.load_model` needs beside the weights."""

    def inputs(self, tower: Tower) -> list[nn.Module]:
        """Modules of `tower` that its first block reads, where they are registered behind the blocks."""
        return []

    @property
    def slow(self) -> VLM | None:
        """A copy of itself that it carries and that follows it: its weights move without gradients."""
        return None

    def idle(self, tower: Tower, objective: str | Mapping[Any, float]) -> set[str]:
        """Full names of the parameters of `tower` that an objective does not reach: they cannot learn."""
        return set()

    def tower_parameters(self, tower: Tower) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters of `tower` with their full dotted names."""
        for prefix, module in self.tower_modules(tower):
            for name, parameter in module.named_parameters():
                yield f"{prefix}.{name}", parameter

    def learns(self, tower: Tower) -> bool:
        """Whether some parameter of `tower` takes gradients."""
        return any(parameter.requires_grad for _, parameter in self.tower_parameters(tower))

    def train(self, mode: bool = True) -> Self:
        """Training mode for the towers that learn; a frozen tower stays in evaluation mode (no dropout, no drift)."""
        super().train(mode)
        for tower in self.towers:
            if mode and not self.learns(tower):
                for _, module in self.tower_modules(tower):
                    module.eval()
        return self

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode inside the block; afterwards every module is in the mode it was in."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Recompute the blocks' activations in the backward pass (exact; about a third more compute)."""
        for tower in self.towers:
            recompute(self.blocks(tower), on)

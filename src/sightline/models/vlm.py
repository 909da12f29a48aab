"""What every VLM is to the rest of Sightline, composed or adopted: towers by name, and logits where labels are.

Shapes: B sequences, T tokens, N images, P tokens an image, S supervised positions, V vocabulary, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor, nn

from sightline.data.batch import Batch
from sightline.recipe.schema import Tower


class VLM(nn.Module, ABC):
    """A vision-language model whose parts are known by tower."""

    @abstractmethod
    def tower_modules(self, tower: Tower) -> list[tuple[str, nn.Module]]:
        """The modules of `tower` with their dotted names in this model (no tower may share a parameter)."""

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[Float[Tensor, "S V"], Int[Tensor, " S"]]:
        """Logits at the supervised positions alone, and the tokens they should predict.

        Supervised position t predicts labels[:, t + 1]. On a batch without images every tower still takes part in the
        graph with weight zero, so that ranks of a distributed run issue the same collectives.
        """

    @abstractmethod
    def encode_images(self, pixel_values: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N P D"]:
        """Vision features that the connector takes (what `Batch.features` caches)."""

    @abstractmethod
    def generate(self, batch: Batch, max_new_tokens: int) -> list[list[int]]:
        """Greedy continuations of the batch's prompts (one example a sequence), token ids up to but without EOS."""

    @abstractmethod
    def stream(self, batch: Batch, max_new_tokens: int) -> Iterator[int]:
        """The tokens of one prompt's greedy continuation, as they come."""

    @abstractmethod
    def blocks(self, tower: Tower) -> list[nn.Module]:
        """The repeated layers of `tower`, first to last (empty where it has none)."""

    @abstractmethod
    def set_gradient_checkpointing(self, on: bool) -> None:
        """Recompute activations in the backward pass of the towers that learn."""

    @abstractmethod
    def save(self, folder: Path) -> str:
        """Write a model that loads without Sightline where its architecture exists there; returns how to load it."""

    def tower_parameters(self, tower: Tower) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters of `tower` with their full dotted names."""
        for prefix, module in self.tower_modules(tower):
            for name, parameter in module.named_parameters():
                yield f"{prefix}.{name}", parameter

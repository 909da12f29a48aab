"""What a model over image-text pairs is to its objectives: embeddings to compare, and heads that look at both.

Shapes: B pairs, N distinct images, K pairs put together anew, P image tokens, Q embeddings an image has, E embedding
width, T text tokens, D width of what cross-attention looks at, H of what reads texts, S supervised positions, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from sightline.data.batch import Batch


@dataclass(frozen=True, slots=True)
class Pairs:
    """A batch's images and texts in one space. `image` holds unit vectors, several an image for a Q-Former.

    `seen` is what cross-attention looks at: one row for each pair (images that several pairs share are repeated).
    `kept` is what `caption` of the same batch goes on from, so that nothing is computed twice.
    """

    image: Float[Tensor, "B E"] | Float[Tensor, "B Q E"]
    text: Float[Tensor, "B E"]
    seen: Float[Tensor, "B P D"] | None = None
    kept: Float[Tensor, "B T H"] | None = None


@runtime_checkable
class PairModel(Protocol):
    """Implemented by `PairVLM` (CLIP, SigLIP, ALBEF, CoCa) and by a composed VLM with a Q-Former (BLIP-2).

    `heads`: of itm, itg and mlm, those that it has a head for; only then are `match`, `caption` and `unmask` called.
    """

    heads: frozenset[str]

    def represent(self, batch: Batch, heads: Collection[str] = ()) -> Pairs:
        """Embeddings of the batch's images and texts. A frozen tower runs without a graph.

        `heads`: those that will be asked of the same batch; their share of the work is done on the way.
        """

    def embed_images(self, batch: Batch) -> Float[Tensor, "N E"] | Float[Tensor, "N Q E"]:
        """Unit vectors of the batch's distinct images alone."""

    def embed_texts(self, input_ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B E"]:
        """Unit vectors of texts alone."""

    def scale_and_bias(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | None]:
        """What similarities are multiplied with, and what is added (None: nothing)."""

    def match(
        self, seen: Float[Tensor, "K P D"], input_ids: Int[Tensor, "K T"], attention_mask: Bool[Tensor, "K T"]
    ) -> Float[Tensor, "K 2"]:
        """Logits of "this text does not belong to this image" and "it does"."""

    def caption(
        self, seen: Float[Tensor, "B P D"], batch: Batch, kept: Tensor | None = None
    ) -> tuple[Float[Tensor, "S V"], Int[Tensor, " S"]]:
        """Logits at the supervised positions of the texts, each from the image and the words before it, and targets.

        `kept`: of the same batch's `represent`, where the images are its own.
        """

    def unmask(
        self, seen: Float[Tensor, "B P D"], input_ids: Int[Tensor, "B T"], batch: Batch, where: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "S V"]:
        """Logits at the places `where` of texts whose words there are masked in `input_ids`, from both sides."""

"""A composed VLM with a Q-Former as a model over image-text pairs: BLIP-2's first stage, without the language tower."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.models.connectors.q_former import QFormer
from sightline.models.pairs import Pairs
from sightline.recipe.schema import Tower


class QueryPairs(nn.Module):
    """The `PairModel` side of `ComposedVLM`; without a Q-Former it has no heads and compares nothing."""

    connector: nn.Module

    @property
    def heads(self) -> frozenset[str]:
        """See `PairModel`."""
        return self.connector.heads if isinstance(self.connector, QFormer) else frozenset()

    def idle(self, tower: Tower, objective: str | Mapping[Any, float]) -> set[str]:
        """See `VLM.idle`."""
        if tower == "connector" and isinstance(self.connector, QFormer):
            return {f"connector.{name}" for name in self.connector.idle(objective)}
        return set()

    @property
    def _former(self) -> QFormer:
        if not isinstance(self.connector, QFormer):
            raise UserError(
                "this connector compares no images with texts",
                where="model.compose.connector.kind",
                fix="set it to q-former, or the stage's objective to next-token",
            )
        return self.connector

    def represent(self, batch: Batch, heads: Collection[str] = ()) -> Pairs:
        """See `PairModel`. Each distinct image is encoded, and looked at by the queries, once.

        Queries see no words, so where a text is to be written, what they look at serves the comparison as well.
        """
        former, index = self._former, batch.image_index
        seen = self._seen(batch)
        text = former.embed_texts(batch.input_ids, batch.attention_mask)
        if "itg" in heads:
            seen = seen.index_select(0, index)
            image, written = former.look_and_write(seen, batch.input_ids)
            return Pairs(image, text, seen, written)
        return Pairs(former.embed_images(seen).index_select(0, index), text, seen.index_select(0, index))

    def embed_images(self, batch: Batch) -> Float[Tensor, "N Q E"]:
        """See `PairModel`."""
        return self._former.embed_images(self._seen(batch))

    def embed_texts(self, input_ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B E"]:
        """See `PairModel`."""
        return self._former.embed_texts(input_ids, attention_mask)

    def _seen(self, batch: Batch) -> Float[Tensor, "N P D"]:
        """What the queries look at: the features of the batch's distinct images, behind the connector's norm."""
        former, features = self._former, batch.features
        if features is None:
            if batch.pixel_values is None:
                raise UserError("the batch has no images to compare its texts with")
            features = self.encode_images(batch.pixel_values)  # type: ignore[operator]
        width = len(former.norm.weight)
        if features.shape[-1] != width:
            what = f"the images' features are {features.shape[-1]} wide, and the Q-Former was built for {width}"
            raise UserError(what, where="model.compose.vision", fix="encode images with this model's vision tower")
        return former.norm(features.to(former.norm.weight.dtype))

    def scale_and_bias(self) -> tuple[Float[Tensor, ""], None]:
        """See `PairModel`."""
        return self._former.temperature(), None

    def match(
        self, seen: Float[Tensor, "K P D"], input_ids: Int[Tensor, "K T"], attention_mask: Bool[Tensor, "K T"]
    ) -> Float[Tensor, "K Q 2"]:
        """See `PairModel`."""
        return self._former.match(seen, input_ids, attention_mask)

    def caption(
        self, seen: Float[Tensor, "B P D"], batch: Batch, kept: Tensor | None = None
    ) -> tuple[Float[Tensor, "S V"], Int[Tensor, " S"]]:
        """See `PairModel`."""
        return self._former.caption(seen, batch, kept)

    def unmask(self, *given: Any) -> Any:
        """A Q-Former fills in no masked words: see `heads`."""
        raise NotImplementedError("BLIP-2 has no masked words")

"""A composed VLM whose language tower looks at images through gated cross-attention (Flamingo), not through its tokens.

The layers are the connector's; hooks before the language tower's blocks call them, so any decoder can be used, and its
own code and weights stay as they are.

Shapes: B rows, T tokens, N images, I images of the row that has most, Q latents, D width of vision.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.models.composed import ComposedVLM
from sightline.models.connectors.gated_cross_attention import GatedCrossAttention
from sightline.models.reach import touch


@dataclass(frozen=True, slots=True)
class View:
    """What the rows of a batch may look at. `seen`: latents of each row's images; `turn`: the image of each token.

    Tokens count images from 1; 0 is before any.
    """

    seen: Float[Tensor, "B S D"]
    turn: Int[Tensor, "B T"]
    latents: int

    def sight(self, length: int) -> Bool[Tensor, "B 1 T S"]:
        """Which latents the last tokens may look at. A continuation looks at what the prompt's last token saw."""
        turn = self.turn if length == self.turn.shape[1] else self.turn[:, -1:].expand(-1, length)
        images = torch.arange(1, self.seen.shape[1] // self.latents + 1, device=turn.device)
        return (turn[:, :, None] == images).repeat_interleave(self.latents, -1)[:, None]


class GatedVLM(ComposedVLM):
    """See the module."""

    connector: GatedCrossAttention

    def __init__(self, *parts: Any, **facts: Any) -> None:
        super().__init__(*parts, **facts)
        self._view: View | None = None
        blocks = self.blocks("language")
        self.connector.reach(len(blocks))
        self.connector.to(next(self.language.parameters()).dtype)
        for layer, block in zip(self.connector.layers, blocks[:: self.connector.every], strict=True):
            block.register_forward_pre_hook(_Look(self, layer), with_kwargs=True)

    def forward(self, batch: Batch, task: str = "next-token", heads: Collection[str] = ()) -> Any:
        try:
            return super().forward(batch, task, heads)
        finally:
            self._view = None  # it holds the graph of the images

    def _embed(self, batch: Batch) -> Float[Tensor, "B T H"]:
        """Token embeddings, placeholders' own included; what there is to look at waits in `_view`."""
        if batch.packed:
            raise UserError(
                "rows that share a sequence would look at each other's images",
                where="stages.pack",
                fix="set pack: none in every stage, or another connector",
            )
        embeds = self.language.get_input_embeddings()(batch.input_ids)
        features = batch.features
        if features is None and batch.pixel_values is not None:
            features = self.encode_images(batch.pixel_values)
        if features is None:
            self._view = None
            return self._touch_towers(embeds)
        self._view = self._look_at(self.connect(features), batch)
        return embeds

    def _look_at(self, latents: Float[Tensor, "N Q D"], batch: Batch) -> View:
        """Each row's images side by side, in the order of its placeholders."""
        placeholders = batch.input_ids == self.image_token_id
        counts = placeholders.sum(1)
        shown = latents.index_select(0, batch.image_index)
        if int(counts.sum()) != len(shown):
            raise UserError(
                f"the batch has {int(counts.sum())} image placeholders but {len(shown)} images",
                where=", ".join(map(str, batch.examples[:3])) or None,
                fix="encode rows with the encoder that was built with this model",
            )
        rows, most, each = len(counts), int(counts.max()), latents.shape[1]
        slot = torch.arange(most, device=counts.device) < counts[:, None]  # (B, I)
        seen = shown.new_zeros(rows, most, *latents.shape[1:])
        seen = seen.masked_scatter(slot[:, :, None, None], shown)
        return View(seen.flatten(1, 2), placeholders.long().cumsum(1), each)

    def _touch_towers(self, embeds: Tensor) -> Tensor:
        """Without images: what learns takes part with weight zero, so that all ranks reduce the same gradients."""
        if not torch.is_grad_enabled():
            return embeds
        towers: tuple[nn.Module, ...] = (self.connector, self.vision)
        return touch(embeds, (p for tower in towers for p in tower.parameters() if p.requires_grad))


class _Look:
    """A hook before a block of the language tower: the gated layer changes the hidden states that it gets."""

    def __init__(self, model: GatedVLM, layer: nn.Module) -> None:
        self._model, self._layer = model, layer

    def __call__(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        view = self._model._view
        if view is None:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        changed = self._layer(hidden, view.seen, view.sight(hidden.shape[1]))
        return ((changed, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": changed})

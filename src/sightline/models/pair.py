"""Two towers side by side: an image tower and a text tower that meet in one space of embeddings (CLIP, SigLIP).

CLIP: arXiv 2103.00020, section 2.3; SigLIP: arXiv 2303.15343. The text tower is `language`; what leads from the towers
into the common space, the temperature and the bias are `connector`.

Shapes: B pairs, N images, P vision tokens, T text tokens, D a tower's width, E embedding width.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.models.export import DESCRIPTION, WEIGHTS, plain_state, write_json, write_weights
from sightline.models.pair_head import PairHead
from sightline.models.pairs import Pairs
from sightline.models.vision import VisionTower
from sightline.models.vlm import VLM, Said
from sightline.recipe.schema import Pair, Tower

NO_ANSWERS = "a model over pairs compares images and texts; it answers no questions"


class PairVLM(VLM):
    """See the module. `encoder` is set by `build`: what is written beside the weights."""

    heads: frozenset[str] = frozenset()

    def __init__(self, vision: VisionTower, language: PreTrainedModel, *, spec: Pair) -> None:
        super().__init__()
        self.vision, self.language, self.spec = vision, language, spec
        self._text_origin = language.config.to_dict()  # before a head takes blocks from it
        self.connector = self.make_head(language)
        self.encoder: Any = None

    def make_head(self, language: PreTrainedModel) -> PairHead:
        """The connector that joins the towers."""
        return PairHead(self.vision, int(language.config.hidden_size), self.spec)

    def tower_modules(self, tower: Tower) -> list[tuple[str, nn.Module]]:
        return [(tower, getattr(self, tower))]

    def blocks(self, tower: Tower) -> list[nn.Module]:
        if tower == "vision":
            return list(self.vision.blocks)
        if tower == "language":
            depth = self.language.config.num_hidden_layers
            lists = [m for m in self.language.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
            return list(lists[0]) if lists else []
        return []

    def idle(self, tower: Tower, objective: str | Mapping[Any, float]) -> set[str]:
        unused = tower == "connector" and "sigmoid" not in objective and self.connector.bias is not None
        return {"connector.bias"} if unused else set()

    def forward(self, batch: Batch, task: str = "pairs", heads: Collection[str] = ()) -> Pairs:  # type: ignore[override]
        """Embeddings of the batch's pairs; the name of the task is what a composed VLM is told, too."""
        if task != "pairs":
            raise UserError(NO_ANSWERS, where="stages.objective", fix="set objective to losses over pairs, e.g. itc: 1")
        return type(self).represent(self, batch, heads)  # an engine may have put another on this one object

    def represent(self, batch: Batch, heads: Collection[str] = ()) -> Pairs:
        """See `PairModel`. Each distinct image is encoded once."""
        image = self.embed_images(batch).index_select(0, batch.image_index)
        return Pairs(image, self.embed_texts(batch.input_ids, batch.attention_mask))

    def embed_images(self, batch: Batch) -> Float[Tensor, "N E"]:
        """See `PairModel`."""
        return self.embed_image_features(self.features_of(batch))

    def features_of(self, batch: Batch) -> Float[Tensor, "N P D"]:
        """Vision features of the batch's distinct images. Raises UserError where it has none."""
        if batch.features is not None:
            return batch.features
        if batch.pixel_values is None:
            raise UserError("the batch has no images to compare its texts with")
        return self.encode_images(batch.pixel_values)

    def encode_images(self, pixel_values: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N P D"]:
        return self.seen_by(self.vision, pixel_values)

    def embed_image_features(self, features: Float[Tensor, "N P D"]) -> Float[Tensor, "N E"]:
        """Unit vectors of images, from the vision tower's features."""
        if not torch.is_autocast_enabled(features.device.type):
            features = features.to(self.connector.dtype)
        return unit(self.connector.image(features))

    def embed_texts(self, input_ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B E"]:
        """Unit vectors of texts."""
        return unit(self.connector.text(self.read(input_ids, attention_mask), attention_mask))

    def read(self, input_ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """What the text tower makes of texts."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.learns("language")):
            return self.language(input_ids=input_ids, attention_mask=attention_mask.long()).last_hidden_state

    def scale_and_bias(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | None]:
        return self.connector.temperature(), self.connector.bias

    def match(self, seen: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        raise NotImplementedError("no fusion, no matching head: see `heads`")

    def caption(self, seen: Tensor, batch: Batch, kept: Tensor | None = None) -> Any:
        raise NotImplementedError("no text decoder: see `heads`")

    def unmask(self, seen: Tensor, input_ids: Tensor, batch: Batch, where: Tensor) -> Tensor:
        raise NotImplementedError("no fusion, no masked words: see `heads`")

    def say(self, batch: Batch, max_new_tokens: int) -> list[Said]:
        raise UserError(NO_ANSWERS, where="evaluate.metric", fix="set evaluate.metric to retrieval")

    def stream(self, batch: Batch, max_new_tokens: int) -> Iterator[int]:
        raise UserError(NO_ANSWERS, fix="ask a model whose recipe has model.compose or model.adopt")

    def save(self, folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        self.describe(folder)
        write_weights(plain_state(self), folder / WEIGHTS)
        return f"sightline.models.saved.load_model({str(folder)!r})"

    def describe(self, folder: Path) -> None:
        self.write_description(folder, self.spec)

    def write_description(self, folder: Path, spec: Pair) -> None:
        """Describe the model as `spec` has it."""
        folder.mkdir(parents=True, exist_ok=True)
        description = {
            "pair": spec.model_dump(mode="json"),
            "vision": self.vision.origin,
            "language": self._text_origin,
            "attention": self.language.config._attn_implementation,
            "lora": self.lora.model_dump(mode="json") if self.lora else None,
        }
        write_json(folder / DESCRIPTION, description)
        if self.encoder is not None:
            self.encoder.save(folder)


def unit(embeddings: Tensor) -> Tensor:
    """Scaled to length 1, in at least fp32."""
    return F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1)

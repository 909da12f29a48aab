"""A language model by itself, without eyes: what a folder or hub id holds, as `VLM.forward` would give its logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.models.supervised import only_rows
from sightline.models.tokenizer import read_tokenizer
from sightline.models.towers import language_config, load_language
from sightline.recipe.schema import LanguageSpec


@dataclass(frozen=True, slots=True)
class PlainLanguage:
    """A causal language model and its tokenizer."""

    model: Any
    tokenizer: Any

    def __call__(self, batch: Batch) -> tuple[Float[Tensor, "S V"], Int[Tensor, " S"]]:
        """Logits at the supervised tokens of `batch`, padded on the right, and those tokens."""
        rows, targets = batch.supervised()
        with only_rows(self.model.get_output_embeddings(), rows):
            return self.model(input_ids=batch.input_ids, use_cache=False).logits[0], targets


def load_plain(source: str, gguf_file: str | None = None, dtype: torch.dtype = torch.float32) -> PlainLanguage:
    """The model in `source`, on the CPU in evaluation mode.

    Raises:
        UserError: it cannot be read, or reads a text before it writes (an encoder-decoder).
    """
    spec = LanguageSpec(source=source, gguf_file=gguf_file)
    config = language_config(spec)
    if config.is_encoder_decoder:
        what = f"a {config.model_type} reads a text before it writes, so it gives none of its tokens a chance"
        raise UserError(what, where=source, fix="give a causal language model")
    model = load_language(spec, config, attention="sdpa", dtype=dtype).eval()
    return PlainLanguage(model, read_tokenizer(source, gguf_file, source))

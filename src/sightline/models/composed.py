"""A VLM joined from a vision model, a connector and a causal language model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from sightline.data.batch import Batch
from sightline.data.pack import block_mask
from sightline.errors import UserError
from sightline.models.export import PAIRS, Parts, describe, export, plain_state
from sightline.models.query_pairs import QueryPairs
from sightline.models.steps import Step, likeliest, said
from sightline.models.supervised import last_rows, only_rows
from sightline.models.vision import VisionTower
from sightline.models.vlm import VLM, Said
from sightline.recipe.schema import TOWERS, Compose, Tower

MASKABLE = ("full_attention", "sliding_attention")  # layers whose sight a mask decides; recurrent ones leak past it


class ComposedVLM(QueryPairs, VLM):
    """Image placeholders in the text are replaced by what the connector makes of the vision tower's features.

    Args:
        spec: the recipe's `model.compose`, kept for `save`.
        image_token_id: the placeholder, standing once for each language token that an image takes.
        eos_ids: tokens that end an answer.
        head: gives the hidden state at a prompt's end the logits of a vocabulary's answers.
    """

    def __init__(
        self,
        vision: VisionTower,
        connector: nn.Module,
        language: PreTrainedModel,
        *,
        spec: Compose,
        image_token_id: int,
        eos_ids: tuple[int, ...],
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.vision, self.connector, self.language = vision, connector, language
        self.spec, self.image_token_id, self.eos_ids = spec, image_token_id, eos_ids
        self.encoder: Any = None  # set by `build.finish`: what is written beside the weights
        self.pair_encoder: Any = None  # likewise, where the connector is a Q-Former
        self.answer_encoder: Any = None  # likewise, where there is a head
        if head is not None:
            self.head, self.towers = head, (*TOWERS, "head")

    def tower_modules(self, tower: Tower) -> list[tuple[str, nn.Module]]:
        return [(tower, getattr(self, tower))] if tower in self.towers else []

    def idle(self, tower: Tower, objective: str | Mapping[Any, float]) -> set[str]:
        """See `VLM.idle`. Who chooses an answer writes none, and the other way round."""
        idle = super().idle(tower, objective)
        if tower == "head" and objective != "answers":
            idle |= {name for name, _ in self.tower_parameters(tower)}
        elif tower == "language" and objective == "answers":
            ends = (self.language.get_output_embeddings(), self.language.get_input_embeddings())
            words, read = ({id(p) for p in end.parameters()} if end is not None else set() for end in ends)
            idle |= {name for name, parameter in self.tower_parameters(tower) if id(parameter) in words - read}
        return idle

    def blocks(self, tower: Tower) -> list[nn.Module]:
        if tower == "vision":
            return list(self.vision.blocks)
        if tower == "language":
            depth = self.language.config.num_hidden_layers
            lists = [m for m in self.language.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
            return list(lists[0]) if lists else []
        return list(getattr(self.connector, "blocks", []))

    def inputs(self, tower: Tower) -> list[nn.Module]:
        return list(getattr(self.connector, "inputs", [])) if tower == "connector" else []

    def encode_images(self, pixel_values: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N P D"]:
        """Features of each image. A frozen vision tower runs without a graph."""
        return self.seen_by(self.vision, pixel_values)

    def forward(self, batch: Batch, task: str = "next-token", heads: Collection[str] = ()) -> Any:
        """See `VLM.forward`; for the task "pairs", see `PairModel.represent`; for "answers", `choose`."""
        if task == "pairs":
            return type(self).represent(self, batch, heads)  # an engine may have put another on this one object
        if task == "answers":
            return self.choose(batch)
        rows, targets = batch.supervised()
        embeds = self._embed(batch)
        sight = self.packed_sight(batch, embeds) if batch.packed else {}
        with only_rows(self.language.get_output_embeddings(), rows):
            # A right-padded sequence needs no mask: a causal token never sees the padding behind it.
            logits = self.language(inputs_embeds=embeds, use_cache=False, **sight).logits
        return logits[0], targets

    def choose(self, batch: Batch) -> Float[Tensor, "E A"]:
        """Logits of the vocabulary's answers to each example. No logits of words are computed."""
        head: nn.Module | None = getattr(self, "head", None)
        if head is None or batch.ends is None:
            fix = "give the model one (model.compose.head), and encode rows with its `AnswerEncoder`"
            raise UserError("the model has no head that chooses answers, or the batch none to choose", fix=fix)
        state = self._last_states(batch)
        return head(state if torch.is_autocast_enabled(state.device.type) else state.to(next(head.parameters()).dtype))

    def _last_states(self, batch: Batch) -> Float[Tensor, "E D"]:
        """What the language tower made of each prompt: its last layer's output at the last token, behind the norm."""
        embeds = self._embed(batch)
        sight = self.packed_sight(batch, embeds) if batch.packed else {}
        hidden = self.language.base_model(inputs_embeds=embeds, use_cache=False, **sight).last_hidden_state
        return hidden.flatten(0, 1).index_select(0, batch.ends)

    def packed_sight(self, batch: Batch, embeds: Tensor) -> dict[str, Tensor]:
        """The block mask and positions of packed sequences, made once for all layers."""
        config = self.language.config
        if unmaskable := set(getattr(config, "layer_types", None) or ()) - set(MASKABLE):
            raise UserError(
                f"{config.model_type} has {', '.join(sorted(unmaskable))} layers, which would see past a packing mask",
                where="stages",
                fix="set pack: none in every stage",
            )
        window = getattr(config, "sliding_window", None)
        if window and batch.input_ids.shape[1] > window:
            raise UserError(
                f"packed rows of {batch.input_ids.shape[1]} tokens exceed the language tower's window of {window}",
                where="stages",
                fix=f"set max_length to at most {window}, or pack: none",
            )
        if config._attn_implementation == "flash_attention_2":
            raise UserError(
                "flash_attention_2 takes no block mask, so packed examples would see each other",
                where="model.attention",
                fix="set model.attention to sdpa, or pack: none in every stage",
            )
        may_look = block_mask(batch.group_ids, batch.segment_ids)
        # Additive and in the dtype that attention runs in: a boolean mask would be converted again by every layer.
        device = embeds.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else embeds.dtype
        additive = torch.zeros(may_look.shape, dtype=dtype, device=embeds.device)
        additive.masked_fill_(~may_look, torch.finfo(dtype).min)
        return {"attention_mask": additive, "position_ids": batch.position_ids}

    def _embed(self, batch: Batch) -> Float[Tensor, "B T D"]:
        """Token embeddings, with the placeholders' replaced by their images'."""
        embeds = self.language.get_input_embeddings()(batch.input_ids)
        features = batch.features
        if features is None and batch.pixel_values is not None:
            features = self.encode_images(batch.pixel_values)
        if features is None:
            return self._touch_towers(embeds)
        return self.shown_in(embeds, batch, self.connect(features))

    def shown_in(self, embeds: Tensor, batch: Batch, images: Float[Tensor, "N Q D"]) -> Float[Tensor, "B T D"]:
        """Token embeddings, with what the connector made of `images` at the placeholders."""
        shown = images.index_select(0, batch.image_index).flatten(0, 1).to(embeds.dtype)
        places = batch.image_places
        if places is None:
            places = (batch.input_ids == self.image_token_id).flatten().nonzero().squeeze(1)
        if len(places) != len(shown):
            raise UserError(
                f"the batch has {len(places)} image placeholders but {len(shown)} image tokens to put there",
                where=", ".join(map(str, batch.examples[:3])) or None,
                fix="encode rows with the encoder that was built with this model",
            )
        return embeds.flatten(0, 1).index_copy(0, places, shown).view_as(embeds)

    def connect(self, features: Float[Tensor, "N P D"]) -> Float[Tensor, "N Q D"]:
        """What the connector makes of vision features."""
        if not torch.is_autocast_enabled(features.device.type):
            features = features.to(next(self.connector.parameters()).dtype)
        return self.connector(features)

    def _touch_towers(self, embeds: Tensor) -> Tensor:
        """Without images: towers that learn take part with weight zero, so that all ranks reduce the same gradients."""
        learns = torch.is_grad_enabled() and (self.learns("vision") or self.learns("connector"))
        if not learns and self.goes_along is None:
            return embeds
        weight = next(self.connector.parameters())
        if self.goes_along == "vision" or (torch.is_grad_enabled() and self.learns("vision")):
            side = self.vision.image_size
            with self.evaluating():  # a black image must not enter batch norm's statistics
                features = self.encode_images(torch.zeros(1, 3, side, side, device=weight.device))
        else:
            features = torch.zeros(1, self.vision.count, self.vision.width, device=weight.device)
        return embeds + 0.0 * self.connect(features).sum().to(embeds.dtype)

    @torch.no_grad()
    def _steps(self, batch: Batch, max_new_tokens: int) -> Iterator[Step]:
        """The next token of every sequence, by arg max, step after step, until all have ended."""
        if not bool(batch.attention_mask[:, -1].all()):
            raise UserError("prompts continued together must be padded on the left", fix="collate(..., pad_left=True)")
        mask = batch.attention_mask.long()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        inputs: dict[str, Tensor] = {"inputs_embeds": self._embed(batch)}
        ends = torch.tensor(self.eos_ids, device=mask.device)
        done = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
        cache, head, length = None, self.language.get_output_embeddings(), mask.shape[1]
        for _ in range(max_new_tokens):
            with only_rows(head, last_rows(len(mask), length, mask.device)):
                out = self.language(
                    **inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
                )
            token, log_p = likeliest(out.logits[0])
            yield token, log_p
            done = done | torch.isin(token, ends)
            if bool(done.all()):
                return
            cache, inputs, length = out.past_key_values, {"input_ids": token[:, None]}, 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            positions = positions[:, -1:] + 1

    def say(self, batch: Batch, max_new_tokens: int) -> list[Said]:
        with self.evaluating():
            return said(self._steps(batch, max_new_tokens), self.eos_ids)

    def stream(self, batch: Batch, max_new_tokens: int) -> Iterator[int]:
        if len(batch.input_ids) != 1:
            raise UserError(f"stream continues one prompt, but was given {len(batch.input_ids)}")
        with self.evaluating():
            for token, _ in self._steps(batch, max_new_tokens):
                if int(token) in self.eos_ids:
                    return
                yield int(token)

    def save(self, folder: Path) -> str:
        how = export(self._parts(), plain_state(self), folder)
        self._describe_heads(folder)
        return how

    def describe(self, folder: Path) -> None:
        describe(self._parts(), folder, self.lora)
        self._describe_heads(folder)

    def _describe_heads(self, folder: Path) -> None:
        if self.pair_encoder is not None:
            self.pair_encoder.save(folder / PAIRS)
        if self.answer_encoder is not None:
            self.answer_encoder.save(folder)

    def _parts(self) -> Parts:
        return Parts(
            self.vision, self.connector, self.language, self.spec, self.image_token_id, self.eos_ids, self.encoder
        )

"""An existing VLM of `transformers`, known by its towers."""

from __future__ import annotations

import inspect
import queue
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from sightline.data.batch import IGNORE, Batch
from sightline.data.pack import block_mask
from sightline.errors import UserError
from sightline.models.adapters import merged_state
from sightline.models.adopt import Adopted, TowerMap, adopted_type
from sightline.models.export import DESCRIPTION, write_json
from sightline.models.reach import touch, unreached
from sightline.models.steps import Step, likeliest, said
from sightline.models.supervised import only_rows
from sightline.models.vlm import VLM, Said
from sightline.recipe.schema import Adopt, Tower

BLOCK_LISTS = ("layers", "layer", "blocks", "h")  # what transformers calls its lists of transformer blocks


class AdoptedVLM(VLM):
    """`model` as it is, with its parameters told apart by tower.

    Args:
        spec: the recipe's `model.adopt`; its `towers` are for a type that `models/adopt.py` does not know.
    """

    encodes_images_apart = False

    def __init__(self, model: PreTrainedModel, spec: Adopt) -> None:
        super().__init__()
        self.model, self.spec = model, spec
        self.kind: Adopted = adopted_type(model.config, spec.towers, model)
        self.map = TowerMap.of(model, self.kind.towers)
        self.eos_ids = _ends(model)
        self.encoder: Any = None  # set by `build.finish`: what is written beside the weights
        self._accepted = set(inspect.signature(model.forward).parameters)
        self._out_of_reach: dict[tuple[bool, tuple[bool, ...]], list[nn.Parameter]] = {}

    @property
    def image_token_id(self) -> int:
        """The placeholder's id."""
        config = self.model.config
        found = getattr(config, "image_token_id", None)
        return int(config.image_token_index if found is None else found)

    def tower_modules(self, tower: Tower) -> list[tuple[str, nn.Module]]:
        return [(f"model.{name}", self.model.get_submodule(name)) for name in self.map.modules[tower]]

    def tower_parameters(self, tower: Tower) -> Iterator[tuple[str, nn.Parameter]]:
        # By name and not by module: some towers own bare parameters (query tokens, the newline of tiled images).
        for name, parameter in self.model.named_parameters():
            if self.map.tower_of(name) == tower:
                yield f"model.{name}", parameter

    def blocks(self, tower: Tower) -> list[nn.Module]:
        lists = [
            list(module)
            for path, top in self.tower_modules(tower)
            for name, module in top.named_modules(prefix=path)
            if isinstance(module, nn.ModuleList) and name.rsplit(".", 1)[-1] in BLOCK_LISTS
        ]
        return max(lists, key=len, default=[])

    def encode_images(self, pixel_values: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N P D"]:
        raise UserError(
            f"features of a {self.model.config.model_type} cannot be cached: its images differ in their token counts",
            where="stages",
            fix="set cache_features: false in every stage",
        )

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "S V"], Int[Tensor, " S"]]:
        rows, targets = batch.supervised()
        inputs = self._inputs(batch)
        with only_rows(self.model.get_output_embeddings(), rows):
            logits = self._reader(inputs)(**inputs, use_cache=False).logits[0]
        if self.training and torch.is_grad_enabled():
            logits = touch(logits, self._silent(logits, "pixel_values" in inputs))
        return logits, targets

    def _reader(self, inputs: Mapping[str, Tensor]) -> Any:
        """The part to call: BLIP-2 alone refuses text without an image, which its language model reads by itself."""
        alone = self.model.config.model_type == "blip-2" and "pixel_values" not in inputs
        return self.model.language_model if alone else self.model

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        """What the model's own forward pass takes, without labels (its loss would be a mean of its own)."""
        inputs: dict[str, Tensor] = {"input_ids": batch.input_ids, **batch.extra}
        if batch.pixel_values is not None:
            inputs["pixel_values"] = batch.pixel_values[batch.image_index]
        if batch.packed:
            inputs |= self._packed_sight(batch)
        else:
            inputs["attention_mask"] = batch.attention_mask.long()
        images = (batch.input_ids == self.image_token_id).long()
        labels = torch.full_like(batch.input_ids, IGNORE) if batch.labels is None else batch.labels
        answers = ((labels != IGNORE).cumsum(1) > 0).long()
        for name, value in ((self.kind.image_type, images), (self.kind.prefix_type, answers)):
            if name and name not in inputs and name in self._accepted:
                inputs[name] = value
        return inputs

    def _packed_sight(self, batch: Batch) -> dict[str, Tensor]:
        config = self.model.config
        if not self.kind.causal or config._attn_implementation == "flash_attention_2":
            raise UserError(
                f"rows of a {config.model_type} with {config._attn_implementation} attention cannot be packed",
                where="stages",
                fix="set pack: none in every stage",
            )
        may_look = block_mask(batch.group_ids, batch.segment_ids)
        additive = torch.zeros(may_look.shape, dtype=self.model.dtype, device=may_look.device)
        additive.masked_fill_(~may_look, torch.finfo(self.model.dtype).min)
        return {"attention_mask": additive, "position_ids": batch.position_ids}

    def _silent(self, logits: Tensor, images: bool) -> list[nn.Parameter]:
        """Parameters that learn but that this kind of batch does not reach; found once for each freeze plan."""
        parameters = list(self.parameters())
        plan = (images, tuple(parameter.requires_grad for parameter in parameters))
        if plan not in self._out_of_reach:
            self._out_of_reach[plan] = unreached(logits, parameters)
        return self._out_of_reach[plan]

    @torch.no_grad()
    def say(self, batch: Batch, max_new_tokens: int) -> list[Said]:
        heard: list[Step] = []

        def hear(_: Tensor, logits: Tensor) -> Tensor:  # behind all processors of its own, so these decide
            heard.append(likeliest(logits))
            return logits

        with self.evaluating():
            self._continue(batch, max_new_tokens, logits_processor=[hear])
        return said(heard, self.eos_ids)

    def _continue(self, batch: Batch, max_new_tokens: int, **options: Any) -> Tensor:
        if not bool(batch.attention_mask[:, -1].all()):
            raise UserError("prompts continued together must be padded on the left", fix="collate(..., pad_left=True)")
        inputs = self._inputs(batch)
        return self._reader(inputs).generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=list(self.eos_ids) or None,
            pad_token_id=self.encoder.pad_id if self.encoder else 0,
            **options,
        )

    def stream(self, batch: Batch, max_new_tokens: int) -> Iterator[int]:
        if len(batch.input_ids) != 1:
            raise UserError(f"stream continues one prompt, but was given {len(batch.input_ids)}")
        spoken: queue.Queue[int | None] = queue.Queue()

        def speak() -> None:
            try:
                with torch.no_grad():
                    self._continue(batch, max_new_tokens, streamer=_Ear(spoken))
            finally:
                spoken.put(None)

        with self.evaluating(), ThreadPoolExecutor(max_workers=1) as pool:
            speaking = pool.submit(speak)
            while (token := spoken.get()) is not None and token not in self.eos_ids:
                yield token
            speaking.result()  # raises what went wrong while it spoke

    def save(self, folder: Path) -> str:
        self.model.save_pretrained(folder, state_dict=merged_state(self.model))
        if self.encoder is not None:
            self.encoder.save(folder)
        return f"transformers.{type(self.model).__name__}.from_pretrained({str(folder)!r})"

    def describe(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        description = {
            "adopt": self.spec.model_dump(mode="json"),
            "config": self.model.config.to_dict(),
            "attention": self.model.config._attn_implementation,
            "eos_ids": list(self.eos_ids),
            "lora": self.lora.model_dump(mode="json") if self.lora else None,
        }
        write_json(folder / DESCRIPTION, description)
        if self.encoder is not None:
            self.encoder.save(folder)


class _Ear:
    """Hears the tokens of `generate` one by one; the first call brings the prompt."""

    def __init__(self, said: queue.Queue[Any]) -> None:
        self.said, self.prompt = said, True

    def put(self, tokens: Tensor) -> None:
        if not self.prompt:
            self.said.put(int(tokens.flatten()[-1]))
        self.prompt = False

    def end(self) -> None:
        """Called by `generate` when it stops."""


def _ends(model: PreTrainedModel) -> tuple[int, ...]:
    generation = getattr(model, "generation_config", None)
    told = getattr(generation, "eos_token_id", None)
    told = getattr(model.config.get_text_config(), "eos_token_id", None) if told is None else told
    return tuple([told] if isinstance(told, int) else told or ())

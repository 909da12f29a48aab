"""The reach of rotary positions, read from models of transformers however their config tells it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sightline.guard.probes.call import Call
from sightline.guard.probes.context import context, widened

NARROW = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}


def model(**rope: Any) -> torch.nn.Module:
    config = transformers.LlamaConfig(**NARROW, num_key_value_heads=2, max_position_embeddings=64)
    if rope:
        config.rope_parameters = {"rope_theta": 10000.0, **rope}
    return transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize(
    ("rope", "running"),
    [
        ({}, (1.0, 1.0)),
        ({"rope_type": "linear", "factor": 4.0}, (4.0, 4.0)),
        ({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}, (1.0, 8.0)),
        ({"rope_type": "dynamic", "factor": 2.0}, (1.0, 1.0)),
    ],
    ids=["default", "linear", "yarn", "dynamic"],
)
def test_what_runs_is_what_would_be_loaded(rope: dict[str, Any], running: tuple[float, float]) -> None:
    lm = model(**rope)
    seen = context(lm, 0)
    assert seen is not None and seen.trained == 64 and seen.kind == rope.get("rope_type", "default")
    assert seen.running == pytest.approx(running, rel=1e-5)
    assert seen.reloaded == pytest.approx(running, rel=1e-5)
    lm(torch.zeros(1, 100, dtype=torch.long))  # dynamic NTK now runs with other frequencies
    assert context(lm, 0) == seen


def test_a_stretch_that_came_too_late() -> None:
    lm = model()
    lm.config.rope_parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    seen = context(lm, 0)
    assert seen is not None and seen.running == pytest.approx((1, 1)) and seen.reloaded == pytest.approx((4, 4))


def test_a_stretch_that_nobody_saves() -> None:
    lm = model().to(torch.bfloat16)
    lm.model.rotary_emb.inv_freq /= 4
    seen = context(lm, 0)
    assert seen is not None and seen.running == pytest.approx((4, 4), rel=0.01)
    assert seen.reloaded == pytest.approx((1, 1))


def test_weights_that_were_trained_on_shorter_rows(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path)
    for rope, trained, source in (
        ({"rope_type": "linear", "factor": 8.0}, 512, 64),
        ({"rope_type": "linear", "factor": 8.0}, 64, None),
        ({"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5}, 512, None),
    ):
        config = transformers.LlamaConfig.from_pretrained(tmp_path)
        config.rope_parameters, config.max_position_embeddings = {"rope_theta": 10000.0, **rope}, trained
        lm = transformers.LlamaForCausalLM.from_pretrained(tmp_path, config=config)
        seen = context(lm, 0)
        assert seen is not None and seen.source == source
    lm.config.rope_parameters = {"rope_theta": 10000.0, "rope_type": "linear", "factor": 8.0}
    lm.config.max_position_embeddings = 512
    lm.save_pretrained(tmp_path)  # trained so
    seen = context(transformers.LlamaForCausalLM.from_pretrained(tmp_path), 0)
    assert seen is not None and seen.source is None


def test_models_without_rotary_positions() -> None:
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1))
    assert context(gpt2, 0) is None and context(torch.nn.Linear(2, 2), 0) is None


def test_the_text_tower_of_a_vision_language_model() -> None:
    text = transformers.Qwen2Config(**NARROW, num_key_value_heads=2, max_position_embeddings=48)
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4
    )
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=8)
    seen = context(transformers.LlavaForConditionalGeneration(config), 0)
    assert seen is not None and seen.trained == 48 and seen.running == pytest.approx((1, 1))


def test_layers_of_two_kinds() -> None:
    both = {"layer_types": ["sliding_attention", "full_attention"], "num_key_value_heads": 2, "head_dim": 16}
    config = transformers.Gemma3TextConfig(**{**NARROW, "num_hidden_layers": 2}, **both, max_position_embeddings=64)
    seen = context(transformers.Gemma3ForCausalLM(config), 0)
    assert seen is not None and seen.running is not None and seen.reloaded == seen.running


class Prefixed(torch.nn.Module):
    """Puts features ahead of the tokens of a language model."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.lm, self.masked = model(), masked

    def forward(self, ids: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        rows = torch.cat([features, self.lm.get_input_embeddings()(ids)], dim=1)
        mask = torch.cat([torch.ones(features.shape[:2], dtype=torch.long), (ids > 0).long()], dim=1)
        return self.lm(inputs_embeds=rows, attention_mask=mask if self.masked else None).logits


@pytest.mark.parametrize(("masked", "longest"), [(True, 34), (False, 31)])
def test_features_that_a_module_of_the_hosts_puts_beside_the_tokens(masked: bool, longest: int) -> None:
    host, ids = Prefixed(masked), torch.tensor([[1, 2, 3, 4, 0, 0], [1, 2, 3, 0, 0, 0]])
    seen = context(host.lm, 0)
    assert seen is not None
    assert widened(Call(host, (ids, torch.randn(2, 30, 32))), host.lm, seen) == replace(seen, longest=longest)
    assert host.training and not host.lm.model._forward_pre_hooks
    assert widened(Call(host.lm, (), {"input_ids": ids}), host.lm, seen) is None

"""The composed VLM: logits, packing, frozen towers, batches without images, recomputation, generation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.data.batch import IGNORE, Batch
from sightline.data.row import Row
from sightline.errors import UserError
from sightline.models.build import Built
from sightline.models.composed import ComposedVLM
from tests.models.conftest import LANGUAGE, VISION, batch_of, prompts_of, row

Compose = Callable[..., Built]
LANGUAGES: dict[str, dict[str, Any]] = {
    "llama": LANGUAGE,
    "llama-tied": LANGUAGE | {"tie_word_embeddings": True},
    "qwen2": LANGUAGE | {"model_type": "qwen2"},
    # Caps far below what random weights give, so that a forgotten cap would show.
    "gemma2": LANGUAGE | {"model_type": "gemma2", "final_logit_softcapping": 0.05, "attn_logit_softcapping": 50.0},
    "cohere": {k: v for k, v in LANGUAGE.items() if k != "head_dim"} | {"model_type": "cohere", "logit_scale": 0.25},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128},
}


def plain_logits(model: ComposedVLM, batch: Batch) -> Tensor:
    """(B, T, V) of the language model itself, images put in by hand, padding masked."""
    embeds = model.language.get_input_embeddings()(batch.input_ids)
    shown = model.connector(model.vision(batch.pixel_values))[batch.image_index].flatten(0, 1)
    embeds = embeds.masked_scatter((batch.input_ids == model.image_token_id)[..., None], shown)
    return model.language(inputs_embeds=embeds, attention_mask=batch.attention_mask.long()).logits


def loss_of(model: ComposedVLM, batch: Batch) -> Tensor:
    logits, targets = model(batch)
    return F.cross_entropy(logits, targets, reduction="sum")


def gradients(model: ComposedVLM, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", LANGUAGES)
def test_logits_are_the_full_models_at_supervised_positions(kind: str, compose: Compose, rows: list[Row]) -> None:
    built = compose(language={"config": LANGUAGES[kind]})
    batch = batch_of(built, rows)
    logits, targets = built.model.eval()(batch)
    here = batch.labels[:, 1:] != IGNORE
    torch.testing.assert_close(logits, plain_logits(built.model, batch)[:, :-1][here])
    assert targets.tolist() == batch.labels[:, 1:][here].tolist()
    assert len(targets) == batch.tokens


def test_nothing_stays_hooked_to_the_language_tower(compose: Compose, rows: list[Row]) -> None:
    built = compose()
    head = built.model.language.get_output_embeddings()
    built.model(batch_of(built, rows))
    with pytest.raises(RuntimeError), torch.no_grad():
        built.model.language.model.norm.weight = torch.nn.Parameter(torch.zeros(3))
        built.model(batch_of(built, rows))
    assert not head._forward_pre_hooks


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("mode", ["image", "length"])
def test_packed_rows_give_the_loss_and_gradients_of_separate_rows(
    mode: str, attention: str, compose: Compose, rows: list[Row]
) -> None:
    built = compose(attention=attention)
    rows = [*rows, row(6, "Is there a blue square?", "yes", image=None)]
    separate, packed = batch_of(built, rows), batch_of(built, rows, mode)
    assert packed.packed and len(packed.input_ids) < len(separate.input_ids)
    expected, got = loss_of(built.model, separate), loss_of(built.model, packed)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    wanted, given = gradients(built.model, expected), gradients(built.model, got)
    assert wanted.keys() == given.keys() == dict(built.model.named_parameters()).keys()
    for name in wanted:
        torch.testing.assert_close(given[name], wanted[name], atol=1e-5, rtol=1e-5, msg=name)


def test_packing_is_refused_where_the_mask_would_not_hold(compose: Compose, rows: list[Row]) -> None:
    windowed = compose(language={"config": LANGUAGE | {"model_type": "mistral", "sliding_window": 8}})
    with pytest.raises(UserError, match="window of 8"):
        windowed.model(batch_of(windowed, rows, "length"))
    windowed.model(batch_of(windowed, rows))
    flash = compose()
    flash.model.language.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UserError, match="pack: none"):
        flash.model(batch_of(flash, rows, "length"))


def test_features_stand_in_for_pixels(compose: Compose, rows: list[Row]) -> None:
    built = compose()
    batch = batch_of(built, rows)
    features = built.model.encode_images(batch.pixel_values)
    cached = replace(batch, pixel_values=None, features=features.detach())
    torch.testing.assert_close(built.model(cached)[0], built.model(batch)[0])


def test_placeholders_without_their_images_are_told(compose: Compose, rows: list[Row]) -> None:
    built = compose()
    batch = batch_of(built, rows)
    with pytest.raises(UserError, match=r"test\.json row 1.*image placeholders"):
        built.model(replace(batch, image_index=batch.image_index[:-1]))


@pytest.mark.parametrize("learning", [("vision", "connector", "language"), ("connector",), ("connector", "language")])
def test_without_images_every_tower_that_learns_gets_a_gradient_of_zero(
    learning: tuple[str, ...], compose: Compose
) -> None:
    built = compose()
    model = built.model
    for tower in ("vision", "connector", "language"):
        model.get_submodule(tower).requires_grad_(tower in learning)
    model.train()
    text = batch_of(built, [row(1, "Is there a blue square?", "no", image=None)])
    found = gradients(model, loss_of(model, text))
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(not grad.any() for name, grad in found.items() if not name.startswith("language"))
    with torch.no_grad():
        torch.testing.assert_close(model(text)[0], model.eval()(text)[0])


def test_frozen_vision_runs_without_a_graph_and_in_evaluation_mode(compose: Compose, rows: list[Row]) -> None:
    model = (built := compose()).model
    pixels = batch_of(built, rows).pixel_values
    assert model.train().encode_images(pixels).requires_grad
    model.vision.requires_grad_(False)
    assert not model.train().encode_images(pixels).requires_grad
    assert not any(module.training for module in model.vision.modules())
    assert model.language.training and model.connector.training
    pixels.requires_grad_()
    assert model.encode_images(pixels).requires_grad  # a probe that asks for the pixels' gradient gets it


@pytest.mark.parametrize("frozen", [(), ("vision", "language")])
def test_recomputation_changes_no_gradient(frozen: tuple[str, ...], compose: Compose, rows: list[Row]) -> None:
    model = (built := compose()).model
    for tower in frozen:
        model.get_submodule(tower).requires_grad_(False)
    batch = batch_of(built, rows, "length")
    plain = gradients(model.train(), loss_of(model, batch))
    calls = _count_calls(model.blocks("language")[0].input_layernorm)
    model.set_gradient_checkpointing(True)
    again = gradients(model, loss_of(model, batch))
    assert len(calls) == 2  # once forward, once more in the backward pass, also where the tower is frozen
    model.set_gradient_checkpointing(False)
    loss_of(model, batch).backward()
    assert len(calls) == 3
    for name in plain:
        torch.testing.assert_close(again[name], plain[name], msg=name)


def _count_calls(module: torch.nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_bf16_autocast_is_close_to_fp32(compose: Compose, rows: list[Row]) -> None:
    model = (built := compose()).model
    batch = batch_of(built, rows, "image")
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = model(batch)
    torch.testing.assert_close(logits.float(), model(batch)[0], atol=0.05, rtol=0.1)


def test_copies_are_independent(compose: Compose, rows: list[Row]) -> None:
    model = (built := compose()).model
    model.set_gradient_checkpointing(True)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert twin(batch_of(built, rows))[0].any() and not model(batch_of(built, rows))[0].any()


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_generation_is_the_arg_max_of_each_unpadded_prompt(kind: str, compose: Compose, rows: list[Row]) -> None:
    built = compose(language={"config": LANGUAGES[kind]}, seed=3)
    model = built.model.eval()
    rows = [*rows, row(6, "yes or no?", "no", image=None)]
    together = model.generate(prompts_of(built, rows), max_new_tokens=6)
    for each, tokens in zip(rows, together, strict=True):
        prompt = prompts_of(built, [each])
        said: list[int] = []
        while len(said) < 6:
            longer = torch.tensor([[*prompt.input_ids[0].tolist(), *said]])
            step = replace(prompt, input_ids=longer, attention_mask=torch.ones_like(longer, dtype=torch.bool))
            logits = plain_logits(model, step) if each.images else model.language(input_ids=longer).logits
            said.append(int(logits[0, -1].argmax()))
            if said[-1] == built.encoder.eos_id:
                said.pop()
                break
        assert tokens == said
        assert list(model.stream(prompt, max_new_tokens=6)) == said


def test_generation_ends_with_the_end_token(compose: Compose, rows: list[Row]) -> None:
    model = (built := compose(language={"config": LANGUAGE}, seed=1)).model
    prompts = prompts_of(built, rows[:2])
    free = model.generate(prompts, max_new_tokens=5)
    model.eos_ids = (free[0][2],)
    first = free[0].index(free[0][2])
    assert model.generate(prompts, max_new_tokens=5)[0] == free[0][:first]


def test_generation_leaves_the_modes_as_they_were_and_refuses_right_padding(compose: Compose, rows: list[Row]) -> None:
    model = (built := compose()).model
    model.vision.requires_grad_(False)
    model.train()
    modes = [module.training for module in model.modules()]
    model.generate(prompts_of(built, rows), max_new_tokens=2)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(UserError, match="left"):
        model.generate(batch_of(built, rows), max_new_tokens=2)


def test_tells_blocks_and_parameters_by_tower(compose: Compose) -> None:
    model = compose(vision={"config": VISION, "layer": -2}).model
    assert [len(model.blocks(tower)) for tower in ("vision", "connector", "language")] == [2, 0, 2]
    names = [name for tower in ("vision", "connector", "language") for name, _ in model.tower_parameters(tower)]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())

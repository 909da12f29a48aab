"""Gated cross-attention: nothing at first, the last image before a word alone afterwards, one step at a time too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.data.batch import Batch
from sightline.data.row import Row
from sightline.errors import UserError
from sightline.models.build import Built
from sightline.models.gated import GatedVLM
from sightline.models.saved import load_model
from tests.models.conftest import LANGUAGE, batch_of, prompts_of, row

Compose = Callable[..., Built]
CONNECTOR = {
    "kind": "gated-cross-attention",
    "queries": 3,
    "config": {"depth": 2, "heads": 2, "head_width": 8, "every": 1},
}
LANGUAGES = {
    "llama": LANGUAGE,
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128},
    "gemma2": LANGUAGE | {"model_type": "gemma2"},
}


@pytest.fixture
def built(compose: Compose) -> Built:
    return compose(connector=CONNECTOR)


def open_gates(built: Built) -> GatedVLM:
    """The model with gates half open, so that images count."""
    assert isinstance(built.model, GatedVLM)
    for name, parameter in built.model.connector.named_parameters():
        if name.endswith("gate"):
            parameter.data.fill_(0.5)
    return built.model.eval()


def hidden_logits(model: GatedVLM, batch: Batch) -> Tensor:
    """(B, T, V): all positions, not the supervised ones alone."""
    embeds = model._embed(batch)
    return model.language(inputs_embeds=embeds, use_cache=False).logits


@pytest.mark.parametrize("kind", LANGUAGES)
def test_at_first_the_language_tower_says_what_it_said_to_the_last_bit(
    kind: str, compose: Compose, rows: list[Row]
) -> None:
    built = compose(connector=CONNECTOR, language={"config": LANGUAGES[kind]})
    batch = batch_of(built, rows)
    with torch.no_grad():
        logits = hidden_logits(built.model.eval(), batch)
        built.model._view = None
        plain = built.model.language(input_ids=batch.input_ids, use_cache=False).logits
    assert torch.equal(logits, plain)
    with torch.no_grad():
        assert not torch.allclose(hidden_logits(open_gates(built), batch), plain)


def test_at_first_gates_have_a_gradient_and_what_they_close_has_none(built: Built, rows: list[Row]) -> None:
    logits, targets = built.model(batch_of(built, rows))
    F.cross_entropy(logits, targets).backward()
    for name, parameter in built.model.connector.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()) == name.endswith("gate"), name


def test_a_word_looks_at_the_last_image_before_it_alone(built: Built) -> None:
    """Two images in one question. What the layer adds to a word depends on no image but the last before it."""
    model = open_gates(built)
    batch = batch_of(built, [row(1, "What color is the shape?", "red", images=2)])
    ids = batch.input_ids[0]
    first, second = (ids == model.image_token_id).nonzero().flatten().tolist()
    latents = torch.randn(2, 3, 24)
    hidden = torch.randn(1, len(ids), 32)

    def added(changed: int | None) -> Tensor:
        own = latents.clone()
        if changed is not None:
            own[changed] += 1
        view = model._look_at(own, batch)
        return model.connector.layers[0](hidden, view.seen, view.sight(len(ids))) - hidden

    plain = added(None)[0]
    moved = [((added(image)[0] - plain).abs().amax(-1) > 0).nonzero().flatten().tolist() for image in (0, 1)]
    assert moved[0] == list(range(first, second))
    assert moved[1] == list(range(second, len(ids)))
    assert bool((plain[:first] == 0).all())


def test_a_word_before_any_image_is_the_language_towers_own(built: Built) -> None:
    model = open_gates(built)
    batch = batch_of(built, [row(1, "What color is the shape?", "red")])
    start = int((batch.input_ids[0] == model.image_token_id).nonzero()[0])
    other = batch_of(built, [row(1, "What color is the shape?", "red", image=1)])
    with torch.no_grad():
        one, two = hidden_logits(model, batch)[0], hidden_logits(model, other)[0]
    assert torch.equal(one[:start], two[:start])
    assert not torch.allclose(one[start:], two[start:])


def test_rows_of_a_batch_do_not_see_each_others_images(built: Built, rows: list[Row]) -> None:
    model = open_gates(built)
    with torch.no_grad():
        together, targets = model(batch_of(built, rows))
        alone = torch.cat([model(batch_of(built, [one]))[0] for one in rows])
    assert len(targets) == len(alone)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_continuing_with_a_cache_is_continuing_without(built: Built, rows: list[Row]) -> None:
    model = open_gates(built)
    asked = [one for one in rows if one.images]
    found = model.generate(prompts_of(built, asked), 6)
    for one, tokens in zip(asked, found, strict=True):
        batch = prompts_of(built, [one])
        for token in tokens:
            with torch.no_grad():
                said = int(hidden_logits(model, batch)[0, -1].argmax())
            assert said == token
            batch.input_ids = torch.cat([batch.input_ids, torch.tensor([[token]])], 1)


def test_a_batch_without_images_touches_every_parameter_that_learns(built: Built) -> None:
    model = open_gates(built).train()
    text = row(1, "What color is the shape?", "red", image=None)
    logits, targets = model(batch_of(built, [text]))
    F.cross_entropy(logits, targets).backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.connector.parameters())
    built.model.eval()
    torch.testing.assert_close(
        logits, model.language(input_ids=batch_of(built, [text]).input_ids).logits[0][_labels(built, text)]
    )


def _labels(built: Built, one: Row) -> Tensor:
    rows, _ = batch_of(built, [one]).supervised()
    return rows


def test_packed_rows_are_refused(built: Built, rows: list[Row]) -> None:
    with pytest.raises(UserError, match="share a sequence"):
        built.model(batch_of(built, rows, "length"))


def test_saved_and_loaded_it_says_the_same(built: Built, rows: list[Row], tmp_path: Path) -> None:
    model = open_gates(built)
    model.save(tmp_path)
    again = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(model(batch_of(built, rows))[0], again.model(batch_of(again, rows))[0])


@pytest.mark.parametrize(
    ("config", "told"), [({"dept": 2}, "dept"), ({"depth": 0}, "above 0")], ids=["unknown", "nothing"]
)
def test_a_config_that_makes_no_sense(compose: Compose, config: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        compose(connector={"kind": "perceiver", "config": config})

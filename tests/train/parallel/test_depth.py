"""A model cut into pipeline stages, run one after the other in this process: the loss and gradients of the whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig

from sightline.data.batch import Batch
from sightline.data.pack import pack
from sightline.errors import UserError
from sightline.models.build import Built, build
from sightline.models.composed import ComposedVLM
from sightline.plan.pipeline import balanced
from sightline.train.freeze import freeze
from sightline.train.objectives import NextToken
from sightline.train.parallel.depth import Part, alike, crossing, holders, leave_out, place_of
from sightline.train.parallel.pipeline import stage_sizes
from sightline.train.parallel.spread import double
from tests.train.parallel.test_tensor import LANGUAGE, VISION
from tests.train.tiny import RECIPE, recipe, stage

FROM_TEXTS = ("vocab_size", "pad_token_id")
STILL = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
LANGUAGE = LANGUAGE | {"gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4} | STILL}
PLAIN = "siglip_vision_model", "llama"
OTHERS = [*((kind, PLAIN[1]) for kind in VISION if kind != PLAIN[0]), *((PLAIN[0], kind) for kind in LANGUAGE)]
QUICK = [PLAIN, ("clip_vision_model", PLAIN[1]), (PLAIN[0], "gemma3_text"), (PLAIN[0], "opt")]
PAIRS = [*QUICK, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in OTHERS if pair not in QUICK)]


def made(vision: str, language: str, rows: list[Any], **changes: Any) -> Built:
    """A tiny VLM of these towers, two blocks each, all of it learning."""
    fresh = AutoConfig.for_model(language)
    words = {key: value for key, value in LANGUAGE[language].items() if hasattr(fresh, key) and key not in FROM_TEXTS}
    compose = RECIPE["model"]["compose"] | {
        "vision": {"config": VISION[vision] | {"model_type": vision}, "layer": -1},
        "language": {"config": words | {"model_type": language} | changes},
    }
    texts = [turn.text for row in rows for turn in row.turns]
    built = build(recipe(model={"compose": compose}).model, seed=0, texts=texts)
    freeze(built.model, stage().stages[0])
    return built


def micro_batches(built: Built, rows: list[Any]) -> list[Batch]:
    """One of two images, one of text alone, one of one image and a longer answer."""
    encoder = built.encoder
    text = [row for row in rows if not row.images] or [without_image(rows[0])]
    return [
        encoder.collate(pack([encoder.encode(row) for row in some], "none", 512))
        for some in (rows[:3:2], text, rows[1:2])
    ]


def without_image(row: Any) -> Any:
    turns = tuple(
        replace(turn, parts=tuple(part for part in turn.parts if isinstance(part, str))) for turn in row.turns
    )
    return replace(row, turns=turns, images=())


def cut(model: ComposedVLM, sizes: list[int]) -> list[Part]:
    held, parts = holders(model, sizes), []
    for number in range(len(sizes)):
        away = double(model)
        place = place_of(away, sizes, number)
        leave_out(away, place, {name for name, stages in held.items() if number in stages})
        parts.append(Part(away, place))
    return parts


def run(parts: list[Part], batches: list[Batch]) -> Tensor:
    """The summed loss, each micro-batch through all parts; what crosses has the shape that was announced."""
    padded, shapes = alike(batches, parts[0].model.vision.image_size)
    for part in parts:
        part.load(padded, NextToken(), None)
    losses = []
    for _ in padded:
        state = None
        for part in parts:
            announced = crossing(part.model, part.place, shapes, True, end=False)
            assert [tuple(each.shape) for each in announced] == ([] if state is None else [tuple(state.shape)])
            state = part(state)
        losses.append(state)
    return torch.stack(losses).sum()


@pytest.mark.parametrize(("vision", "language"), PAIRS)
def test_loss_and_gradients_of_the_whole_model(vision: str, language: str, rows: list[Any]) -> None:
    built = made(vision, language, rows)
    model = built.model.train().double()
    batches = micro_batches(built, rows)
    whole = torch.stack([NextToken().loss(model, batch)[0] for batch in batches]).sum()
    whole.backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    parts = cut(model, [1, 1, 1, 1])
    loss = run(parts, batches)
    torch.testing.assert_close(loss, whole)
    loss.backward()
    found: dict[str, Tensor] = {}
    for part in parts:
        for name, parameter in part.model.named_parameters():
            assert parameter.grad is not None, name
            found[name] = found.get(name, 0) + parameter.grad  # tied embeddings are on both ends
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_a_stage_holds_no_more_than_its_own(rows: list[Any]) -> None:
    model = made(*PLAIN, rows).model
    parts = cut(model, [2, 1, 1])
    names = [{name for name, _ in part.model.named_parameters()} for part in parts]
    assert set.union(*names) == {name for name, _ in model.named_parameters()}
    assert not names[0] & names[1] and not names[1] & names[2]
    assert {name.split(".")[0] for name in names[0]} == {"vision", "connector"}
    for part, own in zip(parts, names, strict=True):
        assert part.model.state_dict().keys() >= own
        assert {name for name in part.model.state_dict() if name in dict(model.named_parameters())} == own


def test_packed_rows(rows: list[Any]) -> None:
    built = made(*PLAIN, rows)
    encoder = built.encoder
    batches = [
        encoder.collate(pack([encoder.encode(row) for row in some], "length", 512)) for some in (rows[:4], rows[4:6])
    ]
    assert batches[0].packed
    whole = torch.stack([NextToken().loss(built.model, batch)[0] for batch in batches]).sum()
    torch.testing.assert_close(run(cut(built.model, [1, 1, 1, 1]), batches), whole)


@pytest.mark.slow
def test_a_frozen_vision_tower_takes_fewer_stages(rows: list[Any]) -> None:
    built = made(*PLAIN, rows)
    spec = stage(learn={"connector": "all", "language": "all"}, max_length=64).stages[0]
    learning = stage_sizes(built.model, stage(max_length=64).stages[0], 2)
    freeze(built.model, spec)
    frozen = stage_sizes(built.model, spec, 2)
    assert sum(learning) == sum(frozen) == 4
    assert frozen[0] >= learning[0]
    with pytest.raises(UserError, match="4 blocks cannot be shared out to 5"):
        stage_sizes(built.model, spec, 5)
    assert balanced([1.0, 1.0, 1.0, 3.0], 2) == [3, 1]

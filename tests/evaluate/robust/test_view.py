"""A model as attacks see it: its files' pixels, the true answer's loss, its own answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sightline.data.pack import pack
from sightline.data.row import ImageRef, Picture, Row, Turn, Where
from sightline.data.scale import Scale, scale_of
from sightline.errors import UserError
from sightline.evaluate.answer import Answerer
from sightline.evaluate.robust.attacks.norms import size
from sightline.evaluate.robust.attacks.pgd import pgd
from sightline.evaluate.robust.view import AnswerView
from sightline.losses.next_token import next_token
from sightline.models.build import build
from tests.evaluate import tiny


def view_of(built):
    return AnswerView(built, batch=4, max_new_tokens=3, precision="fp32")


@pytest.fixture
def rows(tmp_path):
    """Questions about noisy pictures of other sizes than the tower's."""
    numbers, made = np.random.default_rng(0), []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        shape = [(16, 16, 3), (24, 40, 3)][number % 2]
        Image.fromarray(numbers.integers(0, 256, shape, dtype=np.uint8)).save(path)
        asked = "what color is the whole picture ?" if number % 3 else "is it red ?"
        made.append(tiny.row(number + 1, asked, ("red", "blue", "no")[number % 3], ImageRef(str(path), path=path)))
    return made


@pytest.fixture
def built(rows):
    made = tiny.model(rows)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.mul_(3)  # answers that differ from picture to picture
    return made


def test_clean_pixels_give_the_answers_of_the_files(built, rows):
    view = view_of(built)
    shown = view.show(rows)
    assert torch.equal(shown.pixels, (shown.pixels * 255).round() / 255)
    asked = Answerer(built, batch=4, max_new_tokens=3)(rows)
    assert view.answer(rows) == asked
    assert view.answer_floats(rows, shown.owner, shown.pixels) == asked
    assert view.answer(view.in_files(rows, shown.owner, shown.pixels)) == asked


def test_what_is_handed_in_is_what_the_tower_sees(built, rows):
    view = view_of(built)
    shown = view.show(rows)
    other = shown.pixels.flip(0) * 0.7 + 0.1 / 255
    seen = []
    handle = built.model.vision.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    view.answer_floats(rows, shown.owner, other)
    view.answer(view.in_files(rows, shown.owner, other))
    handle.remove()
    floats, files = torch.cat(seen)[: len(rows)], torch.cat(seen)[len(rows) :]
    assert torch.equal(floats.sort(0).values, view.scale.values(other).sort(0).values)
    assert torch.equal(files.sort(0).values, view.scale.values((other * 255).round() / 255).sort(0).values)


def test_the_loss_is_that_of_training_and_row_by_row(built, rows):
    view = view_of(built)
    shown = view.show(rows)
    losses = view.loss(shown)(shown.pixels)
    for row, loss in zip(rows, losses, strict=True):
        example = built.encoder.encode(row)
        batch = built.encoder.collate(pack([example], "none", len(example)))
        expected, _ = next_token(*built.model(batch))
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_the_gradient_is_that_of_finite_differences(built, rows):
    built.model.double()
    view = view_of(built)
    shown = view.show(rows[:2])
    target = view.target(shown, 0)
    at = shown.pixels.double()
    target = replace(target, pixels=at, loss=lambda pixels: view._losses(shown, batch_with(view, shown, pixels)))
    _, gradient = target.raised(at)
    along = torch.randn(at.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = 1e-4  # losses are told in fp32
    with torch.no_grad():
        rise = (target.loss(at + step * along).sum() - target.loss(at - step * along).sum()) / (2 * step)
    assert float(rise) == pytest.approx(float((gradient * along).sum()), rel=2e-3)


def batch_with(view, shown, pixels):
    mean, std = (torch.tensor(each, dtype=torch.float64).view(3, 1, 1) for each in (view.scale.mean, view.scale.std))
    return replace(shown.batch, pixel_values=(pixels - mean) / std)


def test_a_frozen_model_is_attacked_too_and_nothing_is_left_behind(built, rows):
    for parameter in built.model.parameters():
        parameter.requires_grad_(False)
    built.model.train()
    view = view_of(built)
    shown = view.show(rows)
    target = view.target(shown, 0)
    made = pgd(target, 8 / 255, steps=3)
    assert (target.losses(made) > target.losses(shown.pixels)).all()
    assert float(size(made - shown.pixels, "linf").max()) <= 8 / 255 + 1e-6
    assert not any(p.requires_grad or p.grad is not None for p in built.model.parameters())


def test_only_the_last_answer_of_a_conversation_is_attacked(built, rows):
    first = rows[0]
    turns = (*first.turns, Turn("user", ("is it red ?",)), Turn("assistant", ("no",)))
    view = view_of(built)
    shown = view.show([replace(first, turns=turns)])
    labels = shown.batch.labels
    assert labels is not None and int((labels != -100).sum()) == 2  # "no" and the end


def test_two_pictures_a_row(built, rows):
    both = Row(
        Where("x", 1),
        (Turn("user", (Picture(), Picture(), "is it red ?")), Turn("assistant", ("no",))),
        (rows[0].images[0], rows[1].images[0]),
    )
    view = view_of(built)
    shown = view.show([both, rows[2]])
    assert shown.owner.tolist() == [0, 0, 1] and len(shown.pixels) == 3
    files = view.in_files([both, rows[2]], shown.owner, shown.pixels)
    assert [len(row.images) for row in files] == [2, 1]
    assert view.answer(files) == view.answer([both, rows[2]])


def test_a_scale_is_refused_where_values_are_no_picture(built):
    scale = scale_of(built.encoder)
    pixels = torch.randint(0, 256, (2, 3, 4, 4)) / 255
    assert torch.equal(scale.pixels(scale.values(pixels)), pixels)
    with pytest.raises(UserError, match="mean and standard deviation"):
        Scale((0.0,) * 3, (1.0,) * 3).pixels(torch.full((1, 3, 2, 2), 0.5 / 255))


CONNECTORS = {
    "seq2seq": {"language": {"config": {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1,
                                        "num_heads": 2}}},
    "gated": {"connector": {"kind": "gated-cross-attention", "config": {"depth": 1, "heads": 2}, "queries": 4}},
    "q-former": {"connector": {"kind": "q-former", "queries": 4, "config": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}}},
}  # fmt: skip


@pytest.mark.parametrize("family", CONNECTORS)
def test_every_composed_family(family, rows):
    spec = tiny.recipe().model.model_dump(exclude_none=True)
    spec["compose"] |= CONNECTORS[family]
    changed = tiny.recipe().model.__class__.model_validate(spec)
    made = build(changed, seed=0, texts=[turn.text for row in rows for turn in row.turns])
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if "gate" in name:
                parameter.fill_(0.5)  # gates begin shut, and no picture comes through
    view = view_of(made)
    shown = view.show(rows)
    target = view.target(shown, 0)
    attacked = pgd(target, 16 / 255, steps=3)
    assert float(target.losses(attacked).sum()) > float(target.losses(shown.pixels).sum())
    assert view.answer_floats(rows, shown.owner, shown.pixels) == view.answer(rows)


def test_a_head_that_chooses(rows):
    spec = tiny.recipe().model.model_dump(exclude_none=True)
    spec["compose"]["head"] = {"min_count": 1}
    changed = tiny.recipe().model.__class__.model_validate(spec)
    texts = [turn.text for row in rows for turn in row.turns]
    made = build(changed, seed=0, texts=texts, answered=rows)
    view = view_of(made)
    shown = view.show(rows)
    target = view.target(shown, 0)
    losses, gradient = target.raised(shown.pixels)
    assert len(losses) == len(rows) and float(gradient.abs().sum()) > 0
    assert float(target.losses(pgd(target, 16 / 255, steps=3)).sum()) > float(losses.sum())
    assert view.answer_floats(rows, shown.owner, shown.pixels) == view.answer(rows)

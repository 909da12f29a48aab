"""A gradient that hides behind a front end is found out, and the same model without it is believed."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sightline.data.pack import pack
from sightline.data.row import ImageRef
from sightline.evaluate.robust.run import chosen, marking, measure
from sightline.evaluate.robust.success import Check
from sightline.losses.next_token import next_token
from sightline.recipe.schema import Recipe
from tests.evaluate import tiny

SHADES = {"dark": 100, "light": 156}  # on either side of the middle, with noise around them
ATTACKS = [
    {"kind": "fgsm", "epsilon": ["16/255", "48/255"]},
    {"kind": "pgd", "epsilon": ["16/255", "48/255"], "steps": 6},
]


class Front(nn.Module):
    """What stands before a vision tower."""

    def __init__(self, vision: nn.Module, kind: str) -> None:
        super().__init__()
        self.vision, self.kind = vision, kind

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("vision"), name)

    def forward(self, values: Tensor) -> Tensor:
        if self.kind == "quantising":  # to 8 levels: its gradient is zero
            values = (values * 4).round() / 4
        elif self.kind == "saturating":  # black or white, by a slope that is flat but in the middle: it underflows
            values = torch.tanh(values * 1e4) * 0.4
        return self.vision(values)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The tiny model, taught to tell dark pictures from light ones; and the pictures."""
    folder, numbers = tmp_path_factory.mktemp("shades"), np.random.default_rng(0)
    rows = []
    for number in range(24):
        name = list(SHADES)[number % 2]
        path = folder / f"{number}.png"
        shade = numbers.normal(SHADES[name], 12, (16, 16, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(shade).save(path)
        rows.append(tiny.row(number + 1, "dark or light ?", name, ImageRef(str(path), path=path)))
    built = tiny.model(rows)
    optimizer = torch.optim.Adam(built.model.parameters(), lr=1e-2)
    examples = [built.encoder.encode(row) for row in rows]
    batch = built.encoder.collate(pack(examples, "none", 64))
    torch.manual_seed(0)
    for _ in range(50):
        loss, count = next_token(*built.model(batch))
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
    assert loss.item() / count < 0.05
    return built, rows


def settings(**robust) -> Recipe:
    rest = {"corruptions": [], "words": [], "contradiction": [], "batch": 48}
    return tiny.recipe(robust={"attacks": ATTACKS, **rest, **robust})


def measured(trained, front: str | None, out: Path, **more):
    built, rows = trained
    vision = built.model.vision
    if front:
        built.model.vision = Front(vision, front)
    try:
        return measure(settings(), built, rows, out, **more)
    finally:
        built.model.vision = vision


def failed(found) -> set[str]:
    return {check["check"] for check in found["checks"] if check["passed"] is False}


@pytest.mark.slow
def test_the_clean_model_s_attacks_are_believed(trained, tmp_path):
    other = tiny.model(trained[1])  # not trained: what fools it fools nobody else
    found = measured(trained, None, tmp_path, foreign=(other, "an untrained model"))
    assert failed(found) == set(), [check for check in found["checks"] if check["passed"] is False]
    assert {check["check"] for check in found["checks"]} >= {
        "loss-rises", "bound-holds", "stronger-than-noise", "wider-is-worse", "many-steps-beat-one",
        "gradient-not-zero", "more-steps-change-little", "stronger-than-transfer", "no-bound-no-defence",
    }  # fmt: skip
    assert found["clean"]["accuracy"] == 1.0
    assert found["attacks"][1]["points"][-1]["accuracy"] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("front", "signs"),
    [
        ("quantising", {"gradient-not-zero", "stronger-than-noise", "no-bound-no-defence"}),
        pytest.param(
            "saturating",
            {"gradient-not-zero", "stronger-than-noise", "no-bound-no-defence"},
            marks=pytest.mark.slow,  # as the other, by another function
        ),
    ],
)
def test_a_hidden_gradient_is_found_out(trained, tmp_path, front, signs):
    built, rows = trained
    own = built.model.vision
    surrogate = tiny.model(rows)
    surrogate.model.load_state_dict(built.model.state_dict())
    found = measured(trained, front, tmp_path, foreign=(surrogate, "the model without its front end"))
    assert built.model.vision is own
    assert found["clean"]["accuracy"] > 0.9, "it answers as before"
    assert found["attacks"][1]["points"][-1]["accuracy"] > 0.5, "and looks robust"
    assert failed(found) >= {*signs, "stronger-than-transfer"}, failed(found)


def test_checks_tell_what_they_saw():
    check = Check("pgd-linf", "bound-holds", True, "fine", {"over": 0.0})
    assert check.facts() == {
        "attack": "pgd-linf", "check": "bound-holds", "passed": True, "says": "fine", "seen": {"over": 0.0},
    }  # fmt: skip


def test_rows_are_drawn_by_the_seed_and_stay_in_order(trained):
    rows = trained[1]
    some = chosen(rows, 10, 3)
    assert some == chosen(rows, 10, 3) != chosen(rows, 10, 4)
    assert [row.where.row for row in some] == sorted(row.where.row for row in some)
    assert chosen(rows, None, 0) == list(rows) == chosen(rows, 1000, 0)
    random.seed(0)
    assert marking(tiny.recipe().evaluate)(rows[:2], ["dark", "dark"]) == [1.0, 0.0]

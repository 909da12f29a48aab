"""X1's borders: plan against fact, modes, and gradients that never arrive."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import sightline
from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.model.wrong_stage_freeze import find
from sightline.guard.evidence import BatchSeen, History, OwnModeSeen, ParameterSeen, Setup, StepSeen, TowerSetup

ALL = TowerSetup("language", parameters=1000, trainable=1000, optimized=1000)


def tower(name: str, **more: Any) -> TowerSetup:
    return replace(ALL, name=name, **more)


def setup(*towers: TowerSetup) -> Setup:
    return Setup(towers={t.name: t for t in towers})


def history(grads: dict[str, float | None], steps: int = 3) -> History:
    def seen(name: str, grad: float | None) -> ParameterSeen:
        return ParameterSeen(f"{name}.weight", name, 1000, "float32", True, True, 0.1, grad, 1.0, 0.1, bool(grad))

    return History(tuple(StepSeen(n + 1, parameters=tuple(seen(*g) for g in grads.items())) for n in range(steps)))


BOTH = {"vision": 0.1, "connector": 0.1, "language": 0.1}


@pytest.mark.parametrize(
    ("planned", "trainable", "wrong"),
    [
        ("none", 0, False),
        ("none", 1, True),
        ("all", 1000, False),
        ("all", 960, False),  # a fixed position table
        ("all", 900, True),
        ("part", 0, True),
        ("part", 10, False),
        (None, 0, False),
        (None, 1000, False),
    ],
)
def test_plan_against_requires_grad(planned: Any, trainable: int, wrong: bool) -> None:
    verdict = find(setup(tower("language", planned=planned, trainable=trainable)))
    assert isinstance(verdict, Finding) == wrong


def test_lora_in_a_frozen_tower_is_named() -> None:
    verdict = find(setup(tower("vision", planned="none", trainable=16, adapters=16)))
    assert isinstance(verdict, Finding) and "LoRA" in verdict.message and "target_modules" in verdict.fix


def test_frozen_and_alive_counts_once_steps_are_taken() -> None:
    frozen = setup(tower("vision", trainable=0, optimized=0, lively=("vision.bn",)), tower("language"))
    assert isinstance(find(frozen), CannotTell)  # the mode may still be set before the first step
    verdict = find(frozen, history(BOTH))
    assert isinstance(verdict, Finding) and "vision.eval()" in verdict.fix
    assert find(setup(tower("vision", trainable=0, optimized=0), tower("language")), history(BOTH)) is None
    assert find(setup(tower("vision", lively=("vision.bn",)), tower("language")), history(BOTH)) is None


NO_GRAD = {"vision": None, "connector": 0.1, "language": 0.1}
THREE = setup(tower("vision"), tower("connector"), tower("language"))
IMAGES = BatchSeen(phase="train", step=2, image_spans=4)


def test_a_tower_under_no_grad() -> None:
    verdict = find(THREE, history(NO_GRAD), IMAGES)
    assert isinstance(verdict, Finding) and "'vision'" in verdict.message and verdict.severity == "warning"
    planned = setup(tower("vision", planned="all"), tower("connector"), tower("language"))
    assert find(planned, history(NO_GRAD), IMAGES).severity == "error"


@pytest.mark.parametrize(
    ("batch", "grads", "steps"),
    [
        (IMAGES, NO_GRAD, 2),
        (None, NO_GRAD, 3),
        (replace(IMAGES, image_spans=0), NO_GRAD, 3),  # a batch of text alone
        (replace(IMAGES, step=1), NO_GRAD, 3),  # another step's batch
        (IMAGES, {**NO_GRAD, "connector": None}, 3),  # nothing came that it could have passed on
        (IMAGES, {**NO_GRAD, "vision": 0.0}, 3),  # a gradient of zero is a gradient
    ],
)
def test_no_gradient_for_a_reason(batch: BatchSeen | None, grads: dict[str, float | None], steps: int) -> None:
    verdict = find(THREE, history(grads, steps), batch)
    assert verdict is None or "'connector'" in getattr(verdict, "message", "")


def test_a_detached_connector() -> None:
    verdict = find(THREE, history({**BOTH, "vision": None, "connector": None}), IMAGES)
    assert isinstance(verdict, Finding) and "'connector'" in verdict.message and "no_grad" in verdict.message
    verdict = find(THREE, history({**BOTH, "vision": None, "connector": None}), replace(IMAGES, image_graph=True))
    assert isinstance(verdict, Finding) and "unused" in verdict.message and "no_grad" not in verdict.fix
    parts = BatchSeen(phase="train", step=2, image_features=16)  # of a language model that is called by itself
    assert isinstance(find(THREE, history({**BOTH, "vision": None, "connector": None}), parts), Finding)
    assert find(THREE, history({**BOTH, "vision": None, "connector": None}), replace(parts, image_spans=0)) is None
    assert find(THREE, history(NO_GRAD), parts) is None  # the connector may be given features that were made before


@pytest.mark.parametrize(("freeze", "found"), [("attribute", True), ("method", False), ("both", False)])
def test_an_attribute_that_no_module_heeds(freeze: str, found: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        if freeze != "method":
            model[0].requires_grad = False
        if freeze != "attribute":
            model[0].requires_grad_(False)
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(3, 4)).square().mean().backward()
            optimizer.step()
    codes = {finding.code: finding for finding in guard.findings}
    assert ("X1" in codes) is found and (not found or "'0'" in codes["X1"].message)


def test_a_model_without_towers_or_plan() -> None:
    assert isinstance(find(setup(tower("model")), history({"model": 0.1})), CannotTell)


def test_stages_that_only_train_would_freeze() -> None:
    own = OwnModeSeen(2, "Backbone", freezes=("stages.0.weight",), quiets=("stages.0",))
    found = find(setup(ALL), history(BOTH), own=own)
    assert isinstance(found, Finding) and found.severity == "warning" and "Backbone.train()" in found.message
    assert find(setup(ALL), history(BOTH), own=replace(own, freezes=())) is None  # modes alone harm less
    assert isinstance(find(setup(ALL), own=own), CannotTell)


@pytest.mark.parametrize(
    ("connector", "language", "found"),
    [
        ({"trainable": 0, "untaught": 900}, {}, True),
        ({"trainable": 0, "untaught": 900}, {"trainable": 600}, True),  # its embeddings are frozen
        ({"trainable": 0}, {}, False),  # loaded, or taught in a stage before
        ({"untaught": 900}, {}, False),
        ({"trainable": 0, "untaught": 900, "planned": "none"}, {}, False),
        ({"trainable": 0, "untaught": 900}, {"trainable": 20, "adapters": 20}, False),
        ({"trainable": 0, "untaught": 900}, {"trainable": 0}, False),
    ],
)
def test_a_connector_that_nothing_ever_taught(connector: dict[str, Any], language: dict[str, Any], found: bool) -> None:
    verdict = find(setup(tower("connector", **connector), tower("language", **language)))
    assert isinstance(verdict, Finding) == found
    assert not isinstance(verdict, Finding) or "random initial values" in verdict.message


class Encoder(nn.Module):
    """A body, and a pooling that is new."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
        )
        self.pool = nn.Linear(8, 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool(self.body(images).flatten(2).mean(2))


@pytest.mark.parametrize(("frozen", "resting", "found"), [("body", False, 1), ("body", True, 0), ("half", False, 0)])
def test_a_frozen_body_whose_statistics_drift(frozen: str, resting: bool, found: int) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"vision": Encoder(), "projector": nn.Linear(8, 8), "words": nn.Embedding(9, 8)})
    model.forward = lambda x, ids: model["projector"](model["vision"](x))[:, None] + model["words"](ids)
    body = model["vision"].body
    (body if frozen == "body" else body[2]).requires_grad_(False)  # half: as who fine-tunes a part of a network
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    told: list[Finding] = []
    with sightline.attach(model, optimizer, on_finding=told.append, budget=1.0):
        body.train(not resting)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(8, 3, 8, 8), torch.randint(9, (8, 3))).square().mean().backward()
            optimizer.step()
    assert ["body" in one.message for one in told if one.code == "X1"] == [True] * found

"""Names that PEFT is given go to whichever tower has them: what was written for the language model leaks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import sightline
from sightline.attach.adapted import adapted
from sightline.attach.script.origins import Told
from sightline.attach.towers import resolve
from sightline.guard.catalogue import load, page

LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CHECKS = load((page("X1"),))


def llava() -> nn.Module:
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    text = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=3, vision_feature_layer=-1)
    return LlavaForConditionalGeneration(config).requires_grad_(False)


def batch() -> dict[str, Tensor]:
    ids = torch.randint(4, 16, (4, 8))
    ids[:, :4] = 3
    labels = ids.masked_fill(ids == 3, -100)
    return {"pixel_values": torch.randn(4, 3, 8, 8), "input_ids": ids, "labels": labels}


def told(model: nn.Module, groups: list[dict[str, Any]] | None = None, **more: Any) -> list[str]:
    """X1's words on three steps of a model."""
    learns = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(groups or learns, lr=1e-3)
    with sightline.attach(model, optimizer, on_finding=None, checks=CHECKS, **more) as guard:
        for _ in range(3):
            optimizer.zero_grad()
            model(**batch()).loss.backward()
            optimizer.step()
    assert all(one.severity == "warning" for one in guard.findings)
    return [one.message for one in guard.findings]


@pytest.mark.parametrize(
    ("targets", "more", "found"),
    [
        (LLAMA, {}, True),
        (["q_proj", "k_proj", "v_proj", "o_proj"], {}, True),
        (LLAMA, {"modules_to_save": ["multi_modal_projector"]}, True),
        (["q_proj", "v_proj"], {}, False),  # may be meant for both
        (["gate_proj", "up_proj", "down_proj"], {}, False),
        ([*LLAMA, "out_proj", "fc1", "fc2"], {}, False),
        ([*LLAMA, "out_proj"], {}, False),
        ("all-linear", {}, False),
        (r".*language_model.*_proj", {}, False),
        (LLAMA, {"exclude_modules": r".*vision_tower.*"}, False),
        (LLAMA, {"rank_pattern": {"vision_tower": 2}}, False),
        (LLAMA, {"modules_to_save": ["post_layernorm"]}, False),
    ],
)
def test_which_names_leak(targets: Any, more: dict[str, Any], found: bool) -> None:
    words = told(get_peft_model(llava(), LoraConfig(r=2, target_modules=targets, **more)))
    assert len(words) == found
    assert all("'vision_tower'" in one and "k_proj, q_proj and v_proj" in one for one in words)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PEFT as a watched script has it."""
    monkeypatch.setattr(BaseTuner, "inject_adapter", BaseTuner.inject_adapter)
    faults: list[str] = []
    Told(faults.append)._peft()
    yield
    assert not faults


FEW = ["q_proj", "v_proj"]


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(
    ("frozen", "targets", "more", "found"),
    [
        (["vision_tower"], FEW, {}, True),
        (["vision_tower", "multi_modal_projector"], FEW, {}, True),
        (["vision_tower"], FEW, {"modules_to_save": ["multi_modal_projector"]}, True),
        (["vision_tower"], "all-linear", {}, True),
        ([], FEW, {}, False),
        ([], "all-linear", {}, False),
        (["multi_modal_projector"], FEW, {}, False),
        (["vision_tower", "multi_modal_projector", "language_model", "lm_head"], FEW, {}, False),  # PEFT's own freezing
        (["vision_tower", "language_model"], FEW, {}, False),
        (["vision_tower"], [*FEW, "fc1"], {}, False),  # a name of its own
        (["vision_tower"], ["fc1"], {}, False),
        (["vision_tower"], r".*\.(q_proj|v_proj)", {}, False),
        (["vision_tower"], FEW, {"exclude_modules": r".*vision_tower.*"}, False),
    ],
)
def test_a_tower_that_was_frozen_before(frozen: list[str], targets: Any, more: dict[str, Any], found: bool) -> None:
    model = llava().requires_grad_(True)
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in frozen:
            module.requires_grad_(False)
    words = told(get_peft_model(model, LoraConfig(r=2, target_modules=targets, **more)))
    assert len(words) == found
    assert all("'vision_tower' was frozen" in one for one in words)


@pytest.mark.usefixtures("heard")
def test_a_second_adapter_finds_all_frozen() -> None:
    model = get_peft_model(llava().requires_grad_(True), LoraConfig(r=2, target_modules=FEW))
    model.add_adapter("other", LoraConfig(r=2, target_modules=FEW))
    model.set_adapter("other")
    assert told(model) == []


def test_adapters_of_the_vision_tower_that_somebody_thought_of() -> None:
    model = get_peft_model(llava(), LoraConfig(r=2, target_modules=LLAMA))
    vision = [p for n, p in model.named_parameters() if p.requires_grad and "vision" in n]
    language = [p for n, p in model.named_parameters() if p.requires_grad and "vision" not in n]
    assert told(model, [{"params": vision, "lr": 1e-4}, {"params": language}]) == []
    for p in vision:
        p.requires_grad_(False)
    assert told(model, [{"params": language}]) == []


def test_a_plan_is_asked_first() -> None:
    model = get_peft_model(llava(), LoraConfig(r=2, target_modules=LLAMA))
    assert told(model, plan={"vision": "part", "language": "part"}) == []


class Attention(nn.Module):
    def __init__(self, width: int, out: str) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = out
        setattr(self, out, nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).mT
        return x + getattr(self, self.out)(scores.softmax(-1) @ self.v(x))


class Own(nn.Module):
    """People's own classes: `out` is what the vision tower calls the output of its attention."""

    def __init__(self, out: str) -> None:
        super().__init__()
        self.eyes = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), nn.Sequential(Attention(4, out)))
        self.bridge = nn.Linear(8, 8)
        self.words = nn.ModuleDict({"table": nn.Embedding(9, 8), "blocks": nn.Sequential(Attention(8, "o"))})
        self.lm_head = nn.Linear(8, 9)

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        seen = self.bridge(self.eyes(images).mT)
        return self.lm_head(self.words["blocks"](torch.cat([seen, self.words["table"](ids)], 1)))


@pytest.mark.parametrize(("out", "leaks"), [("proj", True), ("o", False)])
def test_own_classes(out: str, leaks: bool) -> None:
    model = get_peft_model(Own(out), LoraConfig(r=2, target_modules=["q", "k", "v", "o"]))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with sightline.attach(model, optimizer, on_finding=None, checks=CHECKS) as guard:
        model(torch.randn(2, 3, 8, 8), torch.randint(9, (2, 5))).square().mean().backward()
        optimizer.step()
    assert bool(guard.findings) is leaks and all("none in its proj" in one.message for one in guard.findings)


def test_a_model_without_images_or_adapters() -> None:
    plain = llava()
    assert adapted(plain, resolve(plain, None)) == {}
    words = get_peft_model(
        nn.ModuleDict({"a": Attention(4, "o")}), LoraConfig(r=2, target_modules=["q", "k", "v", "o"])
    )
    assert adapted(words, resolve(words, None)) == {}

"""What only a later stage of a run does wrong is seen as it would be in a run of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import sightline
from sightline.guard.evidence import IGNORE

pytestmark = pytest.mark.usefixtures("origins")
STEPS = 20
Stage = Callable[[Any], list[Tensor]]


def found(model: nn.Module, *stages: Stage) -> list[str]:
    """The codes of what is found. A stage gives each step's loss, and an optimizer of its own takes the step."""
    torch.manual_seed(0)
    with sightline.attach(model, on_finding=None) as guard:
        for stage in stages:
            stage(model)
    return [finding.code for finding in guard.findings]


def trained(
    loss: Callable[[Any], Tensor],
    *,
    steps: int = STEPS,
    half: torch.dtype | None = None,
    clip: str = "",
    before: Callable[[Any], object] = lambda _: None,
) -> Stage:
    """A stage with an optimizer of its own, of what learns by then. `clip`: before or after gradients are unscaled."""

    def stage(model: Any) -> None:
        before(model)
        opt = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-3)
        scaler = torch.amp.GradScaler("cpu", enabled=bool(clip))
        for _ in range(steps):
            opt.zero_grad()
            with torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None):
                value = loss(model)
            scaler.scale(value).backward()
            if clip == "after":
                scaler.unscale_(opt)
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(opt)
            scaler.update()

    return stage


class Net(nn.Module):
    """`low`: whether it lets autocast be."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh())
        self.projector: nn.Module = nn.Identity()
        self.head = nn.Linear(16, 4)
        self.low = True

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.is_autocast_enabled("cpu") and self.low):
            return self.head(self.projector(self.tower(x)))


def labelled(model: nn.Module) -> Tensor:
    x = torch.randn(16, 12)
    return F.cross_entropy(model(x).float(), x[:, :4].argmax(1))


@pytest.mark.parametrize(("clip", "codes"), [("before", ["P3"]), ("after", [])])
def test_a_scaler_of_a_later_stage(clip: str, codes: list[str]) -> None:
    net = nn.Sequential(nn.Linear(12, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 4))
    assert found(net, trained(labelled), trained(labelled, half=torch.float16, clip=clip)) == codes


@pytest.mark.parametrize(("low", "codes"), [(False, ["P7"]), (True, [])])
def test_an_autocast_of_a_later_stage(low: bool, codes: list[str]) -> None:
    half = torch.bfloat16
    later = trained(labelled, half=half, before=lambda model: setattr(model, "low", low))
    assert found(Net(), trained(labelled, half=half), later) == codes


def words(model: Any, start: int) -> Tensor:
    ids = torch.randint(4, 30, (8, 6))
    ids[:, 2] = 3
    labels = ids.clone()
    labels[:, :start] = IGNORE
    loss: Tensor = model(input_ids=ids, labels=labels).loss
    return loss


@pytest.mark.parametrize(("start", "codes"), [(4, ["L2"]), (3, [])])
def test_answers_that_only_the_tuning_masks(start: int, codes: list[str]) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=30, pad_token_id=0, eos_token_id=1, **sizes))

    def answers(model: Any) -> None:
        model.eval()
        ids = torch.randint(4, 30, (8, 3))
        ids[:, 2] = 3
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)

    stages = (trained(lambda m: words(m, 0)), trained(lambda m: words(m, start)), answers)
    assert found(model, *stages) == codes


def only(part: str) -> Callable[[Net], None]:
    def before(model: Net) -> None:
        model.requires_grad_(False)
        model.get_submodule(part).requires_grad_(True)

    return before


def test_parts_that_wait_for_their_turn() -> None:
    """From the first layer to the last, each with random ones behind it that are still frozen."""
    model = Net()
    model.projector = nn.Linear(16, 16)
    assert found(model, *(trained(labelled, before=only(part)) for part in ("tower.0", "tower.2", "projector"))) == []

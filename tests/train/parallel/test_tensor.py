"""Matrices cut over tensor ranks: what each kind of tower computes, and its gradients, are those of the whole one."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoConfig, AutoModelForCausalLM

from sightline.data.pack import pack
from sightline.errors import UserError
from sightline.models.towers import load_vision, vision_config
from sightline.recipe.schema import Parallel, VisionSpec
from sightline.train.checkpoint import WHOLE
from sightline.train.freeze import freeze
from sightline.train.parallel.grid import Grid
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.sharded import local, whole
from sightline.train.parallel.tensor import cuts, split
from sightline.train.precision import pick_precision
from sightline.train.step import train_step
from tests.train.parallel.processes import on_ranks
from tests.train.tiny import fresh, stage

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
IMAGES: dict[str, Any] = SIZES | {"image_size": 16, "patch_size": 8}
DINO: dict[str, Any] = {key: IMAGES[key] for key in IMAGES if key != "intermediate_size"} | {"mlp_ratio": 2}
WORDS: dict[str, Any] = SIZES | {"vocab_size": 40, "num_key_value_heads": 2, "pad_token_id": 0}

VISION: dict[str, dict[str, Any]] = {
    "clip_vision_model": IMAGES,
    "siglip_vision_model": IMAGES,
    "siglip2_vision_model": SIZES | {"num_patches": 4, "patch_size": 8},
    "dinov2": DINO,
    "dinov2_with_registers": DINO | {"use_swiglu_ffn": True},
    "vit": IMAGES,
}
LANGUAGE: dict[str, dict[str, Any]] = {
    "llama": WORDS,
    "qwen2": WORDS,
    "qwen3": WORDS | {"head_dim": 8},
    "mistral": WORDS,
    "gemma": WORDS | {"head_dim": 8},
    "gemma2": WORDS | {"head_dim": 8},
    "gemma3_text": WORDS | {"head_dim": 8},
    "phi": WORDS | {"partial_rotary_factor": 0.5},
    "phi3": WORDS,
    "gpt_neox": WORDS,
    "opt": WORDS | {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0},
}


class OneTower(nn.Module):
    """What `split` asks of a VLM, of one tower."""

    def __init__(self, kind: str, changes: dict[str, Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        if kind in VISION:
            spec = VisionSpec(config=VISION[kind] | {"model_type": kind} | (changes or {}), layer=-2)
            self.vision = load_vision(spec, vision_config(spec), attention="sdpa", dtype=torch.float32)
            self.language = SimpleNamespace()
        else:
            config = AutoConfig.for_model(kind, **LANGUAGE.get(kind, SIZES) | (changes or {}))
            self.vision = SimpleNamespace()
            self.language = AutoModelForCausalLM.from_config(config, attn_implementation="eager")

    def blocks(self, tower: str) -> list[nn.Module]:
        if (tower == "vision") != (self.kind in VISION):
            return []
        if tower == "vision":
            return list(self.vision.blocks)
        return list(next(m for m in self.language.modules() if isinstance(m, nn.ModuleList) and len(m) == 2))

    def forward(self) -> Tensor:
        torch.manual_seed(1)
        if self.kind in VISION:
            return self.vision(torch.randn(2, 3, 16, 16, dtype=torch.float64))
        return self.language(input_ids=torch.randint(1, 40, (2, 7)), use_cache=False).logits


def gradients(model: nn.Module) -> dict[str, Tensor]:
    out = model()
    torch.manual_seed(2)
    (out * torch.randn_like(out)).sum().backward()
    return {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}


def compare(ranks: Ranks, kind: str) -> float:
    """How far outputs and gradients of a tower cut over all ranks are from those of the whole one."""
    alone = OneTower(kind).double()
    cut = copy.deepcopy(alone)
    mesh = init_device_mesh("cpu", (2,))
    summed = split(cut, mesh, ranks.device)
    with torch.no_grad():
        worst = float((cut() - alone()).abs().max())
    found, expected = gradients(cut), gradients(alone)
    for parameter in (each for module in summed for each in module.parameters()):
        assert parameter.grad is not None
        torch.distributed.all_reduce(parameter.grad)
    assert found.keys() == expected.keys()
    return max(worst, *(float((found[name] - expected[name]).abs().max()) for name in expected))


@pytest.mark.slow
@pytest.mark.ddp
def test_outputs_and_gradients_of_the_whole_tower(tmp_path: Path) -> None:
    kinds = [*VISION, *LANGUAGE]
    found = on_ranks(2, [(compare, (kind,)) for kind in kinds], tmp_path)
    assert dict(zip(kinds, map(max, found), strict=True)) == {kind: pytest.approx(0.0, abs=1e-6) for kind in kinds}


@pytest.mark.parametrize(
    ("kind", "changes", "ranks", "told"),
    [
        ("llama", {}, 4, "2 key and value heads"),
        ("llama", {"num_key_value_heads": 4}, 3, "4 attention heads"),
        ("siglip_vision_model", {"intermediate_size": 50}, 4, "50 outputs of 'mlp.fc1'"),
        ("gpt2", {}, 2, "cannot be cut"),
    ],
)
def test_what_cannot_be_cut_is_told(kind: str, changes: dict[str, Any], ranks: int, told: str) -> None:
    tower = OneTower(kind, changes)
    with pytest.raises(UserError, match=told) as caught:
        cuts(tower, ranks)  # type: ignore[arg-type]
    assert caught.value.where == "parallel.tensor"
    assert caught.value.fix


def test_the_divisors_are_told() -> None:
    with pytest.raises(UserError) as caught:
        cuts(OneTower("llama", {"num_key_value_heads": 4}), 3)  # type: ignore[arg-type]
    assert "1 or 2 or 4" in str(caught.value.fix)


def learned(ranks: Ranks, rows: list[Any], tensor: int, dropped: float = 0.0) -> dict[str, Tensor]:
    """The weights after three steps on the same rows, whole or cut over `tensor` ranks; first what is left whole."""
    built, spec = fresh(rows), stage().stages[0]
    for module in built.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = dropped
    freeze(built.model, spec)
    settings = Parallel(tensor=tensor)
    layout = Grid(settings, ranks, settings.sizes(ranks.world, ranks.world)) if tensor > 1 else WHOLE
    model = layout.place(built.model, spec)
    optimizer = layout.optimizer(model, spec)
    precision = pick_precision("fp32", ranks.device)
    batch = built.encoder.collate(pack([built.encoder.encode(row) for row in rows], "none", 512))
    for _ in range(3):
        optimizer.zero_grad()
        train_step(model, [batch], optimizer, precision, layout, 0.5)
    left = {f"left {name}": p.detach() for name, p in model.named_parameters() if local(p) is p}
    return left | {name: whole(tensor).detach() for name, tensor in model.state_dict().items()}


@pytest.mark.slow
@pytest.mark.ddp
def test_twins_keep_the_same_weights_to_the_bit(rows: list[Any], tmp_path: Path) -> None:
    cut, dropped = on_ranks(2, [(learned, (rows, 2)), (learned, (rows, 2, 0.5))], tmp_path)
    alone = learned(Ranks(0, 1, torch.device("cpu")), rows, 1)
    for name, found in cut[0].items():
        assert torch.equal(found, cut[1][name]), name
        assert torch.equal(dropped[0][name], dropped[1][name]), name
        torch.testing.assert_close(found, alone[name.removeprefix("left ")], atol=1e-5, rtol=0)
    assert {name for name in cut[0] if name.startswith("left")} < {name for name in alone if name.startswith("left")}
    assert any(not torch.equal(found, dropped[0][name]) for name, found in cut[0].items())

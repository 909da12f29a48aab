"""Towers are inferred from what modules do, or taken as given; every parameter has one."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from sightline.attach.towers import resolve
from sightline.errors import UserError

TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32}
TEXT |= {"num_key_value_heads": 2, "head_dim": 8}
EYES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8}
EYES |= {"patch_size": 4}


def llava() -> nn.Module:
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**EYES), text_config=transformers.LlamaConfig(**TEXT)
    )
    return transformers.LlavaForConditionalGeneration(config)


def idefics() -> nn.Module:
    config = transformers.Idefics3Config(
        vision_config=EYES, text_config={"model_type": "llama", **TEXT}, image_token_id=31, pad_token_id=0
    )
    return transformers.Idefics3ForConditionalGeneration(config)


def qwen() -> nn.Module:
    eyes = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 4, "mlp_ratio": 1}
    config = transformers.Qwen2VLConfig(text_config=TEXT, vision_config=eyes)
    return transformers.Qwen2VLForConditionalGeneration(config)


@pytest.mark.parametrize("build", [llava, idefics, qwen])
def test_vlms_of_transformers_have_three_towers(build) -> None:
    with torch.device("meta"):
        model = build()
    towers = resolve(model, None)
    assert set(towers.of.values()) == {"vision", "connector", "language"}
    for name, tower in towers.of.items():
        hint = "connector" if any(w in name for w in ("projector", "connector", "merger")) else None
        hint = hint or ("vision" if "vis" in name else "language")
        assert tower == hint, name


def test_a_model_without_eyes_is_one_tower() -> None:
    towers = resolve(nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4)), None)
    assert set(towers.of.values()) == {"model"}


def test_the_longest_name_wins_and_the_rest_is_other() -> None:
    model = nn.ModuleDict({"a": nn.ModuleDict({"b": nn.Linear(1, 1), "c": nn.Linear(1, 1)}), "d": nn.Linear(1, 1)})
    towers = resolve(model, {"vision": ["a"], "connector": ["a.b"]})
    assert towers.of == {
        "a.b.weight": "connector", "a.b.bias": "connector", "a.c.weight": "vision", "a.c.bias": "vision",
        "d.weight": "other", "d.bias": "other",
    }  # fmt: skip


def test_a_module_that_does_not_exist_is_named() -> None:
    with pytest.raises(UserError, match="visoin"):
        resolve(nn.ModuleDict({"vision": nn.Linear(1, 1)}), {"vision": ["visoin"]})


def test_what_reads_beside_what_does_not() -> None:
    """A table alone makes nothing of its tokens, and where all of a tower reads there is nothing beside it."""
    model = nn.Module()
    model.eye, model.table, model.out = nn.Conv2d(3, 8, 4), nn.Embedding(16, 8), nn.Linear(8, 16)
    assert resolve(model, None).readers("language") == ()
    model.texts = nn.Sequential(nn.Embedding(16, 8), nn.GRU(8, 8))
    towers = resolve(model, None)
    assert set(towers.modules["language"]) == {"table", "out", "texts"} and towers.readers("language") == ("texts",)
    assert resolve(model, {"vision": ["eye"], "language": ["texts"]}).readers("language") == ()


def test_encoders_side_by_side_in_a_model_of_one_tower() -> None:
    def encoder() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())

    inner = nn.ModuleDict({"rgb": encoder(), "depth": encoder(), "head": nn.Linear(8, 2)})
    towers = resolve(nn.ModuleDict({"net": inner}), None)
    assert set(towers.modules) == {"model"} and towers.readers("model") == ("net.rgb", "net.depth")
    del inner["depth"]
    assert resolve(inner, None).readers("model") == ()

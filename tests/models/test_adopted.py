"""Existing VLMs of every family: towers, logits, text alone, generation, saving; and what is told of an unknown one."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from sightline.data.batch import IGNORE
from sightline.errors import UserError
from sightline.models.adopted import AdoptedVLM
from sightline.models.build import build_meta
from sightline.recipe.schema import TOWERS, Adopt, ModelSpec
from tests.models.families import CONFIGS, IMAGES, batch, typed

# A few parameters of each tower that the table must get right.
EXPECTED = {
    "llava_next": {"connector": ["model.image_newline", "model.multi_modal_projector.linear_1.weight"]},
    "qwen2_5_vl": {
        "vision": ["model.visual.patch_embed.proj.weight"],
        "connector": ["model.visual.merger.ln_q.weight"],
    },
    "qwen3_vl": {
        "vision": ["model.visual.pos_embed.weight"],
        "connector": ["model.visual.merger.norm.weight", "model.visual.deepstack_merger_list.1.norm.weight"],
    },
    "gemma3": {"connector": ["model.multi_modal_projector.mm_input_projection_weight"]},
    "blip-2": {"connector": ["query_tokens", "qformer.layernorm.weight", "language_projection.bias"]},
    "llava": {"language": ["lm_head.weight", "model.language_model.norm.weight"]},
}


@pytest.fixture(params=CONFIGS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, PreTrainedModel, AdoptedVLM]:
    """A random model of each type, and the same one back from disk as an adopted VLM."""
    torch.manual_seed(0)
    plain = AutoModelForImageTextToText.from_config(
        AutoConfig.for_model(request.param, **CONFIGS[request.param])
    ).eval()
    for parameter in plain.parameters():  # larger than a fresh model's, so that differences show
        parameter.data = torch.randn_like(parameter) * 0.1
    plain.save_pretrained(tmp_path)
    adopted = AutoModelForImageTextToText.from_pretrained(tmp_path, attn_implementation="sdpa")
    return request.param, plain, AdoptedVLM(adopted, Adopt(source=str(tmp_path))).eval()


def test_family(saved: tuple[str, PreTrainedModel, AdoptedVLM], tmp_path: Path) -> None:
    """One model a family is made and read once, and judged in all ways; each way is named below."""
    kind, plain, vlm = saved
    every_parameter_belongs_to_one_tower(kind, vlm)
    logits_are_the_plain_models(kind, plain, vlm)
    generation_is_the_plain_models(kind, plain, vlm)
    text_alone_reaches_every_parameter(kind, vlm)
    loads_back_without_sightline(kind, vlm, tmp_path / "again")


def every_parameter_belongs_to_one_tower(kind: str, vlm: AdoptedVLM) -> None:
    towers = {tower: [name.removeprefix("model.") for name, _ in vlm.tower_parameters(tower)] for tower in TOWERS}
    assert sorted(chain.from_iterable(towers.values())) == sorted(name for name, _ in vlm.model.named_parameters())
    assert all(towers.values())
    for tower, names in EXPECTED.get(kind, {}).items():
        assert set(names) <= set(towers[tower])
    modules = {tower: {id(m) for _, top in vlm.tower_modules(tower) for m in top.modules()} for tower in TOWERS}
    assert not modules["vision"] & modules["language"] and not modules["connector"] & modules["vision"]
    assert len(vlm.blocks("language")) == 2 and len(vlm.blocks("vision")) in (2, 3)
    assert len(vlm.blocks("connector")) == (2 if kind == "blip-2" else 0)


def logits_are_the_plain_models(kind: str, plain: PreTrainedModel, vlm: AdoptedVLM) -> None:
    rows = batch(kind)
    with torch.no_grad():
        mask = rows.attention_mask.long()
        whole = plain(input_ids=rows.input_ids, attention_mask=mask, **rows.extra, **typed(kind, rows)).logits
        logits, targets = vlm(rows)
    here = rows.labels[:, 1:] != IGNORE
    torch.testing.assert_close(logits, whole[:, :-1][here], atol=1e-5, rtol=1e-4)
    assert targets.tolist() == rows.labels[:, 1:][here].tolist()


def generation_is_the_plain_models(kind: str, plain: PreTrainedModel, vlm: AdoptedVLM) -> None:
    prompts = batch(kind, prompt=True)
    together = vlm.generate(prompts, max_new_tokens=4)
    one_image = {name: len(value) // 2 for name, value in prompts.extra.items()}
    for number, said in enumerate(together):
        ids = prompts.input_ids[number : number + 1, int((~prompts.attention_mask[number]).sum()) :]
        images = {n: prompts.extra[n][number * k : (number + 1) * k] for n, k in one_image.items()}
        alone = type(prompts)(
            **{name: torch.zeros_like(ids) for name in ("labels", "position_ids", "group_ids", "segment_ids")},
            input_ids=ids,
            attention_mask=torch.ones_like(ids, dtype=torch.bool),
            image_index=torch.arange(1),
            extra=images,
        )
        alone.labels = alone.labels + IGNORE
        out = plain.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **images,
            **typed(kind, alone),
            max_new_tokens=4,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=0,
        )[0, ids.shape[1] :].tolist()
        assert said == (out[: out.index(2)] if 2 in out else out)
        assert list(vlm.stream(alone, max_new_tokens=4)) == said


def text_alone_reaches_every_parameter(kind: str, vlm: AdoptedVLM) -> None:
    vlm.train()
    for images in (True, False):
        rows = batch(kind, images=images)
        vlm.zero_grad()
        logits, targets = vlm(rows)
        F.cross_entropy(logits, targets).backward()
        assert [name for name, p in vlm.named_parameters() if p.grad is None] == []
        seen = {tower: any(p.grad.any() for _, p in vlm.tower_parameters(tower)) for tower in TOWERS}
        assert seen == {"vision": images, "connector": images, "language": True}
    vlm.eval()


def loads_back_without_sightline(kind: str, vlm: AdoptedVLM, folder: Path) -> None:
    how = vlm.save(folder)
    assert type(vlm.model).__name__ in how
    again = AutoModelForImageTextToText.from_pretrained(folder)
    for (name, one), (_, other) in zip(vlm.model.named_parameters(), again.named_parameters(), strict=True):
        torch.testing.assert_close(other, one, msg=name)


def test_every_family_of_the_table_is_tested() -> None:
    from sightline.models.adopt import TYPES

    assert set(TYPES) == set(CONFIGS) == set(IMAGES)


def test_unknown_type_tells_which_lines_to_write() -> None:
    config = {"model_type": "mistral3", **CONFIGS["llava"]}
    small = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config["vision_config"] = {"model_type": "pixtral", "image_size": 16, "patch_size": 8, "head_dim": 12, **small}
    config["text_config"] = {**config["text_config"], "model_type": "mistral"}
    with pytest.raises(UserError) as told:
        build_meta(ModelSpec(adopt=Adopt(config=config)))
    assert "model.vision_tower" in str(told.value) and "towers:" in str(told.value)
    towers = {"vision": ["model.vision_tower"], "connector": ["model.multi_modal_projector"]}
    with pytest.raises(UserError, match="belongs to no tower"):
        build_meta(ModelSpec(adopt=Adopt(config=config, towers=towers)))
    whole = towers | {"language": ["model.language_model", "lm_head"]}
    vlm = build_meta(ModelSpec(adopt=Adopt(config=config, towers=whole)))
    assert len(vlm.blocks("language")) == 2
    with pytest.raises(UserError, match=r"no parameter is under 'model\.projector'"):
        build_meta(
            ModelSpec(
                adopt=Adopt(config=config, towers=whole | {"connector": [*towers["connector"], "model.projector"]})
            )
        )


def test_encoder_decoder_is_refused() -> None:
    text = {
        "model_type": "t5",
        "d_model": 32,
        "d_ff": 32,
        "num_layers": 1,
        "num_heads": 2,
        "vocab_size": 64,
        "d_kv": 16,
    }
    config = {"model_type": "blip-2", **CONFIGS["blip-2"], "text_config": text}
    with pytest.raises(UserError, match="encoder-decoder"):
        build_meta(ModelSpec(adopt=Adopt(config=config)))

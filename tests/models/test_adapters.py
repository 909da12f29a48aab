"""LoRA: on the chosen towers alone, silent at the start, merged into the same function."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from sightline.data.row import Row
from sightline.errors import UserError
from sightline.models.adapters import add_adapters, merged_state
from sightline.models.adopted import AdoptedVLM
from sightline.models.build import Built, build_meta
from sightline.models.vlm import VLM
from sightline.recipe.schema import TOWERS, Adopt, Lora, ModelSpec, Tower
from tests.models.conftest import batch_of
from tests.models.families import CONFIGS, batch

Compose = Callable[..., Built]
LORA = Lora(rank=4, alpha=8, dropout=0.0)


def adapted(vlm: VLM) -> dict[Tower, list[str]]:
    return {tower: [name for name, _ in vlm.tower_parameters(tower) if "lora_" in name] for tower in TOWERS}


def stir(vlm: VLM) -> None:
    """Give the adapters something to say."""
    with torch.no_grad():
        for name, parameter in vlm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)


@pytest.mark.parametrize("towers", [("language",), ("vision",), ("connector", "language")])
def test_composed_adapters_sit_where_they_should_and_say_nothing_yet(
    towers: tuple[Tower, ...], compose: Compose, rows: list[Row]
) -> None:
    plain, built = compose(), compose()
    add_adapters(built.model, LORA.model_copy(update={"towers": towers}))
    found = adapted(built.model)
    assert {tower for tower, names in found.items() if names} == set(towers)
    assert not any("lm_head" in name for name in found["language"])
    batch = batch_of(built, rows)
    torch.testing.assert_close(built.model(batch)[0], plain.model(batch)[0])
    assert all(parameter.requires_grad for parameter in built.model.parameters())  # the stages decide, not the adapter


def test_merged_weights_are_the_adapted_function(compose: Compose, rows: list[Row]) -> None:
    plain, built = compose(), compose()
    add_adapters(built.model, LORA.model_copy(update={"towers": ("vision", "connector", "language")}))
    stir(built.model)
    before = {name: value.clone() for name, value in built.model.state_dict().items()}
    state = merged_state(built.model)
    assert state.keys() == plain.model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in built.model.state_dict().items())
    untouched = plain.model(batch := batch_of(built, rows))[0]
    plain.model.load_state_dict(state)
    torch.testing.assert_close(plain.model(batch)[0], built.model(batch)[0], atol=1e-5, rtol=1e-5)
    assert (plain.model(batch)[0] - untouched).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["llava", "qwen3_vl", "blip-2"])
def test_adopted_adapters(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **CONFIGS[kind]))
    vlm = AdoptedVLM(model, Adopt(source="here")).eval()
    rows = batch(kind)
    quiet = vlm(rows)[0]
    names = {tower: [name for name, _ in vlm.tower_parameters(tower)] for tower in TOWERS}
    add_adapters(vlm, LORA.model_copy(update={"towers": ("connector",)}))
    found = adapted(vlm)
    assert found["connector"] and not found["vision"] and not found["language"]
    assert [name for name, _ in vlm.tower_parameters("vision")] == names["vision"]
    assert {n.replace(".base_layer", "") for n, _ in vlm.tower_parameters("connector") if "lora_" not in n} == set(
        names["connector"]
    )
    torch.testing.assert_close(vlm(rows)[0], quiet)
    stir(vlm)
    folder = tmp_path_factory.mktemp(kind)
    vlm.save(folder)
    again = AdoptedVLM(AutoModelForImageTextToText.from_pretrained(folder), Adopt(source="here")).eval()
    torch.testing.assert_close(again(rows)[0], vlm(rows)[0], atol=1e-5, rtol=1e-5)
    assert (again(rows)[0] - quiet).abs().max() > 1e-4


def test_targets_by_name_and_targets_that_fit_nothing(compose: Compose) -> None:
    built = compose()
    chosen = add_adapters(built.model, LORA.model_copy(update={"targets": ["q_proj", "v_proj"]}))
    assert {name.rsplit(".", 1)[-1] for name in chosen} == {"q_proj", "v_proj"} and len(chosen) == 4
    with pytest.raises(UserError, match=r"model\.lora\.targets"):
        add_adapters(compose().model, LORA.model_copy(update={"targets": ["wq"]}))


def test_size_on_the_meta_device_is_ranks_times_widths() -> None:
    given = {"source": "lmsys/vicuna-7b-v1.5"}
    vision = {"source": "openai/clip-vit-large-patch14-336", "layer": -2}
    recipe = {"compose": {"vision": vision, "language": given}, "lora": {"rank": 128, "alpha": 256}}
    vlm = build_meta(ModelSpec.model_validate(recipe))
    adapters = sum(p.numel() for name, p in vlm.tower_parameters("language") if "lora_" in name)
    wide, tall = 4096 + 4096, 4096 + 11008
    assert adapters == 32 * 128 * (4 * wide + 3 * tall)

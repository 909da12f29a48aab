"""Low-rank adapters (LoRA, Hu et al. 2021) on chosen towers, by PEFT."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sightline.errors import UserError
from sightline.models.vlm import VLM
from sightline.recipe.schema import Lora

NAME = "default"


def add_adapters(vlm: VLM, spec: Lora) -> list[str]:
    """Put adapters on the linear maps of `spec.towers` alone, never on the output embedding; their layers' names.

    Their second factor starts at zero, so the model's output is unchanged.

    Raises:
        UserError: `spec.targets` fits no linear map of a tower.
    """
    from peft import LoraConfig, inject_adapter_in_model

    heads = {id(module) for module in _output_embeddings(vlm)}
    chosen: list[str] = []
    for tower in spec.towers:
        found = [
            f"{path}.{name}" if name else path
            for path, top in vlm.tower_modules(tower)
            for name, module in top.named_modules()
            if isinstance(module, nn.Linear) and id(module) not in heads and _wanted(name or path, spec)
        ]
        if not found:
            raise UserError(
                f"no linear map of the {tower} tower is called {spec.targets}",
                where="model.lora.targets",
                fix="write all-linear, or the last parts of names such as q_proj and v_proj",
            )
        chosen += found
    frozen = {name: parameter.requires_grad for name, parameter in vlm.named_parameters()}
    config = LoraConfig(r=spec.rank, lora_alpha=spec.alpha, lora_dropout=spec.dropout, target_modules=set(chosen))
    inject_adapter_in_model(config, vlm, adapter_name=NAME)
    for name, parameter in vlm.named_parameters():  # what learns is decided by the stages, not here
        parameter.requires_grad = frozen.get(name.replace(".base_layer", ""), True)
    vlm.lora = spec
    return chosen


def _wanted(name: str, spec: Lora) -> bool:
    if spec.targets == "all-linear":
        return True
    return any(name == target or name.endswith(f".{target}") for target in spec.targets)


def _output_embeddings(vlm: VLM) -> list[nn.Module]:
    models: list[Any] = [module for module in vlm.modules() if hasattr(module, "get_output_embeddings")]
    return [head for m in models if (head := m.get_output_embeddings()) is not None]


@torch.no_grad()
def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of `module` with every adapter added into its layer's weight, named as if there had been none.

    The module itself is left as it is.
    """
    layers = {name: layer for name, layer in module.named_modules() if _is_adapted(layer)}
    state: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        if ".lora_" in name:
            continue
        if ".base_layer." in name:
            owner, field = name.split(".base_layer.")
            if field == "weight":
                value = value + layers[owner].get_delta_weight(NAME).to(value.dtype)
            name = f"{owner}.{field}"
        state[name] = value
    return state


def _is_adapted(module: Any) -> bool:
    return hasattr(module, "get_delta_weight") and hasattr(module, "base_layer")

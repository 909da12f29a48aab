"""A pair model's start from a dual encoder (CLIP, SigLIP): what leads from its towers into the common space.

The towers load their own weights; where both come from one and the same dual encoder, its projections, final image
norm or pooling head, temperature and bias are taken over as well, so that the model says what the checkpoint says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

from sightline.errors import UserError
from sightline.models.origin import read_config, read_or_explain
from sightline.models.pair import PairVLM
from sightline.recipe.schema import Pair

WHERE = "model.pair"
ROUNDING = 1e-3  # CLIP's checkpoints hold a scale of 100 as a rounded logarithm, which may exceed the bound
NAMES: Mapping[str, Mapping[str, str]] = {
    "clip": {
        "norm.weight": "vision_model.post_layernorm.weight",
        "norm.bias": "vision_model.post_layernorm.bias",
        "image_projection.weight": "visual_projection.weight",
        "text_projection.weight": "text_projection.weight",
    },
    "siglip": {
        "attention.query": "vision_model.head.probe",
        "attention.attend.in_proj_weight": "vision_model.head.attention.in_proj_weight",
        "attention.attend.in_proj_bias": "vision_model.head.attention.in_proj_bias",
        "attention.attend.out_proj.weight": "vision_model.head.attention.out_proj.weight",
        "attention.attend.out_proj.bias": "vision_model.head.attention.out_proj.bias",
        "attention.norm.weight": "vision_model.head.layernorm.weight",
        "attention.norm.bias": "vision_model.head.layernorm.bias",
        "attention.mlp.0.weight": "vision_model.head.mlp.fc1.weight",
        "attention.mlp.0.bias": "vision_model.head.mlp.fc1.bias",
        "attention.mlp.2.weight": "vision_model.head.mlp.fc2.weight",
        "attention.mlp.2.bias": "vision_model.head.mlp.fc2.bias",
        "text_projection.weight": "text_model.head.weight",
        "text_projection.bias": "text_model.head.bias",
    },
}


def start_from_pair(model: PairVLM) -> None:
    """Take over the connector of the dual encoder that both towers of `model` come from; otherwise leave it fresh.

    A model that writes captions has another connector than a dual encoder.

    Raises:
        UserError: the recipe describes another connector than the checkpoint has.
    """
    source = model.spec.vision.source
    if source is None or source != model.spec.language.source or model.spec.caption is not None:
        return
    config = read_config(source, f"{WHERE}.vision.source")
    if config.model_type not in NAMES:
        return
    _fits(model.spec, config, source)
    state = read_or_explain(lambda: AutoModel.from_pretrained(source), source, WHERE).state_dict()
    head: nn.Module = model.connector
    with torch.no_grad():
        for own, theirs in NAMES[config.model_type].items():
            head.get_parameter(own).copy_(state[theirs])
        model.connector.temperature.log_scale.copy_(_log_scale(model, state, source))
        if model.connector.bias is not None and "logit_bias" in state:
            model.connector.bias.copy_(state["logit_bias"].reshape(()))


def _fits(spec: Pair, config: Any, source: str) -> None:
    """Raises UserError where the recipe's words are not the checkpoint's."""
    clip = config.model_type == "clip"
    embed = config.projection_dim if clip else config.vision_config.hidden_size
    pool, text, project = ("class", "end", "both") if clip else ("attention", "last", "text")
    said = {
        "embed": (spec.embed, embed),
        "pool": (spec.pool, pool),
        "project": (spec.project, project),
        "vision.layer": (spec.vision.layer, -1),
        "language.pool": (spec.language.pool, text),
    }
    for name, (ours, theirs) in said.items():
        if ours != theirs:
            what = f"both towers come from '{source}', whose {name} is {theirs}, not {ours}"
            raise UserError(what, where=f"{WHERE}.{name}", fix=f"set it to {theirs}")
    if not clip and spec.bias is None:
        what = f"both towers come from '{source}', which has a bias"
        raise UserError(what, where=f"{WHERE}.bias", fix="set it to a number; the checkpoint's own is taken")


def _log_scale(model: PairVLM, state: Mapping[str, Tensor], source: str) -> Tensor:
    """The checkpoint's. Raises UserError where the recipe's bounds would change it."""
    told = state["logit_scale"].reshape(())
    low, high = model.connector.temperature.bounds
    if not low - ROUNDING <= float(told) <= high + ROUNDING:
        raise UserError(
            f"'{source}' multiplies similarities by {math.exp(float(told)):.4g}, beyond the recipe's bounds",
            where=f"{WHERE}.max_scale",
            fix="set it to null",
        )
    return told

"""Configurations of the hub models that shipped recipes name, so that they can be counted without a network.

Facts from each model's config.json; only what differs from the defaults of `transformers`' configuration class.
"""

from __future__ import annotations

from typing import Any

from sightline.recipe.schema import ModelSpec

CONFIGS: dict[str, dict[str, Any]] = {}


def offline(spec: ModelSpec) -> ModelSpec:
    """`spec` with the sources that are known here replaced by their configurations."""
    if spec.adopt is not None:
        return spec.model_copy(update={"adopt": _known(spec.adopt)})
    towers = {"vision": _known(spec.compose.vision), "language": _known(spec.compose.language)}
    return spec.model_copy(update={"compose": spec.compose.model_copy(update=towers)})


def _known(part: Any) -> Any:
    if part.source in CONFIGS:
        return part.model_copy(update={"source": None, "config": CONFIGS[part.source]})
    return part

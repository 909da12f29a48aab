"""Recipes: one run as a frozen, validated value.

`load` and `to_yaml` are imported when first used, so that listing the shipped recipes needs no validator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sightline.recipe.shipped import shipped

if TYPE_CHECKING:
    from sightline.recipe.read import load, to_yaml
    from sightline.recipe.schema import Recipe

__all__ = ["Recipe", "load", "shipped", "to_yaml"]


def __getattr__(name: str) -> Any:
    if name in ("load", "to_yaml"):
        from sightline.recipe import read

        return getattr(read, name)
    if name == "Recipe":
        from sightline.recipe.schema import Recipe

        return Recipe
    raise AttributeError(f"module 'sightline.recipe' has no attribute '{name}'")

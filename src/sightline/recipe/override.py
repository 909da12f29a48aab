"""Overrides from the command line: `stages.instruct.steps=50` changes one value of a recipe before it is validated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sightline.errors import UserError, nearest
from sightline.recipe.yaml_file import parse

# Pairs of which a recipe holds exactly one: setting one takes the other's place.
_EXCLUSIVE = {"steps": "epochs", "epochs": "steps", "source": "config", "config": "source"}


def apply(recipe: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set each `key=value` in `recipe` (a parsed YAML mapping, changed in place) and return it.

    A key is a dotted path; an item of a list of named things (the stages) goes by its name or its position. Values are
    read as YAML. Setting `steps` replaces `epochs`, and the reverse; so with `source` and `config`.

    Raises:
        UserError: for an override without '=', or a path that leads nowhere.
    """
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise UserError(f"'{override}' is not an override", fix="write key=value, e.g. stages.instruct.steps=50")
        parent = _walk(recipe, keys[:-1], path)
        _assign(parent, keys[-1], parse(text, f"override '{override}'"), path)
    return recipe


def _walk(node: Any, keys: Sequence[str], path: str) -> Any:
    for depth, key in enumerate(keys):
        here = ".".join(keys[:depth]) or "the recipe"
        if isinstance(node, list):
            node = node[_position(node, key, path)]
        elif isinstance(node, dict):
            if node.get(key) is None:
                node[key] = {}  # validation says later whether such a part exists
            node = node[key]
        else:
            raise UserError(f"'{here}' is a single value and has no part '{key}'", where=f"override {path}")
    return node


def _assign(parent: Any, key: str, value: Any, path: str) -> None:
    if isinstance(parent, list):
        parent[_position(parent, key, path)] = value
    elif isinstance(parent, dict):
        parent[key] = value
        parent.pop(_EXCLUSIVE.get(key, ""), None)
    else:
        raise UserError(f"'{path}' leads into a single value", fix="shorten the path by its last part")


def _position(items: list[Any], key: str, path: str) -> int:
    names = [item.get("name", "") if isinstance(item, dict) else "" for item in items]
    if key in names:
        return names.index(key)
    if key.isdigit() and int(key) < len(items):
        return int(key)
    raise UserError(f"nothing here is called '{key}'", where=f"override {path}", fix=nearest(key, filter(None, names)))

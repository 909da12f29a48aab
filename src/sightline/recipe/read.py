"""Reading a recipe: by name or file, overridden, validated; and writing it back resolved."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sightline.errors import UserError, nearest
from sightline.recipe import yaml_file
from sightline.recipe.override import apply
from sightline.recipe.schema import Recipe
from sightline.recipe.shipped import shipped, shipped_file

MOST_ERRORS = 5  # more than a person mends at once


def load(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that shipped name or file, with `key=value` overrides.

    Paths that exist are made absolute, so that the run can be evaluated from another folder.

    Raises:
        UserError: unknown recipe, unreadable YAML, unknown key (nearest suggested), wrong type or value.
    """
    path = _find(name_or_path)
    content = yaml_file.read(path)
    if not isinstance(content, dict):
        raise UserError("a recipe is a mapping of keys to values", where=str(path), fix="see `sightline recipes`")
    recipe = validate(apply(content, overrides), where=path.name)
    return _with_absolute_paths(recipe)


def validate(content: dict[str, Any], where: str) -> Recipe:
    """`content` as a Recipe; every fault is told with its key."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        faults = [_explain(fault, content) for fault in error.errors()]
        more = f"\n  ... and {len(faults) - MOST_ERRORS} more" if len(faults) > MOST_ERRORS else ""
        raise UserError("\n  ".join(faults[:MOST_ERRORS]) + more, where=where) from None


def to_yaml(recipe: Recipe) -> str:
    """The recipe with every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def _find(name_or_path: str) -> Path:
    if found := shipped_file(name_or_path):
        return found
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise UserError("no such recipe file", where=name_or_path, fix="check the path")
    raise UserError(f"no recipe is called '{name_or_path}'", fix=nearest(name_or_path, shipped()))


def _explain(fault: Any, content: Any) -> str:
    place, node = [], content
    for part in fault["loc"]:
        if isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
            name = node.get("name") if isinstance(node, dict) else None
            place.append(str(name or part))
        elif isinstance(node, dict) and part in node:
            node = node[part]
            place.append(str(part))
        elif part == fault["loc"][-1] and fault["type"] in ("missing", "extra_forbidden"):
            place.append(str(part))
        # what is left over are names of union members, which mean nothing to a reader
    key = ".".join(place)
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key; {nearest(place[-1], _known_keys(fault['loc'][:-1]))}"
    if fault["type"] == "missing":
        return f"{key}: required, but not given"
    message = fault["msg"].removeprefix("Value error, ")
    seen = "" if isinstance(fault["input"], dict | list) else f" (got {fault['input']!r})"
    return f"{key}: {message}{seen}" if key else message


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys of the recipe's part at `location` (numbers and union members in it are passed over)."""
    part: type[BaseModel] = Recipe
    for step in location:
        if isinstance(step, str) and step in part.model_fields:
            part = next(_parts(part.model_fields[step].annotation), part)
    return list(part.model_fields)


def _parts(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _parts(inner)


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    def absolute(text: str | None) -> str | None:
        return str(Path(text).resolve()) if text and Path(text).exists() else text

    data = {}
    for name, spec in recipe.data.items():
        update: dict[str, Any] = {key: absolute(getattr(spec, key)) for key in ("path", "annotations", "images")}
        path = spec.path or ""
        if spec.reader == "webdataset" and ":" not in path and Path(path).parent.is_dir():  # a pattern of files there
            update["path"] = str(Path(path).parent.resolve() / Path(path).name)
        if spec.stream:
            update["stream"] = spec.stream.model_copy(update={"sizes": absolute(spec.stream.sizes)})
        data[name] = spec.model_copy(update=update)
    model = recipe.model
    if model.adopt:
        adopt = model.adopt.model_copy(update={"source": absolute(model.adopt.source)})
        model = model.model_copy(update={"adopt": adopt})
    if model.compose:
        changed = {
            name: part.model_copy(update={"source": absolute(part.source)})
            for name in ("vision", "language", "tokenizer")
            if (part := getattr(model.compose, name)).source
        }
        model = model.model_copy(update={"compose": model.compose.model_copy(update=changed)})
    return recipe.model_copy(update={"data": data, "model": model})

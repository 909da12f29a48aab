"""YAML as recipes use it: 1e-3 is a number, `on` and `yes` are words, and a key that stands twice is an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from sightline.errors import UserError


class _Loader(yaml.SafeLoader):
    """SafeLoader with the numbers and truths of YAML 1.2 (PyYAML follows 1.1), that refuses duplicate keys."""


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:bool"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"'{key}' stands twice (lines {seen[key]} and {line})")
        seen[key] = line
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse(text: str, where: str) -> Any:
    """The value of a YAML text. Raises UserError with the line and column of what cannot be read."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where} line {mark.line + 1} column {mark.column + 1}" if mark else where
        raise UserError(f"not readable as YAML: {error.problem}", where=place, fix="correct that line") from None
    except yaml.YAMLError as error:
        raise UserError(f"not readable as YAML: {error}", where=where, fix="save the file as plain text") from None


def read(path: Path) -> Any:
    """The value of the YAML file `path`."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"not a text file ({error.reason})", where=str(path), fix="give a YAML recipe") from None
    return parse(text, str(path))

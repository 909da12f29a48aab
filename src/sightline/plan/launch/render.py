"""Scripts from templates; structured files dumped from values, with comments set above what they explain."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml


def script(template: str, **values: Any) -> str:
    """The shell script of `template` (a file of this folder); values go through the filter `sh` into it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sightline.plan.launch", "."),
        autoescape=False,  # shell, not HTML: every value is quoted by `sh`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["sh"] = lambda value: shlex.quote(str(value))
    return environment.get_template(template).render(**values)


class _Dumper(yaml.SafeDumper):
    """Lists indented under their keys, as clusters' own examples are, and texts of several lines as blocks."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def document(*values: Mapping[str, Any], head: Iterable[str] = (), notes: Mapping[str, str]) -> str:
    """YAML documents of `values`, one after another.

    Args:
        head: lines of comment at the top.
        notes: a key, or the name of a list's item -> a comment above it.
    """
    parts = [yaml.dump(dict(each), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110) for each in values]
    lines = list(_commented("---\n".join(parts).splitlines(), notes))
    return "\n".join([*(f"# {line}".rstrip() for line in head), *lines]) + "\n"


def _commented(lines: Iterable[str], notes: Mapping[str, str]) -> Iterator[str]:
    inside = -1  # the indentation of the key whose text is being passed over
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if inside >= 0 and (indent > inside or not line):
            yield line
            continue
        inside = indent if line.endswith(("|", "|-", "|+")) else -1
        entry = re.match(r"(?:- )?(?:name: (?P<name>\S+)$|(?P<key>[\w./-]+):)", line.lstrip())
        if entry and (why := notes.get(entry["name"] or entry["key"])):
            yield f"{' ' * indent}# {why}"
        yield line

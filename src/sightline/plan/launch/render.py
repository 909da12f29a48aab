"""Scripts from templates; structured files dumped from values, with comments set above what they explain."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from sightline.plan.launch.fabric import Setting


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


def document(
    *values: Mapping[str, Any],
    head: Iterable[str] = (),
    settings: Iterable[Setting] = (),
    notes: Mapping[str, str] = {},
) -> str:
    """YAML documents of `values`, one after another.

    Args:
        head: lines of comment at the top.
        settings: environment variables, the reason of each set above it.
        notes: key -> a comment above its line, wherever it stands.
    """
    told = {each.name: each.why for each in settings}
    parts = [yaml.dump(dict(each), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110) for each in values]
    lines = [_commented(line, told, notes) for line in "---\n".join(parts).splitlines()]
    return "\n".join([*(f"# {line}".rstrip() for line in head), *lines]) + "\n"


def _commented(line: str, settings: Mapping[str, str], notes: Mapping[str, str]) -> str:
    entry = re.match(r"( *)(?:- )?(?:name: )?([\w./-]+)(:|$)", line)
    if entry is None:
        return line
    named = re.match(r" *(?:- )?name: ", line) is not None
    why = settings.get(entry[2]) if named or entry[3] else None
    why = why or (notes.get(entry[2]) if not named else None)
    return f"{entry[1]}# {why}\n{line}" if why else line

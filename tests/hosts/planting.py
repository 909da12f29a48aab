"""Planted faults: scripts as users of a library write them, each with one fault that a flag plants or leaves out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import pytest
import torch

Script = Callable[..., torch.nn.Module]


def plants(code: str, *hosts: str, unsure: bool = False) -> Callable[[Script], Script]:
    """Marks a script with the check that must find its fault; docs/generate.py reads the marks for its table.

    `hosts`: where a fault of tests/hosts/shared is planted. `unsure`: in the clean twin the check has nothing to judge.
    """

    def mark(script: Script) -> Script:
        script.plants, script.hosts, script.unsure = code, hosts, unsure  # type: ignore[attr-defined]
        return script

    return mark


def planted(names: Mapping[str, Any], slow: Collection[str] = ()) -> list[Any]:
    """The marked scripts among a test module's ``globals()``; see `named`."""
    return named([value for value in names.values() if hasattr(value, "plants")], slow)


def named(scripts: Iterable[Any], slow: Collection[str] = ()) -> list[Any]:
    """Scripts as parameters with their names. `slow`: the codes of those that another host plants in a quick run."""
    return [
        pytest.param(
            script,
            id=f"{script.plants} {script.__name__.replace('_', ' ')}",
            marks=[pytest.mark.slow] if script.plants in slow else [],
        )
        for script in scripts
    ]


def told(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Code -> message of the findings, notes of settled checks aside (a check on trial speaks in notes)."""
    return {str(r["code"]): f"{r['severity']}: {r['message']}" for r in records if r["kind"] == "finding"}


def loud(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """The errors and warnings."""
    findings = [r for r in records if r["kind"] == "finding" and r["severity"] != "note"]
    return [f"{r['code']}: {r['message']} {r['evidence']}" for r in findings]


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two models hold the same values to the last bit."""
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)

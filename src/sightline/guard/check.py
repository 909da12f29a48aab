"""A check: one pure function from evidence to a finding or nothing. A finding: one fault, seen, with its fix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check saw.

    `check` (kebab name) and `code` are filled in by the catalogue; `find` gives the rest. `seen` holds the numbers
    that prove the fault, `fix` names the exact knob with the value it has and the value it should have.
    """

    severity: Severity
    message: str
    fix: str
    seen: Mapping[str, object] = field(default_factory=dict)
    step: int | None = None
    check: str = ""
    code: str = ""

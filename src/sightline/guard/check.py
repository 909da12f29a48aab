"""A check: one pure function from evidence to a finding or nothing. A finding: one fault, seen, with its fix.

How to write a check, in one file `guard/checks/<room>/<fault_name>.py` (room: where the fix is made):

1. Docstring: ``CODE · One sentence that names the fault.`` and the sections ``Symptom:``, ``Root cause:``, ``Fix:``,
   ``Stays silent when:`` and ``Sources:`` (one ``- url (date): what it shows`` a line). It is the check's page.
2. ``DOMAINS = ("vlm",)`` and every threshold as a named constant with the reason for its number.
3. ``def find(batch: BatchSeen, setup: Setup, loss: LossSeen | None = None) -> Verdict``: pure. Its parameter types are
   its needs (names from `guard/evidence/`); one that is ``| None = None`` is used when there. It is called whenever
   one of its needs is shown anew, and returns a `Finding`, ``None`` (looked, and all is well), or ``CannotTell(what)``
   when the evidence lacks what it needs: that is reported as "not run", never as passed.
4. ``def specimen(run, *, faulty: bool) -> None``: the shortest real torch loop that shows the fault, with exactly one
   ``if faulty``; it attaches by ``run.attach(...)`` (see `guard/specimen.py`).
5. ``ON_TRIAL = True`` while it has not yet stayed silent on the clean corpus: its findings are shown as notes.

Nothing else: the folder is the registry, and `tests/guard/test_checks.py` runs over every file in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check saw.

    `check` (kebab name) and `code` are filled in by the watch; `find` gives the rest. `seen` holds the numbers
    that prove the fault, `fix` names the exact knob with the value it has and the value it should have. Without a
    `step`, the evidence's own is used. A `late` one is told when the run is over, and may be `Withdrawn` till then.
    """

    severity: Severity
    message: str
    fix: str
    seen: Mapping[str, object] = field(default_factory=dict)
    step: int | None = None
    check: str = ""
    code: str = ""
    late: bool = False


@dataclass(frozen=True, slots=True)
class CannotTell:
    """The evidence was shown but lacks what the check needs. `missing` completes "not run: the run showed no ..."."""

    missing: str


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What the run went on to do shows that a late finding of this check was no fault."""


Verdict = Finding | CannotTell | Withdrawn | None

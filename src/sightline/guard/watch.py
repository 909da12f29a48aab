"""The watch: takes evidence as it comes, runs each check as soon as its needs are there, and keeps the verdicts.

It knows three things of every check: what it found (once, with the first step and a count), that it looked and found
nothing, or that it could not look and why. Silence for lack of evidence is never a pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from sightline.errors import UserError, nearest
from sightline.guard.catalogue import Check, Page, load, pages
from sightline.guard.check import CannotTell, Finding, Withdrawn
from sightline.guard.evidence import Evidence, History, MetricsHistory, MetricsSeen, Progress, Setup, StepSeen

EVERY = 16  # steps without measured parameters between two looks at the recent ones: trends do not show sooner
SHARE = 8  # of the known steps that must be new for another look: the more there are, the more a look costs
FIRST, LAST = 8, 24  # measured steps whose parameters are kept: where a run began, and where it is now
HISTORY = 512  # steps kept: long enough for trends over warm-up, small enough to hold every parameter's norms
BEFORE = 8  # steps kept from before: a new optimizer's first step comes before the set-up that has it
METRICS = 4096  # logged entries kept: a few numbers each

Kind = TypeVar("Kind")


class GuardError(UserError):
    """The run was stopped because of what the guard found."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        first = self.findings[0]
        super().__init__(first.message, where=f"{first.code} {first.check}", fix=first.fix)


@dataclass(slots=True)
class Verdicts:
    """What is known of one check so far."""

    page: Page
    passed: int = 0
    missing: str = ""  # what it lacked when it was shown evidence last: at first, much is still to come
    finding: Finding | None = None
    found: int = 0
    spent: float = 0.0  # seconds
    broken: str = ""  # by an error of its own


class Watch:
    """Runs checks on evidence.

    Args:
        checks: the checks to run; None: all of the catalogue.
        allow: check name or code -> reason: its findings are kept aside. A missing reason or unknown name is an error.
        on_finding: called with each new finding, once.
        on_fault: called with a check's name and its own error: that check is then left out. None: it is raised.
    """

    def __init__(
        self,
        checks: Sequence[Check] | None = None,
        *,
        allow: Mapping[str, str] | None = None,
        on_finding: Callable[[Finding], None] | None = None,
        on_fault: Callable[[str, Exception], None] | None = None,
    ) -> None:
        self._checks = tuple(load() if checks is None else checks)
        self._allow = _allowed(allow or {})
        self._on_finding, self._on_fault = on_finding, on_fault
        self._latest: dict[str, Evidence] = {}
        self._absent: dict[str, str] = {}
        self._takers = _takers(self._checks)
        self._steps: list[StepSeen] = []
        self._before: tuple[StepSeen, ...] = ()
        self._measured: list[StepSeen] = []
        self._unjudged = 0
        self._metrics: list[MetricsSeen] = []
        self._verdicts = {check.page.name: Verdicts(check.page) for check in self._checks}

    def offer(self, seen: Evidence) -> list[Finding]:
        """Show one piece of evidence; returns the findings that are new.

        A StepSeen brings a History with it (without measurements every 16th does, or fewer), a MetricsSeen a
        MetricsHistory.
        """
        late = self._look_back() if self._unjudged and isinstance(seen, Setup | Progress) else []
        if isinstance(seen, Setup):
            last = (replace(step, parameters=()) for step in self._steps[-BEFORE:])
            self._before = (*self._before, *last)[-BEFORE:]
            self._steps.clear()  # steps under another set-up prove nothing of this one
            self._measured.clear()
            self._latest.pop("History", None)
        new = [*late, *self._judge(seen)]
        if isinstance(seen, StepSeen):
            self._keep(seen)
            due = self._unjudged >= max(EVERY, len(self._steps) // SHARE)
            if seen.parameters or due or len(self._steps) <= EVERY:
                new += self._look_back()
        if isinstance(seen, MetricsSeen):
            self._metrics = [*self._metrics[-METRICS + 1 :], seen]
            new += self._judge(MetricsHistory(tuple(self._metrics)))
        return new

    def _keep(self, seen: StepSeen) -> None:
        """Remember a step, and forget what each parameter did in one between the first and the last."""
        self._unjudged += 1
        self._steps.append(seen)
        if not seen.parameters:
            return
        self._measured.append(seen)
        if len(self._measured) > FIRST + LAST:
            old = self._measured.pop(FIRST)
            place = next((n for n, step in enumerate(self._steps) if step is old), None)
            if place is not None:
                self._steps[place] = replace(old, parameters=())

    def _look_back(self) -> list[Finding]:
        """Judge the recent steps as a whole."""
        self._unjudged = 0
        del self._steps[:-HISTORY]
        return self._judge(History(tuple(self._steps), self._before))

    def settle(self) -> list[Finding]:
        """The run is over: late findings stand. Returns them."""
        late = [(v, v.finding) for v in self._verdicts.values() if v.finding is not None and v.finding.late]
        return [told for v, finding in late if (told := self._settled(v, replace(finding, late=False)))]

    def absent(self, kind: str, why: str) -> None:
        """Tell why evidence of a kind (e.g. "RoundTripSeen") cannot be had here; shown where a check is not run."""
        self._absent[kind] = why

    def latest(self, kind: type[Kind]) -> Kind | None:
        """The evidence of a kind that was shown last."""
        seen = self._latest.get(kind.__name__)
        return seen if isinstance(seen, kind) else None

    def wants(self, kind: str) -> bool:
        """Whether any check takes this kind of evidence (so that no probe runs for nobody)."""
        return any(kind in (*c.needs.values(), *c.uses.values()) for c in self._checks)

    def _judge(self, seen: Evidence) -> list[Finding]:
        kind = type(seen).__name__
        self._latest[kind] = seen
        new = []
        for check, takes in self._takers.get(kind, ()):
            if all(need in self._latest for need in check.needs.values()):
                given = {name: self._latest[need] for name, need in takes.items() if need in self._latest}
                new += self._run(check, given, getattr(seen, "step", None))
        return new

    def _run(self, check: Check, given: Mapping[str, Evidence], step: int | None) -> list[Finding]:
        verdicts = self._verdicts[check.page.name]
        if verdicts.broken:
            return []
        start = time.perf_counter()
        try:
            verdict = check.find(**given)
        except Exception as error:
            if self._on_fault is None:
                raise
            verdicts.broken = f"{type(error).__name__}: {error}"
            self._on_fault(check.page.name, error)
            return []
        verdicts.spent += time.perf_counter() - start
        if verdict is None:
            verdicts.passed += 1
            return []
        if isinstance(verdict, CannotTell):
            verdicts.missing = verdict.missing
            return []
        if isinstance(verdict, Withdrawn):
            if verdicts.finding is not None and verdicts.finding.late:
                verdicts.finding, verdicts.found, verdicts.passed = None, 0, verdicts.passed + 1
            return []
        verdicts.found += 1
        if verdicts.finding is not None and (verdict.late or not verdicts.finding.late):
            return []
        severity = "note" if check.page.on_trial else verdict.severity
        at = step if verdict.step is None else verdict.step
        finding = replace(verdict, check=check.page.name, code=check.page.code, step=at, severity=severity)
        told = self._settled(verdicts, finding)
        return [told] if told else []

    def _settled(self, verdicts: Verdicts, finding: Finding) -> Finding | None:
        """Keep it, and tell of it: not where it is allowed, nor yet where it may be withdrawn."""
        verdicts.finding = finding
        if verdicts.page.name in self._allow or finding.late:
            return None
        if self._on_finding:
            self._on_finding(finding)
        return finding

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found and not allowed, in the order of the checks' codes."""
        return tuple(v.finding for v in self._verdicts.values() if v.finding and v.page.name not in self._allow)

    def records(self) -> list[dict[str, object]]:
        """All verdicts as `findings.jsonl` holds them, one record a check: finding, allowed, passed or not-run."""
        return [self._record(verdicts) for verdicts in self._verdicts.values()]

    def _record(self, v: Verdicts) -> dict[str, object]:
        head: dict[str, object] = {"check": v.page.name, "code": v.page.code}
        if v.finding and (reason := self._allow.get(v.page.name)):
            return {"kind": "allowed", **head, "reason": reason, "message": v.finding.message}
        if f := v.finding:
            told = {"severity": f.severity, "message": f.message, "step": f.step, "times": v.found}
            return {"kind": "finding", **head, **told, "evidence": dict(f.seen), "fix": f.fix}
        if v.passed and not v.broken:
            return {"kind": "passed", **head, "claim": v.page.claim, "times": v.passed}
        return {"kind": "not-run", **head, "why": self._why(v)}

    def _why(self, v: Verdicts) -> str:
        """What a check that never looked was missing."""
        if v.broken:
            return f"an error of the check's own: {v.broken}"
        if v.missing:
            return f"the run showed no {v.missing}"
        gone = [need for need in v.page.needs or v.page.uses if need not in self._latest]
        return "; ".join(self._absent.get(kind, f"the run showed no {kind}") for kind in gone)


def _takers(checks: Sequence[Check]) -> dict[str, list[tuple[Check, dict[str, str]]]]:
    """Kind of evidence -> the checks that take it, each with all that it takes: name -> kind."""
    found: dict[str, list[tuple[Check, dict[str, str]]]] = {}
    for check in checks:
        takes = {**check.needs, **check.uses}
        for kind in dict.fromkeys(takes.values()):
            found.setdefault(kind, []).append((check, takes))
    return found


def _allowed(allow: Mapping[str, str]) -> dict[str, str]:
    """`allow` by check name. Raises UserError for an unknown check or an empty reason."""
    if not allow:
        return {}
    known = {key: p.name for p in pages() for key in (p.code.lower(), p.name, f"{p.code.lower()}-{p.name}")}
    for key, reason in allow.items():
        if key.lower() not in known:
            hint = nearest(key.lower(), [p.name for p in pages()])
            raise UserError(f"'{key}' is not a check", where="allow", fix=hint)
        if not reason.strip():
            raise UserError(f"'{key}' is allowed without a reason", where="allow", fix=f"allow: {{{key}: <why>}}")
    return {known[key.lower()]: reason for key, reason in allow.items()}

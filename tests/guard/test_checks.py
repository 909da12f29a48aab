"""One suite over every check file: complete page, caught, silent, not run when blind, cross-silence, no blind test."""

from __future__ import annotations

import ast
import dataclasses
import re
from functools import partial
from pathlib import Path

import pytest

import sightline
from sightline.guard import evidence
from sightline.guard.catalogue import Check, load
from sightline.guard.specimen import Run, play
from sightline.guard.watch import Watch

CHECKS = load()
every_check = pytest.mark.parametrize("check", CHECKS, ids=lambda c: f"{c.page.code}-{c.page.name}")


def test_codes_and_names_are_unique() -> None:
    for values in ([c.page.code for c in CHECKS], [c.page.name for c in CHECKS]):
        assert len(set(values)) == len(values)


@every_check
def test_page_is_complete(check: Check) -> None:
    page = check.page
    assert page.claim.endswith(".") and len(page.claim) < 120
    assert min(len(page.symptom), len(page.root_cause), len(page.fix), len(page.silent_when)) > 40
    assert len(page.sources) >= 2 and page.domains
    for source in page.sources:
        assert re.match(r"https?://\S+ \(\d{4}-\d{2}-\d{2}\): \S", source), f"not 'url (date): what it shows': {source}"
    for kind in (*page.needs, *page.uses):
        assert dataclasses.is_dataclass(getattr(evidence, kind)), f"{kind} is no kind of evidence"
    assert page.needs or page.uses


@every_check
def test_file_is_small_pure_and_has_one_if_faulty(check: Check) -> None:
    source = Path(check.page.path).read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert source.count("\n") <= 130
    specimen = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "specimen")
    tests = [n.test for n in ast.walk(specimen) if isinstance(n, ast.If | ast.IfExp)]
    assert sum("faulty" in ast.unparse(t) for t in tests) == 1, "a specimen has exactly one `if faulty`"
    uses = sum(isinstance(n, ast.Name) and n.id == "faulty" for n in ast.walk(specimen))
    assert uses == 1
    imported = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert not any(re.match(r"sightline\.(attach|train|models|data)|sightline\.guard\.probes", m) for m in imported)


@every_check
def test_faulty_specimen_is_caught_by_its_check(check: Check, specimen_run) -> None:
    found = [f for f in specimen_run(check, True).findings if f.check == check.page.name]
    assert len(found) == 1, specimen_run(check, True).kinds()
    assert found[0].code == check.page.code and found[0].message and found[0].fix and found[0].seen


@every_check
def test_clean_specimen_is_looked_at_and_silent(check: Check, specimen_run) -> None:
    assert specimen_run(check, False).kinds()[check.page.name] == "passed"


@every_check
def test_every_check_is_silent_on_this_clean_specimen(check: Check, specimen_run) -> None:
    assert specimen_run(check, False).findings == ()


@every_check
def test_without_evidence_it_is_not_run(check: Check) -> None:
    (record,) = Watch([check]).records()
    assert record["kind"] == "not-run" and record["why"]


@every_check
def test_hollow_evidence_is_never_a_pass(check: Check) -> None:
    """Evidence of the right kinds whose every optional field is None."""
    watch = Watch([check])
    for kind in dict.fromkeys((*check.needs.values(), *check.uses.values())):
        if (hollow := HOLLOW.get(kind)) is not None:
            watch.offer(hollow)
    (record,) = watch.records()
    assert record["kind"] == "not-run" and record["why"]


@every_check
def test_blinding_the_check_breaks_the_suite(check: Check, tmp_path: Path) -> None:
    blind = dataclasses.replace(check, find=lambda **_: None)
    run = play(check.specimen, partial(sightline.attach, checks=(blind,)), tmp_path, faulty=True)
    with pytest.raises(AssertionError):
        test_faulty_specimen_is_caught_by_its_check(check, lambda *_: run)


def test_a_finding_is_told_once_with_its_first_step(specimen_run) -> None:
    check = next(c for c in CHECKS if c.page.code == "T2")
    run: Run = specimen_run(check, True)
    (record,) = [r for r in run.attached[-1].records() if r["kind"] == "finding"]
    assert record["step"] == 2 and record["times"] == 2


HOLLOW = {
    "Setup": evidence.Setup(towers={}),
    "BatchSeen": evidence.BatchSeen(phase="train", step=0),
    "SignalsSeen": evidence.SignalsSeen(0, None, None, None, None),
    "LossSeen": evidence.LossSeen(0, 0, 0, None, 0.0, 0.0),
    "StepSeen": evidence.StepSeen(step=1),
    "History": evidence.History((evidence.StepSeen(step=1),)),
    "Progress": evidence.Progress(0, 0, 0, closed=False),
}  # answers of probes have no such fields: the probe ran, or there is no answer

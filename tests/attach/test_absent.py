"""Reasons in words: what a check lacks is never told by the name of a class."""

from __future__ import annotations

from sightline.attach.absent import ABSENT
from sightline.attach.loading import WHY as LOADING_WHY
from sightline.attach.replicas import WHY as RANKS_WHY
from sightline.guard.catalogue import pages


def test_every_kind_of_evidence_that_a_check_takes_has_words_for_its_absence() -> None:
    known = {**ABSENT, **LOADING_WHY, **RANKS_WHY}
    assert [(page.code, kind) for page in pages() for kind in (page.needs or page.uses) if kind not in known] == []

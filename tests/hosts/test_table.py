"""The table of docs/hosts.md says what is so."""

from __future__ import annotations

import pytest

from docs import generate
from sightline.guard import catalogue, evidence


@pytest.mark.parametrize("host", generate.HOSTS)
def test_what_a_door_says_is_about_checks_and_evidence_that_exist(host: str) -> None:
    codes = {page.code for page in catalogue.pages()}
    marks, reasons = generate.planted(host), generate.blind(host)
    assert marks <= codes
    assert all(key in codes or key in evidence.__all__ for key in reasons), reasons
    assert not [p.code for p in catalogue.pages() if p.code in marks and generate.why_not(p, reasons)]
    assert all(reason.strip() for reason in reasons.values())


def test_every_host_finds_what_was_planted_in_it() -> None:
    for host in set(generate.HOSTS) - {"torch_loop"}:
        assert len(generate.planted(host)) >= 4, host

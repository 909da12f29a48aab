"""Every check's specimens, run once each and shared by all tests of the suite."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import sightline
from sightline.guard.catalogue import Check
from sightline.guard.specimen import Run, play


@pytest.fixture(scope="session")
def specimen_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Check, bool], Run]:
    """(check, faulty) -> its closed run under the watch of all checks; each pair is run once a session."""
    done: dict[tuple[str, bool], Run] = {}

    def get(check: Check, faulty: bool) -> Run:
        key = (check.page.name, faulty)
        if key not in done:
            done[key] = play(check.specimen, sightline.attach, tmp_path_factory.mktemp("specimen"), faulty=faulty)
        return done[key]

    return get

"""Drawn rows and a tiny model for the trainer's tests."""

from __future__ import annotations

import pytest

from sightline.data.row import Row
from sightline.models.build import Built
from tests.train.tiny import drawn, fresh


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """See `drawn`."""
    return drawn(tmp_path_factory.mktemp("images"))


@pytest.fixture
def built(rows: list[Row]) -> Built:
    """The tiny model, new for each test."""
    return fresh(rows)

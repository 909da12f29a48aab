"""One real run that is well, for all tests to look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.train.run import train
from tests.doctor.planted import recipe, rows


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `rows`."""
    return rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="session")
def well(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which nothing is wrong. Read only."""
    return train(recipe(data), tmp_path_factory.mktemp("runs") / "well")

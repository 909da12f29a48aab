"""Pictures on disk and the folder of real data."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.data.row import ImageRef
from tests.data.made import picture

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture
def image_ref(tmp_path: Path):
    """A function that saves a picture and gives its reference."""

    def make(color: str = "red", size: tuple[int, int] = (24, 16)) -> ImageRef:
        path = tmp_path / f"{color}-{size[0]}x{size[1]}.png"
        picture(color, size).save(path)
        return ImageRef(str(path), path)

    return make


@pytest.fixture
def shared() -> Path:
    """The folder of real test data; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED

"""Run directories to report on, and one headless browser to look at the pages with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sightline.report.page import write_report
from tests.report.fake_run import VARIANTS, make_run

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIETLY = ("no-first-run", "disable-background-networking", "disable-component-update", "disable-sync")
ARGUMENTS = [f"--{name}" for name in ("no-sandbox", "disable-gpu", *QUIETLY)]


@pytest.fixture
def build_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a finished run directory in `tmp_path`; keyword arguments replace what is in its files."""

    def build(name: str = "run", **changes: Any) -> Path:
        return make_run(tmp_path / name, **changes)

    return build


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run directory of each kind, its page written: name -> folder. Read only."""
    root = tmp_path_factory.mktemp("runs")
    made = {name: build(root / name) for name, build in VARIANTS.items()}
    for folder in made.values():
        write_report(folder)
    return made


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, started once."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no Chromium on the path (looked for {', '.join(CHROMIUM)})")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield opened
        opened.close()

"""The pages of docs/ that are written from the source say what the source says now."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.generate import generated

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", ["checks.md", "hosts.md", "recipes.md", "recipe-keys.md"])
def test_page_is_up_to_date(name: str) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == generated()[name], f"docs/{name} is out of date: run `make docs`"


def test_every_generated_page_is_tested() -> None:
    marked = {
        page.name for page in DOCS.glob("*.md") if "written by docs/generate.py" in page.read_text(encoding="utf-8")
    }
    assert marked == set(generated())

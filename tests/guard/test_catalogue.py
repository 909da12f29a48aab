"""The catalogue reads pages without torch, finds them by code, name and word, and refuses incomplete ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sightline.errors import UserError
from sightline.guard.catalogue import page, pages, read_page, search

COMPLETE = '''"""Z9 · A fault that is easy to name.

Symptom: s
Root cause: r
Fix: f
Stays silent when: q
Sources:
- https://example.org (2026-01-01): shows
  it
"""
DOMAINS = ("any",)
def find(batch: BatchSeen, loss: LossSeen | None = None): ...
def specimen(run, *, faulty): ...
'''


def write(folder: Path, text: str) -> Path:
    path = folder / "data" / "some_fault.py"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    return path


def test_a_page_is_read_from_its_docstring_and_signature(tmp_path: Path) -> None:
    one = read_page(write(tmp_path, COMPLETE))
    assert (one.code, one.name, one.room) == ("Z9", "some-fault", "data")
    assert one.needs == ("BatchSeen",) and one.uses == ("LossSeen",)
    assert one.sources == ("https://example.org (2026-01-01): shows it",)
    assert not one.on_trial


@pytest.mark.parametrize("part", ["Symptom", "Root cause", "Fix", "Stays silent when", "Sources"])
def test_a_missing_section_is_named(tmp_path: Path, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        read_page(write(tmp_path, COMPLETE.replace(f"{part}:", "Other:")))


def test_search_is_by_code_by_name_and_by_word_whatever_the_case() -> None:
    assert [p.code for p in search("x4")] == ["X4"]
    assert [p.code for p in search("truncated-image-tokens")] == ["X4"]
    assert "X4" in [p.code for p in search("TRUNCATION")]
    assert search("no page says this") == ()


def test_an_unknown_check_gets_the_nearest_name() -> None:
    with pytest.raises(UserError, match="truncated-image-tokens"):
        page("truncated-image-token")


def test_pages_are_ordered_by_code() -> None:
    codes = [p.code for p in pages()]
    assert codes == sorted(codes, key=lambda c: (c.rstrip("0123456789"), int(c.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))))


def test_pages_need_no_torch() -> None:
    code = (
        "import sys, sightline; from sightline.guard.catalogue import pages, search; "
        "assert search('X4') and [p.text for p in pages()]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

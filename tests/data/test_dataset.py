"""read_rows: rows are kept by their fields where the recipe says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sightline.data.dataset import read_rows
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec


@pytest.fixture
def file(tmp_path: Path) -> str:
    kinds = ("color", "shape", "color", "count")
    rows = [{"question": f"q{i}", "answer": f"a{i}", "type": kind} for i, kind in enumerate(kinds)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_where_keeps_rows_by_field(file: str) -> None:
    spec = DataSpec(reader="table", path=file, where={"type": ["color", "count"]})
    assert [row.answer for row in read_rows(spec, "train").rows] == ["a0", "a2", "a3"]
    assert len(read_rows(DataSpec(reader="table", path=file), "train")) == 4


def test_the_limit_counts_what_is_kept(file: str) -> None:
    spec = DataSpec(reader="table", path=file, where={"type": ["color"]}, limit=2)
    assert [row.answer for row in read_rows(spec, "train").rows] == ["a0", "a2"]


@pytest.mark.parametrize(
    ("where", "told"),
    [({"typ": ["color"]}, "no row has a field 'typ'"), ({"type": ["colour"]}, "no row is as 'where' wants it")],
)
def test_a_condition_that_nothing_meets(file: str, where: dict[str, list[str]], told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_rows(DataSpec(reader="table", path=file, where=where), "train")

"""Run directories as crashes, copies and hands leave them: one error, or a note, each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sightline.doctor.examine import examine
from sightline.doctor.record import read_record
from sightline.errors import UserError


def test_there_is_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_record(tmp_path / "nothing")


def test_it_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        read_record(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        read_record(tmp_path / "file")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "is missing"), ("", "is empty"), ("{no json\n", "holds no line that can be read")],
    ids=["missing", "empty", "unreadable"],
)
def test_nothing_was_logged(well: Path, tmp_path: Path, content: str | None, says: str) -> None:
    run = shutil.copytree(well, tmp_path / "run")
    metrics = run / "metrics.jsonl"
    metrics.unlink() if content is None else metrics.write_text(content)
    with pytest.raises(UserError, match=f"metrics.jsonl {says}, so there is nothing to examine"):
        read_record(run)


def test_a_cut_line_and_broken_ones_are_counted(well: Path, tmp_path: Path) -> None:
    run = shutil.copytree(well, tmp_path / "run")
    metrics = run / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole.replace("\n", "\n[1, 2]\n{oops\n", 1) + whole.splitlines()[-1][:30])
    record = read_record(run)
    assert examine(record).wrong == () and len(record.stages[0].steps) == 60
    assert any("ends in a half-written line" in note for note in record.notes)
    assert any("2 lines are not a JSON object (first: line 2)" in note for note in record.notes)


def test_a_recipe_of_another_version_is_no_obstacle(well: Path, tmp_path: Path) -> None:
    run = shutil.copytree(well, tmp_path / "run")
    with (run / "recipe.yaml").open("a") as file:
        file.write("unknown_key: 1\n")
    found = examine(read_record(run))
    assert found.wrong == () and any("recipe.yaml cannot be read" in note for note in found.notes)

"""The examples in the pages are true: recipes validate, commands exist, overrides fit, Python parses."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from sightline.cli import app
from sightline.data.dataset import read_rows, reader_names
from sightline.recipe import load, shipped
from sightline.recipe.read import validate
from sightline.recipe.schema import DataSpec
from sightline.recipe.yaml_file import parse

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
FORMATS_PAGE = (ROOT / "docs" / "data-formats.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _blocks(language: str) -> list[Any]:
    return [
        pytest.param(text, id=f"{page.name}-{number}")
        for page in PAGES
        for number, (found, text) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
        if found == language
    ]


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """The complete example of docs/recipe.md, which pages quote parts of."""
    text = BLOCK.search((ROOT / "docs" / "recipe.md").read_text(encoding="utf-8"))
    assert text is not None
    return parse(text[2], "docs/recipe.md")


@pytest.mark.parametrize("text", _blocks("yaml"))
def test_yaml_is_a_recipe_or_a_part_of_one(text: str, whole: dict[str, Any]) -> None:
    given = parse(text, "example")
    recipe = {**whole, **given}
    named = {name for stage in recipe["stages"] for name in stage["data"]}
    sets = {name: {"reader": "llava", "path": "rows.json"} for name in named}
    recipe["data"] = {**sets, **recipe["data"]}
    if any("lora" in stage["learn"].values() for stage in recipe["stages"]):
        recipe["model"] = {"lora": {}, **recipe["model"]}
    assert validate(recipe, "example").name == recipe["name"]


@pytest.mark.parametrize("text", _blocks("bash"))
def test_command_is_one_that_sightline_has(text: str) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if "sightline" not in words:
            continue
        command, *rest = words[words.index("sightline") + 1 :]
        assert command in commands, line
        names = [word for word in rest if not word.startswith("-")]
        if command in ("train", "check") and names and names[0] in shipped():
            load(names[0], [word for word in names[1:] if "=" in word])


def test_the_shortened_quickstart_of_ci_is_a_recipe() -> None:
    (short,) = re.findall(r'^SHORT="(.*)"$', (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    recipe = load("quickstart", short.split())
    assert {stage.steps for stage in recipe.stages} == {3}


FORMATS = re.findall(r"^## `([\w-]+)`$.*?^```json\n(.*?)^```", FORMATS_PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("reader", "text"), FORMATS, ids=[reader for reader, _ in FORMATS])
def test_data_format_is_read(reader: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(text, encoding="utf-8")
    for name in re.findall(r"[\w-]+\.(?:jpg|png)", text):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    rows = read_rows(DataSpec(reader=reader, path=str(tmp_path / "rows.json")), "example")
    assert len(rows) == len(json.loads(text))


def test_every_text_format_has_an_example() -> None:
    assert [reader for reader, _ in FORMATS] == ["llava", "sharegpt", "messages", "alpaca", "table"]
    assert {reader for reader in reader_names() if f"`{reader}`" not in FORMATS_PAGE} == set()


@pytest.mark.parametrize("text", _blocks("python"))
def test_python_parses(text: str) -> None:
    assert ast.parse(text).body

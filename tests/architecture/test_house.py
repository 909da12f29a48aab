"""The house keeps its rules, and every rule is able to fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.architecture import rules

ROOT = Path(__file__).parents[2]
Rule = Callable[[Path], list[str]]

SRC_RULES: list[Rule] = [rules.one_way_imports, rules.no_circles, rules.small_files, rules.module_docstrings]
ROOT_RULES: list[Rule] = [rules.plain_names, rules.tests_mirror_src, rules.links_resolve, rules.no_machine_paths]


@pytest.mark.parametrize("rule", SRC_RULES, ids=lambda rule: rule.__name__)
def test_source_keeps(rule: Rule) -> None:
    broken = rule(ROOT / "src")
    assert not broken, "\n".join(["", rule.__doc__ or "", *broken])


@pytest.mark.parametrize("rule", ROOT_RULES, ids=lambda rule: rule.__name__)
def test_repository_keeps(rule: Rule) -> None:
    broken = rule(ROOT)
    assert not broken, "\n".join(["", rule.__doc__ or "", *broken])


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small tree that keeps every rule."""
    packages = ["", "data/", "guard/", "guard/checks/", "guard/checks/data/", "models/", "report/", "train/"]
    for name in (*(f"{package}__init__" for package in packages), "cli", "guard/watch"):
        _write(tmp_path, f"src/sightline/{name}.py", '"""One of the rooms."""\n')
    _write(tmp_path, "src/sightline/errors.py", '"""Errors."""\n')
    _write(tmp_path, "src/sightline/data/row.py", '"""Rows."""\nfrom sightline.errors import E\n')
    _write(tmp_path, "src/sightline/guard/checks/data/x.py", '"""A check."""\n')
    _write(tmp_path, "tests/data/test_row.py", "import sightline.data.row\n")
    links = "[the rows](src/sightline/data/row.py) and [above](#top-of-it), `src/sightline/errors.py`"
    _write(tmp_path, "README.md", f"# Top of it\n\nSee {links}.\n")
    return tmp_path


def _write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _broken(rule: Rule, house: Path) -> list[str]:
    return rule(house / "src" if rule in SRC_RULES else house)


@pytest.mark.parametrize("rule", SRC_RULES + ROOT_RULES, ids=lambda rule: rule.__name__)
def test_rule_is_silent_on_a_good_house(rule: Rule, house: Path) -> None:
    assert _broken(rule, house) == []


ROW = "src/sightline/data/row.py"  # the file that is made bad where a rule needs no other
CHECK = "src/sightline/guard/checks/data/x.py"
LONG_FUNCTION = '"""D."""\ndef f():\n' + "    x = 1\n" * rules.FUNCTION_LINES
BAD: list[tuple[Rule, str, str, str]] = [
    (rules.one_way_imports, ROW, '"""D."""\nimport sightline.train\n', "train"),
    (rules.one_way_imports, ROW, '"""D."""\ndef f():\n    from sightline.models import vlm\n', "models"),
    (rules.one_way_imports, ROW, '"""D."""\nfrom ..cli import app\n', "cli"),
    (rules.one_way_imports, ROW, '"""D."""\nfrom sightline import __version__\n', "'sightline'"),
    (
        rules.one_way_imports,
        "src/sightline/report/__init__.py",
        '"""D."""\nimport_module(f"sightline.train.{n}")\n',
        "train",
    ),
    (rules.one_way_imports, "src/sightline/guard/evidence.py", '"""D."""\nimport sightline.guard.watch\n', "watch"),
    (rules.one_way_imports, CHECK, '"""D."""\nimport sightline.data.row\n', "data"),
    (rules.one_way_imports, "src/sightline/attic.py", '"""D."""\n', "attic"),
    (
        rules.no_circles,
        "src/sightline/errors.py",
        '"""D."""\ndef f():\n    from sightline.data.row import R\n',
        "circle",
    ),
    (rules.small_files, ROW, "x = 1\n" * (rules.FILE_LINES + 1), "lines"),
    (rules.small_files, CHECK, "x = 1\n" * (rules.CHECK_LINES + 1), "lines"),
    (rules.small_files, ROW, LONG_FUNCTION, "f has"),
    (rules.module_docstrings, ROW, "x = 1\n", "docstring"),
    (rules.module_docstrings, "src/sightline/plan/x.py", '"""D."""\n', "__init__"),
    (rules.plain_names, "src/sightline/data/utils.py", '"""D."""\n', "utils"),
    (rules.plain_names, "tests/common/test_x.py", "", "common"),
    (rules.tests_mirror_src, "tests/attic/test_x.py", "", "attic"),
    (rules.links_resolve, "docs/a.md", "[gone](gone.md)\n", "gone.md"),
    (rules.links_resolve, "docs/a.md", "[gone](../README.md#nowhere)\n", "nowhere"),
    (rules.links_resolve, "docs/a.md", "Read `src/sightline/gone.py`.\n", "gone.py"),
    (rules.no_machine_paths, "docs/a.md", f"Open {Path('/', 'home', 'me', 'x')}.\n", "a.md:1"),
]
IDS = [f"{rule.__name__}-{number}" for number, (rule, *_) in enumerate(BAD)]


@pytest.mark.parametrize(("rule", "name", "text", "told"), BAD, ids=IDS)
def test_rule_sees_a_bad_house(rule: Rule, name: str, text: str, told: str, house: Path) -> None:
    _write(house, name, text)
    broken = _broken(rule, house)
    assert len(broken) == 1, broken
    assert told in broken[0]


def test_every_rule_has_a_bad_house() -> None:
    assert {rule for rule, *_ in BAD} == set(SRC_RULES + ROOT_RULES)

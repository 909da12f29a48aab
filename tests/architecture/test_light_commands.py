"""What only tells something starts at once: no command of these imports torch or another heavy library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.fake_run import make_run

HEAVY = ("torch", "transformers", "numpy", "plotly", "datasets", "PIL", "peft")  # typer itself takes pydantic
LISTED = """
import sys
from sightline.cli import app
try:
    app(sys.argv[1:], standalone_mode=False)
finally:
    print("LOADED", *(name for name in {heavy} if name in sys.modules))
"""


def _loaded(*arguments: str) -> list[str]:
    """The heavy libraries that `sightline ARGUMENTS` has imported when it ends."""
    script = LISTED.format(heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["recipes"],
        ["checks"],
        ["explain", "X4"],
        ["score", "vqa", "--help"],
        ["launch", "--help"],
    ],
    ids=" ".join,
)
def test_command_imports_nothing_heavy(arguments: list[str]) -> None:
    assert _loaded(*arguments) == []


def test_a_run_is_examined_without_torch(tmp_path: Path) -> None:
    assert _loaded("doctor", str(make_run(tmp_path / "run"))) == []


def _loaded_by(statement: str) -> list[str]:
    script = f"import sys; {statement}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert _loaded_by("import sightline; sightline.attach") == []


def test_a_heavy_import_is_seen() -> None:
    """The control."""
    assert _loaded_by("import sightline.data.images") == ["numpy", "PIL"]

"""help, version, recipes, checks, explain: instant, without torch, clean when piped."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sightline import __version__
from sightline.guard.catalogue import pages
from sightline.recipe.shipped import shipped

TELLING = [["--help"], ["--version"], ["recipes"], ["checks"], ["explain", "X4"]]
GENEROUS = 1.0  # processor seconds, which a busy machine hardly changes; about 0.2 are needed


@pytest.mark.parametrize("arguments", TELLING, ids=" ".join)
def test_instant_without_torch(arguments: list[str]) -> None:
    script = (
        "import sys, time\n"
        "from sightline.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'plotly', 'peft', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"assert time.process_time() < {GENEROUS}, time.process_time()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout and "\x1b" not in done.stdout


def test_version(call) -> None:
    assert call("--version").stdout == f"sightline {__version__}\n"


def test_recipes_lists_them_all(call) -> None:
    said = call("recipes").stdout
    for name, summary in shipped().items():
        assert name in said and summary in said


def test_checks_lists_them_all(call) -> None:
    said = call("checks").stdout
    for page in pages():
        assert page.code in said and page.name in said


def test_checks_of_a_word(call) -> None:
    said = call("checks", "TRUNCATED").stdout
    assert "truncated-image-tokens" in said
    assert "parameters-unmoved" not in said


@pytest.mark.parametrize("key", ["X4", "x4", "truncated-image-tokens", "truncated-image-tokens".upper()])
def test_explain_by_code_or_name(call, key: str) -> None:
    said = call("explain", key).stdout
    for part in ("X4 · truncated-image-tokens", "Symptom:", "Root cause:", "Fix:", "Sources:"):
        assert part in said


def test_explain_of_a_word_on_several_pages_lists_them(call) -> None:
    done = call("explain", "learn")
    assert done.exit_code == 0
    assert "pages have 'learn'" in done.stdout


@pytest.mark.parametrize("command", ["explain", "checks"])
def test_an_unknown_check(call, command: str) -> None:
    done = call(command, "truncated-image-tokenz")
    assert done.exit_code == 2
    assert "did you mean 'truncated-image-tokens'?" in done.stderr


def test_an_unknown_command(call) -> None:
    done = call("trian")
    assert done.exit_code == 2
    assert "No such command 'trian'" in done.stderr and "train" in done.stderr


def test_module_and_command_are_the_same(shell) -> None:
    assert shell("--help").stdout.startswith("Usage: sightline ")

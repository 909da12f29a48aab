"""The command `sightline run`: whose argument is whose, and what is no script at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.commands.run import ours_and_theirs


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        (["a.py", "--strict", "-h"], 0),
        (["--strict", "--findings", "f.json", "a.py", "--budget", "x"], 3),
        (["--findings=f.json", "a.py"], 1),
        (["-m", "pkg.mod", "--help", "--debug"], 2),
        (["--strict", "-m", "mod", "-m", "other"], 3),
        (["--budget", "5", "--debug"], 3),
        ([], 0),
    ],
    ids=str,
)
def test_the_scripts_arguments_are_its_own(given: list[str], ours: int) -> None:
    assert ours_and_theirs(given) == (given[:ours], given[ours:])


def test_joined_and_separated() -> None:
    assert ours_and_theirs(["-mmod", "-x"]) == (["-m", "mod"], ["-x"])
    assert ours_and_theirs(["--strict", "--", "-odd.py", "1"]) == (["--strict"], ["-odd.py", "1"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing.py"], "nothing.py: no such file"),
        (["."], ".: the script is a folder without __main__.py"),
        (["-m", "no_such.module"], "-m: no module named 'no_such.module'"),
        (["-m", "xml"], "'xml' is a package without __main__"),
        (["--budget", "0", "a.py"], "--budget: a budget of 0 % is impossible"),
        (["--budget", "much", "a.py"], "Invalid value for '--budget'"),
        (["--findings", "nowhere/f.json", "a.py"], "in a folder that does not exist"),
        ([], "no script was given"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(arguments: list[str], told: str, shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = shell("run", *arguments)
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert done.stdout == ""


def test_a_module_and_its_arguments(shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("print('package')\n")
    (package / "__main__.py").write_text("import sys\nprint(sys.argv[1:], __spec__.name, __package__, __name__)\n")
    done = shell("run", "-m", "package", "--debug", "--version")
    assert done.stdout.splitlines() == ["package", "['--debug', '--version'] package.__main__ package __main__"]
    assert done.returncode == 0, done.stderr

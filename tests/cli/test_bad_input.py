"""Bad input: one message that says what and where, exit status 2, no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def bad(done, *words: str) -> None:
    """`done` ended as bad input does, and said `words`."""
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ") and done.stderr.count("error: ") == 1
    assert "Traceback" not in done.output
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("command", ["train", "check"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["quickstrat"], ["no recipe is called 'quickstrat'", "did you mean 'quickstart'?"]),
        (["nowhere/my.yaml"], ["nowhere/my.yaml", "no such recipe file"]),
        (["quickstart", "sed=3"], ["sed: unknown key", "did you mean 'seed'?"]),
        (["quickstart", "stages.see.stesp=3"], ["stages.see.stesp: unknown key", "did you mean 'steps'?"]),
        (["quickstart", "stages.se.steps=3"], ["nothing here is called 'se'", "did you mean 'see'?"]),
        (["quickstart", "seed=many"], ["seed", "many"]),
        (["quickstart", "seed"], ["'seed' is not an override", "key=value"]),
        (["quickstart", "stages.see.learn={vision: none}"], ["stages.see", "trains nothing"]),
    ],
)
def test_recipes(call, command: str, arguments: list[str], words: list[str]) -> None:
    bad(call(command, *arguments), *words)


def test_train_without_a_recipe(call) -> None:
    bad(call("train"), "name a recipe", "sightline recipes")


def test_train_with_an_override_in_the_recipes_place(call) -> None:
    bad(call("train", "stages.see.steps=3"), "stands where the recipe's name belongs")


def test_resume_elsewhere(call, run: Path) -> None:
    bad(call("train", "--resume", run, "--out", run.parent / "other"), "--out", "leave --out away")


def test_resume_from_another_recipe(call, run: Path, recipe_file: Path) -> None:
    bad(call("train", recipe_file, "seed=5", "--resume", run), "another recipe", "seed")


def test_an_output_folder_in_use(call, recipe_file: Path) -> None:
    bad(call("train", recipe_file, "--out", recipe_file.parent), "there is something in this folder", "--out")


@pytest.mark.parametrize(
    "arguments", [["eval"], ["ask", "a.png", "what ?"], ["report"], ["doctor"], ["train", "--resume"]]
)
@pytest.mark.parametrize("exists", [True, False])
def test_not_a_run(call, tmp_path: Path, arguments: list[str], exists: bool) -> None:
    folder = tmp_path if exists else tmp_path / "nothing"
    command, *rest = arguments
    done = call(*arguments, folder) if command == "train" else call(command, folder, *rest)
    bad(done, str(folder), "run")


def test_a_run_without_a_checkpoint(call, run: Path) -> None:
    (run / "checkpoints" / "latest" / "model.safetensors").unlink()
    bad(call("eval", run), "no checkpoint 'latest'")


def test_a_run_with_nothing_to_evaluate(call, run: Path) -> None:
    path = run / "recipe.yaml"
    path.write_text(path.read_text().replace("data: test\n  gallery", "data: null\n  gallery"))
    bad(call("eval", run), "names no questions", "evaluate.data")


def test_ask_about_no_image(call, run: Path) -> None:
    bad(call("ask", run, run / "none.png", "is it red ?"), "none.png", "no such image file")


@pytest.mark.parametrize(
    ("content", "words"), [(None, ["test.json"]), ("[]", ["no rows"]), ("{not json", ["test.json"])]
)
def test_data_files(call, recipe_file: Path, content: str | None, words: list[str]) -> None:
    path = recipe_file.parent / "test.json"
    path.unlink() if content is None else path.write_text(content)
    bad(call("check", recipe_file), *words)


def test_a_broken_row_is_named(call, recipe_file: Path) -> None:
    path = recipe_file.parent / "test.json"
    rows = json.loads(path.read_text())
    rows[4]["images"] = ["missing.png"]
    path.write_text(json.dumps(rows))
    bad(call("check", recipe_file), "test.json row 5", "missing.png")


def test_debug_shows_the_traceback_too(call) -> None:
    for arguments in (["--debug", "check", "quickstrat"], ["check", "quickstrat", "--debug"]):
        done = call(*arguments)
        assert done.exit_code == 2
        assert "Traceback" in done.stderr and "error: no recipe is called 'quickstrat'" in done.stderr


def test_as_a_process(shell) -> None:
    done = shell("train", "quickstrat")
    assert done.returncode == 2
    assert done.stderr == "error: no recipe is called 'quickstrat'\n  fix: did you mean 'quickstart'?\n"
    assert done.stdout == ""


def test_a_full_disk_is_no_fault_of_the_program(call, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device", "runs/x/run.json")

    monkeypatch.setattr("sightline.commands.catalogue.recipes", full)
    bad(call("recipes"), "runs/x/run.json: No space left on device")


def test_an_interrupt(call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sightline.commands.catalogue.recipes", interrupted)
    done = call("recipes")
    assert done.exit_code == 130 and done.stderr == "error: interrupted\n"


def test_what_the_guard_found(call, monkeypatch: pytest.MonkeyPatch) -> None:
    from sightline import GuardError
    from sightline.guard.check import Finding

    finding = Finding("error", "12 placeholders are gone", "raise max_length", {"cut": 12}, None, "truncated-x", "X4")

    def stopped() -> None:
        raise GuardError([finding])

    monkeypatch.setattr("sightline.commands.catalogue.recipes", stopped)
    done = call("recipes")
    assert done.exit_code == 3
    for word in ("stopped by the guard", "12 placeholders are gone", "fix: raise max_length", "sightline explain X4"):
        assert word in done.stderr
    assert "Traceback" not in done.output


def test_a_fault_of_the_program_keeps_its_traceback(call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.commands.catalogue.recipes", lambda: 1 / 0)
    done = call("recipes")
    assert done.exit_code == 1 and isinstance(done.exception, ZeroDivisionError)

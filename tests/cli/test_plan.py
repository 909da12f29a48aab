"""`sightline plan`: what a recipe needs on so many GPUs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sightline.plan.memory import state_bytes
from sightline.recipe import load
from sightline.train.freeze import freeze
from tests.evaluate import tiny


def planned(call, recipe: object, *arguments: object) -> dict:
    done = call("plan", recipe, *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.slow
def test_state_on_one_gpu_is_that_of_the_real_model(call, recipe_file: Path) -> None:
    recipe = load(str(recipe_file))
    found = planned(call, recipe_file, "--tokens", 32)
    written = found["stages"][0]["as_written"]
    built = tiny.model(tiny.questions(tiny.pictures(recipe_file.parent)))
    freeze(built.model, recipe.stages[0])
    real = state_bytes(built.model)
    assert written["layout"] == "one" and written["fits"]
    assert written["towers"]["connector"]["weights"] == real["connector"].weights
    assert written["towers"]["vision"]["optimizer"] == real["vision"].optimizer
    assert written["bytes"]["activations"] > 0 and written["seconds"]["total"] > 0


@pytest.mark.slow
def test_weights_in_bf16_are_planned(call, recipe_file: Path) -> None:
    half = ("precision=bf16", "numbers.weights=bf16", "--tokens", 32)
    found = planned(call, recipe_file, "--gpus", 2, *half)
    states = {}
    for weights in ("fp32", "bf16"):
        stage = planned(call, recipe_file, "precision=bf16", f"numbers.weights={weights}", "--tokens", 32)["stages"][0]
        states[weights] = stage["as_written"]["bytes"]
    for kind in ("weights", "gradients"):
        assert 2 * states["bf16"][kind] == states["fp32"][kind]
    assert states["bf16"]["optimizer"] == states["fp32"]["optimizer"]
    options = found["stages"][0]["options"]
    assert {each["weights"] for each in options if not each["layout"].startswith("zero")} == {"bf16"}
    for each in options:  # the engine's weights have formats of its own, and the recipe is refused
        if each["layout"].startswith("zero"):
            assert each["weights"] == "fp32" and "numbers.weights=fp32" in each["set"]


@pytest.mark.slow
def test_two_gpus_are_ranked_and_priced(call, recipe_file: Path) -> None:
    done = call("plan", recipe_file, "--tokens", 32, "--gpus", 2, "--gpu", "t4-16gb", "--price", 0.5)
    assert done.exit_code == 0, done.output
    for word in ("ddp", "fsdp", "zero3", "$ / 1000 steps", "the fastest that fits", "MFU"):
        assert word in done.stdout, done.stdout
    assert done.stderr == ""


def test_bad_input_is_told_in_one_message(call, recipe_file: Path) -> None:
    for arguments, told in (
        (("--gpu", "h1000"), "no GPU is known as 'h1000'"),
        (("--link", "fast"), "'fast' is no bandwidth"),
        (("--gpus", 3), "not dealt evenly to 3 GPUs"),
        (("--tokens", 2), "no room for an image"),
        (("--gpu", "t4-16gb", "precision=bf16"), "no bf16"),
        (("precision=bf16", "numbers.weights=bf16", "parallel=zero2"), "'numbers.weights' are the engine's own"),
    ):
        done = call("plan", recipe_file, *arguments)
        assert done.exit_code == 2 and told in done.stderr, done.output
        assert "Traceback" not in done.output


def test_what_cannot_be_rehearsed_is_a_lower_bound(call) -> None:
    done = call("plan", "clip-small", "--gpus", 2)
    assert done.exit_code == 0, done.output
    assert "sums are lower bounds" in done.stdout and "the state fits in ddp, fsdp" in done.stdout
    assert "zero" not in done.stdout, "which the trainer refuses for losses over pairs"


@pytest.mark.slow
def test_what_fits_nowhere_says_by_how_much(call, recipe_file: Path, monkeypatch) -> None:
    from dataclasses import replace

    from sightline.plan.devices import GPUS

    monkeypatch.setitem(GPUS, "t4-16gb", replace(GPUS["t4-16gb"], memory=2**29))
    done = call("plan", recipe_file, "--tokens", 32, "--gpu", "t4-16gb")
    assert done.exit_code == 2
    assert "fits in no layout; one lacks" in done.stderr and "take larger GPUs, train adapters" in done.stderr

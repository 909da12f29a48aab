"""A sweep's settings expand into recipes."""

from __future__ import annotations

import pytest

from sightline.errors import UserError
from sightline.recipe.sweep import expand, split


def test_every_combination_over_seeds() -> None:
    runs = expand("quickstart", ["stages.see.lr=1e-3,2e-3", "stages.see.batch=8,16", "log_every=5"], seeds=3)
    assert [run.number for run in runs] == list(range(12))
    assert {(run.recipe.stages[0].lr, run.recipe.stages[0].batch, run.seed) for run in runs} == {
        (lr, batch, seed) for lr in (1e-3, 2e-3) for batch in (8, 16) for seed in (0, 1, 2)
    }
    assert runs[0].setting == {"stages.see.lr": "1e-3", "stages.see.batch": "8"}  # what does not vary is not told
    assert all(run.recipe.seed == run.seed and run.recipe.log_every == 5 for run in runs)


def test_a_swept_seed_is_told_as_the_seed() -> None:
    assert [(run.seed, run.setting) for run in expand("quickstart", ["seed=3,8"])] == [(3, {}), (8, {})]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2", ["1", "2"]),
        (
            "{vision: 1e-3, language: 1e-4},{vision: 0, language: 1}",
            ["{vision: 1e-3, language: 1e-4}", "{vision: 0, language: 1}"],
        ),
        ("[1, 2],[3]", ["[1, 2]", "[3]"]),
        ("'a,b', c", ["'a,b'", "c"]),
        ("one", ["one"]),
    ],
)
def test_commas_in_brackets_part_nothing(text: str, values: list[str]) -> None:
    assert split(text, f"key={text}") == values


@pytest.mark.parametrize(
    ("settings", "seeds", "told"),
    [
        (["stages.see.lr"], 1, "is no setting"),
        (["stages.see.lr=1e-3,"], 1, "empty value"),
        (["stages.see.lr={a: 1,2"], 1, "not closed"),
        (["seed=1,1"], 1, "a value twice"),
        (["seed=1", "seed=2"], 1, "comes twice"),
        (["seed=1,2"], 2, "swept already"),
        (["seed=1"], 0, "0 seeds are no run"),
        (["stages.see.lr=1,2"], 501, "1,002 runs are more than 1,000"),
        (["stages.see.learning_rate=1"], 1, "unknown key"),
        (["stages.see.lr=fast"], 1, "stages.see.lr"),
    ],
)
def test_bad_settings(settings: list[str], seeds: int, told: str) -> None:
    with pytest.raises(UserError, match=told):
        expand("quickstart", settings, seeds)

"""A sweep: one declaration, `key=value,value,...`, that expands into recipes, each over as many seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from sightline.errors import UserError
from sightline.recipe.read import load
from sightline.recipe.schema import Recipe

MOST = 1000  # runs: what Slurm takes as one array where a site has changed nothing (MaxArraySize 1001)
OPEN, CLOSE = "([{", ")]}"


@dataclass(frozen=True, slots=True)
class Swept:
    """One run of a sweep. `setting`: what was varied, seed left out; `overrides`: all that the recipe was given."""

    number: int
    setting: dict[str, str]
    seed: int
    overrides: tuple[str, ...]
    recipe: Recipe


def expand(name_or_path: str, settings: Sequence[str], seeds: int = 1) -> list[Swept]:
    """Every combination of the values in `settings`, each over `seeds` seeds that begin with the recipe's own.

    A value's commas inside brackets, braces or quotes do not part it. A key with one value is set in every run.

    Raises:
        UserError: a setting without '=' or with an empty value, a key that comes twice, a recipe that a combination
            makes invalid, more runs than a cluster takes.
    """
    if seeds < 1:
        raise UserError(f"{seeds} seeds are no run", where="--seeds", fix="give at least 1")
    values: dict[str, list[str]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            fix = "write key=value,value, e.g. stages.instruct.lr=1e-5,2e-5"
            raise UserError(f"'{setting}' is no setting", fix=fix)
        if key in values:
            raise UserError(f"'{key}' comes twice", fix="give all its values at once, parted by commas")
        values[key] = split(text, setting)
    if "seed" in values and seeds > 1:
        raise UserError("the seed is swept already", where="--seeds", fix="leave seed=... or --seeds away")
    count = seeds
    for each in values.values():
        count *= len(each)
    if count > MOST:
        raise UserError(f"{count:,} runs are more than {MOST:,}", fix="give fewer values or seeds, or several sweeps")
    first = load(name_or_path).seed
    varied = {key for key, each in values.items() if len(each) > 1}
    runs: list[Swept] = []
    for combination in product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        for seed in range(seeds):
            given = [f"{key}={value}" for key, value in chosen.items()]
            given += [f"seed={first + seed}"] if "seed" not in chosen else []
            recipe = load(name_or_path, given)
            told = {key: value for key, value in chosen.items() if key in varied and key != "seed"}
            runs.append(Swept(len(runs), told, recipe.seed, tuple(given), recipe))
    return runs


def split(text: str, setting: str) -> list[str]:
    """The values of a setting: `text` parted at commas that are not inside brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in OPEN:
            depth += 1
        elif character in CLOSE:
            depth -= 1
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    values = [part.strip() for part in parts]
    if depth or quote or not all(values):
        fix = "part values by single commas, and close brackets and quotes"
        raise UserError(f"'{setting}' has an empty value, or a bracket that is not closed", fix=fix)
    if len(set(values)) < len(values):
        raise UserError(f"'{setting}' has a value twice", fix="give each once; --seeds repeats a setting")
    return values

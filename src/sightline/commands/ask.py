"""`sightline ask`: one question about one image, the answer printed as it comes."""

from __future__ import annotations

import sys
from pathlib import Path

from sightline.commands.runs import open_run
from sightline.recipe.schema import Recipe
from sightline.serve.ask import ask as answer


def ask(folder: Path, recipe: Recipe, image: Path, question: str, tokens: int) -> None:
    """Print the answer of the run in `folder`."""
    run = open_run(folder, recipe)
    for piece in answer(run.built, image, question, max_new_tokens=tokens, precision=run.precision):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")

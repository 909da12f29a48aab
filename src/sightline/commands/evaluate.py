"""`sightline eval`: a trained run judged once more, and its report written anew."""

from __future__ import annotations

from pathlib import Path

from sightline.commands.runs import open_run
from sightline.commands.summary import describe
from sightline.commands.terminal import progress, say
from sightline.data.dataset import read_rows
from sightline.errors import UserError
from sightline.evaluate.run import evaluate as judge
from sightline.recipe.schema import Recipe
from sightline.report.page import write_report


def evaluate(folder: Path, recipe: Recipe, limit: int | None) -> None:
    """Answer the recipe's questions with the run's last weights; prints the accuracy beside its baselines."""
    name = recipe.evaluate.data
    if name is None:
        fix = "train with evaluate.data=NAME, one of the recipe's data sets"
        raise UserError("the run's recipe names no questions to be judged by", where="evaluate.data", fix=fix)
    run = open_run(folder, recipe)
    asked = read_rows(recipe.data[name], name).rows
    train_names = dict.fromkeys(each for stage in recipe.stages for each in stage.data)
    at_hand = [each for each in train_names if not recipe.data[each].stream]  # of a stream nothing is kept
    train_rows = [row for each in at_hand for row in read_rows(recipe.data[each], each).rows]
    with progress("answering questions") as tell:
        seen = judge(recipe, run.built, asked, train_rows, folder, tell, precision=run.precision, limit=limit)
    say(*describe(seen), f"report: {write_report(folder).resolve().as_uri()}")

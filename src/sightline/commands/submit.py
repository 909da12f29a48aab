"""`sightline eval RUN --submit FILE`: answers to a test split, as the server that judges them wants them."""

from __future__ import annotations

from pathlib import Path

from sightline.commands.runs import open_run
from sightline.commands.terminal import progress, say
from sightline.data.dataset import read_rows
from sightline.errors import UserError
from sightline.evaluate.answer import Answerer
from sightline.evaluate.submission import check, format_of, submit
from sightline.recipe.schema import Recipe


def hand_in(folder: Path, recipe: Recipe, file: Path, limit: int | None) -> None:
    """Answer every question of the recipe's `evaluate.data` with the run's last weights, and write them to `file`.

    Raises:
        UserError: no questions are named, not all of them would be asked, or `file` cannot be written.
    """
    name = recipe.evaluate.data
    if name is None:
        fix = "add evaluate.data=NAME, one of the recipe's data sets"
        raise UserError("the run's recipe names no questions to answer", where="evaluate.data", fix=fix)
    if limit is not None:
        raise UserError("a submission answers every question", where="--limit", fix="leave --limit away")
    if file.is_dir() or not file.absolute().parent.is_dir():
        what = "is a folder" if file.is_dir() else "is in a folder that does not exist"
        raise UserError(f"the file {what}", where=f"--submit {file}", fix="name a file in a folder that exists")
    spec = recipe.data[name]
    form = format_of(spec, name)
    rows = read_rows(spec, name).rows
    run = open_run(folder, recipe)
    settings = recipe.evaluate
    answerer = Answerer(
        run.built, batch=settings.batch, max_new_tokens=settings.max_new_tokens, precision=run.precision
    )
    done = 0
    with progress("answering questions") as tell:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            tell(done, len(rows))

        answers = answerer(rows, advance)
    submit(file, form, rows, answers)
    empty = check(file, form, (row.fields["question_id"] for row in rows))
    say(f"{len(rows):,} answers to {name}, each question once: {file}")
    if empty:
        say(f"{empty:,} of them are empty, which is wrong by every rule", style="yellow")

"""`sightline robust`: a trained run attacked, corrupted, reworded and contradicted, and its report written anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sightline.commands.runs import open_run
from sightline.commands.summary import percent
from sightline.commands.terminal import progress, say, table
from sightline.data.dataset import read_rows
from sightline.errors import UserError
from sightline.evaluate.robust.run import measure
from sightline.models.build import Built
from sightline.models.saved import load_run
from sightline.models.shards import is_checkpoint
from sightline.recipe.schema import Recipe
from sightline.report.page import write_report


def robust(folder: Path, recipe: Recipe, limit: int | None) -> None:
    """Measure how the run's last weights break, as `evaluate.robust` says; prints the curves and the checks."""
    name = recipe.evaluate.data
    if name is None:
        fix = "add evaluate.data=NAME, one of the recipe's data sets"
        raise UserError("the run's recipe names no questions to be attacked", where="evaluate.data", fix=fix)
    run = open_run(folder, recipe)
    rows = read_rows(recipe.data[name], name).rows
    foreign = _foreign(folder, recipe, run.built)
    with progress("attacking") as tell:
        found = measure(recipe, run.built, rows, folder, tell, precision=run.precision, limit=limit, foreign=foreign)
    _tell(found)
    say(f"report: {write_report(folder).resolve().as_uri()}")


def _foreign(folder: Path, recipe: Recipe, own: Built) -> tuple[Built, str] | str:
    """Another model for the transferred attack: the run that the recipe names, else this run's first checkpoint."""
    device = next(own.model.parameters()).device
    if (other := recipe.evaluate.robust.transfer) is not None:
        built = load_run(Path(other))
        built.model.to(device)
        return built, Path(other).name
    folders = {path.resolve() for path in folder.glob("checkpoints/[!.]*") if is_checkpoint(path)}
    kept = sorted(folders, key=lambda path: path.stat().st_mtime)
    if len(kept) < 2:
        return "the run holds one checkpoint; name another run in evaluate.robust.transfer"
    first = kept[0].name
    built = load_run(folder, first)
    built.model.to(device)
    return built, f"checkpoint {first}"


def _tell(found: dict[str, Any]) -> None:
    low, high = found["clean"]["interval"]
    part = f" of {found['of']:,}" if found["partial"] else ""
    say(
        f"untouched: {percent(found['clean']['accuracy'])} of {found['questions']:,}{part} questions of "
        f"{found['data']} (95 % interval {percent(low)} to {percent(high)})"
    )
    for curve in found["attacks"]:
        points = ", ".join(f"{_bound(curve, point)}: {percent(point['accuracy'])}" for point in curve["points"])
        say(f"  {curve['name']}  {points}")
    failed = [check for check in found["checks"] if check["passed"] is False]
    passed = sum(check["passed"] is True for check in found["checks"])
    missing = [check for check in found["checks"] if check["passed"] is None]
    say(f"  checks of the attacks: {passed} passed, {len(failed)} failed, {len(missing)} not made")
    for check in failed:
        say(f"    {check['attack']}, {check['check']}: {check['says']}")
    if corruptions := found["corruptions"]:
        columns = list(next(iter(corruptions["table"].values()))["severities"])
        lines = [
            [name, *(percent(line["severities"][each]["accuracy"]) for each in columns)]
            for name, line in corruptions["table"].items()
        ]
        table(["corruption, severity", *columns], lines, numbers=columns)
        say(f"  corrupted: {percent(corruptions['mean'])} on average")
    for name, words in found["words"].items():
        say(f"  {name}: {percent(words['accuracy'])}")
    for name, lie in found["contradiction"].items():
        if lie["questions"]:
            say(
                f"  {name} falsehood: {percent(lie['accuracy'])}, followed {percent(lie['followed']['accuracy'])} "
                f"(without it: {percent(lie['control']['accuracy'])}, {percent(lie['followed_unasked']['accuracy'])})"
            )


def _bound(curve: dict[str, Any], point: dict[str, Any]) -> str:
    epsilon = point["epsilon"]
    if curve["norm"] == "linf":
        return f"{epsilon * 255:.3g}/255"
    return f"{epsilon:.3g}" if curve["norm"] else percent(epsilon)

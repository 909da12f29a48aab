"""A whole run: recipe -> build -> stages -> evaluation -> export -> report, all of it in one run directory."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.data.dataset import Rows, read_rows
from sightline.errors import UserError
from sightline.evaluate.run import evaluate
from sightline.models.build import Built, build
from sightline.recipe.schema import Evaluate, Recipe
from sightline.train import checkpoint, directory
from sightline.train.checkpoint import Position
from sightline.train.clock import Clock
from sightline.train.directory import RunDirectory
from sightline.train.ending import TRACE, abandon, close
from sightline.train.facts import skipped_facts, stage_facts, starting_facts, stream_facts
from sightline.train.fp8 import multiply_in_fp8
from sightline.train.guarded import guarded
from sightline.train.interrupt import Interrupted, Interrupts, watched_signals
from sightline.train.loop import Surroundings, run_stage
from sightline.train.parallel.choose import layout_of
from sightline.train.parallel.layout import Layout
from sightline.train.parallel.presence import explaining, present
from sightline.train.parallel.ranks import Ranks, joined_ranks, limit_waiting
from sightline.train.parallel.verdict import RanksLost
from sightline.train.precision import Precision, pick_precision
from sightline.train.rounding import halve
from sightline.train.stage import SEED_STRIDE, ReadyStage, Tell, make_ready, seed_everything
from sightline.train.streamed import Shards, lanes_of, open_streams
from sightline.train.trackers import flat, open_trackers
from sightline.train.validate import check_markable

Listener = Callable[[dict[str, Any]], None]


def train(
    recipe: Recipe,
    out: Path | None = None,
    listen: Listener | None = None,
    tell: Tell | None = None,
    *,
    or_resume: bool = False,
) -> Path:
    """Train `recipe` into a new run directory (`out`, or runs/<name>-<time>) and return it.

    Args:
        listen: is told each event of metrics.jsonl as it is written.
        tell: is told of long work beside the steps: tell(what, total) -> advance(n).
        or_resume: go on with `out` where it is this recipe's run already: a job that is started anew, by whom ever. A
            run that is finished stays as it is.

    Raises:
        UserError: bad recipe or data, a folder in use. GuardError: a fault found before the first step.
        Interrupted: SIGINT or SIGTERM came; the run is saved.
    """
    with joined_ranks(recipe.device, recipe.parallel.timeout) as everyone:
        layout = layout_of(recipe.parallel, everyone)
        ranks = layout.ranks
        path = Path(ranks.share(str(out or directory.default_path(recipe))))
        # The main rank looks, and tells: on a network's file system others may not see for a while what it wrote.
        if saved := ranks.share(directory.recipe_text(path)) if or_resume else "":
            directory.check_same(recipe, saved, path)
            if ranks.share(directory.status(path)) == "finished":
                return path
        with directory.locked(path) if ranks.main else contextlib.nullcontext():
            run = RunDirectory(path)
            if ranks.main:
                run = directory.reopen(path) if saved else directory.start(path, recipe)
            _recorded(_Run(recipe, run, layout, listen or _deaf, tell or _silent))
    return path


def resume(path: Path, recipe: Recipe | None = None, listen: Listener | None = None, tell: Tell | None = None) -> Path:
    """Go on with the run in `path` from its last checkpoint (from its start, where there is none) and return it.

    Raises:
        UserError: not a run, started from another recipe (where `recipe` is given), or live.
    """
    saved = directory.saved_recipe(path, recipe)
    with joined_ranks(saved.device, saved.parallel.timeout) as everyone:
        layout = layout_of(saved.parallel, everyone)
        with directory.locked(path) if layout.ranks.main else contextlib.nullcontext():
            run = directory.reopen(path) if layout.ranks.main else RunDirectory(path)
            layout.ranks.barrier()
            _recorded(_Run(saved, run, layout, listen or _deaf, tell or _silent))
    return path


@dataclass(frozen=True, slots=True)
class _Run:
    """What every part of a run is handed on."""

    recipe: Recipe
    directory: RunDirectory
    layout: Layout
    listen: Listener
    tell: Tell

    @property
    def ranks(self) -> Ranks:
        """Those that are fed different rows."""
        return self.layout.ranks


def _recorded(run: _Run) -> None:
    """Run it, and write down how it ended, whatever happens; the report is written in any case."""
    clock = Clock(run.directory.facts.get("time"))
    if presence := present():
        presence.closes(run.directory.path, lambda error: abandon(run.directory, run.ranks, error))
        limit_waiting()  # by now the layout has made its groups
    with watched_signals() as interrupts:
        try:
            status, error, trace = "failed", None, None
            with explaining(interrupts.held):
                _run(run, clock, interrupts)
            status = "finished"
        except (Interrupted, KeyboardInterrupt):
            status = "interrupted"
            raise Interrupted(interrupts.number or 2) from None
        except Exception as failure:
            status = "stopped" if isinstance(failure, UserError) and not isinstance(failure, RanksLost) else "failed"
            error = str(failure) or type(failure).__name__
            trace = None if isinstance(failure, UserError) else traceback.format_exc()[-TRACE:]
            if isinstance(failure, RanksLost):
                abandon(run.directory, run.ranks, failure)
            raise
        finally:
            if run.ranks.main:
                close(run.directory, clock, status, error, trace)


def _run(run: _Run, clock: Clock, interrupts: Interrupts) -> None:
    recipe, ranks = run.recipe, run.ranks
    precision = pick_precision(recipe.precision, ranks.device, recipe.numbers)
    with clock.phase("setup"):
        streamed = {name: recipe.data[name] for name in _stage_data(recipe)}
        shards = open_streams(streamed, run.directory.path / "streams.json", ranks)
        for spec in recipe.stages:
            if shards.keys() & spec.data.keys():
                lanes_of(spec, ranks.world)  # now rather than when an earlier stage has been trained
        rows = _read(run, shards)
        seed_everything(recipe.seed)
        start = checkpoint.latest(run.directory.checkpoints)
        built = run.layout.at_home(lambda: _built(run, rows, shards, precision, start))
    position = checkpoint.read_position(start) if start else Position()
    if ranks.main:
        built.save_parts(run.directory.path / "encoder")
        run.directory.rewind(position.global_step)
        run.directory.record(**starting_facts(recipe, built.model, precision, ranks))
    with precision.at_work(), _surroundings(run, clock, interrupts) as around:
        if position.step == 0:  # stopped between two stages: the weights are still those that the first ended on
            _evaluate_after(run, position.stage - 1, built, rows, precision, clock)
        for index in range(position.stage, len(recipe.stages)):
            with clock.phase("setup"):
                stage = make_ready(recipe, index, built, rows, precision, run.layout, run.tell, shards)
            position = _one_stage(run, stage, position, start, around)
            _record_skipped(run, rows)
            _evaluate_after(run, index, built, rows, precision, clock)
    if ranks.main:
        _conclude(run, built, rows, precision, clock)
    ranks.barrier()


def _built(
    run: _Run, rows: dict[str, Rows], shards: Mapping[str, Shards], precision: Precision, start: Path | None
) -> Built:
    """The model, with the weights of the checkpoint `start` where there is one."""
    recipe = run.recipe
    learned = (shards[name].rows() if name in shards else rows[name].rows for name in _stage_data(recipe))
    texts = (turn.text for some in learned for row in some for turn in row.turns)
    chosen = dict.fromkeys(name for stage in recipe.stages if stage.objective == "answers" for name in stage.data)
    answered = (row for name in chosen for row in (shards[name].rows() if name in shards else rows[name].rows))
    built = build(recipe.model, seed=recipe.seed, texts=texts, answered=answered)
    if recipe.numbers.weights == "bf16":
        halve(built.model)
    if precision.kind == "fp8":
        multiply_in_fp8(built.model)
    if start and built.answers:
        built.answers.same_as_in(run.directory.path / "encoder")
    if start:
        checkpoint.load_weights(start, built.model)
    return built


def _one_stage(run: _Run, stage: ReadyStage, position: Position, start: Path | None, around: Surroundings) -> Position:
    seed_everything(run.recipe.seed + SEED_STRIDE * stage.index + run.ranks.rank)
    if position.step and start:  # in the middle of this stage: everything as it was
        position = checkpoint.load(start, stage.learner)
        if run.ranks.rank:  # the one saved state is the main rank's and its twins'; its window counts all ranks
            position = position.advanced(window_loss=0.0)
            seed_everything(run.recipe.seed + position.global_step + run.ranks.rank)
    if run.ranks.main and position.step == 0:  # told as of the stage's first step, so that going back there drops them
        run.directory.skip(stage.skipped, stage=stage.spec.name, global_step=position.global_step + 1)
    clock = Clock()
    with guarded(run.recipe, stage, run.directory) as guard, around.interrupts.held():
        after, ended = run_stage(stage, position, around, guard)
    if run.ranks.main:
        done = position.step + after.global_step - position.global_step
        facts = stage_facts(stage, clock.elapsed, ended, after.best) | stream_facts(stage, done)
        _record_stage(run.directory, facts, stage)
    if ended == "interrupted":
        raise Interrupted(around.interrupts.number or 15)
    return after


def _record_skipped(run: _Run, rows: dict[str, Rows]) -> None:
    """All that was left out so far: broken rows, rows over a stage's length limit, broken samples of streams."""
    if run.ranks.main:
        unread = [each for found in rows.values() for each in found.skipped]
        run.directory.record(**skipped_facts(unread + run.directory.skipped()))


def _record_stage(run: RunDirectory, facts: dict[str, Any], stage: ReadyStage) -> None:
    before = [each for each in run.facts.get("stages", []) if each["name"] != facts["name"]]
    earlier = [each for each in run.facts.get("stages", []) if each["name"] == facts["name"]]
    facts["seconds"] += sum(each["seconds"] for each in earlier)  # a resumed stage goes on counting
    run.record(stages=[*before, facts])


def _evaluate_after(
    run: _Run, index: int, built: Built, rows: dict[str, Rows], precision: Precision, clock: Clock
) -> None:
    """What the recipe asks at the end of stage `index`, where it was not answered before the run was stopped."""
    name = run.recipe.stages[index].name if index >= 0 else None
    folder = run.directory.path / f"after-{name}"
    if run.ranks.main and name in run.recipe.evaluate_after and not (folder / "evaluation.json").is_file():
        folder.mkdir(exist_ok=True)
        _evaluate(run, run.recipe.evaluate_after[name], folder, built, rows, precision, clock)
    run.ranks.barrier()  # here rather than in the next exchange, whose time is limited


def _evaluate(
    run: _Run, spec: Evaluate, folder: Path, built: Built, rows: dict[str, Rows], precision: Precision, clock: Clock
) -> None:
    """Ask what `spec` says, if anything, and write the answers into `folder`."""
    if spec.data is None:
        return
    recipe = run.recipe.model_copy(update={"evaluate": spec})
    # Of a stream nothing is kept: the majority answer is counted in the other training rows.
    train_rows = [row for name in _stage_data(recipe) if name in rows for row in rows[name].rows]
    with clock.phase("evaluation"):
        asked, advance = rows[spec.data].rows, _progress(run.tell)
        with run.layout.at_work(built.model):
            evaluate(recipe, built, asked, train_rows, folder, advance, precision=precision.name)


def _conclude(run: _Run, built: Built, rows: dict[str, Rows], precision: Precision, clock: Clock) -> None:
    """Evaluate and export the trained model."""
    path = run.directory.path
    _evaluate(run, run.recipe.evaluate, path, built, rows, precision, clock)
    with clock.phase("export"):
        how = built.model.save(path / "model")
        run.directory.record(export={"folder": "model", "how_to_load": how})


def _progress(tell: Tell) -> Callable[[int, int], None]:
    """Evaluation tells (done, total); the terminal wants steps."""
    state: dict[str, Any] = {"done": 0, "advance": None}

    def progress(done: int, total: int) -> None:
        state["advance"] = state["advance"] or tell("answering questions", total)
        state["advance"](done - state["done"])
        state["done"] = done

    return progress


def _read(run: _Run, shards: Mapping[str, Shards]) -> dict[str, Rows]:
    """The data sets at hand: those of stages, but for the streamed ones, and those that are asked or validated on."""
    recipe = run.recipe
    asked = (recipe.evaluate, *recipe.evaluate_after.values())
    held_out = [stage.validation for stage in recipe.stages]
    held_out += [name for each in asked for name in (each.validation, each.data)]
    wanted = dict.fromkeys([name for name in _stage_data(recipe) if name not in shards] + [n for n in held_out if n])
    rows = {name: read_rows(recipe.data[name], name) for name in wanted}
    _record_skipped(run, rows)
    check_markable(recipe, rows)
    return rows


def _stage_data(recipe: Recipe) -> list[str]:
    return list(dict.fromkeys(name for stage in recipe.stages for name in stage.data))


@contextlib.contextmanager
def _surroundings(run: _Run, clock: Clock, interrupts: Interrupts) -> Iterator[Surroundings]:
    recipe = run.recipe
    trackers = open_trackers(recipe, run.directory.path) if run.ranks.main else []

    def tell(event: dict[str, Any]) -> None:
        for tracker in trackers:
            tracker.log(dict(flat(event, f"{event['event']}/")), event["global_step"])
        run.listen(event)

    try:
        keep = recipe.checkpoints
        yield Surroundings(
            run.directory,
            clock,
            tell,
            interrupts,
            recipe.workers,
            recipe.log_every,
            keep.every,
            keep.keep,
            recipe.log_layers,
        )
    finally:
        for tracker in trackers:
            tracker.close()


def _deaf(event: dict[str, Any]) -> None:
    pass


def _silent(what: str, total: int) -> Callable[[int], None]:
    return lambda done: None

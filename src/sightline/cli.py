"""The command line: parses, calls, and turns errors into one message and an exit status.

Exit status: 0 done, 1 a fault of Sightline's own (with its traceback), 2 bad input, 3 stopped by the guard,
128 + n ended by signal n. What a command does is in `commands/`, imported when it is called.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from sightline import GuardError, UserError, __version__
from sightline.commands.cluster import app as cluster_app
from sightline.commands.score import app as score_app
from sightline.errors import Elsewhere, NotAScript
from sightline.guard.report import told

BAD_INPUT, GUARDED, INTERRUPTED = 2, 3, 128 + 2
NOT_OURS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}  # the disk's faults, not the program's


class Launch(Exception):
    """Raised by a command that hands the process over; `run` gives its exit status."""

    def __init__(self, run: Callable[[], int]) -> None:
        self.run = run


class Commands(TyperGroup):
    """The group of all commands: `--debug` may stand anywhere, and user errors end without a traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        theirs: list[str] = []
        if "run" in args[:2]:  # what follows the script is its own
            from sightline.commands.run import ours_and_theirs

            start = args.index("run") + 1
            ours, theirs = ours_and_theirs(args[start:])
            args = [*args[:start], *ours]
        if "--debug" in args:
            args = ["--debug", *(argument for argument in args if argument != "--debug")]
        return super().parse_args(ctx, [*args, *(["--", *theirs] if theirs else [])])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except Launch as launch:  # the command line is done, and leaves nothing behind for the script to see
            run = launch.run
        try:
            status = run()
        except NotAScript as error:
            _tell(str(error))
            status = BAD_INPUT
        sys.exit(status)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except GuardError as error:
            _end(ctx, "stopped by the guard\n" + "\n".join(map(told, error.findings)), GUARDED)
        except Elsewhere as error:
            if ctx.params.get("debug"):
                _tell(str(error))
            raise typer.Exit(BAD_INPUT) from None
        except UserError as error:
            _end(ctx, str(error), BAD_INPUT)
        except KeyboardInterrupt:
            _end(ctx, "interrupted", INTERRUPTED)
        except OSError as error:
            if error.errno not in NOT_OURS:
                raise
            _end(ctx, f"{error.filename or 'writing'}: {error.strerror}", BAD_INPUT)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help starts in half the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(score_app, name="score")
app.add_typer(cluster_app)  # launch and sweep

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe, e.g. stages.instruct.steps=50"),
]
Judging = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Other questions, e.g. evaluate.metric=zero-shot"),
]
RecipeName = Annotated[str, typer.Argument(help="A shipped recipe's name (see `sightline recipes`) or a YAML file")]
Run = Annotated[Path, typer.Argument(help="A run directory, e.g. runs/quickstart-20260101-120000")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sightline {__version__}")
        raise typer.Exit


@app.callback()
def main(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error too")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit")
    ] = False,
) -> None:
    """Train vision-language models from recipes, guarded against silent mistraining."""


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="A shipped recipe's name or a YAML file")] = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The new run directory [default: runs/<recipe>-<time>]")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with this run where it was saved")] = None,
    or_resume: Annotated[bool, typer.Option("--or-resume", help="Go on with --out if it is this run already")] = False,
) -> None:
    """Train a model, judge it, and write the report.

    `sightline train --resume RUN` goes on with an interrupted run; its recipe is in the run directory.
    """
    from sightline.commands.recipe import asked_for

    chosen = asked_for(recipe, overrides or [], out, resume, or_resume)
    if os.environ.get("WORLD_SIZE", "1") != "1":  # a lost rank is told in a sentence, not in frames of torch's own
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from sightline.commands import train as command

    raise typer.Exit(command.train(chosen, out, resume, or_resume))


@app.command()
def recipes() -> None:
    """List the recipes that come with Sightline."""
    from sightline.commands import catalogue

    catalogue.recipes()


@app.command()
def check(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Find out all that can be known before step 1: recipe, data, masks, token counts, freezing, memory."""
    from sightline.recipe import load

    chosen = load(recipe, overrides or [])
    from sightline.commands import check as command

    raise typer.Exit(command.check(chosen))


@app.command()
def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs of a node")] = 1,
    gpu: Annotated[str, typer.Option(metavar="NAME", help="What kind; an unknown name lists them")] = "h100-80gb",
    nodes: Annotated[int, typer.Option(min=1, help="Machines")] = 1,
    link: Annotated[str, typer.Option(help="What a machine's link to the others carries in one direction")] = "400Gbps",
    price: Annotated[float | None, typer.Option(min=0, metavar="USD", help="Of a GPU for an hour")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Of a row [default: the stage's max_length]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the plan as JSON")] = False,
) -> None:
    """Find out before a run what it needs on so many GPUs: memory, time, layouts that fit, what to set."""
    from sightline.recipe import load

    chosen = load(recipe, overrides or [])
    from sightline.commands import plan as command

    machines = command.Machines(gpu, gpus, nodes, link, price, tokens)
    raise typer.Exit(command.plan(chosen, machines, as_json))


@app.command("eval")
def evaluate(
    run: Run,
    overrides: Judging = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only so many questions")] = None,
    submit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the answers to a test split instead, for its server")
    ] = None,
) -> None:
    """Judge a trained run once more, as its recipe says or otherwise, and write its report anew."""
    from sightline.commands.recipe import of_run

    recipe = of_run(run, overrides or [])
    if submit is not None:
        from sightline.commands import submit as submitting

        submitting.hand_in(run, recipe, submit, limit)
        return
    from sightline.commands import evaluate as command

    command.evaluate(run, recipe, limit)


@app.command()
def robust(
    run: Run,
    overrides: Judging = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Attack only so many questions")] = None,
) -> None:
    """Find out how a trained run breaks: attacks, corruptions, changed words, contradictions."""
    from sightline.commands.recipe import of_run

    recipe = of_run(run, overrides or [])
    from sightline.commands import robust as command

    command.robust(run, recipe, limit)


@app.command()
def ask(
    run: Run,
    image: Annotated[Path, typer.Argument(help="An image file")],
    question: Annotated[str, typer.Argument(help='e.g. "What color is the shape?"')],
    tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens")] = 128,
) -> None:
    """Ask a trained run about an image; the answer is printed as it comes."""
    from sightline.commands.recipe import of_run

    recipe = of_run(run)
    from sightline.commands import ask as command

    command.ask(run, recipe, image, question, tokens)


@app.command()
def doctor(
    run: Run,
    as_json: Annotated[bool, typer.Option("--json", help="Write what was found as JSON")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 when something is wrong")] = False,
) -> None:
    """Say what is wrong with a run, finished, crashed or still running, and what to do about it."""
    from sightline.commands import doctor as command

    raise typer.Exit(command.doctor(run, as_json=as_json, strict=strict))


@app.command()
def report(run: Run) -> None:
    """Write the page of a run: report.html in its directory."""
    from sightline.commands import report as command

    command.report(run)


@app.command()
def run(
    script: Annotated[
        list[str] | None,
        typer.Argument(metavar="SCRIPT [ARGS]...", help="A Python script, and its own arguments", show_default=False),
    ] = None,
    module: Annotated[str | None, typer.Option("-m", metavar="MODULE", help="Run a module instead of a script")] = None,
    findings: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all verdicts to this JSON file")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 when an error was found")] = False,
    budget: Annotated[float, typer.Option(metavar="PERCENT", help="Of the step time that watching may cost")] = 2.0,
) -> None:
    """Run a training script as Python would, and say what is wrong with its training."""
    from sightline.commands.run import launch

    raise Launch(launch(script or [], module, findings, strict, budget))


@app.command()
def checks(word: Annotated[str | None, typer.Argument(help="Only checks whose page has this word")] = None) -> None:
    """List the guard's checks."""
    from sightline.commands import catalogue

    catalogue.checks(word)


@app.command()
def explain(
    check: Annotated[str, typer.Argument(metavar="CHECK|WORD", help="A check's code or name, or a word on its page")],
) -> None:
    """Show a check's page: symptom, root cause, fix, sources."""
    from sightline.commands import catalogue

    catalogue.explain(check)


def _end(ctx: Any, message: str, status: int) -> NoReturn:
    """Tell `message` on the error stream and exit with `status`."""
    if ctx.params.get("debug"):
        import traceback

        traceback.print_exc()
    _tell(message)
    raise typer.Exit(status)


def _tell(message: str) -> None:
    colour = sys.stderr.isatty()
    typer.echo(typer.style("error:", fg="red", bold=True) if colour else "error:", err=True, nl=False)
    typer.echo(f" {message}", err=True)

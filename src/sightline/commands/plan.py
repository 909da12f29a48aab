"""`sightline plan`: what a recipe needs on so many GPUs, before anything is downloaded or run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from sightline.commands.terminal import console, say, table
from sightline.errors import UserError
from sightline.models.build import build_meta
from sightline.models.composed import ComposedVLM
from sightline.models.vlm import VLM
from sightline.plan import choice
from sightline.plan.devices import Gpu, bandwidth, find
from sightline.plan.launch.job import check_batch
from sightline.plan.layouts import World
from sightline.plan.memory import StateBytes, human
from sightline.plan.sample import row_shape
from sightline.plan.savings import savings
from sightline.plan.stage import Option, StageOnGpus
from sightline.plan.tensor import Split
from sightline.recipe.override import apply
from sightline.recipe.read import validate
from sightline.recipe.schema import Optimizer, Recipe, Stage
from sightline.train.freeze import freeze
from sightline.train.objectives import objective_of
from sightline.train.parallel.tensor import cuts
from sightline.train.rounding import halve

DONE, BAD_INPUT = 0, 2
NUMBERS = "its forward pass looks at numbers, and a rehearsal has none"


@dataclass(frozen=True, slots=True)
class Machines:
    """What was asked for on the command line. `price`: US dollars a GPU-hour."""

    gpu: str
    gpus: int
    nodes: int
    link: str
    price: float | None
    tokens: int | None

    def world(self, gpu: Gpu) -> World:
        """The GPUs as a plan wants them."""
        return World(self.gpus, self.nodes, gpu.peers, bandwidth(self.link))


def plan(recipe: Recipe, machines: Machines, as_json: bool) -> int:
    """Print the plan of every stage; returns the exit status."""
    gpu = find(machines.gpu)
    world = machines.world(gpu)
    stages = []
    for stage in recipe.stages:
        with console(stderr=True).status(f"rehearsing {recipe.name}, {stage.name}"):
            found = on_gpus(recipe, stage, gpu, world, machines.tokens)
            stages.append((found, choice.as_written(found), choice.options(found)))
    if as_json:
        say(json.dumps(told(recipe, machines, gpu, stages), indent=2))
    else:
        each = f"{machines.nodes} x {machines.gpus}" if machines.nodes > 1 else str(machines.gpus)
        say(f"{recipe.name}: {recipe.summary}", f"on {each} {machines.gpu} ({human(round(gpu.memory))} each)", "")
        for found, written, options in stages:
            _show(found, written, options, machines)
    return DONE if all(any(option.fits for option in options) for _, _, options in stages) else BAD_INPUT


def on_gpus(recipe: Recipe, stage: Stage, gpu: Gpu, world: World, tokens: int | None) -> StageOnGpus:
    """`stage` made ready to be planned. Raises UserError for a batch that the GPUs do not divide."""
    check_batch(stage, recipe.parallel.sizes(world.size, world.each).data, world.size)

    def make() -> VLM:
        model = build_meta(recipe.model)
        if recipe.numbers.weights == "bf16":
            halve(model)
        freeze(model, stage)
        return model.train()

    half = recipe.precision in ("bf16", "fp16", "fp8", "auto")  # fp8: kept for the backward pass as bf16 is
    if recipe.precision == "bf16" and not gpu.bf16:
        raise UserError("this GPU multiplies no bf16 in hardware", where="precision", fix="set precision=fp16")
    model = make()
    loss, why_not = _loss(model, stage)
    head = recipe.model.compose.head if recipe.model.compose else None
    chosen = (head.answers or 1) if head and stage.objective == "answers" else 0
    shape = row_shape(model, stage.max_length, tokens, chosen) if loss and isinstance(model, ComposedVLM) else None
    found = StageOnGpus(stage, world, gpu, half, make, shape, loss, why_not, recipe.parallel, cuts)
    lines = _to_other(recipe)
    other = _changed(recipe, lines) if gpu.bf16 else None
    if other is not None:
        apart, own = other, next(each for each in other.stages if each.name == stage.name)
        found = replace(found, other=lambda: on_gpus(apart, own, gpu, world, tokens), to_other=lines)
    return replace(found, held=recipe.numbers.weights)


def _to_other(recipe: Recipe) -> tuple[str, ...]:
    """What to set so that weights are held in the other format."""
    if recipe.numbers.weights == "fp32":
        return (*(["precision=bf16"] if recipe.precision == "auto" else []), "numbers.weights=bf16")
    usual = Optimizer().rounding
    rounded = [each.name for each in recipe.stages if each.optimizer.rounding != usual]
    return ("numbers.weights=fp32", *(f"stages.{name}.optimizer.rounding={usual}" for name in rounded))


def _changed(recipe: Recipe, lines: Sequence[str]) -> Recipe | None:
    """`recipe` with `lines` set, by ranks that hold whole weights; None: its other words do not go with them."""
    apart = ["parallel=ddp"] if recipe.parallel.kind.startswith("zero") else []
    try:
        return validate(apply(recipe.model_dump(mode="json"), [*apart, *lines]), recipe.name)
    except UserError:
        return None


def _loss(model: VLM, stage: Stage) -> tuple[Callable[[VLM, Any], Tensor] | None, str]:
    objective: Any = objective_of(stage)
    if isinstance(stage.objective, dict):
        return None, "its losses compare pairs of a whole step"
    if not isinstance(model, ComposedVLM):
        return None, "what an adopted model is given depends on its processor, which is not read"
    if stage.adversarial is not None:
        return None, "it attacks its pictures first"
    return (lambda model, batch: objective.loss(model, batch)[0]), ""


def _show(found: StageOnGpus, written: Option, options: list[Option], machines: Machines) -> None:
    stage, shape = found.stage, found.shape
    say(f"stage {stage.name}: batch {stage.batch}, {found.weights.learning:,} of {found.weights.all:,} weights learn")
    if shape is not None:
        image = f"an image is {shape.patches} patches and {shape.image_tokens} tokens"
        say(f"  rows of {shape.tokens} tokens, {shape.supervised} of them supervised; {image}")
    if not found.rehearsable:
        why = found.why_not or NUMBERS
        say(f"  activations are not counted: {why}; sums are lower bounds", style="yellow")
    rows = []
    for tower, state in written.state.items():
        kinds = (state.weights, state.gradients, state.optimizer, state.total)
        rows.append((tower, *map(human, kinds)))
    whose = "each GPU of the fullest stage" if written.split.pipeline > 1 else "each GPU"
    say("", f"  as the recipe says ({written.name}), on {whose}:")
    table(("tower", "weights", "gradients", "optimizer", "state"), rows, numbers=("weights", "gradients", "state"))
    say("")
    _options(options, machines)
    _verdict(found, written, options, machines)
    say(*(f"  {each.told}" for each in savings(found, written)))
    say("")


def _options(options: list[Option], machines: Machines) -> None:
    columns = ["layout", "recompute", "micro-batch", "state", "activations", "passing", "in all", "room", "largest"]
    columns += ["step", "exposed", "MFU", *(["$ / 1000 steps"] if machines.price else [])]
    rows = []
    for each in options:
        state = human(sum(one.total for one in each.state.values()))
        acts = human(round(each.activations)) if each.activations is not None else "?"
        room = human(round(each.room)) if each.fits else f"-{human(round(-each.room))}"
        row = [each.name, "yes" if each.checkpointing else "no", f"{each.micro} x {each.times}", state, acts]
        row += [human(round(each.passing)), human(round(each.total)), room]
        row += ["?" if each.largest is None else f"{each.largest:,}"]
        row += _seconds(each, machines)
        rows.append(row)
    table(columns, rows, numbers=columns[2:])


def _seconds(option: Option, machines: Machines) -> list[str]:
    priced = [""] if machines.price else []
    if option.time is None:
        return ["?", "?", "?", *priced]
    if not option.fits:
        return ["-", "-", "-", *priced]
    if machines.price:
        priced = [f"{dollars(option, machines):,.2f}"]
    return [f"{option.time.total:.3f} s", f"{option.time.exposed:.3f} s", f"{option.time.mfu:.0%}", *priced]


def dollars(option: Option, machines: Machines, steps: int = 1000) -> float:
    """US dollars of so many steps."""
    assert option.time is not None and machines.price is not None
    return steps * option.time.total / 3600 * machines.price * machines.gpus * machines.nodes


def _verdict(found: StageOnGpus, written: Option, options: list[Option], machines: Machines) -> None:
    if not written.fits:
        lack = human(round(-written.room))
        say(f"  as the recipe says, it does not fit: {lack} too much on each GPU", style="yellow")
    best = options[0]
    if not best.fits:
        least = max(options, key=lambda each: each.room)
        lack = human(round(-least.room))
        say(f"error: stage {found.stage.name} fits in no layout; {least.name} lacks {lack}", style="red", stderr=True)
        enough = choice.enough(found)
        more = f"{enough} of these GPUs (fsdp, one row at a time, recomputed)" if enough else "larger GPUs"
        say(f"  fix: take {more}, train adapters (model.lora), or freeze more", stderr=True)
        return
    if cheapest := cheapest_change(found, written, options):
        say(f"  the smallest change that fits: {', '.join(changes(found, cheapest))}")
    told = ", ".join(changes(found, best)) or "the recipe as it is"
    if best.time is None:
        fitting = ", ".join(option.name for option in options if option.fits)
        say(f"  the state fits in {fitting}; which of them is fastest is not told without a rehearsal")
        return
    say(f"  the fastest that fits: {told}{_duration(found, best, machines)}")


def _duration(found: StageOnGpus, option: Option, machines: Machines) -> str:
    """How long the stage takes, where the recipe tells its steps."""
    if option.time is None or found.stage.steps is None:
        return ""
    hours = found.stage.steps * option.time.total / 3600
    priced = f", {dollars(option, machines, found.stage.steps):,.2f} $" if machines.price else ""
    return f"; {found.stage.steps:,} steps in {hours:.2g} h{priced}"


def cheapest_change(found: StageOnGpus, written: Option, options: list[Option]) -> Option | None:
    """Where the recipe as written does not fit, what does with the fewest changes; of equals the fastest."""
    if written.fits or not any(each.fits for each in options):
        return None
    engine = [each.name != written.name for each in options]  # another engine is a change on its own
    weighed = [(len(changes(found, each)) + engine[place], place) for place, each in enumerate(options) if each.fits]
    return options[min(weighed)[1]]


def changes(found: StageOnGpus, option: Option) -> list[str]:
    """What to set in the recipe for `option`."""
    where, told = f"stages.{found.stage.name}", []
    parallel, told_now = found.parallel, (option.layout, option.split, option.offload)
    if told_now != (parallel.kind, Split(parallel.tensor, parallel.pipeline), parallel.offload):
        told += parallel_line(option, parallel.gather)
    told += found.to_other if option.weights != found.held else ()
    if option.checkpointing != found.stage.gradient_checkpointing:
        told.append(f"{where}.gradient_checkpointing={str(option.checkpointing).lower()}")
    if option.micro != found.stage.micro_batch and not (option.times == 1 and found.stage.micro_batch is None):
        told.append(f"{where}.micro_batch={option.micro}")
    return told


def parallel_line(option: Option, gather: str) -> list[str]:
    """The recipe's line for the layout of `option`; one GPU needs none."""
    if option.layout == "one":
        return []
    sizes = {"tensor": option.split.tensor, "pipeline": option.split.pipeline}
    parts = [f"{name}: {size}" for name, size in sizes.items() if size > 1]
    parts += [f"offload: {option.offload}"] if option.offload != "none" else []
    if option.layout in ("fsdp", "hybrid"):
        parts += ["frozen: shard"] if option.frozen == "shard" else []
        parts += [f"gather: {gather}"] if gather != "fp32" else []
    return [f"parallel={{kind: {', '.join([option.layout, *parts])}}}" if parts else f"parallel={option.layout}"]


def told(recipe: Recipe, machines: Machines, gpu: Gpu, stages: list[Any]) -> dict[str, Any]:
    """The plan as data."""
    return {
        "recipe": recipe.name,
        "machines": asdict(machines) | {"memory": gpu.memory, "source": gpu.source},
        "stages": [
            {
                "stage": found.stage.name,
                "weights": asdict(found.weights),
                "rows": asdict(found.shape) if found.shape else None,
                "not_rehearsed": None if found.rehearsable else found.why_not or NUMBERS,
                "as_written": _as_data(found, written, machines),
                "savings": [asdict(each) for each in savings(found, written)],
                "options": [_as_data(found, each, machines) for each in options],
            }
            for found, written, options in stages
        ],
    }


def _as_data(found: StageOnGpus, option: Option, machines: Machines) -> dict[str, Any]:
    total = sum(option.state.values(), StateBytes())
    time = option.time
    priced = machines.price is not None and time is not None
    return {
        "layout": option.layout,
        "tensor": option.split.tensor,
        "pipeline": option.split.pipeline,
        "offload": option.offload,
        "weights": option.weights,
        "bubble": option.bubble,
        "gradient_checkpointing": option.checkpointing,
        "micro_batch": option.micro,
        "micro_batches": option.times,
        "bytes": {
            **asdict(total),
            "activations": option.activations,
            "passing": option.passing,
            "overhead": option.overhead,
            "total": option.total,
            "room": option.room,
            "host": option.host,
        },
        "towers": {tower: asdict(state) for tower, state in option.state.items()},
        "fits": option.fits,
        "largest_micro_batch": option.largest,
        "seconds": asdict(time) | {"total": time.total} if time else None,
        "dollars_per_1000_steps": dollars(option, machines) if priced else None,
        "set": changes(found, option),
    }

"""Simulated scaling of LLaVA 7B, 34B and 70B from 8 to 4,096 GPUs, by the planner; nothing is run.

    python benchmarks/scaling_sim.py [--plot] [--gpu h100-80gb] [--link 3.2Tbps] [--most 4096]

Writes scaling_sim.md; with --plot also scaling_sim.svg. Each model is rehearsed once on fake tensors; for each number
of GPUs sharded layouts are weighed (tensor and pipeline ranks too, where those wait), and the fastest that fits is
taken. First, the same planner is asked of runs that others have published: its errors there are the errors here, at
best.

What is assumed, beside what docs/plan.md says of the planner: machines of eight GPUs, joined by one adapter of 400 Gbps
for each GPU, without congestion; equal machines, none of which fails or is late; data that is always there. A vision
tower that is frozen (CLIP L/14 at 336, 576 patches), a connector and a language tower that learn (Llama-2 7B, Yi 34B,
Llama-2 70B), rows of 2,048 tokens with one image, blocks computed again, AdamW with fp32 masters, bf16. Pipeline stages
stand beside sharded data ranks here, which `sightline train` does not run: it has whole copies of each stage.
"""

from __future__ import annotations

import argparse
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sightline.commands.plan import on_gpus
from sightline.errors import UserError
from sightline.plan.choice import split_options
from sightline.plan.devices import Gpu, bandwidth, find
from sightline.plan.layouts import Layout, World
from sightline.plan.stage import Option, StageOnGpus
from sightline.recipe.read import validate
from sightline.recipe.schema import Recipe

HERE = Path(__file__).parent
PAGE, PLOT = HERE / "scaling_sim.md", HERE / "scaling_sim.svg"
SIZES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
TOKENS, ROWS = 2048, 4  # of a row; rows a GPU and step where the batch grows with the GPUs
WAITS = 0.02  # share of a step: where sharded ranks wait longer, tensor and pipeline ranks are weighed too
STRONG = 2048  # rows of the batch that does not grow
PLAIN: tuple[Layout, ...] = ("fsdp", "hybrid")

Words = dict[str, Any]
CLIP: Words = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
CLIP |= {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
DOT: Words = CLIP | {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
DOT |= {"image_size": 28}  # next to nothing: where a language model alone was measured


def llama(width: int, wide: int, depth: int, heads: int, keys: int, words: int) -> Words:
    told = {"model_type": "llama", "hidden_size": width, "intermediate_size": wide, "num_hidden_layers": depth}
    told |= {"num_attention_heads": heads, "num_key_value_heads": keys, "vocab_size": words}
    return told | {"max_position_embeddings": 8192}


LANGUAGE: dict[str, Words] = {
    "7B": llama(4096, 11008, 32, 32, 32, 32000),
    "13B": llama(5120, 13824, 40, 40, 40, 32000),
    "34B": llama(7168, 20480, 60, 56, 8, 64000),
    "70B": llama(8192, 28672, 80, 64, 8, 32000),
    "Llama 3 8B": llama(4096, 14336, 32, 32, 8, 128256),
    "Llama 3 70B": llama(8192, 28672, 80, 64, 8, 128256),
}


def recipe(name: str, *, batch: int, micro: int, learns: bool = True, again: bool = True, seen: Words = CLIP) -> Recipe:
    """A LLaVA of that language tower; `again`: blocks are computed again."""
    learn = {"connector": "all"} | ({"language": "all"} if learns else {})
    stage: Words = {"name": "learn", "data": {"rows": 1.0}, "learn": learn, "lr": 1e-5, "steps": 1, "batch": batch}
    stage |= {"micro_batch": micro, "max_length": 8192, "gradient_checkpointing": again}
    content: Words = {
        "name": f"llava-{name}",
        "summary": "for a plan",
        "model": {
            "compose": {
                "vision": {"config": seen, "layer": -2 if seen is CLIP else -1},
                "connector": {"kind": "mlp"},
                "language": {"config": LANGUAGE[name]},
            }
        },
        "data": {"rows": {"reader": "llava", "path": "rows.json"}},
        "stages": [stage],
        "precision": "bf16",
        "parallel": {"kind": "fsdp", "gather": "bf16", "frozen": "shard"},
    }
    return validate(content, name)


def planned(made: Recipe, gpu: Gpu, nodes: int, link: float, tokens: int) -> StageOnGpus:
    """Its stage on machines of eight."""
    return on_gpus(made, made.stages[0], gpu, World(8, nodes, gpu.peers, link), tokens)


REHEARSED: dict[str, StageOnGpus] = {}  # what is rehearsed is the same on any number of GPUs


# --- published runs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Published:
    """A run that somebody measured. `value`: tokens a second and GPU, or hours (of `rows` rows)."""

    what: str
    value: float
    source: str
    unit: str
    model: str
    gpu: str
    nodes: int
    layout: Layout
    micro: int
    tokens: int
    again: bool
    hbm: float | None = None  # bytes a second, where that GPU is not the usual one
    vlm: bool = False
    learns: bool = True
    batch: int = 0
    rows: int = 0


TITAN: Words = {"source": "torchtitan, benchmarks, 2024-12", "unit": "tokens/s/GPU", "model": "Llama 3 8B", "nodes": 1}
TITAN |= {"gpu": "h100-80gb", "layout": "fsdp", "micro": 2, "tokens": 8192, "again": True, "hbm": 2.4e12}
OLDER: Words = TITAN | {"source": "torchtitan, docs/performance.md, 2024", "gpu": "a100-80gb", "nodes": 8, "hbm": None}
OLDER |= {"micro": 1}
ALIGN: Words = {"source": "LLaVA, README", "unit": "h", "gpu": "a100-80gb", "nodes": 1, "layout": "zero2", "micro": 32}
ALIGN |= {"tokens": 640, "again": True, "vlm": True, "learns": False, "batch": 256, "rows": 558_000}
INSTRUCT: Words = ALIGN | {"layout": "zero3", "micro": 16, "tokens": 900, "learns": True, "batch": 128, "rows": 665_000}
RUNS = (
    Published("Llama 3.1 8B, 8 H100, FSDP", value=5762, **TITAN),
    Published("the same, compiled", value=6667, **TITAN),
    Published("Llama 3.1 8B, 128 H100, FSDP", value=5605, **(TITAN | {"nodes": 16})),
    Published("Llama 3 8B, 64 A100, FSDP", value=2904, **OLDER),
    Published("Llama 3 70B, 64 A100, FSDP", value=331, **(OLDER | {"model": "Llama 3 70B"})),
    Published("LLaVA-1.5 7B align, 8 A100", value=3.5, model="7B", **ALIGN),
    Published("LLaVA-1.5 13B align, 8 A100", value=5.5, model="13B", **ALIGN),
    Published("LLaVA-1.5 7B instruct, 8 A100", value=10.0, model="7B", **INSTRUCT),
    Published("LLaVA-1.5 13B instruct, 8 A100", value=20.0, model="13B", **INSTRUCT),
)


def replayed(run: Published, link: float) -> tuple[float, float]:
    """(what the planner says in the run's unit, MFU)."""
    gpu = find(run.gpu)
    gpu = replace(gpu, hbm=run.hbm) if run.hbm else gpu
    batch = run.batch or 8 * run.nodes * run.micro
    seen = CLIP if run.vlm else DOT
    made = recipe(run.model, batch=batch, micro=run.micro, learns=run.learns, again=run.again, seen=seen)
    found = planned(made, gpu, run.nodes, link, run.tokens)
    known = REHEARSED.setdefault(f"{run.model} {run.layout} {run.micro} {run.tokens} {run.learns}", found)
    option = replace(found, _seen=known._seen).option(run.layout, run.again, run.micro)
    assert option.time is not None
    if run.unit == "h":
        return run.rows / batch * option.time.total / 3600, option.time.mfu
    return batch * run.tokens / option.time.total / (8 * run.nodes), option.time.mfu


# --- scaling -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Point:
    """The fastest layout on so many GPUs."""

    model: str
    gpus: int
    batch: int
    option: Option

    @property
    def rate(self) -> float:
        """Tokens a second and GPU."""
        assert self.option.time is not None
        return self.batch * TOKENS / self.option.time.total / self.gpus

    @property
    def bare(self) -> float:
        """The same if no exchange hid behind computation."""
        time = self.option.time
        assert time is not None
        unhidden = time.total - time.exposed + sum(each.seconds for each in time.collectives)
        return self.batch * TOKENS / unhidden / self.gpus


def scaled(name: str, gpu: Gpu, link: float, most: int, *, strong: bool) -> Iterator[Point]:
    """The fastest layout that fits on each number of GPUs, where one does."""
    for gpus in (size for size in SIZES if size <= most):
        batch = STRONG if strong else ROWS * gpus
        if batch < ROWS * gpus:
            continue
        found = planned(recipe(name, batch=batch, micro=ROWS), gpu, gpus // 8, link, TOKENS)
        known = REHEARSED.setdefault(name, found)
        found = replace(found, _seen=known._seen, _parts=known._parts)
        options = [found.option(layout, True) for layout in PLAIN if layout == "fsdp" or gpus > 8]
        fitting = [option for option in options if option.fits and option.time]
        if fitting and min(waits(option) for option in fitting) > WAITS:
            fitting += [option for option in split_options(found, pipelined=PLAIN) if option.fits and option.time]
        if fitting:
            yield Point(name, gpus, batch, min(fitting, key=lambda option: option.time.total if option.time else 0.0))


def waits(option: Option) -> float:
    """Share of the step that is spent waiting for others."""
    return option.time.exposed / option.time.total if option.time else 0.0


# --- the page ------------------------------------------------------------------------------------------------------


WHY = """
torchtitan's H100 have HBM2e of 2.4 TB/s and a limit of 500 W, below the clock that the data sheet's peak is for (its
own note): the bandwidth is planned, the clock is not. It computes some operations of a block again (selective), the
plan whole blocks, which makes the plan slower by up to a quarter. Attention is counted as if it were not causal.

The network of the A100 runs is not told; a machine's link is taken to be that of the other tables.

LLaVA's hours are of 40 GB cards for 7B instruct, and of rows of many lengths: 640 and 900 tokens are guesses of their
mean. But a step takes as long as its longest row: nothing is packed, and each GPU pads its 16 rows to the longest.
Its sampler (`split_to_even_chunks` in llava/train/llava_trainer.py) deals each 128 rows, drawn at random and sorted,
so that all GPUs get equally many tokens, and with them each one of the eight longest rows. So the length that counts
is one that a sixteenth of the rows exceed, which nobody has published. At 1,400 tokens the plan for 7B is 10.2 hours
and that for 13B 18.9, at 1,500 10.9 and 20.3: one length explains both runs, within 6 %. What else could be missing
(gathering by ZeRO-3, about 0.15 s of the 6.9 s of a step if nothing hid; logits of all positions, 1 % of the
products; the loading of 2.3 pictures a second and GPU) is far smaller. The guesses stay as they were: a length that
is set by the result would prove nothing.
"""
LEGEND = """
The planner hides every exchange behind the computation that may run beside it, and both at full speed. So as long as
exchanges take less than a step, efficiency stays at 100 %: that is the best case, and no cluster reaches it. Beside it
stands the efficiency if nothing hid at all, the worst case: what is measured lies between (torchtitan kept 97 % from 8
to 128 GPUs). Both are shares of the rate of a GPU on the fewest GPUs that hold the model. What grows with the GPUs is
the time of a ring around all of them; hybrid, whose rings stay within machines, does not have it. Neither case knows of
congestion, of machines that are late, or of failures, which decide over runs of thousands of GPUs. Where no line
stands, sharding alone does not fit, or rows are too few. Tensor and pipeline ranks are weighed where sharded ranks wait
for more than 2 % of a step; they were taken nowhere if no line says so.
"""
COLUMNS = ["model", "GPUs", "layout", "micro-batch", "memory a GPU", "step"]
COLUMNS += ["exchanges", "tokens/s/GPU", "MFU", "efficiency", "if nothing hid"]
Compared = list[tuple[Published, float, float]]


def page(gpu: str, link: str, runs: Compared, weak: list[Point], strong: list[Point]) -> str:
    """scaling_sim.md."""
    errors = [told / run.value - 1 for run, told, _ in runs]
    said = f"Errors from {min(errors):+.0%} to {max(errors):+.0%}; nothing was fitted to them. Where they come from,"
    now = datetime.now(UTC).date()
    written = f"Written by `python benchmarks/scaling_sim.py` on {now}: {gpu}, {link} a machine. Nothing was run; every"
    lines = [
        "# Simulated scaling",
        "",
        *_wrapped(f"{written} figure of the second and third table is a plan."),
        "",
        *_wrapped((__doc__ or "").split("\n\n")[3]),
        "",
        "## The same planner on published runs",
        "",
        "| run | published | planned | error | planned MFU | source |",
        "|---|---|---|---|---|---|",
        *(_compared(*each) for each in runs),
        "",
        *_wrapped(f"{said} as far as is known:"),
        "",
        *(line for why in WHY.split("\n\n") for line in _wrapped(why, "- ")),
        "",
        f"## A batch that grows: {ROWS} rows of {TOKENS:,} tokens a GPU",
        "",
        *_table(weak),
        "",
        *_read(weak),
        "",
        f"## A batch that does not: {STRONG:,} rows",
        "",
        *_table(strong),
        "",
        *_wrapped(LEGEND),
    ]
    return "\n".join(lines) + "\n"


def _wrapped(text: str, mark: str = "") -> list[str]:
    return textwrap.wrap(" ".join(text.split()), 120, initial_indent=mark, subsequent_indent=" " * len(mark))


def _compared(run: Published, told: float, mfu: float) -> str:
    digits = ".1f" if run.unit == "h" else ",.0f"
    cells = (run.what, f"{run.value:{digits}} {run.unit}", f"{told:{digits}}", f"{told / run.value - 1:+.0%}")
    return f"| {' | '.join(cells)} | {mfu:.0%} | {run.source} |"


def _table(points: list[Point]) -> Iterator[str]:
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    first: dict[str, float] = {}
    for point in points:
        option, time = point.option, point.option.time
        assert time is not None
        rate = first.setdefault(point.model, point.rate)
        cells = [point.model, f"{point.gpus:,}", option.name, f"{option.micro} x {option.times}"]
        seconds = sum(each.seconds for each in time.collectives)
        cells += [f"{option.total / 2**30:.0f} GiB", f"{time.total:.2f} s", f"{seconds:.2f} s", f"{point.rate:,.0f}"]
        cells += [f"{time.mfu:.0%}", f"{point.rate / rate:.0%}", f"{point.bare / rate:.0%}"]
        yield f"| {' | '.join(cells)} |"


def _read(points: list[Point]) -> Iterator[str]:
    """What the table says, in words."""
    for name in dict.fromkeys(point.model for point in points):
        mine = [point for point in points if point.model == name]
        first, last = mine[0], mine[-1]
        ends = (f"{point.gpus:,} GPUs ({point.option.name})" for point in (first, last))
        kept = f"{last.bare / first.rate:.0%} to {last.rate / first.rate:.0%}"
        yield f"- {name}: from {' to '.join(ends)} a GPU keeps {kept} of its rate."


# --- the plot ------------------------------------------------------------------------------------------------------


def plot(points: list[Point], path: Path) -> None:
    """Tokens a second and GPU over GPUs, their number in powers of two."""
    colours = dict(zip(dict.fromkeys(p.model for p in points), ("#1b6ca8", "#c98a00", "#b3362b"), strict=False))
    wide, high, left, bottom, top = 720, 420, 70, 56, 30
    most = 1.1 * max(point.rate for point in points)

    def x(gpus: int) -> float:
        return left + (wide - left - 110) * (gpus.bit_length() - 4) / (SIZES[-1].bit_length() - 4)

    def y(rate: float) -> float:
        return high - bottom - (high - bottom - top) * rate / most

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="12" '
        'role="img" aria-label="Planned tokens a second and GPU, by number of GPUs">',
        f'<rect width="{wide}" height="{high}" fill="#ffffff"/>',
    ]
    for size in SIZES:
        parts.append(
            f'<text x="{x(size):.0f}" y="{high - bottom + 18}" text-anchor="middle" fill="#555">{size:,}</text>'
        )
    for step in range(6):
        rate = most * step / 5
        parts.append(f'<line x1="{left}" x2="{wide - 110}" y1="{y(rate):.0f}" y2="{y(rate):.0f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y(rate) + 4:.0f}" text-anchor="end" fill="#555">{rate:,.0f}</text>')
    for name, colour in colours.items():
        mine = [point for point in points if point.model == name]
        for rates, dashes in (([p.rate for p in mine], ""), ([p.bare for p in mine], ' stroke-dasharray="5 4"')):
            line = " ".join(f"{x(p.gpus):.0f},{y(rate):.0f}" for p, rate in zip(mine, rates, strict=True))
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        parts += [f'<circle cx="{x(p.gpus):.0f}" cy="{y(p.rate):.0f}" r="3.5" fill="{colour}"/>' for p in mine]
        end = mine[-1]
        parts.append(f'<text x="{x(end.gpus) + 10:.0f}" y="{y(end.rate) + 4:.0f}" fill="{colour}">LLaVA {name}</text>')
    words = f"GPUs; tokens a second and GPU, planned, {ROWS} rows of {TOKENS:,} tokens each; dashed: if nothing hid"
    parts += [f'<text x="{left}" y="{high - 12}" fill="#222222">{words}</text>', "</svg>"]
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpu", default="h100-80gb")
    parser.add_argument("--link", default="3.2Tbps", help="of a machine of eight")
    parser.add_argument("--most", type=int, default=SIZES[-1])
    parser.add_argument("--plot", action="store_true")
    asked = parser.parse_args()
    gpu, link, start = find(asked.gpu), bandwidth(asked.link), time.monotonic()
    runs = []
    for run in RUNS:
        runs.append((run, *replayed(run, link)))
        print(f"{time.monotonic() - start:5.0f} s  {run.what}: {run.value:,.1f} published, {runs[-1][1]:,.1f} planned")
    weak, strong = [], []
    for name in ("7B", "34B", "70B"):
        for points, fixed in ((weak, False), (strong, True)):
            points += scaled(name, gpu, link, asked.most, strong=fixed)
            print(f"{time.monotonic() - start:5.0f} s  {name}, {'fixed' if fixed else 'growing'} batch")
    PAGE.write_text(page(asked.gpu, asked.link, runs, weak, strong), encoding="utf-8")
    if asked.plot:
        plot(weak, PLOT)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None

"""`sightline check`: what was seen before step 1, printed, with every fault and its fix."""

from __future__ import annotations

from itertools import groupby

from sightline.commands.preflight import Preflight, StageSeen, look
from sightline.commands.summary import exempt_line
from sightline.commands.terminal import console, say, table
from sightline.data.augment import Augmenter
from sightline.data.batch import IGNORE, Example
from sightline.data.encode import Encoder
from sightline.plan.memory import StateBytes, human
from sightline.recipe.schema import Recipe

BAD_INPUT = 2
MOST_FAULTS = 10  # more than a person mends at once
SAMPLE_CHARACTERS = 600  # of a row shown with its mask
OPEN, CLOSE = "⟦", "⟧"  # around supervised tokens; no text of a data set has them by accident


def check(recipe: Recipe) -> int:
    """Print all that can be known of a recipe before step 1; returns the exit status."""
    with console(stderr=True).status(f"looking at {recipe.name}"):
        seen = look(recipe)
    say(f"{recipe.name}: {recipe.summary}", f"device {seen.device}, precision {seen.precision}", "")
    _data(seen)
    if any(stage.towers for stage in seen.stages):
        _towers(seen)
    if any(stage.tokens for stage in seen.stages):
        _tokens(seen)
        _augmented(seen)
        _masks(seen)
    return _faults(seen)


def _data(seen: Preflight) -> None:
    rows = [
        (
            each.name,
            f"{each.total:,}" + (f" ({len(each.rows):,} looked at)" if each.streamed else ""),
            f"{each.images:,}",
            f"{each.opened:,}" + (" (time was up)" if each.opened < each.images else ""),
            f"{len(each.broken):,}",
        )
        for each in seen.data
    ]
    if rows:
        table(("data", "rows", "images", "opened", "broken"), rows, numbers=("rows", "images", "broken"))
    for each in seen.data:
        say(*(f"  broken: {one.where}: {one.reason}" for one in each.broken[:3]), style="yellow")
    say("")


def _towers(seen: Preflight) -> None:
    """What learns in each stage, and the memory of its state on one device."""
    rows: list[tuple[str, ...]] = []
    for found in seen.stages:
        if not found.towers:
            continue
        stage = found.stage
        for tower in found.towers:
            plan, memory = found.towers[tower], found.memory[tower]
            rate = f"{stage.rate_for(tower):g}" if plan.trainable else "-"
            counts = (f"{plan.trainable:,}", f"{plan.frozen:,}")
            rows.append((stage.name, tower, plan.rule, rate, *counts, *_bytes(memory)))
        total = sum(found.memory.values(), StateBytes())
        trainable = sum(plan.trainable for plan in found.towers.values())
        frozen = sum(plan.frozen for plan in found.towers.values())
        rows.append((stage.name, "all", "", "", f"{trainable:,}", f"{frozen:,}", *_bytes(total)))
    columns = ("stage", "tower", "learns", "lr", "trainable", "frozen", "weights", "gradients", "optimizer", "state")
    table(columns, rows, numbers=columns[3:])
    say("  state: weights, buffers, gradients, AdamW and averages on one device; activations come on top", "")


def _bytes(memory: StateBytes) -> tuple[str, str, str, str]:
    kinds = (memory.weights, memory.gradients, memory.optimizer, memory.total)
    weights, gradients, optimizer, total = map(human, kinds)
    return weights, gradients, optimizer, total


def _tokens(seen: Preflight) -> None:
    columns = ("stage", "rows", "shortest", "median", "longest", "limit", "over", "supervised", "sequences", "steps")
    rows = [_token_row(found) for found in seen.stages]
    table(columns, [row for row in rows if row], numbers=columns[1:])
    say("  tokens a row, its images' included; supervised: tokens a row that the loss is taken of, on average")
    for found in seen.stages:
        if seen.answers is not None and found.outside is not None and found.tokens is not None:
            told = f"one of {len(seen.answers.answers):,} answers is chosen, and none written"
            say(f"  {found.stage.name}: {told}; {found.outside:,} of {found.tokens.rows:,} rows have none of them")
    say("")


def _token_row(found: StageSeen) -> tuple[str, ...] | None:
    tokens, stage = found.tokens, found.stage
    if tokens is None:
        return None
    rows = f"{tokens.rows:,}" if tokens.encoded == tokens.rows else f"{tokens.encoded:,} of {tokens.rows:,}"
    return (
        stage.name,
        rows,
        f"{tokens.shortest:,}",
        f"{tokens.median:,.0f}",
        f"{tokens.longest:,}",
        f"{stage.max_length:,}",
        f"{len(tokens.over):,}",
        f"{tokens.supervised:.1f}",
        f"{tokens.sequences:,}" if tokens.sequences else "?",
        f"{found.plan.total:,}" if found.plan else f"{stage.steps:,}" if stage.steps else "?",
    )


def _augmented(seen: Preflight) -> None:
    """How many rows of each stage are exempt from its changes to images."""
    rows = {each.name: each.rows for each in seen.data}
    for stage in (found.stage for found in seen.stages):
        if stage.augment and rows.keys() >= stage.data.keys():
            shown = (row for name in stage.data for row in rows[name])
            say(f"  {exempt_line(stage.name, Augmenter(stage.augment, 0, shown).facts())}", "")


def _masks(seen: Preflight) -> None:
    """A few rows of each stage as the model sees them."""
    assert seen.encoder is not None
    say(f"what is supervised ({OPEN}so{CLOSE}), in rows as the model sees them:")
    for found in seen.stages:
        for example in found.tokens.samples if found.tokens else ():
            say(f"  {found.stage.name}, {example.where}: {marked(example, seen.encoder)}{_worth(example, found, seen)}")
    say("")


def _worth(example: Example, found: StageSeen, seen: Preflight) -> str:
    """What the answers of a vocabulary are worth to this row, where one is chosen."""
    if seen.answers is None or found.outside is None:
        return ""
    best = sorted(example.marks, key=lambda mark: -mark[1])[:5]
    told = [f"{OPEN}{seen.answers.answers[place]}: {worth:.2g}{CLOSE}" for place, worth in best]
    return " " + " ".join(told or [f"{OPEN}none of the answers{CLOSE}"])


def marked(example: Example, encoder: Encoder) -> str:
    """The row's tokens as text, supervised ones between brackets, runs of image tokens counted."""
    pieces = []
    tokens = zip(example.input_ids, example.labels, strict=True)
    for (learned, image), run in groupby(tokens, lambda t: (t[1] != IGNORE, t[0] == encoder.image_token_id)):
        ids = [token for token, _ in run]
        text = f"[image: {len(ids)} tokens]" if image else encoder.tokenizer.decode(ids, skip_special_tokens=False)
        pieces.append(f"{OPEN}{text}{CLOSE}" if learned else text)
    text = " ".join(" ".join(pieces).split())
    if len(text) <= SAMPLE_CHARACTERS:
        return text
    half = SAMPLE_CHARACTERS // 2
    return f"{text[:half]} ... {text[-half:]}"


def _faults(seen: Preflight) -> int:
    if not seen.faults:
        say("nothing found that would stop this run", style="green")
        return 0
    for fault in seen.faults[:MOST_FAULTS]:
        say(f"error: {fault}", style="red", stderr=True)
    if len(seen.faults) > MOST_FAULTS:
        say(f"... and {len(seen.faults) - MOST_FAULTS} more", stderr=True)
    return BAD_INPUT

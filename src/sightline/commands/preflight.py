"""All that can be known of a run before step 1, as values; `check.py` prints them.

Faults are gathered, not raised, so that one look shows them all.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import median

from sightline.commands.blueprint import draw, encoder_of, read_tokens, with_answers
from sightline.data.audit import audit
from sightline.data.batch import IGNORE, Example
from sightline.data.dataset import Rows, read_rows
from sightline.data.encode import Encoder
from sightline.data.encode_answers import AnswerEncoder
from sightline.data.encode_composed import ComposedEncoder
from sightline.data.pack import pack
from sightline.data.row import Skipped
from sightline.data.shards import find_shards
from sightline.errors import UserError
from sightline.models.vlm import VLM
from sightline.plan.memory import StateBytes, adam_of, state_bytes
from sightline.recipe.schema import Recipe, Stage, Tower
from sightline.train.feed import Plan, plan_steps
from sightline.train.freeze import TowerPlan, freeze
from sightline.train.parallel.ranks import pick_device
from sightline.train.precision import pick_precision
from sightline.train.rounding import halve
from sightline.train.streamed import Shards
from sightline.train.validate import check_markable

LOOKED_AT = 512  # samples of a stream: its first ones, since what is far away must be read in order
SECONDS = 40.0  # for opening images and encoding rows, all together: a check takes a minute at most


@dataclass(frozen=True, slots=True)
class DataSeen:
    """A data set: its rows, the broken ones, and how many of its distinct images were opened.

    Of one that is `streamed`, `rows` are those that were looked at, and `total` how many there are.
    """

    name: str
    rows: Rows
    images: int
    opened: int
    broken: tuple[Skipped, ...]
    total: int
    streamed: bool = False


@dataclass(frozen=True, slots=True)
class TokensSeen:
    """Rows of a stage as tokens. `encoded` of `rows` were looked at; `over` are longer than the stage's limit."""

    rows: int
    encoded: int
    shortest: int
    median: float
    longest: int
    longest_where: str
    supervised: float  # tokens a row, on average
    over: tuple[Skipped, ...]
    sequences: int | None  # after packing; None where not all rows were looked at
    samples: tuple[Example, ...]


@dataclass(slots=True)
class StageSeen:
    """A stage: what learns, what it holds in memory, its rows as tokens, its steps."""

    stage: Stage
    towers: dict[Tower, TowerPlan] = field(default_factory=dict)
    memory: dict[Tower, StateBytes] = field(default_factory=dict)
    tokens: TokensSeen | None = None
    outside: int | None = None  # rows that have no answer of the head's vocabulary, where it is what is learned
    plan: Plan | None = None


@dataclass(slots=True)
class Preflight:
    """What was seen of a recipe, and every fault on the way."""

    recipe: Recipe
    device: str = "?"
    precision: str = "?"
    data: list[DataSeen] = field(default_factory=list)
    stages: list[StageSeen] = field(default_factory=list)
    model: VLM | None = None
    encoder: Encoder | None = None
    answers: AnswerEncoder | None = None
    faults: list[UserError] = field(default_factory=list)

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """Keep a UserError of the block and go on behind it."""
        try:
            yield
        except UserError as error:
            if str(error) not in map(str, self.faults):
                self.faults.append(error)


def look(recipe: Recipe, seconds: float = SECONDS) -> Preflight:
    """Look at everything that `recipe` names, without loading a weight; `seconds` bound the data's part."""
    seen = Preflight(recipe)
    with seen.gathering():
        device = pick_device(recipe.device)
        seen.device = str(device)
        seen.precision = pick_precision(recipe.precision, device).name
    names = list(dict.fromkeys(name for stage in recipe.stages for name in stage.data))
    names = list(dict.fromkeys([*names, *filter(None, (recipe.evaluate.validation, recipe.evaluate.data))]))
    for name in names:
        with seen.gathering():
            seen.data.append(_data(recipe, name, seconds / 2 / len(names), seen))
    rows = {each.name: each.rows for each in seen.data}
    streamed = {each.name: each.total for each in seen.data if each.streamed}
    with seen.gathering():
        check_markable(recipe, rows)
    _model(seen, rows)
    for stage in recipe.stages:
        seen.stages.append(_stage(seen, stage, rows, streamed, seconds / 2 / len(recipe.stages)))
    return seen


def _model(seen: Preflight, rows: dict[str, Rows]) -> None:
    spec, tokens = seen.recipe.model, None
    answers: tuple[str, ...] = ()
    names = dict.fromkeys(name for stage in seen.recipe.stages for name in stage.data)
    if all(name in rows for name in names):  # else a tokenizer made from the data would tell the same fault again
        texts = (turn.text for name in names for row in rows[name] for turn in row.turns)
        with seen.gathering():
            tokens = read_tokens(spec, texts)
        with seen.gathering():
            spec, answers = with_answers(seen.recipe, rows)
    with seen.gathering():
        seen.model = draw(spec, tokens)
        if seen.recipe.numbers.weights == "bf16":
            halve(seen.model)
    if seen.model is not None and tokens is not None:
        with seen.gathering():
            seen.encoder = encoder_of(spec, seen.model, tokens)
            if answers and spec.compose and spec.compose.head:
                assert isinstance(seen.encoder, ComposedEncoder)
                seen.answers = AnswerEncoder(seen.encoder, answers, spec.compose.head.targets)


def _data(recipe: Recipe, name: str, seconds: float, seen: Preflight) -> DataSeen:
    spec = recipe.data[name]
    streamed = spec.stream is not None
    shards = Shards(spec, find_shards(spec, name)) if streamed else None
    rows = shards.first(LOOKED_AT, seconds) if shards else read_rows(spec, name)
    audited = audit(rows, "skip", seconds=seconds)
    broken = audited.rows.skipped[len(rows.skipped) :]
    if broken and spec.broken == "error":
        fix = f"mend or remove it, or set data.{name}.broken=skip"
        for one in broken[:3]:
            seen.faults.append(UserError(one.reason, where=str(one.where), fix=fix))
    total = len(shards) if shards else len(audited.rows)
    return DataSeen(name, audited.rows, audited.images, audited.opened, rows.skipped + broken, total, streamed)


def _stage(seen: Preflight, stage: Stage, rows: dict[str, Rows], streamed: dict[str, int], seconds: float) -> StageSeen:
    found = StageSeen(stage)
    if seen.model is not None:
        with seen.gathering():
            found.towers = freeze(seen.model, stage)
            adam = adam_of(stage.optimizer.rounding, seen.recipe.numbers.weights)
            found.memory = state_bytes(seen.model, ema=stage.ema is not None, adam=adam)
    encoder: Encoder | None = (seen.answers if stage.objective == "answers" else None) or seen.encoder
    if encoder is not None and all(name in rows for name in stage.data):
        with seen.gathering():
            found.tokens = _tokens(stage, {name: rows[name] for name in stage.data}, encoder, seconds)
            if isinstance(encoder, AnswerEncoder):
                found.outside = encoder.outside(row for name in stage.data for row in rows[name])
            _judge_lengths(stage, found.tokens, seen)
            if unseen := sum(streamed[name] - len(rows[name]) for name in stage.data if name in streamed):
                found.tokens = replace(found.tokens, rows=found.tokens.rows + unseen, sequences=None)
                with seen.gathering():
                    found.plan = plan_steps(stage, {"all": found.tokens.rows}, 1)
        if found.tokens and found.tokens.sequences:
            with seen.gathering():
                found.plan = plan_steps(stage, {"all": found.tokens.sequences}, 1)
    return found


def _tokens(stage: Stage, sets: dict[str, Rows], encoder: Encoder, seconds: float) -> TokensSeen:
    rows = [row for each in sets.values() for row in each]
    order = random.Random(0).sample(range(len(rows)), len(rows))  # a look cut short is still a fair sample
    deadline = time.monotonic() + seconds
    examples: dict[int, Example] = {}
    for place in order:
        examples[place] = encoder.encode(rows[place])
        if time.monotonic() > deadline:
            break
    ordered = [examples[place] for place in sorted(examples)]
    over = [example for example in ordered if len(example) > stage.max_length]
    fitting = [example for example in ordered if len(example) <= stage.max_length]
    longest = max(ordered, key=len)
    complete = len(ordered) == len(rows)
    return TokensSeen(
        rows=len(rows),
        encoded=len(ordered),
        shortest=min(map(len, ordered)),
        median=median(map(len, ordered)),
        longest=len(longest),
        longest_where=str(longest.where),
        supervised=sum(label != IGNORE for example in ordered for label in example.labels[1:]) / len(ordered),
        over=tuple(Skipped(one.where, f"{len(one)} tokens") for one in over),
        sequences=len(pack(fitting, stage.pack, stage.max_length)) if complete and fitting else None,
        samples=(*fitting[:1], *sorted(fitting[1:], key=len)[-1:]),  # the first, and the longest of the rest
    )


def _judge_lengths(stage: Stage, tokens: TokensSeen, seen: Preflight) -> None:
    if not tokens.over:
        return
    where = f"stages.{stage.name}.max_length"
    if len(tokens.over) == tokens.encoded:
        fix = f"raise it to {tokens.longest}"
        seen.faults.append(UserError(f"every row is longer than {stage.max_length} tokens", where=where, fix=fix))
    elif stage.over_length == "error":
        fix = f"raise it to {tokens.longest}, or set stages.{stage.name}.over_length=skip"
        what = f"{len(tokens.over):,} rows are longer than {stage.max_length} tokens; the longest has {tokens.longest}"
        seen.faults.append(UserError(f"{what} ({tokens.longest_where})", where=where, fix=fix))

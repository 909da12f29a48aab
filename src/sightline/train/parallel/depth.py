"""A model of which one pipeline stage holds some blocks: the vision tower's first, then the language tower's.

Every stage runs the model's own code. A block that another stage holds lets its input pass; in the last place before
the own blocks stands what came from the stage before, and in the first place behind them it is caught for the next. So
masks and positions are made as the model makes them, and parameters keep their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sightline.data.batch import Batch
from sightline.data.collate import FILLS
from sightline.models.composed import ComposedVLM
from sightline.models.connectors import token_count
from sightline.models.supervised import only_rows
from sightline.plan.pipeline import shared_out
from sightline.recipe.schema import Tower
from sightline.train.objectives import NextToken
from sightline.train.precision import Precision


class Passing(nn.Module):
    """In the place of a block that another stage holds. `state`: what passed here, or is to be handed on from here."""

    def __init__(self, *, enters: bool = False) -> None:
        super().__init__()
        self.enters = enters
        self.state: Tensor | None = None

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        if self.enters:
            assert self.state is not None
            return self.state
        self.state = hidden_states
        return hidden_states

    def take(self) -> Tensor:
        """What passed here, which is forgotten."""
        assert self.state is not None
        state, self.state = self.state, None
        return state


class Shapes(NamedTuple):
    """What micro-batches of a step are padded to."""

    rows: int
    tokens: int
    images: int


@dataclass(frozen=True, slots=True)
class Place:
    """Which blocks a stage holds: from `start` to `end` of all, of which the first `vision` are the vision tower's."""

    stage: int
    stages: int
    start: int
    end: int
    vision: int

    @property
    def sees(self) -> bool:
        """Whether some blocks are the vision tower's."""
        return self.start < self.vision

    @property
    def speaks(self) -> bool:
        """Whether some blocks are the language tower's."""
        return self.end > self.vision

    @property
    def last(self) -> bool:
        """Whether the loss is taken here."""
        return self.stage == self.stages - 1


def place_of(model: ComposedVLM, sizes: Sequence[int], stage: int) -> Place:
    """The place of `stage`, where stages hold so many blocks."""
    start = sum(sizes[:stage])
    return Place(stage, len(sizes), start, start + sizes[stage], len(model.blocks("vision")))


def holders(model: ComposedVLM, sizes: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The stages that hold each parameter: one, or both ends where the output matrix is the embeddings'."""
    ids = [{id(p) for parameters in towers.values() for p in parameters} for towers in shared_out(model, sizes)]
    named = model.named_parameters()
    return {name: tuple(stage for stage, held in enumerate(ids) if id(p) in held) for name, p in named}


def leave_out(model: ComposedVLM, place: Place, held: set[str]) -> None:
    """Take from `model` what the stage at `place` does not hold, in place.

    Norms and embeddings beside the blocks stay where the tower's code runs through them, as buffers: what they make of
    what passes is not used.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    spared = {id(parameters[name]) for name in held}
    big = [model.language.get_input_embeddings(), model.language.get_output_embeddings()]
    large = {id(p) for module in big if module is not None for p in module.parameters()}
    towers: tuple[tuple[Tower, bool, int], ...] = (
        ("vision", place.sees, 0),
        ("language", place.speaks, place.vision),
    )
    for tower, runs, first in towers:
        blocks = model.blocks(tower)
        for _, top in model.tower_modules(tower):
            dropped = large if runs else {id(p) for p in top.parameters()}
            within = _list_of(top, blocks)
            for number in range(len(blocks)):
                if not place.start <= first + number < place.end:
                    within[number] = Passing(enters=first + number == place.start - 1)
            _demote(top, spared, dropped)
    for name in ("connector", "head"):
        if isinstance(module := getattr(model, name, None), nn.Module):
            _demote(module, spared, {id(p) for p in module.parameters()})


def in_a_row(top: nn.Module, blocks: Sequence[nn.Module]) -> bool:
    """Whether one list of `top` holds all its `blocks`, so that some of them can be left out."""
    return any(isinstance(m, nn.ModuleList) and list(m) == list(blocks) for m in top.modules())


def _list_of(top: nn.Module, blocks: Sequence[nn.Module]) -> nn.ModuleList:
    return next(m for m in top.modules() if isinstance(m, nn.ModuleList) and list(m) == list(blocks))


def _demote(top: nn.Module, spared: set[int], dropped: set[int]) -> None:
    """Make buffers that are not saved of all parameters but the `spared` ones; empty ones of those to be dropped."""
    for module in top.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in spared:
                continue
            del module._parameters[name]
            kept = parameter.detach()
            module.register_buffer(name, kept.new_empty(0) if id(parameter) in dropped else kept, persistent=False)


class Part(nn.Module):
    """One stage's share of the forward pass: of the micro-batches in turn, what the stage before made, to what is next.

    The last one gives the summed loss.
    """

    def __init__(self, model: ComposedVLM, place: Place) -> None:
        super().__init__()
        self.model, self.place = model, place
        self.batches: list[Batch] = []
        self.objective = NextToken()
        self.precision: Precision | None = None
        self.sums: list[Tensor] = []
        self.turn = 0

    def load(self, batches: list[Batch], objective: NextToken, precision: Precision | None) -> None:
        """What is run next. `precision` None: it is set by the caller already."""
        self.batches, self.objective, self.precision = batches, objective, precision
        self.sums, self.turn = [], 0

    def forward(self, state: Tensor | None = None) -> Tensor:
        batch = self.batches[self.turn]
        self.turn += 1
        with self.precision.autocast() if self.precision else nullcontext():
            if self.place.sees:
                assert batch.pixel_values is not None
                state = self._see(batch.pixel_values, state)
            if self.place.last:
                loss, _ = self.objective.loss(_Answering(self, state), batch)
                self.sums.append(loss.detach())
                return loss
            made = self._speak(batch, state) if self.place.speaks else state
        assert made is not None
        return made.to(_width(self.model)[1]).contiguous()  # as it is sent

    def _see(self, pixels: Tensor, state: Tensor | None) -> Tensor:
        """Through the own blocks of the vision tower; behind its last one, through the connector."""
        behind = _enter(self.model.blocks("vision"), state)
        features = self.model.encode_images(pixels)
        return behind.take() if behind is not None else self.model.connect(features)

    def _speak(self, batch: Batch, state: Tensor | None) -> Tensor:
        language = self.model.language
        behind = _enter(self.model.blocks("language"), self._entering(state))
        embeds = self._embeds(batch, state)
        sight = self.model.packed_sight(batch, embeds) if batch.packed else {}
        language.base_model(inputs_embeds=embeds, use_cache=False, **sight)
        assert behind is not None
        return behind.take()

    def logits(self, batch: Batch, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Of the last stage, at supervised positions, and their targets."""
        language = self.model.language
        rows, targets = batch.supervised()
        _enter(self.model.blocks("language"), self._entering(state))
        embeds = self._embeds(batch, state)
        sight = self.model.packed_sight(batch, embeds) if batch.packed else {}
        with only_rows(language.get_output_embeddings(), rows):
            return language(inputs_embeds=embeds, use_cache=False, **sight).logits[0], targets

    def _entering(self, state: Tensor | None) -> Tensor | None:
        return state if self.place.start > self.place.vision else None

    def _embeds(self, batch: Batch, state: Tensor | None) -> Tensor:
        """Of tokens and images, at the tower's start; further up, a stand-in of their shape, which is not used."""
        assert state is not None
        if self._entering(state) is None:
            table = self.model.language.get_input_embeddings()
            return self.model.shown_in(table(batch.input_ids), batch, state)
        return state.new_zeros(1).expand(*batch.input_ids.shape, _width(self.model)[0])


class _Answering(nn.Module):
    """What an objective calls: the last stage on what came to it."""

    def __init__(self, part: Part, state: Tensor | None) -> None:
        super().__init__()
        self._run = lambda batch: part.logits(batch, state)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._run(batch)


def _enter(blocks: Sequence[nn.Module], state: Tensor | None) -> Passing | None:
    """Lay `state` before the own blocks; returns what catches it behind them, where others follow."""
    own = [number for number, block in enumerate(blocks) if not isinstance(block, Passing)]
    if own[0] > 0:
        before = blocks[own[0] - 1]
        assert isinstance(before, Passing)
        before.state = state
    behind = blocks[own[-1] + 1] if own[-1] + 1 < len(blocks) else None
    return behind if isinstance(behind, Passing) else None


def crossing(model: ComposedVLM, place: Place, shapes: Shapes, learns: bool, *, end: bool) -> tuple[Tensor, ...]:
    """What comes to a stage, or (`end`) leaves it, on the meta device. `learns`: whether something before it does."""
    cut = place.end if end else place.start
    width, dtype = _width(model)
    size: tuple[int, ...]
    if cut == 0:
        return ()
    if end and place.last:
        size = ()
    elif cut < place.vision:
        size = (shapes.images, model.vision.count + model.vision.skip, model.vision.width)
    elif cut == place.vision:
        tokens = token_count(model.vision.count, model.spec.connector)
        size = (shapes.images, tokens, width)
    else:
        size = (shapes.rows, shapes.tokens, model.language.config.hidden_size)
    return (torch.empty(size, dtype=dtype, device="meta", requires_grad=learns),)


def _width(model: ComposedVLM) -> tuple[int, torch.dtype]:
    """Of token embeddings; their table is there, if empty, on every stage."""
    table: Any = model.language.get_input_embeddings()
    return table.embedding_dim, table.weight.dtype


def alike(batches: Sequence[Batch], side: int) -> tuple[list[Batch], Shapes]:
    """The micro-batches of a step padded to one shape: rows and tokens that nothing looks at, and black images."""
    rows, tokens = (max(batch.input_ids.shape[dim] for batch in batches) for dim in (0, 1))
    images = max(1, *(0 if batch.pixel_values is None else len(batch.pixel_values) for batch in batches))
    shapes = Shapes(rows, tokens, images)
    return [_padded(batch, shapes, side) for batch in batches], shapes


def _padded(batch: Batch, shapes: Shapes, side: int) -> Batch:
    lines, length = batch.input_ids.shape
    changes: dict[str, Any] = {}
    if (lines, length) != shapes[:2]:
        wider = (0, shapes.tokens - length, 0, shapes.rows - lines)
        for name, fill in FILLS.items():
            if (value := getattr(batch, name)) is not None:
                changes[name] = nn.functional.pad(value, wider, value=fill or 0)
        changes["attention_mask"] = nn.functional.pad(batch.attention_mask, wider, value=False)
        changes |= {"rows": None, "targets": None}
        if batch.image_places is not None:  # they stand in the flattened tokens
            line, column = batch.image_places // length, batch.image_places % length
            changes["image_places"] = line * shapes.tokens + column
    shown = batch.pixel_values
    if shown is None:
        shown = torch.zeros(0, 3, side, side, device=batch.input_ids.device)
    if shown is not batch.pixel_values or len(shown) < shapes.images:
        changes["pixel_values"] = torch.cat([shown, shown.new_zeros(shapes.images - len(shown), *shown.shape[1:])])
    return replace(batch, **changes) if changes else batch

"""Which rows a step was fed, worked out again: what a step draws follows from recipe, seed and step alone."""

from __future__ import annotations

from pathlib import Path

import torch

from sightline.data.dataset import read_rows
from sightline.data.row import Row, Where
from sightline.errors import UserError
from sightline.models.saved import load_encoder
from sightline.recipe.schema import Recipe
from sightline.train.feed import MicroBatches, plan_steps, supply
from sightline.train.parallel.ranks import Ranks
from sightline.train.record import rows_print
from sightline.train.stage import SEED_STRIDE
from sightline.train.streamed import StreamedBatches, open_streams


class Fed:
    """The rows of one stage's steps.

    Raises:
        UserError: the data or the run's encoder are no longer there, or cannot be read.
    """

    def __init__(self, run: Path, recipe: Recipe, stage: str) -> None:
        self._index = [each.name for each in recipe.stages].index(stage)
        self._spec, self._seed = recipe.stages[self._index], recipe.seed + SEED_STRIDE * self._index
        if not (run / "encoder").is_dir():
            raise UserError("the run stopped before it wrote its encoder", where=str(run))
        self._encoder = load_encoder(run / "encoder", self._spec)
        named = {name: recipe.data[name] for name in self._spec.data}
        kept = run / "streams.json"
        alone = Ranks(0, 1, torch.device("cpu"))
        self._shards = open_streams(named, kept, alone) if kept.is_file() else {}
        self._supplies = {
            name: supply(read_rows(spec, name), self._spec, self._encoder, lambda done: None)[0]
            for name, spec in named.items()
            if name not in self._shards
        }
        self._rows: dict[Where, Row] | None = None

    def rows(self, step: int) -> list[Where]:
        """The places of all rows of the stage's step `step` (the first is 1), over all ranks, in order."""
        return self._batches(1).places(step - 1)

    def proved(self, step: int, told: str, processes: int) -> bool:
        """Whether the main rank of a run on so many processes was fed rows of the print `told` in that step."""
        worlds = [world for world in range(processes, 0, -1) if processes % world == 0]  # some may have shared rows
        for world in worlds:
            try:
                places = self._batches(world).places(step - 1)
            except UserError:  # so many ranks cannot share this batch, so it was another number of them
                continue
            if rows_print(places) == told:
                return True
        return False

    def answer(self, place: Where) -> str:
        """What the row there says, where it is at hand (streams are not kept)."""
        if self._rows is None:
            self._rows = {row.where: row for each in self._supplies.values() for row in each.rows}
        row = self._rows.get(place)
        return row.turns[-1].text if row is not None and row.turns else ""

    def _batches(self, world: int) -> MicroBatches | StreamedBatches:
        ranks = Ranks(0, world, torch.device("cpu"))
        sizes = {name: len(each) for name, each in self._supplies.items()}
        sizes |= {name: len(each) for name, each in self._shards.items()}
        plan = plan_steps(self._spec, sizes, world)
        if self._shards:
            return StreamedBatches(self._shards, self._supplies, self._spec, plan, self._seed, ranks, self._encoder)
        return MicroBatches(self._supplies, self._spec, plan, self._seed, ranks, None)

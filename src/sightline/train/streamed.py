"""A stage's data where some of it streams: the main process reads samples in order, loading processes make batches.

A step's slots are divided into lanes, and a rank owns neighbouring lanes. What a lane draws depends on its number and
on the step alone, so neither ranks nor loading processes change what is in a step, and resuming opens each lane at its
place. Rows that are not streamed are dealt to the lanes in turn.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import torch
from torch.utils.data import Dataset

from sightline.atomic import write_json
from sightline.data.augment import Augmenter
from sightline.data.batch import Batch
from sightline.data.batch import Sequence as TokenSequence
from sightline.data.dataset import Rows
from sightline.data.encode import Encoder, RowError
from sightline.data.mix import Mixture
from sightline.data.pack import pack, too_long
from sightline.data.readers.webdataset import row_of
from sightline.data.row import Row, Skipped, Where
from sightline.data.shards import Sample, Shard, find_shards, read_shard, shard_urls
from sightline.data.stream import Stream
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec, Stage
from sightline.train.ahead import ahead
from sightline.train.feed import Plan, Supply
from sightline.train.parallel.ranks import Ranks

STEPS_AHEAD = 2  # what a rank has read before it is asked for: a shard that is far away comes while the model learns
MOST_LANES = 16  # each has a shard open; enough for 1, 2, 4, 8 or 16 ranks, and for a step of many shards


@dataclass(frozen=True, slots=True)
class Order:
    """What a micro-batch is made of: rows by number, samples of streams as they were read."""

    number: int
    draws: tuple[tuple[str, int | Sample], ...]


@dataclass(frozen=True, slots=True)
class Shards:
    """A streamed data set: its shards, and what the recipe says of it."""

    spec: DataSpec
    shards: tuple[Shard, ...]

    def __len__(self) -> int:
        return sum(shard.samples for shard in self.shards)

    def rows(self, skipped: list[Skipped] | None = None) -> Iterator[Row]:
        """Every row in the shards' own order, from front to back; broken ones raise or are `skipped`.

        Raises:
            RowError: a broken row, where the recipe does not skip them.
        """
        for sample in chain.from_iterable(map(read_shard, self.shards)):
            try:
                yield row_of(sample, self.spec)
            except RowError as error:
                if self.spec.broken == "error":
                    raise
                if skipped is not None:
                    skipped.append(Skipped(error.place, error.what))

    def first(self, most: int, seconds: float) -> Rows:
        """The first `most` rows, or what `seconds` are enough for: a look at a data set of any size."""
        deadline, skipped, rows = time.monotonic() + seconds, list[Skipped](), list[Row]()
        for row in islice(self.rows(skipped), most):
            rows.append(row)
            if time.monotonic() > deadline:
                break
        if not rows:
            raise UserError(f"all samples are broken; the first: {skipped[0].reason}", where=str(skipped[0].where))
        return Rows(tuple(rows), tuple(skipped))


def open_streams(data: Mapping[str, DataSpec], kept: Path, ranks: Ranks) -> dict[str, Shards]:
    """The streamed data sets among `data`, counted once a run by the main rank, which keeps the counts in file `kept`.

    Raises:
        UserError: as `find_shards`; the shards are others than when the run began.
    """
    streamed = {name: spec for name, spec in data.items() if spec.stream}
    if not streamed:
        return {}
    counted = _counted(streamed, kept) if ranks.main else {}
    counted = json.loads(ranks.share(json.dumps(counted)))
    return {
        name: Shards(spec, tuple(Shard(url, samples) for url, samples in counted[name].items()))
        for name, spec in streamed.items()
    }


def _counted(streamed: Mapping[str, DataSpec], kept: Path) -> dict[str, dict[str, int]]:
    if not kept.is_file():
        found = {name: find_shards(spec, name) for name, spec in streamed.items()}
        counted = {name: {shard.url: shard.samples for shard in shards} for name, shards in found.items()}
        write_json(kept, counted)
        return counted
    counted = json.loads(kept.read_text(encoding="utf-8"))
    for name, spec in streamed.items():
        if shard_urls(spec, name) != list(counted[name]):
            fix = "put them back as they were, or start a new run"
            raise UserError("the shards are others than when this run began", where=f"data.{name}.path", fix=fix)
    return counted


class StreamedBatches(Dataset[Batch]):
    """As `MicroBatches`, of supplies and streams.

    A broken sample of a data set that skips them leaves its slot empty: the batch is smaller by one, and tells of it.

    Raises:
        UserError: the ranks cannot share the lanes.
    """

    def __init__(
        self,
        streams: Mapping[str, Shards],
        supplies: dict[str, Supply],
        stage: Stage,
        plan: Plan,
        seed: int,
        ranks: Ranks,
        encoder: Encoder,
        augment: Augmenter | None = None,
    ) -> None:
        self.augment = augment
        self.supplies, self.stage, self.plan, self.seed, self.encoder = supplies, stage, plan, seed, encoder
        self.rank, self.world = ranks.rank, ranks.world
        self.lanes = lanes_of(stage, ranks.world)
        self.specs = {name: each.spec for name, each in streams.items()}
        self.streams = {
            name: Stream(name, each.shards, seed, self.lanes, each.spec.stream.shuffle if each.spec.stream else 0)
            for name, each in streams.items()
        }
        sizes = {name: len(each) for name, each in supplies.items()}
        self.mixture = Mixture(sizes | {name: each.total for name, each in self.streams.items()}, stage.data, seed)

    @property
    def sequences(self) -> int:
        """Rows and samples an epoch."""
        return sum(self.mixture.sizes.values())

    def drawn(self, steps: int) -> dict[str, dict[str, int]]:
        """What the first `steps` steps draw from each stream: whole epochs, and what is left of the one begun."""
        width = self.stage.batch // self.lanes
        facts = {}
        for name, stream in self.streams.items():
            count = sum(
                self.mixture.counts(steps * width + lane)[name] - self.mixture.counts(lane)[name]
                for lane in range(self.lanes)
            )
            epochs, into = divmod(count, stream.total)
            left = stream.total - into if into else 0
            shards = {"shards": len(stream.shards), "samples": stream.total}
            facts[name] = shards | {"drawn": count, "whole_epochs": epochs, "left_of_last_epoch": left}
        return facts

    def __len__(self) -> int:
        return self.plan.total * self.plan.accumulate

    def orders(self, first_step: int) -> Iterator[Order]:
        """This rank's micro-batches from step `first_step` on, their samples read a little ahead."""
        return ahead(self._orders(first_step), STEPS_AHEAD * self.plan.accumulate)

    def _orders(self, first_step: int) -> Iterator[Order]:
        share = self.lanes // self.world
        lanes = [
            self._lane(lane, first_step, self.plan.total) for lane in range(self.rank * share, (self.rank + 1) * share)
        ]
        width, micro = self.stage.batch // self.lanes, self.plan.micro
        for step in range(first_step, self.plan.total):
            drawn = [draw for lane in lanes for draw in islice(lane, width)]
            for part in range(self.plan.accumulate):
                number = step * self.plan.accumulate + part
                yield Order(number, tuple(drawn[part * micro : (part + 1) * micro]))

    def places(self, step: int) -> list[Where]:
        """The places of the rows that this rank draws for `step`, in order; those that prove broken included."""
        orders = islice(self._orders(step), self.plan.accumulate)
        found: list[Where] = []
        for name, what in chain.from_iterable(order.draws for order in orders):
            found += self.supplies[name].places(what) if isinstance(what, int) else (what.where,)
        return found

    def __getitem__(self, order: Order | int) -> Batch:
        if isinstance(order, int):
            step, part = divmod(order, self.plan.accumulate)
            order = next(islice(self._orders(step), part, None))
        skipped: list[Skipped] = []
        step = order.number // self.plan.accumulate
        kept = [(name, what, made) for name, what in order.draws if (made := self._sequence(name, what, step, skipped))]
        while kept:
            flip = torch.Generator().manual_seed(hash((self.seed, order.number, self.rank)))
            try:
                batch = self.encoder.collate([made for *_, made in kept], flip=flip if self.stage.flip else None)
            except RowError as error:  # an image that cannot be decoded: its sample goes, and the others are kept
                at = next((i for i, (_, _, made) in enumerate(kept) if error.place in made.examples), None)
                name, sample, _ = kept[at] if at is not None else ("", 0, None)
                if at is None or isinstance(sample, int):
                    raise
                reason = f"sample '{sample.key}': {error.what}"
                if not self._skips(name):
                    raise RowError(reason, error.place, fix=error.fix) from error
                skipped.append(Skipped(error.place, reason))
                del kept[at]
            else:
                batch.skipped = tuple(skipped)
                return batch
        what = f"all {len(skipped)} samples of a micro-batch are broken; the first: {skipped[0].reason}"
        raise UserError(what, where=str(skipped[0].where), fix=f"raise stages.{self.stage.name}.micro_batch")

    def _lane(self, lane: int, first_step: int, end: int) -> Iterator[tuple[str, int | Sample]]:
        """The draws of `lane` from `first_step` on. Lanes begin at different turns, so that each step has a mixture."""
        width = self.stage.batch // self.lanes
        before = self.mixture.counts(lane)
        reading: dict[str, Iterator[Sample]] = {}
        for position in range(first_step * width + lane, end * width + lane):
            name, count = self.mixture.turn(position)
            taken = count - before[name]
            if name in self.supplies:
                yield name, self.mixture.row(name, taken * self.lanes + lane)
                continue
            if name not in reading:
                reading[name] = self.streams[name].lane(lane, taken)
            yield name, next(reading[name])

    def _sequence(self, name: str, what: int | Sample, step: int, skipped: list[Skipped]) -> TokenSequence | None:
        if isinstance(what, int):
            found = self.supplies[name][what]
            return self.augment([found], step)[0] if self.augment else found
        try:
            row = row_of(what, self.specs[name])
            example = self.encoder.encode(self.augment.row(row, step) if self.augment else row)
        except RowError as error:
            if not self._skips(name):
                raise
            skipped.append(Skipped(error.place, error.what))
            return None
        if reason := too_long(example, self.stage.max_length, self.stage.over_length):
            skipped.append(reason)
            return None
        return pack([example], "none", self.stage.max_length)[0]

    def _skips(self, name: str) -> bool:
        return name in self.specs and self.specs[name].broken == "skip"


def lanes_of(stage: Stage, world: int) -> int:
    """In how many lanes `stage` reads its streams: the recipe's number, else one that follows from the batch alone.

    Raises:
        UserError: `world` ranks cannot share them.
    """
    lanes = stage.lanes or max(n for n in range(1, MOST_LANES + 1) if stage.batch % n == 0)
    if lanes % world:
        fits = [n for n in range(1, lanes + 1) if lanes % n == 0]
        others = f"{', '.join(map(str, fits[:-1]))} or {fits[-1]}" if len(fits) > 1 else "1"
        raise UserError(
            f"the streams of this stage are read in {lanes} lanes, which {world} ranks cannot share",
            where=f"stages.{stage.name}.lanes",
            fix=f"run on {others} ranks, or start a run whose 'lanes' is a multiple of {world} that divides the batch",
        )
    return lanes

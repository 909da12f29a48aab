"""A stage's data: rows in, micro-batches out, each a pure function of its number, so that resuming needs no replay."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sightline.data.augment import Augmenter
from sightline.data.batch import Batch
from sightline.data.batch import Sequence as TokenSequence
from sightline.data.dataset import Rows
from sightline.data.encode import Encoder
from sightline.data.mix import Mixture
from sightline.data.pack import pack, too_long
from sightline.data.row import Row, Skipped, Where
from sightline.errors import UserError
from sightline.recipe.schema import Stage
from sightline.train.parallel.ranks import Ranks

Lookup = Callable[[tuple[str, ...]], Tensor]
Advance = Callable[[int], None]
Draw = tuple[str, int]  # data set and sequence

WINDOW = 32  # steps whose sequences are sorted together: long enough to save padding, short enough to stay random


@dataclass(frozen=True, slots=True)
class Supply:
    """The sequences of one data set: packed beforehand, or encoded row by row when drawn."""

    packed: Sequence[TokenSequence] | None
    rows: Sequence[Row]
    encoder: Encoder
    max_length: int
    lengths: Sequence[int]  # tokens of each sequence; empty where they are not known beforehand

    def __len__(self) -> int:
        return len(self.rows if self.packed is None else self.packed)

    def __getitem__(self, i: int) -> TokenSequence:
        if self.packed is not None:
            return self.packed[i]
        example = self.encoder.encode(self.rows[i])
        return pack([example], "none", self.max_length)[0]

    def places(self, i: int) -> tuple[Where, ...]:
        """The places of the rows in sequence `i`."""
        return (self.rows[i].where,) if self.packed is None else self.packed[i].examples


def supply(rows: Rows, stage: Stage, encoder: Encoder, advance: Advance) -> tuple[Supply, list[Skipped]]:
    """Encode every row once to prove that it fits (and keep it where sequences are packed).

    Rows of a model whose encoder must open the images to count tokens are proved as they are drawn instead.

    Raises:
        UserError: a broken row or one over the stage's `max_length`, unless the recipe skips them; no row left.
    """
    if encoder.needs_images and stage.pack == "none":
        if stage.group_by_length:
            fix = "set group_by_length to false"
            raise UserError("lengths are not known before the images are opened", where=f"stages.{stage.name}", fix=fix)
        return Supply(None, rows.rows, encoder, stage.max_length, []), []
    kept, fitting, skipped = [], [], []
    lengths: list[int] = []
    for row in rows.rows:
        example = encoder.encode(row)
        advance(1)
        if reason := too_long(example, stage.max_length, stage.over_length):
            skipped.append(reason)
            continue
        fitting.append(row)
        lengths.append(len(example))
        if stage.pack != "none":
            kept.append(example)
    if not fitting:
        fix = f"raise stages.{stage.name}.max_length (now {stage.max_length})"
        raise UserError("every row is over the length limit", where=f"stages.{stage.name}", fix=fix)
    if stage.pack == "none":
        return Supply(None, fitting, encoder, stage.max_length, lengths), skipped
    packed = pack(kept, stage.pack, stage.max_length)
    return Supply(packed, fitting, encoder, stage.max_length, [len(each) for each in packed]), skipped


@dataclass(frozen=True, slots=True)
class Plan:
    """How many steps a stage has and how a step's sequences are dealt to micro-batches and ranks."""

    total: int
    micro: int
    accumulate: int


def plan_steps(stage: Stage, sizes: dict[str, int], world: int) -> Plan:
    """Steps and micro-batches of `stage`. An epoch is as many draws as there are sequences.

    Raises:
        UserError: a batch that ranks and micro-batches do not divide.
    """
    micro = stage.micro_batch or max(1, stage.batch // world)
    if stage.batch % (micro * world):
        raise UserError(
            f"batch {stage.batch} is not a multiple of micro_batch {micro} x {world} ranks",
            where=f"stages.{stage.name}.batch",
            fix=f"set batch to {math.ceil(stage.batch / (micro * world)) * micro * world}",
        )
    total = stage.steps or math.ceil((stage.epochs or 0) * sum(sizes.values()) / stage.batch)
    return Plan(total, micro, stage.batch // (micro * world))


class MicroBatches(Dataset[Batch]):
    """Micro-batch `i` of a stage: number i % accumulate of step i // accumulate.

    A step's draws do not depend on the number of ranks: each takes its share of the same global batch.
    """

    def __init__(
        self,
        supplies: dict[str, Supply],
        stage: Stage,
        plan: Plan,
        seed: int,
        ranks: Ranks,
        features: Lookup | None,
        augment: Augmenter | None = None,
    ) -> None:
        self.supplies, self.stage, self.plan, self.seed = supplies, stage, plan, seed
        self.rank, self.world, self.features, self.augment = ranks.rank, ranks.world, features, augment
        sizes = {name: len(each) for name, each in supplies.items()}
        self.mixture = Mixture(sizes, stage.data, seed)
        self.encoder = next(iter(supplies.values())).encoder
        self._window: tuple[int, list[list[Draw]]] = (-1, [])  # the window in use; a memory, not a state

    @property
    def sequences(self) -> int:
        """Sequences an epoch."""
        return sum(len(each) for each in self.supplies.values())

    def __len__(self) -> int:
        return self.plan.total * self.plan.accumulate

    def orders(self, first_step: int) -> Iterable[int]:
        """What `__getitem__` is to be asked for, from step `first_step` on."""
        return range(first_step * self.plan.accumulate, len(self))

    def places(self, step: int) -> list[Where]:
        """The places of the rows that this rank is fed in `step`, in order."""
        parts = [self._part(step, part) for part in range(self.plan.accumulate)]
        return [place for draws in parts for name, index in draws for place in self.supplies[name].places(index)]

    def _part(self, step: int, part: int) -> list[Draw]:
        """This rank's share of a micro-batch's draws."""
        first = (part * self.world + self.rank) * self.plan.micro
        return self._draws(step)[first : first + self.plan.micro]

    def __getitem__(self, i: int) -> Batch:
        step, part = divmod(i, self.plan.accumulate)
        sequences = [self.supplies[name][index] for name, index in self._part(step, part)]
        sequences = self.augment(sequences, step) if self.augment else sequences
        flip = torch.Generator().manual_seed(hash((self.seed, i, self.rank))) if self.stage.flip else None
        return self.encoder.collate(sequences, flip=flip, features=self.features)

    def _draws(self, step: int) -> list[Draw]:
        """The sequences of one step, over all ranks."""
        batch = self.stage.batch
        if not self.stage.group_by_length:
            return self.mixture.draw(step * batch, batch)
        window, place = divmod(step, WINDOW)
        if window != self._window[0]:
            self._window = (window, self._sorted_window(window))
        return self._window[1][place]

    def _sorted_window(self, window: int) -> list[list[Draw]]:
        """The draws of WINDOW steps, sorted by length into steps, the steps in an order of chance."""
        batch = self.stage.batch
        count = min(WINDOW, self.plan.total - window * WINDOW)
        draws = self.mixture.draw(window * WINDOW * batch, count * batch)
        draws.sort(key=lambda draw: self.supplies[draw[0]].lengths[draw[1]])
        order = torch.randperm(count, generator=torch.Generator().manual_seed(hash((self.seed, window)))).tolist()
        return [draws[k * batch : (k + 1) * batch] for k in order]


class Feed(Protocol):
    """Micro-batches of a stage, made one by one of the orders for them; an order is small enough to be sent around."""

    plan: Plan
    seed: int

    def orders(self, first_step: int) -> Iterable[Any]:
        """An order for each micro-batch from step `first_step` on."""

    def __getitem__(self, order: Any) -> Batch:
        """The micro-batch of an order, or of its number."""


def steps(batches: Feed, first_step: int, workers: int) -> Iterator[list[Batch]]:
    """The micro-batches of each step from `first_step` on, loaded by `workers` processes (0: in this one)."""
    per_step = batches.plan.accumulate
    loader: DataLoader[Batch] = DataLoader(
        cast("Dataset[Batch]", batches),
        batch_size=None,
        sampler=batches.orders(first_step),
        num_workers=workers,
        # Its own generator: the default draws a seed from torch's global one and would change the run's numbers.
        generator=torch.Generator().manual_seed(batches.seed),
        persistent_workers=workers > 0,
        worker_init_fn=_apart if workers else None,
    )
    gathered: list[Batch] = []
    for batch in loader:
        gathered.append(batch)
        if len(gathered) == per_step:
            yield gathered
            gathered = []


def _apart(worker: int) -> None:
    """Leave the run's process group: torchrun signals all of it, and a run that saves itself still needs its data."""
    os.setpgid(0, 0)

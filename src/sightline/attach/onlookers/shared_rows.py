"""Rows of the inputs, hashed: which of those that are evaluated on were trained on before?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from sightline.attach.onlookers.near_rows import NearRows
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.onlookers.other_side import OtherSide
from sightline.attach.onlookers.reader import Reader
from sightline.attach.onlookers.repeats import Repeats, equal_pairs
from sightline.attach.onlookers.row_classes import RowClasses
from sightline.attach.onlookers.row_hashes import hashes, keys, parts_of
from sightline.attach.onlookers.row_inputs import (
    batch_first,
    is_mask,
    listed_in,
    one_channel,
    pairs_in,
    rows_in,
    wide_inputs,
)
from sightline.attach.onlookers.set_back import SetBack
from sightline.attach.onlookers.shared_pictures import SharedPictures, picture_place
from sightline.attach.onlookers.spans import Spans
from sightline.attach.onlookers.tails import Tails, fuller
from sightline.guard.evidence import SharedRowsSeen
from sightline.guard.probes.call import Call, differentiable, outcome

ALWAYS = 64  # training batches that are hashed whatever the step costs; later ones on measured steps, and
PASS = 256  # of a first pass through the data, as long as that goes on: whoever makes but one judges at its end
LATER = 16  # some more, where they are heard: were their rows there before?
MOST = 20_000  # rows kept of either kind: 2 MB of hashes
PART = 0.1  # of a batch: with n rows known and n seen again, fewer than three others are left (95 %)
OLD = 0.7  # of a batch: not every training batch is hashed, and an epoch may drop its last rows
SURE = 32  # rows that had been trained on: an evaluation of some of them tells more than one of two or three rows
KEPT = 512  # rows whose parts are kept: enough to see that none comes twice


@dataclass(slots=True)
class Phase:
    """One evaluation: its different rows; of which kinds its batches are (of rows that were trained on, of new ones, of
    both); how many rows it has, and how many had been trained on, repetitions included."""

    rows: set[bytes] = field(default_factory=set)
    kinds: set[str] = field(default_factory=set)
    judged: int = 0
    known: int = 0

    def weight(self) -> tuple[int, float]:
        """Of its rows the share that had been trained on, where these are not few."""
        return min(self.known, SURE), self.known / max(1, self.judged)


class SharedRows(Onlooker):
    """Compares evaluation batches with the training batches before them, and training batches with evaluations."""

    shows: ClassVar[tuple[str, ...]] = ("SharedRowsSeen", "SharedSpansSeen")

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self.several = False  # ranks train one model, who are judged together at the end
        self.final: SharedRowsSeen | None = None
        self._other, self._reader = OtherSide(), Reader(recorder)
        self._one = True  # the model is given one input for each row, masks aside
        self._ids = False  # rows are ids of several things, as a user's and an item's
        self._batches = self._taken = self._hashed = self.pairs = self.twins = self._rows = self._again = 0
        self._parts: list[tuple[int, ...]] = []  # hashes of the parts of distinct training rows
        recorder.pace.also.append(self._must_hear)
        self._last: int | None = None  # the step of the last evaluation that the host did not declare
        self._under_way: tuple[int, set[bytes]] = (-1, set())  # the rows of the step in the making, and its number
        self._back = SetBack(recorder.model, recorder.mailbox, self._forget)
        self._begin()

    def _begin(self) -> None:
        """Nothing was taught yet."""
        self.trained: dict[bytes, int] = {}  # row -> the step that was first to train on it
        self.evaluated: set[bytes] = set()
        self.judged: list[tuple[int, list[bytes]]] = []  # the step of each evaluation batch, and its rows
        self.later: list[tuple[int, list[bytes]]] = []  # the same of training batches after the first ones
        self.repeats = Repeats()
        self._classes = RowClasses(self.repeats.trained)
        self._shared: set[bytes] = set()
        self._mixed = self._old = 0  # `_old`: training rows in a row that had all been seen before
        self._near, self._spans, self._pictures = NearRows(), Spans(), SharedPictures()
        self._tails, self._channel = Tails(), Tails()
        self._at: tuple[int, int] | None = None  # the step of the evaluation under way, and which its host calls it
        self._phase = Phase()
        self._judging = self._worst = Phase()  # the last that arrived, and of those before that of the largest share
        self._compared = False  # how often each row is there

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Hash the rows of a training or an evaluation forward."""
        step, call = self.recorder.step, batch_first(call, output)
        if training:
            call = self._reader.trains(call)
            self._back.trains(step)
            self._batches = self.recorder.forwards
            wanted = measured or self._first(self._batches - 1) or len(self.later) < LATER
            if wanted and len(self.trained) < MOST and (rows := self._rows_of(call, training=True)):
                self._taken += 1
                self._other.gave(rows[0], differentiable(output))
                names = self._classes.listen(self, outcome(output).logits, len(rows[0]))
                self._post(call, rows, partial(self._train, step, self._batches, names), training=True)
            return
        if step == 0 or len(self.evaluated) >= MOST:
            return
        if (logits := outcome(output).logits) is not None and logits.dim() == 2:
            self._near.classes = max(self._near.classes, logits.shape[1])
        here = (step, self.recorder.declarations)  # two of one step may share rows: validation, then test
        if self._at != here:
            every = self._last is not None and self.recorder.habit(self._last) and not self.recorder.declared
            self._last, self._at = self._last if self.recorder.declared else step, None if every else here
            self._phase = Phase()
            self._back.judges(step)
        given = self._reader.judges(call) if self._at == here and measured else None
        if given is not None and (rows := self._rows_of(given, training=False)):
            self._post(given, rows, partial(self._evaluate, step, self._phase), training=False)

    def backward(self, root: Tensor) -> None:
        """Does this loss compare outputs with those of another side?"""
        self._other.backward(root)

    def after_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Let go of the step's graph."""
        self._other.forget()
        self._back.stepped(optimizer)

    def again(self) -> None:
        """A stage of another loss, perhaps."""
        self._other.again()

    def close(self, *, broken: bool) -> None:
        """The last comparison."""
        self._other.forget()
        self.final = self._seen(last=True)
        if self.evaluated and self.trained:
            if not self.several:
                self._tell(self.final)
            if (seen := self._spans.seen(self.recorder.step)) is not None:
                self.recorder.offer(seen)
        self._near, self._spans, self._pictures = NearRows(), Spans(), SharedPictures()
        self._tails, self._channel = Tails(), Tails()

    def _forget(self, step: int) -> None:
        """The weights were set back before this step: these were taught nothing but its batch."""
        self._offer(step)
        classes = self._near.classes
        self._begin()
        self._near.classes = classes
        if self._under_way[0] >= step:
            self.trained = dict.fromkeys(self._under_way[1], step)

    @property
    def complete(self) -> bool:
        """Whether every training batch was hashed."""
        return self._hashed == self._batches

    def _must_hear(self, step: int) -> bool:
        """Of a small data set, whether rows repeat within it shows in its first pass alone."""
        return self._first(step)

    def _first(self, batches: int) -> bool:
        """Whether what comes after so many training batches is among the first ones."""
        whole = self._taken >= batches and not self.repeats.trained.over
        return batches < ALWAYS or (batches < PASS and whole)

    def _rows_of(self, call: Call, *, training: bool) -> list[Tensor]:
        if rows := rows_in(call) or listed_in(call):
            return rows
        pairs = pairs_in(call)
        self._ids = self._ids or bool(pairs)
        return pairs

    def _post(self, call: Call, rows: list[Tensor], take: Callable[..., None], *, training: bool) -> None:
        """Which of `rows` is a picture, how far a channel goes, and they, with the prints of images if there are some,
        to whoever takes them on the CPU."""
        wide = wide_inputs(call)
        seen, prints = (picture_place(wide), one_channel(wide)), self._near.prints(call, training=training)
        if prints is None:
            one = len(rows) == 1 and not self._ids
            self.recorder.mailbox.post(rows, lambda values: take(*seen, values, values[0] if one else None))
        else:
            self.recorder.mailbox.post([*rows, prints], lambda values: take(*seen, values[:-1], values[-1]))

    def _train(
        self,
        step: int,
        number: int,
        names: list[bytes],
        picture: int | None,
        channel: int,
        values: list[Tensor],
        likes: Tensor | None,
    ) -> None:
        rows = hashes(values)
        names += rows
        self._one = sum(not is_mask(value) for value in values) == 1
        self._pictures.trained(rows, None if picture is None else values[picture])
        self._under_way = (step, {*rows, *(self._under_way[1] if self._under_way[0] == step else ())})
        self._near.trained(rows, likes)
        self._spans.train(values)
        self._tails.train(values)
        self._channel.train([values[0][:, :channel]])
        self._rows += len(rows)
        again = sum(row in self.trained for row in rows)
        self._again += again
        self._old = self._old + again if again == len(rows) else 0
        self._hashed += 1
        self.repeats.train(rows, whole=self._hashed == number)
        self.pairs += len(rows) * (len(rows) - 1) // 2
        self.twins += equal_pairs(Counter(rows))
        known = [row in self.evaluated for row in rows]
        self._mixed += any(known) and not all(known)
        self._keep_parts(rows, max(values, key=lambda value: value[0].numel()))
        if number > ALWAYS and len(self.later) < LATER:
            self.later.append((step, rows))
        self.trained.update({row: step for row in rows if row not in self.trained})
        if any(known) or self._passed(step):
            self._offer(step)

    def _evaluate(
        self, step: int, phase: Phase, picture: int | None, channel: int, values: list[Tensor], likes: Tensor | None
    ) -> None:
        rows = hashes(values)
        if self._under_way[0] == step and self._under_way[1].issuperset(rows):
            return  # a part of training: a reference's log-probabilities, a teacher, an accuracy of this very batch
        if self._passed(step):  # by the evaluation before
            self._offer(step)
        self._near.evaluated(rows, likes)
        self._pictures.evaluated(rows, None if picture is None else values[picture])
        self._spans.evaluate(step, values)
        fresh = [row for row in rows if row not in phase.rows]
        self.pairs += len(rows) * (len(rows) - 1) // 2 + len(rows) * len(phase.rows)
        self.twins += len(rows) - len(fresh) + equal_pairs(Counter(fresh))
        phase.rows.update(rows)
        self.repeats.evaluate(step, rows)
        known = [row in self.trained for row in rows]
        self._tails.evaluate(values, known)
        self._channel.evaluate([values[0][:, :channel]], known)
        self._mixed += any(known) and known.count(False) >= self._least(len(rows))
        phase.judged, phase.known = phase.judged + len(rows), phase.known + sum(known)
        if phase is not self._judging:
            self._worst, self._judging = max(self._worst, self._judging, key=Phase.weight), phase
        phase.kinds.add("old" if sum(known) >= OLD * len(known) else "both" if any(known) else "new")
        self.judged.append((step, rows))
        self._shared.update(row for row, seen in zip(rows, known, strict=True) if seen)
        self.evaluated.update(rows)

    def _least(self, count: int) -> float:
        """Unknown rows of a batch of known ones that tell rows of two kinds.

        One, where every training batch was hashed. Where an epoch's worth of training rows had all been seen before, a
        few of the others were not: then more than can be those. Else no number, for most may be training rows.
        """
        if self.complete:
            return 1
        return max(2, PART * count) if self._settled else math.inf

    @property
    def _settled(self) -> bool:
        return self._old >= len(self.trained)

    def _keep_parts(self, rows: list[bytes], value: Tensor) -> None:
        """Of rows that were not seen before."""
        fresh = {row: place for place, row in enumerate(rows) if row not in self.trained}
        for place in list(fresh.values())[: KEPT - len(self._parts)]:
            self._parts.append(parts_of(value[place]))

    def _passed(self, step: int) -> bool:
        """Whether it is known, and was not told yet, how often each row is there."""
        return not self._compared and self.repeats.over(step, whole=self.complete)

    def _offer(self, step: int) -> None:
        passed = self._passed(step)
        self._compared = self._compared or passed
        if not self.several:
            self._tell(self._seen(passed=passed))

    def _tell(self, seen: SharedRowsSeen) -> None:
        self.recorder.offer(seen)

    def _seen(self, *, last: bool = False, passed: bool = False) -> SharedRowsSeen:
        worst, drawn = max(self._worst, self._judging, key=Phase.weight), self.repeats.trained
        return SharedRowsSeen(
            step=self.recorder.step,
            trained=len(self.trained),
            evaluated=len(self.evaluated),
            shared=len(self._shared),
            mixed=0 if self._ids else self._mixed,  # pairs that nobody chose are drawn for either side
            complete=self.complete,
            apart=self._phase.kinds == {"old", "new"},
            pairs=self.pairs,
            twins=self.twins,
            again=self._again / max(1, self._rows),
            parts=len(self._parts),
            keys=keys(self._parts),
            near=self._near.seen(self.trained) if last else None,
            views=self._near.views(self.trained) if last and self._again else None,
            clumps=self._near.clumps(self.trained) if last and self._again else None,
            settled=self._settled,
            pictures=self._pictures.seen(self.trained) if last else None,
            tails=fuller(self._tails.seen(), self._channel.seen()) if last else None,
            repeats=self.repeats.seen() if (last or passed) and not self._ids else None,
            drawn=(drawn.pairs, drawn.twins),
            classes=self._classes.counted() if last or passed else (),
            one_side=self._one and self._other.found,
            worst=(worst.known, worst.judged),
            extracted=last and not self._worst.judged and self._judging.rows > self.trained.keys(),
        )

"""Have the inputs of the rows that a model is trained on anything to do with what is taught of them?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sightline.attach.classes import may_teach_classes
from sightline.attach.kinship import LONG, NONE, likeness, of_pairs, stacked, together, views
from sightline.attach.onlookers.matches import ASIDE, TAUGHT, scored, won_by_pairs
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.onlookers.outputs import given_out
from sightline.attach.onlookers.row_inputs import IDS, wide_inputs
from sightline.attach.onlookers.taught_numbers import NUMBERS, Reader
from sightline.attach.prints import hashes_of, made
from sightline.attach.prints import together as one_hash
from sightline.attach.structure import natural_rows
from sightline.guard.evidence import IGNORE, KinSeen
from sightline.guard.probes.call import Call, differentiable

VAIN = 8  # first batches without rows and labels end it
EACH, MOST = 32, 1024  # rows of a batch that are kept, and of all
FEWEST = 384  # rows, of fewer a weak tie would be lost among chance
FIRST, SURE = 448, 20.0  # rows that are looked at first, and the standard deviations that are enough
LEAST = 4  # rows of a batch
WRITTEN, ASKED, SAID = 0.9, 3, 12  # of the words are next ones; words of a question; different answers
STILL = 1e-4  # of the largest number: numbers that are all one
KINDS, FEW = 32, 8  # different inputs, and of the other one of pairs: a few may be examples of a form
WORDS = 2  # dimensions of ids
Fit = Callable[[list[Tensor]], bool]
Side = list[Tensor]  # (B, F) each: one input, or the labels, in several views


class Kinship(Onlooker):
    """Keeps rows of the first batches with their labels, or both inputs of pairs, and compares them at the end."""

    shows: ClassVar = ("KinSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._begin()

    def _begin(self) -> None:
        self._reader, self._vain = Reader(), 0
        self._rows: list[tuple[list[Side], Side]] = []  # of each batch: inputs, and labels (none of pairs)
        self._prints: set[int] = set()
        self._shape: list[Any] = []
        self._kept = 0

    def again(self) -> None:
        """Another stage may teach something else."""
        self._begin()

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """A training batch."""
        if not training or self._vain >= VAIN or (self._kept >= MOST and not self._reader.waits):
            return
        self._vain += 1  # until it has come
        parted = self.recorder.parted
        inputs = [one for some, _ in parted for one in _data(some)] if len(parted) > 1 else _data(call)
        given = _both([one for _, one in parted]) if len(parted) > 1 else scored(output)
        rows = len(inputs[0]) if inputs else 0
        if rows < LEAST or any(len(one) != rows for one in inputs) or len(inputs) > WORDS:
            return
        if len(inputs) == WORDS and given is not None and len(given[0]) == rows:
            self._pairs(inputs, *given)
        elif (taught := answers(call, inputs)) is not None:
            questions, said = taught
            beside = [_prints([*questions, said]), _prints(questions)]
            self._post(_views(questions), [said[:EACH, :LONG]], beside, lambda got: self._unless(_rivals(got[-1])))
        elif len(parted) < WORDS and (len(inputs) == 1 or len(differentiable(output)) == 1):
            self._labels(inputs, given_out(output))  # of several outputs each may need one input alone

    def _pairs(self, inputs: Sequence[Tensor], left: Tensor, right: Tensor | None) -> None:
        """Both inputs, if the loss pulls those of one place together."""
        sides = _views(inputs)
        prints = _prints(inputs)

        def came(grad: Tensor) -> None:
            pulls = grad if right is None else grad @ right.detach().to(grad.dtype).T
            share = won_by_pairs(-pulls)
            self._post(sides, [], [prints, share], lambda got: float(got[-1]) >= TAUGHT)

        self.heed(left, came)

    def _labels(self, inputs: Sequence[Tensor], logits: Tensor | None) -> None:
        """Inputs, and what the gradient says of the labels; of a text that is taught beside a picture, both."""
        if logits is None or not logits.requires_grad or len(logits) != len(inputs[0]):
            return
        prints, rows = _prints(inputs), len(logits)
        if logits.dim() > WORDS:
            self._words(inputs, logits, prints)
            return
        if logits.numel() > NUMBERS * rows and not may_teach_classes(logits, rows):
            return
        sides = _views(inputs) if self._kept < MOST else [[] for _ in inputs]
        values = logits.detach()
        self.heed(logits, lambda grad: self._post(sides, [], [prints, values, grad], lambda got: True))

    def _words(self, inputs: Sequence[Tensor], logits: Tensor, prints: Tensor) -> None:
        """A text of which a part is taught, word by word; a picture may stand before it."""
        text, vocabulary = inputs[-1], logits.shape[-1]
        before = logits.shape[1] - text.shape[1]
        if (
            not _is_text(text)
            or logits.dim() != WORDS + 1
            or before < -1
            or text.shape[1] < WORDS
            or vocabulary < WORDS
        ):
            return
        sides = _views(inputs[:-1])

        def came(grad: Tensor) -> None:
            least, targets = grad[:EACH, max(before, 0) :].min(dim=-1)
            width = text.shape[1] - 1
            ids, taught, targets = text[:EACH, 1:], least[:, :width] < 0, targets[:, :width]
            right = ((ids == targets) & taught).sum() / taught.sum().clamp(min=1)
            asked = torch.cat([text[:EACH, :1], ids.masked_fill(taught, NONE)], dim=1)
            said = ids.masked_fill(~taught, NONE)
            beside = [prints, right]
            self._post([*sides, views(asked)], views(said), beside, lambda got: self._unless(float(got[-1]) < WRITTEN))

        self.heed(logits, came)

    def _unless(self, chosen: bool) -> bool:
        """Whether words are simply taught. Where some are to become less likely, others need not fit their question."""
        if chosen:
            self._begin()
            self._vain = VAIN
        return not chosen

    def _post(self, sides: list[Side], labels: Side, beside: list[Tensor], fit: Fit) -> None:
        """On the way to the CPU: some rows of a batch. `fit`: whether they count, of `beside`."""
        sizes, box = [len(side) for side in sides], self._rows
        tensors = [one[:EACH] for side in (*sides, labels) for one in side]

        def arrived(got: list[Tensor]) -> None:
            parts, rest = got[: len(tensors)], got[len(tensors) :]
            if box is not self._rows or not fit(rest):
                return
            found: list[Side] = []
            for size in sizes:
                found.append(parts[:size])
                parts = parts[size:]
            if len(rest) > WORDS:
                label = self._reader.read(*rest)
                parts = [] if label is None else [label[:EACH]]
            if parts or len(rest) <= WORDS:
                self._arrived(found, parts, rest[0][:EACH].tolist())

        self.recorder.mailbox.post([*tensors, *beside], arrived)

    def _arrived(self, sides: list[Side], labels: Side, prints: list[int]) -> None:
        """Rows that have not come before."""
        shape = [one.shape[1:] if one.is_floating_point() else () for side in (*sides, labels) for one in side]
        self._vain = 0
        if self._kept >= MOST or (self._rows and shape != self._shape):
            return
        self._shape = shape
        new = [place for place, one in enumerate(prints) if one not in self._prints and one not in prints[:place]]
        self._prints.update(prints)
        if new:
            self._rows.append(([[one[new] for one in side] for side in sides], [one[new] for one in labels]))
            self._kept += len(new)

    def close(self, *, broken: bool) -> None:
        """What they have to do with each other."""
        if self._kept < FEWEST:
            return
        with torch.no_grad():
            sides, labels = zip(*self._rows, strict=True)
            every = [[stacked(view) for view in zip(*one, strict=True)] for one in zip(*sides, strict=True)]
            taught = [stacked(view) for view in zip(*labels, strict=True)]
            known = self._reader.numbers(taught)
            told = None if known is None else _kin(every, known)
        if told is not None:
            self.recorder.offer(KinSeen(self.recorder.step, self._kept, told))


def _kin(sides: Sequence[Side], labels: Side) -> float | None:
    """Of all rows, unless the first ones are enough: nearly all that can be learnt is clear from those."""
    told = kin([[view[:FIRST] for view in side] for side in sides], [view[:FIRST] for view in labels])
    return told if told is not None and told >= SURE else kin(sides, labels)


def kin(sides: Sequence[Side], labels: Side) -> float | None:
    """How surely inputs tell anything of their labels, or of each other; None where they are noise, or all one."""
    pictures = [side for side in sides if side[0].is_floating_point()]
    words = [side for side in sides if not side[0].is_floating_point()]
    if labels:
        least = 1 if pictures else ASKED
        words = [one for one in words if one[0].shape[1] == 1 or (one[0] != NONE).sum() >= least * len(one[0])]
        if not _varied(labels[0], SAID if _is_text(labels[0]) and not pictures else WORDS):
            return None
    sides = [*pictures, *words]
    if not sides or not all(natural_rows(side[0]) for side in (sides[:1] if labels else sides)):
        return None
    kinds = [len(side[0].unique(dim=0)) for side in (sides[:1] if labels else sides)]
    if max(kinds) < KINDS or min(kinds) < FEW:
        return None
    known = [[alike for one in side for alike in likeness(one)] for side in sides]
    taught = [alike for one in labels for alike in likeness(one)]
    if len(sides) == 1:
        return together(known[0], taught) if taught else None
    beside = known[1] if sides[1][0].shape[1] > 1 else []  # one number may be anything that is known of a row
    told = together(known[0], [*beside, *taught, *(of_pairs(known[1], taught) if taught else ())])
    if taught and not (pictures and words):  # one of two alike may be of no use
        told = max(told, together(known[1], taught))
    return told


def _varied(labels: Tensor, least: int) -> bool:
    """Whether there are so many kinds of labels: numbers that a rounding makes are one."""
    if labels.is_floating_point() and float(labels.std(dim=0).max()) <= STILL * float(labels.abs().max()):
        return False
    return len(labels.unique(dim=0)) >= least


def _data(call: Call) -> list[Tensor]:
    """The inputs of a call that come from data, texts behind pictures, and last what is one number a row."""
    if made(call) or call.of_graph or not (wide := wide_inputs(call, ASIDE)):
        return []
    named = [*((str(place), value) for place, value in enumerate(call.args)), *call.kwargs.items()]
    given = [value for name, value in named if isinstance(value, Tensor) and not any(word in name for word in ASIDE)]
    lone = [value.detach()[:, None] for value in given if value.dim() == 1 and len(value) == len(wide[0])]
    return [*sorted(wide, key=_is_text), *lone]


def _is_text(rows: Tensor) -> bool:
    return rows.dim() == WORDS and rows.dtype in IDS and rows.shape[1] > 1


def _prints(inputs: Sequence[Tensor]) -> Tensor:
    found = one_hash([hashes_of(one) for one in inputs])
    assert found is not None
    return found


def _rivals(questions: Tensor) -> bool:
    """Whether each question has several answers in a batch, as where one of them is to be preferred."""
    return 2 * len(questions.unique()) <= len(questions)


def _views(inputs: Sequence[Tensor]) -> list[Side]:
    return [views(one[:EACH]) for one in inputs]


def _both(outputs: Sequence[Any]) -> tuple[Tensor, Tensor] | None:
    """The last vectors of two parts: of the same shape."""
    found = [one for one in outputs if isinstance(one, Tensor) and one.dim() == WORDS and one.requires_grad]
    return (found[0], found[-1]) if len(found) > 1 and found[0].shape == found[-1].shape else None


def answers(call: Call, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Tensor] | None:
    """What a model is asked (texts, and images first), and what it is to say, where labels are given beside ids."""
    labels = call.tensor("labels")
    texts = [one for one in inputs if _is_text(one)]
    if labels is None or labels.dim() != WORDS or labels.dtype not in IDS or len(texts) != 1:
        return None
    said, asked = labels.masked_fill(labels == IGNORE, NONE), texts[0]
    if asked.shape == labels.shape:
        asked = asked.masked_fill(labels != IGNORE, NONE)
    mask = call.tensor("attention_mask")
    if mask is not None and mask.shape == asked.shape:
        asked = asked.masked_fill(mask == 0, NONE)
    return [*(one for one in inputs if one is not texts[0]), asked], said

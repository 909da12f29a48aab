"""Which token stands for image features, in a model that does not say so? The one whose embedding is written over.

A token whose embedding is replaced gets no gradient in the embedding table, however often it is there. Padding gets
none either, but it is not attended to, or stands at the end of rows only, and not in all of them.

It is told only where its spans look cut: else how many tokens such a model wants for an image is its own business. Or
where features are scattered over it, as many for each image as the fullest row has places, and other rows have fewer.
However features are put in: where it stands in runs, as long as an image has features, that a limit of rows cuts. Or
where it is taught, though nothing reads it: all else that is taught in its place is read there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.read import image_features, image_spans
from sightline.attach.scattered import looked_up, partly_filled, scattered
from sightline.attach.setup import Facts, embedding_of, embeddings_of, image_token_of
from sightline.guard.evidence import IGNORE
from sightline.guard.evidence.cut_runs import Run, cut_at_a_limit, runs
from sightline.guard.probes.call import Call, outcome

LOOKS = 8  # measured steps with images that are looked at: a limit that cuts no row of eight batches cuts few
PARTIAL = 2  # rows, of all batches looked at, into which only some of an image's features were written
FEWEST = 4  # kinds of tokens that are taught something where they stand
SHORT = 3  # rows with fewer placeholders than others that end at one column: two may do so by chance


class Placeholder(Onlooker):
    """Looks at measured steps with ids and images, and tells the recorder's facts."""

    shows: ClassVar = ("BatchSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._batch: tuple[Tensor, Tensor, Tensor | None, Tensor | None] | None = None  # the table's weight first
        self._taught: Tensor | None = None  # (B, T) what each output of the batch was to say
        self._where: Tensor | None = None  # (B, T) what is known to be written over in it
        self._looks = self._partial = 0
        self._runs: dict[tuple[int, bool], list[Run]] = {}  # of a token, in rows or in prompts
        self._each: set[int | None] = set()  # features of an image; None where that is not known

    def again(self) -> None:
        """Another stage may have other data."""
        self._looks = self._partial = 0
        self._runs, self._each = {}, set()

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Keep the ids of a batch with images: one forward's, for gradients add up."""
        if self._looks >= LOOKS or not training or not measured:
            return
        ids, images, mask = (call.tensor(name) for name in ("input_ids", "pixel_values", "attention_mask"))
        if ids is None or images is None or ids.dim() != 2:
            return
        if image_token_of(self.recorder.model, getattr(self.recorder, "facts", Facts())) is not None:
            self._looks = LOOKS
            return
        self._looks += 1
        labels = call.tensor("labels")
        mask, labels = (one if one is not None and one.shape == ids.shape else None for one in (mask, labels))
        table = self._table(output, ids)
        self._batch, self._taught = (table, ids, mask, labels) if table is not None else None, None
        self._where = None
        if (logits := outcome(output).logits) is not None and logits.shape[:-1] == ids.shape and logits.requires_grad:
            self.heed(logits, self._came)
        self._look(call, ids, mask, labels)
        if (written := scattered(output, ids)) is not None:
            where, features = written
            self._where = where.to(ids.device)
            self.recorder.mailbox.post([ids, where], lambda values: self._written(values[0], values[1], features))

    def _table(self, output: Any, ids: Tensor) -> Tensor | None:
        """The weight of the token embedding: that of places may have more rows, and the graph tells which was asked."""
        every = [one.weight for one in embeddings_of(self.recorder.model)]
        asked = looked_up(output, ids, every) if len(every) > 1 else None
        likely = embedding_of(self.recorder.model)
        return asked if asked is not None or likely is None else likely.weight

    def _look(self, call: Call, ids: Tensor, mask: Tensor | None, labels: Tensor | None) -> None:
        """Note the runs of tokens in a batch, and how many features each of its images has."""
        signals: Any = getattr(self.recorder, "signals", None)
        images, features = image_spans(call), image_features(call, signals.gave.features if signals else None)
        if not images or (features is not None and features % images):
            return
        each = None if features is None else features // images
        tables = embeddings_of(self.recorder.model)
        pads = {table.padding_idx for table in tables if table.padding_idx is not None}
        real = ids.ne(pads.pop()) if mask is None and len(pads) == 1 else mask
        given = {"real": real, "labels": labels}
        there = {name: tensor for name, tensor in given.items() if tensor is not None}

        def arrived(values: list[Tensor]) -> None:
            came = dict(zip(there, values[1:], strict=True))
            real = came["real"].bool() if "real" in came else None
            prompt = (came["labels"] == IGNORE).int().cumprod(dim=1).bool() if "labels" in came else None
            self._each.add(each)
            every = each is None and images == len(values[0])
            for token, of_prompts, rows in runs(values[0], real, prompt, every=every):
                if each is not None or len(rows) == images:
                    self._runs.setdefault((token, of_prompts), []).extend(rows)
            self._judge()

        self.recorder.mailbox.post([ids, *there.values()], arrived)

    def _judge(self) -> None:
        """The one token whose runs are as long as an image has features, and cut."""
        wholes = {key: cut_at_a_limit(rows) for key, rows in self._runs.items()}
        found = {token: whole for (token, _), whole in wholes.items() if whole is not None}
        if len(found) == 1 and self._each in ({whole := next(iter(found.values()))}, {None}):
            self._found(next(iter(found)), None if whole in self._each else whole)

    def _written(self, ids: Tensor, where: Tensor, features: int) -> None:
        if (found := partly_filled(ids, where, features)) is not None:
            self._partial += found[1]
            if self._partial >= PARTIAL:
                self._found(found[0])

    def _found(self, token: int | None, each: int | None = None) -> None:
        facts = getattr(self.recorder, "facts", None)
        if token is not None and facts is not None and facts.image_token_id is None:
            self._looks = LOOKS
            facts = replace(facts, image_token_id=token, tokens_per_image=facts.tokens_per_image or each)
            self.recorder.facts = facts  # type: ignore[attr-defined]

    def _came(self, grad: Tensor) -> None:
        """The gradient of the outputs."""
        least, token = grad.detach().min(dim=-1)
        self._taught = token.masked_fill(least >= 0, IGNORE)

    def before_step(self, optimizer: Any, *, measured: bool) -> None:
        """The gradient of the embedding table, row by row, at the ids of the batch."""
        batch, taught, where, self._batch, self._taught = self._batch, self._taught, self._where, None, None
        if batch is None or (grad := batch[0].grad) is None:
            return
        _, ids, mask, labels = batch
        if grad.is_sparse or hasattr(grad, "to_local"):
            return
        unread = next((e.padding_idx for e in embeddings_of(self.recorder.model) if e.weight is batch[0]), None)
        dead = (grad == 0).all(dim=1)[ids.clamp(0, len(grad) - 1).to(grad.device)]
        attended = torch.ones_like(ids) if mask is None else mask

        prompt = attended if labels is None else attended * (labels == IGNORE).int().cumprod(dim=1)

        def arrived(values: list[Tensor]) -> None:
            attended, prompt = values[2].bool(), values[3].bool()
            self._found(cut_placeholder(values[0], values[1], attended, prompt))
            if len(values) > 4:
                self._found(taught_placeholder(values[0], values[5], values[4], unread))

        rest = [] if taught is None else [taught, dead if where is None else dead | where]
        self.recorder.mailbox.post([ids, dead, attended, prompt, *rest], arrived)


def cut_placeholder(ids: Tensor, dead: Tensor, attended: Tensor, prompt: Tensor | None = None) -> int | None:
    """The one token without a gradient that every row holds in a run, before other tokens that are attended to, where
    rows with fewer of it than others all end at one column. (B, T) each.

    Or begin with it, and are as long as a limit that cuts from the left lets a row's `prompt` be.
    """
    if dead[attended].all():
        return None
    columns, found = torch.arange(ids.shape[1]), []
    end = torch.where(attended, columns, -1).amax(dim=1)
    for token in ids[dead & attended].unique().tolist():
        at = (ids == token) & attended
        runs, last, counts = (
            (at[:, 1:] & at[:, :-1]).any(dim=1),
            torch.where(at, columns, -1).amax(dim=1),
            at.sum(dim=1),
        )
        short = counts < counts.max()
        cut = int(short.sum()) >= SHORT and len(last[short].unique()) == 1
        cut = cut and bool(runs.all()) and bool((last < end).all())
        if cut or _cut_from_the_left(at, (attended if prompt is None else prompt).sum(dim=1)):
            found.append(int(token))
    return found[0] if len(found) == 1 else None


def taught_placeholder(ids: Tensor, dead: Tensor, taught: Tensor, unread: int | None = None) -> int | None:
    """The one token whose runs are taught to go on, and that nobody reads, though outputs at its own places are taught.

    (B, T) each; `dead`: without a gradient, or written over (a table that is the output layer too has one for all);
    `unread`: what the table itself gives no gradient. Of the others that are taught so, most have one.
    """
    own = taught[:, :-1] >= 0
    kinds = ids[:, :-1][own].unique().tolist()
    still = [int(token) for token in kinds if token != unread and bool(dead[ids == token].all())]
    if len(still) != 1 or len(kinds) < FEWEST:
        return None
    at = ids == still[0]
    on = at[:, 1:] & at[:, :-1]
    said = on & (taught[:, :-1] == still[0])
    return still[0] if int(said.any(dim=1).sum()) >= SHORT and torch.equal(said, on & own) else None


def _cut_from_the_left(at: Tensor, length: Tensor) -> bool:
    """Whether rows that have less than others of the run `at` (B, T) their begin are just those as long as a limit."""
    counts = at.sum(dim=1)
    run = at.int().cumprod(dim=1).sum(dim=1)
    short, whole = (counts > 0) & (counts < counts.max()), counts == counts.max()
    if int(short.sum()) < SHORT or not bool((run == counts).all()) or len(length[short].unique()) > 1:
        return False
    return bool((length[whole] < length[short].max()).any() and (length <= length[short].max()).all())

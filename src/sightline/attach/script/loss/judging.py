"""The losses by which a script judges its model: calls of cross-entropy, while an evaluation is under way.

A loop that computes its perplexity itself shows nowhere else how many targets each of its losses is a mean of. What is
kept are tensors on their way to the CPU, so an evaluation waits for nothing; training is not listened to.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import isclose
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.feed import Feed
from sightline.attach.hook import Hook
from sightline.attach.phases.state import State
from sightline.attach.read import own_padding
from sightline.attach.script.audience import Beside
from sightline.guard.evidence import BatchScore, JudgedLossesSeen
from sightline.guard.probes.call import Call

ROUNDS = 64  # evaluations that are listened to: a wrong count is wrong every time
MOST = 4096  # losses of one evaluation
ASKED = 4  # of its calls: a batch of rows of one length hides no padding
SAME, NOUGHT = 1e-4, 1e-6  # one loss, summed in another order: relative, and nats a token where hardly any are left
EACH, MEAN, SUM = 0, 1, 2  # torch's numbers for reductions
PLAIN = "cross_entropy_loss"  # of torch._C._nn: what F.cross_entropy and nn.CrossEntropyLoss come to
LIKELY = "nll_loss_nd"  # the same of F.nll_loss and nn.NLLLoss, of likelihoods that are logarithms
METRIC, UPDATE = "torchmetrics.text.perplexity", "_perplexity_update"  # of (logits, targets, ignored)
NONE = -100  # no target is


@dataclass(eq=False)
class Round:
    """One evaluation of one model. `kinds`: numbers of classes. `other`: losses that are no sum over targets.

    `pad`: the id that only pads, as far as the first calls tell, of vocabularies with as many rows as `tables` holds.
    `padded`: of each call, its rows and how many of the targets that its losses took were that id.
    """

    state: State
    step: int
    batches: list[BatchScore] = field(default_factory=list)
    kinds: set[int] = field(default_factory=set)
    heard: int = 0
    other: bool = False
    pad: int | None = None
    tables: frozenset[int] = frozenset()
    asked: int = 0
    padded: list[list[int]] = field(default_factory=list)

    @property
    def scores(self) -> tuple[BatchScore, ...]:
        """What was heard. One such target a row ends its text: what a model reads need not hold the last token.

        Where a model takes the loss itself, and the script does so again, it is the script's.
        """
        ends = all(hidden <= rows for rows, hidden in self.padded)
        last = [one for one, after in pairwise([*self.batches, None]) if not _alike(one, after)]
        kept = last if len(last) == len(self.padded) else self.batches
        return tuple(replace(one, fair=one.told, padding=0) if ends else one for one in kept if one)

    def ask(self, call: Call) -> None:
        """What pads, if that is not known yet. Reads the call's ids, so only of the first few."""
        if self.pad is None and self.asked < ASKED:
            self.asked, self.pad = self.asked + 1, own_padding(call)
            self.tables = frozenset(m.num_embeddings for m in call.model.modules() if isinstance(m, nn.Embedding))


def _alike(one: BatchScore | None, other: BatchScore | None) -> bool:
    if one is None or other is None:
        return False
    (nats, count), (others, as_many) = one.told, other.told
    return count == as_many and isclose(nats, others, rel_tol=SAME, abs_tol=NOUGHT * count)


class Judging(Beside):
    """All evaluations of the process, since `install`. `fault`: told of errors of our own."""

    def __init__(self, fault: Callable[[str], None]) -> None:
        super().__init__()
        hook = functools.partial(Hook, fault=lambda error: fault(f"judging: {type(error).__name__}: {error}"))
        self._round: Round | None = None
        self._rounds, self._entered = 0, False
        self._plain: dict[str, Callable[..., Any]] = {}  # torch's own, while ours are in their place
        self._wrapped: dict[str, Callable[..., Any]] = {}
        self._saw, self._open = hook(self._came), hook(self._opens)
        self._listen, self._tell = hook(self._begins), hook(self._ends)

    def close(self) -> None:
        """Nothing is listened to any more."""
        self._rest()
        super().close()

    def enters(self, state: State) -> None:
        """A model is about to be run, to judge it: it may take its loss itself."""
        self._open(state)
        super().enters(state)

    def gave(self, state: State, call: Call, output: Any) -> None:
        """It gave `output`."""
        self._listen(state, call)
        super().gave(state, call, output)

    def over(self, state: State) -> None:
        """Training goes on, or the script says what came out."""
        self._tell(state)
        super().over(state)

    # --- an evaluation -------------------------------------------------------------------------------------------

    def _opens(self, state: State) -> None:
        here = self._round
        if here is not None and here.step == state.step:
            here.other = here.other or here.state is not state  # whose losses they are is not known
        else:
            self._rest()
            if self._rounds >= ROUNDS or not state.probing.wants("JudgedLossesSeen"):
                return
            self._rounds += 1
            here = self._round = Round(state, state.step)
            for name in (PLAIN, LIKELY):
                self._plain[name] = getattr(torch._C._nn, name)
                self._wrapped[name] = self._noticed(self._plain[name])
                setattr(torch._C._nn, name, self._wrapped[name])
        here.padded.append([0, 0])
        self._entered = True

    def _begins(self, state: State, call: Call) -> None:
        if not self._entered:
            self._opens(state)  # nobody said that it was to be run
        self._entered = False
        if (here := self._round) is not None and here.padded:
            shapes = [value.shape for value in (*call.args, *call.kwargs.values()) if isinstance(value, Tensor)]
            here.padded[-1][0] = shapes[0][0] if shapes and shapes[0] else 0
            here.ask(call)

    def _rest(self) -> None:
        """Leave torch alone, unless somebody has put their own function around ours."""
        for name, plain in self._plain.items():
            if getattr(torch._C._nn, name) is self._wrapped[name]:
                setattr(torch._C._nn, name, plain)
        self._round, self._entered = None, False
        self._plain.clear()

    def _noticed(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(plain)
        def loss(*args: Any, **kwargs: Any) -> Any:
            result = plain(*args, **kwargs)
            self._saw(result, args)
            return result

        return loss

    def on_import(self) -> Mapping[str, Callable[[], None]]:
        """Module -> what to do once it is there."""
        return {METRIC: self._measured}

    def _measured(self) -> None:
        """A metric that takes the likelihoods itself."""
        module = sys.modules[METRIC]
        update: Callable[..., Any] | None = getattr(module, UPDATE, None)
        if update is None:
            return

        @functools.wraps(update)
        def updated(preds: Tensor, target: Tensor, ignored: int | None = None) -> Any:
            found = update(preds, target, ignored)
            none = NONE if ignored is None else ignored
            self._saw(found[0], (preds.movedim(-1, 1), target, None, SUM, none, 0.0))
            return found

        setattr(module, UPDATE, updated)

    @torch.no_grad()
    def _came(self, result: Tensor, args: tuple[Any, ...]) -> None:
        """A loss: torch hands over (logits, targets, weight, reduction, ignore_index[, label_smoothing]) by place."""
        here = self._round
        if here is None or result.requires_grad or here.state.muted or type(result) is not Tensor:
            return
        logits, targets, weight, reduction, ignored, smoothing = (*args, 0.0)[:6]
        dim = 1 if logits.dim() > 1 else 0
        classes = logits.shape[dim]
        pad = here.state.ignored if here.pad is None else here.pad  # what is no target in training is none here
        pad = pad if classes in here.tables else None  # of other targets the id says nothing
        known = pad is not None or reduction != EACH
        sums = weight is None and not targets.is_floating_point() and known
        here.heard += 1
        here.kinds.add(classes)
        if not sums or here.heard > MOST or len(here.kinds) > 1:
            here.other = True
            return
        rows, every = len(targets) if targets.dim() > 1 else 0, targets.numel()
        real = targets != ignored
        pads = real & (targets == pad) if pad is not None else real & False
        total = result.detach().sum()
        plain = self._plain[PLAIN](logits, targets, None, SUM, ignored, 0.0) if smoothing and self._plain else total
        likely = logits.detach().movedim(dim, -1)[pads].float().log_softmax(-1)  # not by the function that we are in
        padding, of_call = -likely.gather(-1, targets[pads].unsqueeze(-1)).sum(), here.padded[-1]

        def arrived(values: list[Tensor]) -> None:
            value, count, apart, hidden = float(values[0]), int(values[1]), float(values[2]), int(values[3])
            of_call[1] += hidden
            if count:
                nats = value * count if reduction == MEAN else value
                smooth, nats = ((nats, count), float(values[4])) if smoothing else (None, nats)
                fair, all_ = (nats - apart, count - hidden), (nats, every)
                here.batches.append(
                    BatchScore(rows or of_call[0], (nats, count), fair, all_, padding=hidden, smoothed=smooth)
                )

        here.state.mailbox.post([total, real.sum(), padding, pads.sum(), plain], arrived)

    def _ends(self, state: State) -> None:
        here = self._round
        if here is None or here.state is not state:
            return
        self._rest()
        if here.heard and not here.other:
            feed = Feed.last()
            whole = feed is not None and feed.lengths.get(feed.epoch) == here.heard
            state.mailbox.post([], lambda _: state.offer(JudgedLossesSeen(here.step, here.scores, whole)))

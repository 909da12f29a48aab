"""What only language models show, gathered from forward passes: reach of positions, padding, scores of evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.mailbox import Mailbox
from sightline.attach.prompts import Prompts
from sightline.attach.read import pad_id
from sightline.attach.scores import Scores
from sightline.guard.evidence import Evidence
from sightline.guard.evidence.taught_padding import ahead_of, filled_ends
from sightline.guard.probes.call import Call, Outcome, outcome
from sightline.guard.probes.clamped import clamped
from sightline.guard.probes.context import context, widened
from sightline.guard.probes.padded import real_tokens
from sightline.guard.probes.padding import padding, side_of

LOOKS = 3  # padded batches of a kind that are compared row by row: after that, a difference would have shown
FIRSTS = 16  # forward passes without gradients whose masks are read: reading waits for the device
WIDER = 1.25  # times as wide as all batches before it is one that may be wider than a table
BATCH, LENGTHS = 8, 4  # rows, and lengths of them, that tell padding which nobody names

Offer = Callable[[Evidence], Any]


class Language:
    """Watches one model's forward passes. `wants`: whether any check takes a kind of evidence."""

    def __init__(self, wants: Callable[[str], bool]) -> None:
        self._context = wants("ContextSeen")
        self._widest = 1.0 if self._context else math.inf
        self._looks = {"scoring": LOOKS, "generating": LOOKS} if wants("PaddingSeen") else {}
        self._firsts = FIRSTS
        self._scores = Scores(wants("ScoreSeen"))
        self._before: tuple[Call, Tensor, bool] | None = None  # the padded batch that a host may now go on from
        self._prompts = Prompts(wants("PromptsSeen"))
        self._last: Tensor | None = None  # the ids of the pass before
        self._taught: Tensor | None = None  # those of a training batch

    @property
    def padded(self) -> Call | None:
        """The padded batch that a host may now go on from."""
        return self._before[0] if self._before else None

    def trained(self, call: Call, step: int, offer: Offer) -> None:
        """After a training forward."""
        if self._looks:
            self._taught = call.tensor("input_ids")
        if self._context:
            self._context = False
            self._reach(call, step, offer)
        self._clamps(call, step, offer)

    def judged(self, call: Call, result: Outcome, step: int, mailbox: Mailbox, offer: Offer) -> None:
        """After a forward pass without gradients."""
        if self._context and step == 0:
            self._reach(call, step, offer)
        self._clamps(call, step, offer)
        self.generated(call, result, step, offer)
        self._scores.collect(call, result, mailbox)

    def round_over(self, step: int, mailbox: Mailbox, offer: Offer) -> None:
        """Training goes on, or the host says what the evaluation gave."""
        self._before = self._last = None
        self._scores.told(step, mailbox, offer)

    def generated(self, call: Call, result: Outcome, step: int, offer: Offer) -> None:
        """A padded batch, and the next token after it; prompts."""
        ids, before = call.tensor("input_ids"), self._before
        self._before = None
        if ids is None or ids.dim() != 2 or torch.is_grad_enabled():
            return
        if self._prompts.wanted:
            went_on = _went_on(self._last, call, ids) is not None
            if (prompts := self._prompts.passed(call, ids, went_on=went_on, step=step)) is not None:
                offer(prompts)
            self._last = ids
        if not any(self._looks.values()):
            return
        if (
            before is not None
            and self._looks["generating"]
            and (chosen := _went_on(before[0].tensor("input_ids"), call, ids)) is not None
        ):
            padded, shown, last_only = before
            if (seen := padding(padded, shown, step, chosen=chosen, last_only=last_only)) is not None:
                self._looks["generating"] -= 1
                offer(seen)
            return
        if ids.shape[1] < 2 or self._firsts <= 0:
            return
        self._firsts -= 1
        mask = real_tokens(call)
        told = mask is not None
        real = (_by_pad_id(call, ids) if pad_id(call) is not None else self._filled(ids)) if mask is None else mask
        if real is None or (side := side_of(real)) is None:
            return
        only = result.logits is not None and result.logits.dim() == 3 and result.logits.shape[1] == 1
        self._before = (call, real, only)
        wanted = told and self._looks["scoring"] and (side == "left" or not only)
        if wanted and (seen := padding(call, real, step)) is not None:
            self._looks["scoring"] -= 1
            offer(seen)

    def _filled(self, ids: Tensor) -> Tensor | None:
        """As `_by_pad_id`, of an id that fills rows of many lengths, here and in training, and stands nowhere else."""
        taught = self._taught
        if taught is None or taught.dim() != 2 or min(taught.shape) < 2 or len(ids) < BATCH:
            return None
        real = filled_ends(ids)
        if real is None or filled_ends(taught) is None or ids[:, -1].mode().values != taught[:, -1].mode().values:
            return None
        return real if len(real.sum(dim=1).unique()) >= LENGTHS else None

    def _clamps(self, call: Call, step: int, offer: Offer) -> None:
        """Of batches that are wider than those before: are they wider than the model's table of positions?"""
        ids = call.tensor("input_ids") if self._widest < math.inf else None
        if ids is None or ids.dim() != 2 or ids.shape[1] < WIDER * self._widest:
            return
        seen, self._widest = clamped(call, step), float(ids.shape[1])
        if seen is not None:
            self._widest = math.inf
            offer(seen)

    def _reach(self, call: Call, step: int, offer: Offer) -> None:
        for part in (call.model, *call.model.children()):  # a host's own module may hold the model
            if (seen := context(part, step)) is not None:
                offer((widened(call, part, seen) if part is not call.model else None) or seen)
                return


def generators(model: nn.Module) -> Sequence[nn.Module]:
    """The modules inside `model` that generate by themselves: an adapter's wrapper passes its own forward by."""
    return [inner for inner in model.modules() if inner is not model and hasattr(type(inner), "generate")][-1:]


def generation_hook(
    language: Language, muted: Callable[[], bool], step: Callable[[], int], silence: Callable[[], Any], offer: Offer
) -> Callable[..., None]:
    """A forward hook for `generators`."""

    def seen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not muted() and not torch.is_grad_enabled():
            with silence():
                language.generated(Call(module, args, kwargs), outcome(output), step(), offer)

    return seen


def _went_on(old: Tensor | None, call: Call, ids: Tensor) -> Tensor | None:
    """(B,) the tokens by which this pass goes on from the ids of the one before; None where it does not."""
    if old is None or len(old) != len(ids):
        return None
    cached = ids.shape[1] == 1 and call.value("past_key_values") is not None
    grown = ids.shape[1] == old.shape[1] + 1 and torch.equal(ids[:, :-1], old)
    return ids[:, -1] if cached or grown else None


def _by_pad_id(call: Call, ids: Tensor) -> Tensor | None:
    """(B, T) bool: True but on the runs of the model's own pad id at the end of rows; None without such an id."""
    if (pad := pad_id(call)) is None:
        return None
    return ahead_of(ids, pad)

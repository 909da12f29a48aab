"""Answers of probes (`guard/probes/`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class LeakSeen:
    """A token of one packed document was changed. Largest absolute changes of logits, in and outside that document.

    `inside` is the probe's own control (0: the change did nothing, so nothing is proved). `documents`: documents in
    the row; `restarts`: how many positions are 0 there, None where documents share a prefix (they go on from its end).
    `noise`: what one rounding of the largest logit makes, or two equal passes differ by; less than this proves nothing.
    """

    step: int
    documents: int
    restarts: int | None
    inside: float
    outside: float
    noise: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class ImagePairsSeen:
    """Mean loss per supervised token, (n,) float32 a row: with its own image, and with another row's on the same text.

    `changed`: whether the other image changed the logits at all. No rows: it was not told which token each output is
    for, and `changed` is of any output whatever. `first_alone`: of several places, only the first one's changed.
    """

    step: int
    own: Tensor
    other: Tensor
    changed: bool
    first_alone: bool = False


@dataclass(frozen=True, slots=True)
class EvaluationSeen:
    """An evaluation forward. `declared`: the host said so; else it was a forward pass without gradients.

    `lively`: modules in train mode that make a difference (dropout with p > 0, batch norm). `since`: turns of the loop
    (a step of each optimizer) since the last such forward that no host declared; None for the first. Answers of the
    probe, None when not probed, are largest absolute differences: `difference` of the outputs of one batch seen twice,
    `mode_gap` of what the host saw and what eval mode gives with the same random numbers. `dropouts`: functions that
    dropped values though no module is lively. `copy`: a copy of the model that is trained was asked, and never in eval
    mode. `imitates`: the model learns through another, which is given its outputs and data in turn (a generator).
    `relapsed`: the same line of the host's ran it in eval mode before, in this evaluation, on other inputs. `graded`:
    so many batches ran with gradients on, of data that is not trained on, and no backward pass came back to them.
    `part`: it alone was asked, by a method of the model's other than the one it is trained by.
    """

    step: int
    declared: bool
    lively: tuple[str, ...]
    difference: float | None = None
    mode_gap: float | None = None
    dropouts: tuple[str, ...] = ()
    since: int | None = None
    copy: bool = False
    imitates: bool = False
    relapsed: bool = False
    graded: int = 0
    part: str = ""

    @property
    def words(self) -> tuple[str, str]:
        """What runs in train mode, and what to do about it."""
        if self.relapsed:
            return "an evaluation begins in eval mode and goes on", "let what its loop calls restore the mode it found"
        if self.copy:
            return "a copy of the model is judged", "call its eval(): a copy, or a model read back, is in train mode"
        if self.graded:
            what = f"evaluation, of {self.graded} batches that no backward pass came back to, runs"
            return what, "evaluate under model.eval() and torch.no_grad(), and call model.train() after it"
        if self.part:
            return (
                f"evaluation of its part '{self.part}' runs",
                "call model.eval() before it, and model.train() after it",
            )
        return "evaluation runs", "call model.eval() before evaluation, and model.train() after it"


@dataclass(frozen=True, slots=True)
class UnsettledSeen:
    """An evaluation ran with weights that are divided by an estimate of their largest singular value.

    `norms`: the largest singular value of each weight as it was used (1 where the estimate is right).
    """

    step: int
    norms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RoundTripSeen:
    """A checkpoint was read back. `changed`: name -> largest absolute difference of values; `dtypes`: name -> (live,
    saved) where they differ; `missing` is live but not saved, `unexpected` the reverse. `frozen`: those of `missing`
    that do not learn (parameters without requires_grad and, beside such, buffers of their modules). `kept`: tensors of
    a state in memory that are the model's own, and were written to between its making (at step `since`) and its loading
    or saving. `loaded`: the script loaded it so, into a module that took nothing of it, or not all that it had learned,
    and was then used. `alias`: where a script keeps the model itself, uncopied, as the best one so far. `outside`:
    tensors in plain attributes, which are in no state and did not come back, and `gap` what they change of an answer.
    `settings`: of layers of a model that was rebuilt for the state, where they are others than in training.
    """

    step: int
    path: str
    compared: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    changed: Mapping[str, float] = field(default_factory=dict)
    dtypes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    loaded: bool = False
    kept: int = 0
    since: int | None = None
    alias: str = ""
    outside: tuple[str, ...] = ()
    gap: float = 0.0
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftInEvalSeen:
    """Optimizer steps in evaluation mode after the first evaluation, at step `since`, and not one in train mode.

    `before`: steps in train mode before it, `after`: in evaluation mode after it; `modules`: those that differ by mode.
    With `times`, so many evaluations were followed by steps in evaluation mode, of the line that had run in train mode
    just before them, until train mode came back: `since` is the first of these, `before` counts all in train mode.
    """

    step: int
    since: int
    before: int
    after: int
    modules: tuple[str, ...]
    times: int = 0

    @property
    def words(self) -> str:
        """What trains in the wrong mode."""
        if self.times:
            left = f"which {self.times} evaluations left on (the first at step {self.since}), and {self.before} do not"
            return f"{self.after} steps train in evaluation mode, {left}"
        after = f"all {self.after} steps after the evaluation at step {self.since} train in evaluation mode"
        return f"{after}, and the {self.before} before it did not"


@dataclass(frozen=True, slots=True)
class TeacherSeen:
    """A network that was trained before, does not change any more, and answers at each step that trains another one.

    Attributes:
        kind: its class; `calls`: steps in a row at which it answered in train mode.
        lively: its modules in train mode whose output depends on it.
        mode_gap: largest absolute difference that evaluation mode makes to an answer.
        part: its name in the model that is trained, if it is inside of that; "" for another one.
    """

    step: int
    kind: str
    calls: int
    lively: tuple[str, ...]
    mode_gap: float
    part: str = ""


@dataclass(frozen=True, slots=True)
class OwnModeSeen:
    """A model in train mode beside what a call of its own `train()` would make of it.

    Attributes:
        kind: the class whose `train()` does more than set the mode.
        freezes: parameters that require a gradient now and would not.
        quiets: modules that are in train mode now and would not be.
    """

    step: int
    kind: str
    freezes: tuple[str, ...] = ()
    quiets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prefix:
    """What stands before every one of other names (`longer`), or before every one of our own.

    `ours`: what our own names begin with in its place, where one part has two names.
    """

    text: str
    longer: bool
    ours: str = ""

    def other(self, name: str) -> str:
        """What one of our own names is called there."""
        if self.ours:
            return self.text + name.removeprefix(self.ours) if name.startswith(self.ours) else name
        return self.text + name if self.longer else name.removeprefix(self.text)


def prefix_between(names: Sequence[str], others: Sequence[str]) -> Prefix | None:
    """The one prefix by which each of `others` is one of `names`, or each of `names` one of `others`; None if none is.

    Where others have the prefix, they may be a part of more; where our own names have it, those may be.
    """
    known, there = set(names), set(others)
    for first in names[:1]:
        for other in others:
            text = other.removesuffix(first)
            if text != other and all(text + name in there for name in names):
                return Prefix(text, longer=True)
    for first in others[:1]:
        for name in names:
            text = name.removesuffix(first)
            if text != name and all(text + other in known for other in others):
                return Prefix(text, longer=False)
    return None


def partly_prefixed(names: Sequence[str], others: Sequence[str]) -> list[Prefix]:
    """A prefix that most of `others` have before one of `names`: an average's count has none, a new head is not there.

    At most one; none of a single name.
    """
    known = set(names)
    found = Counter(o.removesuffix(n) for o in others for n in known if o.endswith(f".{n}"))
    text, count = max(found.items(), key=lambda one: one[1], default=("", 0))
    return [Prefix(text, longer=True)] if count > 1 and 2 * count >= len(others) else []


def renamed_between(names: Sequence[str], others: Sequence[str]) -> list[Prefix]:
    """The ways in which `others` are all of one part that has another name in `names`: ``a.0.bias``, ``b.0.bias``."""
    parts = [name.split(".")[:-1] for name in others]
    common = [part for part, *rest in zip(*parts, strict=False) if all(part == one for one in rest)]
    ends = [name.split(".", len(common))[-1] for name in others]
    text, known = "".join(f"{part}." for part in common), set(names)
    if not text or not ends:
        return []
    starts = dict.fromkeys(name.removesuffix(ends[0]) for name in names if name.endswith(f".{ends[0]}"))
    return [Prefix(text, False, start) for start in starts if all(start + end in known for end in ends)]

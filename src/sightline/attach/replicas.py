"""Watches one rank of a run of several: what it holds, what it was fed, what ran; and compares ranks on rank 0.

Nothing happens in a run of one rank. In others, at steps that follow from the step's number alone, each rank hashes its
parameters and shows the hashes to the others through `Ranks`.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sightline.attach.hook import Hook
from sightline.attach.onlookers.shared_rows import SharedRows
from sightline.attach.prints import row_hashes, value_hashes
from sightline.attach.ranks import Ranks, joined
from sightline.attach.recorder import Recorder
from sightline.attach.together import judged_together
from sightline.attach.watchdog import PATIENCE, Watchdog
from sightline.attach.wrapper import caller, held
from sightline.guard.evidence import RankFacts, RanksSeen, Round
from sightline.guard.evidence.parallel import BESIDE
from sightline.guard.probes.call import Call

OFTEN = {0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40}  # divisible by most periods of local averaging
EVERY = 64  # steps: reading every parameter once costs a few percent of a step, here below one in a thousand
AT_ONCE = 16  # rounds that may wait for a slow rank
LAST = 3  # steps shown at the end, with the state in which the run ended
WAIT = 5.0  # seconds for the other ranks at the end
_NUMBERS = count()  # the models of a process, in the order in which they begin to train: alike on all ranks
BRIEFLY = 0.5  # seconds, where no other rank was ever seen: the guard may watch rank 0 alone
KEPT = 64  # rounds
WHY = {
    "RanksSeen": "the run has one rank, or the others did not show themselves",
    "RanksStuckSeen": "none waited for ever",
}
UNEVEN = "the ranks take different numbers of steps (Join), so that the same step of two ranks is not the same moment"


class Replicas:
    """One model on this rank. torch.distributed is asked for the others when training begins, or `among` tells."""

    def __init__(self, recorder: Recorder, *, on: bool, absent: Callable[[str, str], None]) -> None:
        self.ranks: Ranks | None = None
        self.name = "0"
        self._recorder, self._offer, self._on, self._asked = recorder, recorder.offer, on, False
        self._absent, self._uneven = absent, False
        self._wrapper: Any = None
        self._told: weakref.ref[DistributedDataParallel] | None = None
        self._wraps: bool | None = None
        self._held: bool | None = None
        self._handles: list[Any] = []
        self._called: set[str] = set()
        self._facts: RankFacts | None = None
        self._recent: deque[RankFacts] = deque(maxlen=LAST)
        self._waiting: deque[int] = deque(maxlen=AT_ONCE)
        self._rounds: deque[Round] = deque(maxlen=KEPT)
        self.patience = PATIENCE  # seconds until ranks that wait for each other are told; before the first step
        self._watchdog: Watchdog | None = None

    # --- hooks -----------------------------------------------------------------------------------------------------

    def begins(self) -> None:
        """The first forward of a step: note what the rank begins with."""
        if not self._asked:
            self._asked, self.ranks, self.name = True, joined(), str(next(_NUMBERS))
            if self.ranks is not None and self._on:
                r = self._recorder
                self._watchdog = Watchdog(
                    self.ranks, self.name, lambda: (r.step, r.forwards), self._offer, self.patience
                )
        if self.ranks is None or not self._on:
            self._on = False
            return
        if not self._handles:
            self._listen()
            if (rows := self._rows) is not None:
                rows.several = True
            self._recorder.pace.also.append(_due)  # the same steps on all ranks, whatever each has to do besides
            self._recorder.pace.inner += len(self._handles)
        self._begin(self._recorder.step)

    def woke(self) -> None:
        """What ran in the meantime is of no step."""
        self._facts = None

    def trained(self, call: Call, output: Any) -> None:
        """A training forward: its backward pass will exchange gradients or not."""
        if not self._on or self._facts is None:
            return
        step = self._facts.step
        if self._wrapper is None and _due(step) and self._parts(self._caller()):  # called beside its wrapper at first
            self._facts = None
            return
        synced = getattr(self._wrapper, "require_backward_grad_sync", True)
        self._facts = replace(self._facts, forwards=self._facts.forwards + bool(synced))
        if _due(step) and (hashes := row_hashes(self._recorder.opened or call)) is not None:
            self._recorder.mailbox.post([hashes], lambda v: self._amend(step, batch=hash(tuple(v[0].tolist()))))

    def stepping(self) -> None:
        """An optimizer's step comes next: which parameters have a gradient?"""
        if self._facts is not None:
            graded = tuple(n for n, p in self._recorder.meter.named if p.grad is not None)
            self._facts = replace(self._facts, graded=graded)
            if graded and _due(step := self._facts.step) and not self._facts.sharded:
                grads = [p.grad for _, p in self._recorder.meter.named if p.grad is not None]
                self._recorder.mailbox.post([value_hashes(grads)], lambda v: self._amend(step, pull=_joint(v[0])))

    def stepped(self) -> None:
        """The step is shown to the others."""
        if self._facts is None:
            return
        facts, made = self._end(), self._recorder.stepped[-1][0]
        if _due(facts.step):
            self._recorder.mailbox.post([], lambda _: self._show(facts.step, made.taught))
        elif self._waiting:
            self._compare()

    def _begin(self, step: int) -> None:
        assert self.ranks is not None
        self._wraps = self._finds_unused(wrapper := self._caller())
        self._facts = None
        if self._parts(wrapper):
            return
        if self._held is None:
            self._held = wrapper is not None or held(self._recorder.model)
        self._facts = RankFacts(
            self.ranks.rank, step, {}, finds_unused=self._wraps, held=self._held, sharded=self._sharded()
        )
        self._called.clear()
        if _due(step):
            self._look(step)

    def _look(self, step: int) -> None:
        ignored = getattr(self._recorder.model, "_ddp_params_and_buffers_to_ignore", ())
        named = list(self._recorder.model.named_parameters())
        held = [(n, p) for n, p in [*named, *self._beside(named)] if _whole(p) and n not in ignored]
        if held:
            names = [n for n, _ in held]
            self._recorder.mailbox.post(
                [value_hashes([p for _, p in held])],
                lambda v: self._amend(step, state=dict(zip(names, v[0].tolist(), strict=True))),
            )

    def _beside(self, named: Sequence[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
        """What the model's optimizers hold and it has not: the parameters of a loss, say, that DDP knows nothing of."""
        ours, groups = {id(p) for _, p in named}, (g for o in self._recorder.optimizers for g in o.param_groups)
        others = [p for group in groups for p in group["params"] if id(p) not in ours]
        return [(f"{BESIDE} {place} {tuple(p.shape)}", p) for place, p in enumerate(others, 1)]

    def _end(self) -> RankFacts:
        assert self._facts is not None
        facts = replace(self._facts, called=tuple(sorted(self._called)))
        self._recent.append(facts)
        self._facts = None
        return facts

    def _listen(self) -> None:
        """Note which modules with parameters of their own run."""
        for name, module in self._recorder.model.named_modules():
            if any(p.requires_grad for p in module.parameters(recurse=False)):
                self._handles.append(module.register_forward_hook(Hook(partial(self._ran, name))))

    def _ran(self, name: str, *_: Any) -> None:
        if self._facts is not None and torch.is_grad_enabled() and not self._recorder.muted:
            self._called.add(name)

    # --- what arrives ----------------------------------------------------------------------------------------------

    def _amend(self, step: int, **facts: Any) -> None:
        """Late facts of a step that is being made, or was made just now."""
        if self._facts is not None and self._facts.step == step:
            self._facts = replace(self._facts, **facts)
        for place, recent in enumerate(self._recent):
            if recent.step == step:
                self._recent[place] = replace(recent, **facts)

    def _show(self, step: int, taught: tuple[tuple[int, float, float], ...]) -> None:
        self._amend(step, taught=taught)
        facts = next((f for f in self._recent if f.step == step), None)
        if facts is not None and self.ranks is not None:
            self.ranks.put(f"{self.name}/{step}", asdict(facts))
            self._waiting.append(step)
            self._compare()

    def _compare(self) -> None:
        """On rank 0: rounds that all ranks have shown become evidence."""
        if self.ranks is None or self.ranks.rank != 0:
            self._waiting.clear()
            return
        while self._waiting and (shown := self.ranks.all(f"{self.name}/{self._waiting[0]}")):
            self._rounds.append(_round(self._waiting.popleft(), shown))
            self._offer(self._seen(final=False))

    def _seen(self, *, final: bool) -> RanksSeen:
        assert self.ranks is not None
        return RanksSeen(self._rounds[-1].step, self.ranks.world, tuple(self._rounds), final)

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The run is over on this rank: show the last steps, and on rank 0 wait a little for the others'."""
        if self._watchdog is not None:
            self._watchdog.close()
        for handle in self._handles:
            handle.remove()
        if self.ranks is None or not self._on:
            return
        if self._uneven:
            self._compare()
            self._compare_rows()
            return
        if self._facts is not None:  # a step that never ended: the rank hangs, crashed, or was interrupted
            self._end()
        else:
            facts = RankFacts(self.ranks.rank, self._recorder.step, {}, finds_unused=self._wraps, held=bool(self._held))
            self._recent.append(facts)
            self._look(self._recorder.step)
        self._recorder.mailbox.open(wait=True)
        self.ranks.put(f"{self.name}/end", [asdict(facts) for facts in self._recent])
        if self.ranks.rank != 0:
            self._compare_rows()
            return
        met = self._rounds or any(len(self.ranks.those(f"{self.name}/{step}")) > 1 for step in self._waiting)
        ends = self.ranks.all(f"{self.name}/end", WAIT if met else BRIEFLY) or {}
        self._compare()
        if _apart([end[-1]["step"] for end in ends.values() if end]):
            self._part()
            self._compare_rows()
            return
        known = {r.step for r in self._rounds}
        for step in dict.fromkeys(f.step for f in self._recent if f.step not in known):
            shown = {rank: facts for rank, end in ends.items() for facts in end if facts["step"] == step}
            if len(shown) == self.ranks.world:
                self._rounds.append(_round(step, shown))
        if self._rounds:
            self._offer(self._seen(final=True))
        self._compare_rows()

    @property
    def _rows(self) -> SharedRows | None:
        return next((one for one in self._recorder.onlookers.all if isinstance(one, SharedRows)), None)

    def _compare_rows(self) -> None:
        """Rank 0 judges what all ranks trained on and evaluated. Where each trains its own model, only its own."""
        assert self.ranks is not None
        if (rows := self._rows) is None:
            return
        if self._uneven:
            if self.ranks.rank == 0 and rows.final is not None:
                self._offer(rows.final)
            return
        seen = judged_together(self.ranks, self.name, rows, WAIT if self._rounds else 0.0)
        if seen is not None and rows.final is not None and self._rounds:
            last = self._rounds[-1]
            one = (last.comparable and not last.differing) or any(facts.sharded for facts in last.ranks)
            self._offer(seen if one and last.step else rows.final)

    def among(self, store: Any, rank: int, world: int) -> None:
        """This model is `rank` of `world`, which share `store` (a `torch.distributed.Store` of their own)."""
        self._asked, self.ranks = True, Ranks(store, rank, world)

    def wrapped_in(self, module: Any) -> None:
        """A host that begins steps before it calls its wrapper says what that is. Anything but DDP is passed over."""
        self._told = weakref.ref(module) if isinstance(module, DistributedDataParallel) else None

    # --- what the wrapper says -------------------------------------------------------------------------------------

    def _caller(self) -> DistributedDataParallel | None:
        """The wrapper that the host told of, or the one that calls the model."""
        return (self._told() if self._told is not None else None) or caller()

    def _finds_unused(self, wrapper: DistributedDataParallel | None) -> bool | None:
        self._wrapper = weakref.proxy(wrapper) if wrapper is not None else None
        if wrapper is None:
            return None
        return bool(wrapper.find_unused_parameters or getattr(wrapper, "static_graph", False))

    def _parts(self, wrapper: DistributedDataParallel | None) -> bool:
        """Whether ranks may step more often than others by now: those without data only answer the others' calls."""
        config = getattr(wrapper, "_join_config", None)
        if not self._uneven and getattr(config, "enable", False):
            self._part()
        return self._uneven

    def _part(self) -> None:
        self._uneven = True
        self._absent("RanksSeen", UNEVEN)

    def _sharded(self) -> bool:
        return not all(_whole(p) for p in self._recorder.model.parameters())


def _apart(steps: list[int]) -> bool:
    """Counts of steps at the end that differ. By one they may where a rank was stopped in the middle of a step."""
    return bool(steps) and max(steps) - min(steps) > 1


def _joint(hashes: Tensor) -> int | None:
    """One number for many; None where all are 0, which zeros hash to."""
    return hash(tuple(hashes.tolist())) if hashes.any() else None


def _due(step: int) -> bool:
    return step in OFTEN or step % EVERY == 0 or (step % 100 == 0 and step <= 1000)


def _whole(parameter: Tensor) -> bool:
    """Whether this rank holds all of a parameter: no DTensor, no flat parameter of FSDP."""
    return not hasattr(parameter, "to_local") and not hasattr(parameter, "_sharded_size")


def _round(step: int, shown: dict[int, dict[str, Any]]) -> Round:
    return Round(step, tuple(RankFacts(**{**shown[r], **_tuples(shown[r])}) for r in sorted(shown)))


def _tuples(facts: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """What JSON made lists of."""
    return {name: tuple(facts[name]) for name in ("called", "graded", "taught")}

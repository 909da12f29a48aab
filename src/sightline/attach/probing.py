"""When probes run, and on what: the only place that decides to spend the host's time on a second look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sightline.attach.language import Language
from sightline.attach.towers import asking
from sightline.guard.evidence import EvaluationSeen, Evidence
from sightline.guard.probes.call import Call
from sightline.guard.probes.image_pairs import image_pairs
from sightline.guard.probes.leak import documents_of, leak
from sightline.guard.probes.reference import Reference
from sightline.guard.probes.twice import difference, dropping, live_dropout, mode_gap

FIRST_PAIRS = 64  # steps; then 128, 256, ...: a model that has not learnt yet cannot show that it looks
TWICE = 3  # evaluations that are seen twice: after that, a difference would have shown


class Probing:
    """Runs each probe when some check wants its answer and the host's call can be repeated without harm."""

    def __init__(self, wants: Callable[[str], bool], image_token_id: int | None) -> None:
        self.wants = wants
        self._pairs, self._leak = wants("ImagePairsSeen"), wants("LeakSeen")
        self._twice = TWICE if wants("EvaluationSeen") else 0
        self._image_token_id = image_token_id
        self.language = Language(wants)
        self._next_pairs = FIRST_PAIRS
        self._evaluated: int | None = None  # the step of the last evaluation that the host did not declare
        self.reference: Reference | None = None
        self._compared, self._unmoved, self._moved = False, False, False

    def on_training(self, call: Call, step: int, offer: Callable[[Evidence], Any]) -> None:
        """After a training forward: the first packed batch is probed for leaks, and images at 64, 128, ... steps."""
        self.language.trained(call, step, offer)
        documents = documents_of(call) if self._leak and call.repeatable else None
        if documents is not None and (seen := leak(call, documents, step, self._image_token_id)) is not None:
            self._leak = False
            offer(seen)
        if self.reference and not self._compared:
            self._compared = True
            self._compare(call, step, offer)
        if step >= self._next_pairs:
            self._next_pairs *= 2
            self.look(call, step, offer)

    def _compare(self, call: Call, step: int, offer: Callable[[Evidence], Any]) -> None:
        if self.reference and (seen := self.reference.look(call, step)) is not None:
            offer(seen)

    def look(self, call: Call, step: int, offer: Callable[[Evidence], Any], *, last: bool = False) -> None:
        """Does the image matter? Asked of one batch. And is the reference where it was?

        That no output moves counts the second time, or the `last` where none ever did: a phase may begin without
        images, and a batch may be of rows without one.
        """
        self._compare(call, step, offer)
        if not self._pairs or not call.repeatable or (seen := image_pairs(call, step)) is None:
            return
        if seen.changed or self._unmoved or (last and not self._moved):
            offer(seen)
        self._unmoved, self._moved = not seen.changed, self._moved or seen.changed

    def due(self, step: int) -> bool:
        """Whether images are to be probed now."""
        return step >= self._next_pairs and (self._pairs or self.reference is not None)

    def passed_over(self, step: int) -> None:
        """An evaluation that is not looked at: its step counts all the same."""
        self._evaluated = step

    def on_evaluation(
        self,
        call: Call,
        step: int,
        lively: tuple[str, ...],
        declared: bool,
        turn: int,
        offer: Callable[[Evidence], Any],
    ) -> None:
        """After the first forward of an evaluation. `turn`: optimizer steps in a turn of the loop."""
        since = None if self._evaluated is None else -(-(step - self._evaluated) // turn)
        if not declared:
            self._evaluated = step
        seen = EvaluationSeen(step, declared, lively, since=since)
        if call.repeatable and (lively or self._twice):
            self._twice -= bool(self._twice)
            gap = difference(call)
            if gap and not lively:
                seen = replace(seen, lively=(lively := self._own(call)))
            alive = live_dropout(call) if gap and not lively else ()
            seen = replace(seen, difference=gap, mode_gap=mode_gap(call) if lively else None, dropouts=alive)
        offer(seen)

    def _own(self, call: Call) -> tuple[str, ...]:
        """Modules of the host's own that drop in train mode alone (stochastic depth), where that is all there is."""
        own = asking(call.model)
        found = (dropping(call, own) if own else None) or ()
        return found if found and mode_gap(call) else ()

"""When probes run, and on what: the only place that decides to spend the host's time on a second look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sightline.guard.evidence import EvaluationSeen, Evidence
from sightline.guard.probes.call import Call
from sightline.guard.probes.image_pairs import image_pairs
from sightline.guard.probes.leak import documents_of, leak
from sightline.guard.probes.twice import difference

FIRST_PAIRS = 64  # steps; then 128, 256, ...: a model that has not learnt yet cannot show that it looks
TWICE = 3  # evaluations that are seen twice: after that, a difference would have shown


class Probing:
    """Runs each probe when some check wants its answer and the host's call can be repeated without harm."""

    def __init__(self, wants: Callable[[str], bool], image_token_id: int | None) -> None:
        self._pairs, self._leak = wants("ImagePairsSeen"), wants("LeakSeen")
        self._twice = TWICE if wants("EvaluationSeen") else 0
        self._image_token_id = image_token_id
        self._next_pairs = FIRST_PAIRS

    def on_training(self, call: Call, step: int, offer: Callable[[Evidence], Any]) -> None:
        """After a training forward: the first packed batch is probed for leaks, and images at 64, 128, ... steps."""
        documents = documents_of(call) if self._leak and call.repeatable else None
        if documents is not None and (seen := leak(call, documents, step, self._image_token_id)) is not None:
            self._leak = False
            offer(seen)
        if step >= self._next_pairs:
            self._next_pairs *= 2
            self.look(call, step, offer)

    def look(self, call: Call, step: int, offer: Callable[[Evidence], Any]) -> None:
        """Does the image matter? Asked of one batch."""
        if self._pairs and call.repeatable and (seen := image_pairs(call, step)) is not None:
            offer(seen)

    def on_evaluation(
        self, call: Call, step: int, lively: tuple[str, ...], declared: bool, offer: Callable[[Evidence], Any]
    ) -> None:
        """After the first forward of an evaluation."""
        gap = None
        if self._twice and call.repeatable:
            self._twice -= 1
            gap = difference(call)
        offer(EvaluationSeen(step, declared, lively, gap))

"""Images that outputs move with, but none that the loss hangs on, as where they stand behind a text that reads on."""

from __future__ import annotations

from sightline.guard.evidence.steps import History
from sightline.guard.evidence.strays import Stray

SEEING = "vision", "connector"
GRADED, LATE = 8, 32  # measured steps, and steps, without any gradient: gates that start at zero have opened by then


def no_part(history: History) -> Stray | None:
    """The towers that see get gradients, and all of them are 0, in each step in which the language tower has others."""
    measured = history.measured
    seeing = [[p for tower in SEEING for p in step.tower(tower) if p.grad_norm is not None] for step in measured]
    if len(measured) < GRADED or measured[-1].step < LATE or not all(seeing):
        return None
    if any(p.grad_norm for parts in seeing for p in parts) or not all(step.grad_norm("language") for step in measured):
        return None
    what = f"all gradients of what is made of the images were 0 in {len(measured)} steps: the loss hangs on none of it"
    remedy = "put images in front of the text that tells of them, and supervise outputs that can see them"
    return Stray(what, remedy, True, {"parameters": [p.name for p in seeing[-1]][:5]})

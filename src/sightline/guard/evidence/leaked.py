"""Adapters that were meant for the language tower and are in the vision tower, too, for some names are in both."""

from __future__ import annotations

from sightline.guard.evidence.setup import Adapted, Setup
from sightline.guard.evidence.strays import Stray


def leaked(setup: Setup) -> Stray | None:
    """Whether the names that PEFT was given are those of the language tower's layers, and some are in the vision tower.

    They fill whole modules of the language tower, with names that it alone has; of the vision tower's blocks they are a
    part, and none is of it alone. Nothing else learns in it, nor at a rate of its own.
    """
    language, vision = setup.adapted.get("language"), setup.adapted.get("vision")
    if language is None or vision is None or language.siblings or not vision.others:
        return None
    if not set(vision.layers) < set(language.layers):
        return None
    reads, sees = setup.towers["language"], setup.towers["vision"]
    if sees.planned is not None or not sees.optimized or sees.learning_rates != reads.learning_rates:
        return None
    if sees.trainable != sees.adapters or not reads.adapters:
        return None
    return _leak(language, vision, sees.adapters)


def _leak(language: Adapted, vision: Adapted, numel: int) -> Stray:
    what = f"LoRA was given names of the language tower's layers, and '{vision.within}' has layers of that name, too: "
    only = f"adapters learn in its {_and(vision.layers)}, and none in its {_and(vision.others)}"
    remedy = (
        f"exclude_modules=r'.*{vision.within}.*', or target_modules as a pattern that begins with '{language.within}'"
    )
    return Stray(what + only, remedy, seen={"parameters": numel, "target_modules": language.layers})


def _and(names: tuple[str, ...]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))

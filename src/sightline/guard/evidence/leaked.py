"""Adapters that were meant for the language tower and are in the vision tower, too, for some names are in both."""

from __future__ import annotations

from sightline.guard.evidence.setup import Adapted, Setup
from sightline.guard.evidence.strays import Stray


def leaked(setup: Setup) -> Stray | None:
    """Whether adapters are in the vision tower that was to have none.

    Somebody had frozen it, and not the language tower, before they came: into all linear layers, or by names that the
    language tower has, too. Else the names tell: they fill whole modules of the language tower, some are its alone, and
    of the vision tower's blocks they are a part, none of it alone. Nothing else learns in it, nor at a rate of its own.
    """
    language, vision = setup.adapted.get("language"), setup.adapted.get("vision")
    if language is None or vision is None or not _unplanned(setup):
        return None
    numel, names = setup.towers["vision"].adapters, set(language.layers)
    chosen = vision.rested is not None and language.rested is None
    if chosen and (vision.rested == "all-linear" or set(vision.layers) <= names):
        return _woken(vision, numel)
    if language.siblings or not vision.others or not set(vision.layers) < names:
        return None
    return _leak(language, vision, numel)


def _unplanned(setup: Setup) -> bool:
    """Whether no more than adapters learn in the vision tower, as in the language tower, and nobody planned it."""
    reads, sees = setup.towers.get("language"), setup.towers["vision"]
    if reads is None or sees.planned is not None or not sees.optimized or sees.learning_rates != reads.learning_rates:
        return False
    return sees.trainable == sees.adapters and bool(reads.adapters)


def _woken(vision: Adapted, numel: int) -> Stray:
    how = "all linear layers" if vision.rested == "all-linear" else f"layers named {_and(vision.layers)}"
    what = f"'{vision.within}' was frozen, and the language tower was not, when LoRA came to {how}: "
    remedy = f"exclude_modules=r'.*{vision.within}.*'"
    return Stray(what + "PEFT heeds no freezing, and its adapters learn there", remedy, seen={"parameters": numel})


def _leak(language: Adapted, vision: Adapted, numel: int) -> Stray:
    what = f"LoRA was given names of the language tower's layers, and '{vision.within}' has layers of that name, too: "
    only = f"adapters learn in its {_and(vision.layers)}, and none in its {_and(vision.others)}"
    remedy = (
        f"exclude_modules=r'.*{vision.within}.*', or target_modules as a pattern that begins with '{language.within}'"
    )
    return Stray(what + only, remedy, seen={"parameters": numel, "target_modules": language.layers})


def _and(names: tuple[str, ...]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))

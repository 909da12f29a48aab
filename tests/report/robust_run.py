"""`robustness.json` made by formula: whole, of a model that hides its gradients, and full of hostile text."""

from __future__ import annotations

import math
from typing import Any

NAMES = {"noise": ("gaussian-noise", "shot-noise"), "blur": ("defocus-blur",), "weather": ("fog", "snow"),
         "digital": ("jpeg",)}  # fmt: skip
CHECKS = ("loss-rises", "bound-holds", "stronger-than-noise", "wider-is-worse")


def share(value: float, **more: Any) -> dict[str, Any]:
    """An accuracy of 200 questions."""
    half = 1.96 * math.sqrt(value * (1 - value) / 200)
    return {"accuracy": value, "interval": [max(0.0, value - half), min(1.0, value + half)], **more}


def curve(name: str, bounds: list[float], steep: float) -> dict[str, Any]:
    """An attack whose answers fall off exponentially."""
    kind, _, norm = name.partition("-")
    points = [
        {"epsilon": bound, **share(0.95 * math.exp(-steep * place)), "floats": share(0.94 * math.exp(-steep * place)),
         "noise": share(0.94), "loss": 0.2 + place, "clean_loss": 0.2, "noise_loss": 0.21}
        for place, bound in enumerate(bounds, 1)
    ]  # fmt: skip
    facts = {} if kind == "fgsm" else {"steps": 10, "step_size": None, "restarts": 2}
    return {"name": name, "kind": kind, "norm": norm or None, "points": points, **facts}


def robustness(thumbnail: str = "", *, masked: bool = False) -> dict[str, Any]:
    """What `sightline robust` writes; `masked`: two checks failed."""
    levels = [bound / 255 for bound in (1, 2, 4, 8)]
    table = {
        name: {
            "family": family,
            "severities": {str(level): share(0.95 - 0.1 * level, lost=0.1 * level) for level in range(1, 6)},
            "accuracy": 0.65,
        }
        for family, names in NAMES.items()
        for name in names
    }
    passed = {"pgd-linf": {"stronger-than-noise": False}} if masked else {}
    checks = [
        {"attack": attack, "check": check, "passed": passed.get(attack, {}).get(check, True), "says": f"{check} seen",
         "seen": {}}
        for attack in ("fgsm-linf", "pgd-linf") for check in CHECKS
    ]  # fmt: skip
    checks.append({"attack": "pgd-linf", "check": "stronger-than-transfer", "passed": None, "says": "no other model"})
    if masked:
        checks.append({"attack": "gradient", "check": "gradient-not-zero", "passed": False, "says": "zero in all rows"})
    fooled = {
        "attack": "pgd-linf", "epsilon": 4 / 255, "clean": thumbnail, "attacked": thumbnail, "difference": thumbnail,
        "question": "what color is the shape?", "before": "red", "after": "blue", "truth": "red",
    }  # fmt: skip
    lie = {
        "questions": 180, **share(0.4, lost=0.5), "control": share(0.9), "followed": share(0.55),
        "followed_unasked": share(0.02), "example": {"question": "what is it?", "false": "cat", "truth": "dog"},
    }  # fmt: skip
    return {
        "data": "test", "metric": "exact-match", "questions": 200, "of": 9673, "partial": True, "clean": share(0.95),
        "attacks": [curve("fgsm-linf", levels, 0.2), curve("pgd-linf", levels, 0.7), curve("pgd-l2", [0.5, 1.0], 0.4),
                    curve("patch", [0.01, 0.04], 0.5)],
        "checks": checks, "corruptions": {"side": 224, "mean": 0.65, "table": table},
        "words": {"typos": share(0.8, lost=0.15), "case": share(0.95), "paraphrase": share(0.7)},
        "contradiction": {"asserted": lie, "printed": lie | {"questions": 0}},
        "pictures": [fooled] * 4, "seconds": 12.0,
    }  # fmt: skip


def poisoned(text: str) -> dict[str, Any]:
    """Every text of it is `text`, and some numbers are none."""
    made = robustness(text)
    for check in made["checks"]:
        check |= {"attack": text, "check": text, "says": text}
    for one in made["attacks"]:
        one["name"] = text
    made["corruptions"]["table"] = {text: {"family": text, "severities": {text: share(0.5), "1": share(0.5)}}}
    made["words"] = {text: share(0.5), "typos": {"accuracy": "many"}}
    for one in made["pictures"]:
        one |= dict.fromkeys(("question", "before", "after", "truth", "attack"), text)
    made["contradiction"] = {text: made["contradiction"]["asserted"] | {"example": dict.fromkeys(("question",), text)}}
    return made | {"data": text, "attacks": [*made["attacks"][:1], {"name": text, "points": [{"epsilon": text}]}, text]}

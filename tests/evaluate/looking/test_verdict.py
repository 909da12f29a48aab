from __future__ import annotations

from typing import Any

import pytest

from sightline.evaluate.looking.verdict import Seen, verdict


def seen(accuracy: float, other: float, low: float, high: float, p: float | None = 1e-9, **more: Any) -> Seen:
    shuffled: dict[str, Any] = {"accuracy": other, "difference_interval": [low, high], "changed": 0.4}
    shuffled |= {"p": p} if p is not None else {}
    shuffled |= {key: more.pop(key) for key in ("changed",) if key in more}
    return Seen(accuracy, more.pop("questions", 1000), more.pop("images", 200), shuffled, **more)


@pytest.mark.parametrize(
    ("given", "says", "why"),
    [
        (seen(0.9, 0.5, 0.37, 0.43), "looks", "the right image adds +40.0 points (+37.0 to +43.0)"),
        (seen(0.9, 0.5, 0.37, 0.43, p=None), "looks", "adds +40.0 points"),
        (seen(0.55, 0.5, 0.01, 0.09, p=0.2), "cannot tell", "too uncertain"),
        (seen(0.55, 0.5, -0.01, 0.09), "cannot tell", "too uncertain"),
        (seen(0.50, 0.5, -0.01, 0.015, p=0.9), "does not look", "less than 2"),
        (seen(0.51, 0.5, 0.005, 0.015), "does not look", "less than 2"),  # sure, and too little
        (seen(0.50, 0.5, -0.2, 0.2, p=0.9, changed=0.0), "does not look", "no answer of 1,000 changed"),
        (seen(0.50, 0.5, -0.2, 0.2, p=0.9, changed=0.0, questions=20), "cannot tell", "too uncertain"),
        (seen(0.9, 0.1, 0.7, 0.9, images=6), "cannot tell", "6 different images"),
        (seen(0.01, 0.0, 0.0, 0.01), "cannot tell", "almost nothing"),
        (seen(1.0, 1.0, 0.0, 0.0, settled=1.0), "cannot tell", "the words of these questions"),
        (Seen(0.9, 100, 50, None), "cannot tell", "not asked about other images"),
        (Seen(0.9, 100, 50, {"accuracy": None}), "cannot tell", "not asked about other images"),
    ],
)
def test_the_rule(given: Seen, says: str, why: str) -> None:
    told = verdict(given)
    assert told["says"] == says and why in told["why"]

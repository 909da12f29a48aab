"""Asks a Trainer's metrics of texts what they think of the ground truth, written as an encoder-decoder writes it.

Nobody knows what a metric of texts gives for the truth. One that is perfect for it in another form, as for no other
text, is shown to take something else for text where it says less of it in the form that a Trainer hands on: -100, where
it is perfect beside labels that are padded as texts are; the tokens that end and pad a text, where it is perfect for
the same texts without them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from sightline.attach.truth import APART, CLOSE, ROWS, SHIFTS, like, told_of
from sightline.guard.evidence import IGNORE, GeneratedSeen, OracleSeen

WHOLE = (0, 1, 100)  # perfect: an error, a share, a share in per cent
FEWEST = 8  # texts that are cut to one length


@dataclass(frozen=True)
class Asked:
    """A Trainer's metrics. `start`: the token with which every text begins that was written, if there is one."""

    compute: Callable[[Any], Any]
    given: Any
    model: nn.Module
    pad: int
    start: int | None
    width: int

    def truth(self, labels: Any, leads: int = 1) -> Any:
        """What a model would have written, (B, width + ...) ids."""
        import numpy as np

        led = leads if self.start is not None else 0
        texts = np.full((len(labels), max(self.width, labels.shape[1] + led)), self.pad, dtype=labels.dtype)
        texts[:, led : labels.shape[1] + led] = np.where(labels == IGNORE, self.pad, labels)
        texts[:, :led] = self.start
        return texts

    def scores(self, texts: Any, labels: Any, shifts: tuple[int, ...] = SHIFTS) -> list[dict[str, float]]:
        """What the metrics say of `texts`, and of them beside the labels of others."""
        import numpy as np

        sets = [texts, *(np.roll(texts, shift, axis=0) for shift in shifts)]
        return told_of(self.compute, self.model, [like(self.given, one, labels) for one in sets])


def texts_truths(
    compute: Callable[[Any], Any], given: Any, model: nn.Module, step: int, pad: int | None
) -> Iterator[OracleSeen]:
    """What the metrics say of the truth that is less than what they say of it in another form. `pad`: the token."""
    import numpy as np

    found = _texts(given, model)
    if found is None or pad is None or len(found[0]) < 2:
        return
    texts, labels = (part[:ROWS] for part in found)
    ended = (labels == IGNORE) | (labels == pad)  # a Trainer makes its labels longer with `pad` where they are short
    if (ended[:, :-1] > ended[:, 1:]).any() or (labels[~ended] < 0).any():
        return  # what has no label stands elsewhere than behind the text
    start = getattr(getattr(model, "generation_config", None), "decoder_start_token_id", None)
    start = start if start is not None and (texts[:, 0] == start).all() else None
    ask = Asked(compute, given, model, pad, start, texts.shape[1])
    told = ask.scores(ask.truth(labels), labels, ())[0]
    if (labels == IGNORE).any():
        padded = np.where(ended, pad, labels)
        for seen in _beside(told, ask.scores(ask.truth(labels), padded)):
            yield replace(seen, step=step, reads="labels with padding instead of -100")
            del told[seen.name]
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if told and ends is not None and np.isin(texts[:, start is not None :], ends).any():
        for seen in _without_ends(ask, told, labels, ended | np.isin(labels, ends)):
            yield replace(seen, step=step, reads="the same texts without the tokens that end and pad them")


def _without_ends(ask: Asked, told: dict[str, float], labels: Any, aside: Any) -> Iterator[OracleSeen]:
    """The metrics that are perfect for texts without what is `aside` in labels, and are not for the same with it.

    Texts are cut to one length, so that they need no padding. A metric that is less than perfect for short texts says
    the same of them with their ends.
    """
    length = max(1, int(sorted((~aside).sum(1))[len(labels) // 2]))
    rows = (~aside).sum(1) >= length
    labels, aside = labels[rows], aside[rows]
    keep = aside | ((~aside).cumsum(1) <= length)  # at the end of others comes what fills them up
    places, last = (~keep).argsort(axis=1, kind="stable"), int(labels[:, -1].min())
    cut = _taken(labels, places)
    cut[~_taken(keep, places)] = last if last == IGNORE else ask.pad
    bare = labels[~aside & keep].reshape(len(labels), length)
    differ = (bare != bare[:1]).any(axis=0)
    if len(labels) < FEWEST or not differ.any():
        return
    bare = bare[:, int(differ.argmax()) :]  # without what all begin with: their language, say
    with_ends = ask.scores(ask.truth(cut), cut, ())[0]
    narrow = replace(ask, width=0)
    for leads in (1, 0) if ask.start is not None else (0,):
        for seen in _beside(told, ask.scores(narrow.truth(bare, leads), bare)):
            del told[seen.name]
            if _falls_short(seen.truth, seen.perfect) and _falls_short(with_ends.get(seen.name), seen.perfect):
                yield seen


def _falls_short(score: float | None, perfect: float | None) -> bool:
    return score is not None and perfect is not None and abs(score - perfect) > CLOSE * max(1.0, perfect)


def _taken(rows: Any, places: Any) -> Any:
    import numpy as np

    return np.take_along_axis(rows, places, axis=1)


def _beside(told: Mapping[str, float], scores: list[dict[str, float]]) -> Iterator[OracleSeen]:
    """What is told of the truth by metrics that are perfect for the first of `scores`, as for none of the others."""
    best, *others = scores
    for name, score in list(told.items()):
        spoilt = tuple(other[name] for other in others if name in other)
        goal = next((float(g) for g in WHOLE if abs(best.get(name, math.nan) - g) <= CLOSE * max(1, g)), None)
        if goal is not None and spoilt and all(abs(one - goal) > APART * max(1, goal) for one in spoilt):
            yield OracleSeen(0, name, score, spoilt, goal)


def _texts(given: Any, model: Any) -> tuple[Any, Any] | None:
    """Ids that an encoder-decoder wrote, and its labels."""
    import numpy as np

    texts, labels = given.predictions, given.label_ids
    texts = texts[0] if isinstance(texts, tuple) else texts
    if not all(isinstance(t, np.ndarray) and t.ndim == 2 and t.dtype.kind in "iu" and t.size for t in (texts, labels)):
        return None
    whole = getattr(getattr(model, "config", None), "is_encoder_decoder", False) and len(texts) == len(labels)
    return (texts, labels) if whole else None


def written(given: Any, model: Any, step: int) -> GeneratedSeen | None:
    """The lengths of what an encoder-decoder wrote, and of what was wanted. None where they cannot be told."""
    import numpy as np

    found, config = _texts(given, model), getattr(model, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    if ends is None or found is None:
        return None
    texts, labels = found
    pad, start = getattr(config, "pad_token_id", None), getattr(config, "decoder_start_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    texts = texts[:, 1:] if start is not None and (texts[:, 0] == start).all() else texts  # nobody wrote the first
    real, asked = ((t >= 0) & (t != (-1 if pad is None or pad in ends else pad)) for t in (texts, labels))
    lengths, wanted = real.sum(1), asked.sum(1)
    limit = int(lengths.max())
    unended = (lengths == limit) & ~np.isin(texts, ends).any(1)
    return GeneratedSeen(
        step, len(texts), limit, int(unended.sum()), int((wanted > limit).sum()), int(np.median(wanted))
    )

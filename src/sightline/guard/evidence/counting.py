"""Ways in which the losses of an evaluation's tokens are made into one number, and which of them made a given one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from math import exp, log
from statistics import fmean

from sightline.guard.evidence.language import BatchScore, JudgedLossesSeen, ScoreSeen

Scored = ScoreSeen | JudgedLossesSeen
EXACT = 2e-3  # relative, of nats: sums in another order or dtype; two ways to count seldom agree so well by chance
LOG2 = log(2.0)
BITS = r"(?<![a-z])(bp[bct]|bits?[ _/-]*(per[ _/-]*)?(byte|char|token|word|dim))"
LARGEST = 50.0  # nats whose exponential is still a number worth naming
PLACES = "every position, those without a label included"
WAYS = {"told": "every labelled token", "every": PLACES, "whole": PLACES, "fair": "every token once"}


def mean(batches: tuple[BatchScore, ...], way: str) -> float | None:
    """Nats a token, counted one way (one of `WAYS`)."""
    sums = [_counted(batch, way) for batch in batches]
    count = sum(number for _, number in sums)
    return sum(nll for nll, _ in sums) / count if count else None


def _counted(batch: BatchScore, way: str) -> tuple[float, int]:
    """Sum of nats and number of tokens. "whole": each row has one place more than it has targets, the first."""
    nats, number = batch.every if way == "whole" else getattr(batch, way)
    return nats, number + batch.rows * (way == "whole")


def same(one: float, other: float) -> bool:
    """Whether they can be one number, rounded twice."""
    return abs(one - other) <= EXACT * max(abs(one), abs(other))


def is_loss(name: str) -> bool:
    """Whether a number of this name is a mean of losses, in nats."""
    return name.lower().endswith(("loss", "nll"))


def in_bits(name: str) -> bool:
    """Whether a number says of itself that it is in bits."""
    return re.search(BITS, name.lower()) is not None


def reported(values: Mapping[str, float], *, losses: bool = True) -> Iterator[tuple[str, float]]:
    """Name -> nats a token, of what is named a perplexity, bits, or (with `losses`) a loss."""
    for name, value in values.items():
        last = name.lower().split("/")[-1]
        if in_bits(name):
            yield name, value * LOG2
        elif ("ppl" in last or "perplexity" in last) and value > 0:
            yield name, log(value)
        elif is_loss(last) and losses:
            yield name, value


def made(name: str, nats: float) -> float:
    """What a number of this name is, of so many nats a token."""
    return nats / LOG2 if in_bits(name) else nats if is_loss(name) else exp(min(nats, LARGEST))


def nats_off(name: str, value: float, off: float) -> float:
    """How far off the nats of a number are that is itself off by so much."""
    return off * LOG2 if in_bits(name) else off / (1 if is_loss(name) else value)


def unit(name: str, score: Scored, nats: float, same: Callable[[float, float], bool] = same) -> tuple[str, bool] | None:
    """The wrong unit that gives these nats, in words: a logarithm of another base than the number's own."""
    fair = mean(score.batches, "fair")
    if fair is None or is_loss(name):
        return None
    if same(nats, fair * LOG2):
        return ("in nats, not in bits" if in_bits(name) else "as 2 to the power of nats"), False
    return ("as e to the power of bits", False) if not in_bits(name) and same(nats, fair / LOG2) else None


def explained(score: Scored, nats: float, same: Callable[[float, float], bool] = same) -> tuple[str, bool] | None:
    """The wrong way that gives these nats, in words, and whether it is common: a mean of means, or one place a row too
    many. `same`: as far as they tell."""
    for way, words in WAYS.items():
        whole = mean(score.batches, way)
        if whole is not None and same(nats, whole):
            more = sum(_counted(b, way)[1] - _counted(b, "fair")[1] for b in score.batches)
            few = more <= sum(b.rows for b in score.batches)
            bare = words == PLACES and few and not any(b.padding or b.repeated for b in score.batches)
            return f"over {words}", bare  # transformers' Trainer itself counts each row's first place for some models
        pairs = [(nll / n, b.rows) for b in score.batches for nll, n in [_counted(b, way)] if n]
        means = [one for one, _ in pairs]
        if len(means) < 2 or max(means) > LARGEST:
            continue
        weighted = sum(one * rows for one, rows in pairs) / sum(rows for _, rows in pairs)
        if same(nats, fmean(means)) or same(nats, weighted):
            return f"a mean over {len(means)} batches", True
        of_rows = sum(exp(one) * rows for one, rows in pairs) / max(1, sum(rows for _, rows in pairs))
        if same(nats, log(fmean(map(exp, means)))) or (of_rows > 0 and same(nats, log(of_rows))):
            return f"a mean of {len(means)} batches' perplexities", True
        if isinstance(score, JudgedLossesSeen) and (mixed := _mixed(pairs, nats, same)):
            return mixed, True
    every = sum(b.every[1] for b in score.batches) if isinstance(score, JudgedLossesSeen) else 0
    if every and same(nats, sum(b.fair[0] for b in score.batches) / every):
        return "of every token, but divided by all positions, padding included", False
    if isinstance(score, JudgedLossesSeen) and (other := _smoothed(score, nats, same) or _last(score, nats, same)):
        return other, False
    if _by_places(score, nats, same):
        return "as a mean over batches, each weighted by more places than its loss is a mean of", True
    half = isinstance(score, ScoreSeen) and _half_masked(score, nats)
    return ("over every labelled token of a batch, padding included", False) if half else None


def _mixed(pairs: list[tuple[float, int]], nats: float, same: Callable[[float, float], bool]) -> str | None:
    """A sum of (mean, rows) of batches that was divided by what it was not multiplied with."""
    rows = [count for _, count in pairs]
    if not all(rows):
        return None
    if same(nats, sum(one for one, _ in pairs) / sum(rows)):
        return f"as a sum of {len(pairs)} batches' means, divided by rows"
    if same(nats, sum(one * count for one, count in pairs) / len(pairs)):
        return f"as a sum of means times rows, divided by {len(pairs)} batches"
    return None


def _by_places(score: Scored, nats: float, same: Callable[[float, float], bool]) -> bool:
    """Whether means over labelled tokens were put together by all places, or by those that are no padding."""
    batches = [b for b in score.batches if b.told[1]]
    counts = [[b.every[1] + more * b.rows for b in batches] for more in (0, 1)]
    if all(b.real for b in batches):
        counts += [[b.real + more * b.rows for b in batches] for more in (0, 1)]
    means = [b.told[0] / b.told[1] for b in batches]
    ways = [sum(m * n for m, n in zip(means, few, strict=True)) / sum(few) for few in counts if sum(few)]
    return len(batches) > 1 and any(same(nats, way) for way in ways)


def _smoothed(score: JudgedLossesSeen, nats: float, same: Callable[[float, float], bool]) -> str | None:
    """Losses against smoothed labels, over tokens or over batches."""
    losses = [b.smoothed for b in score.batches if b.smoothed is not None and b.smoothed[1]]
    if not losses or len(losses) < len(score.batches):
        return None
    ways = sum(one for one, _ in losses) / sum(n for _, n in losses), fmean(one / n for one, n in losses)
    return "of losses with label smoothing" if any(same(nats, way) for way in ways) else None


def _last(score: JudgedLossesSeen, nats: float, same: Callable[[float, float], bool]) -> str | None:
    """What the loop over an evaluation left behind."""
    batches = [b for b in score.batches if b.told[1]] if score.whole else []
    ways = [loss / n for loss, n in filter(None, (batches[-1].told, batches[-1].smoothed))] if len(batches) > 1 else []
    return f"of the last of {len(batches)} batches alone" if any(same(nats, way) for way in ways) else None


def _half_masked(score: ScoreSeen, nats: float) -> bool:
    """Whether batches whose means count padding were put together by their tokens without it."""
    batches = [b for b in score.batches if b.told[1]]
    counts = [[b.fair[1] + more * b.rows for b in batches] for more in (0, 1)]  # a mask counts each row's first token
    if not sum(b.padding for b in batches) or any(b.repeated for b in batches) or not sum(counts[0]):
        return False
    means = [b.told[0] / b.told[1] for b in batches]
    return any(same(nats, sum(m * n for m, n in zip(means, few, strict=True)) / sum(few)) for few in counts)

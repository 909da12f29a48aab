"""What a host logs of itself: losses, rewards, margins, accuracies, by the host's own names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from sightline.guard.evidence.batches import Phase


@dataclass(frozen=True, slots=True)
class MetricsSeen:
    """The numbers that a host logged at one moment.

    Attributes:
        step: optimizer steps taken by then.
        values: name -> number, in the host's words (``rewards/margins``) but for the prefix by which it marks an
            evaluation (``eval_``): that is told by `phase`. What is no number is left out.
        rounding: how far off each may be by its last digit, of numbers that were read in what the host printed.
    """

    step: int
    values: Mapping[str, float]
    phase: Phase = "train"
    rounding: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MetricsHistory:
    """All that was logged so far, oldest first (at most 4096 entries), in whatever set-up (see `Setup.step`)."""

    seen: tuple[MetricsSeen, ...]

    @property
    def step(self) -> int:
        """The step of the last entry."""
        return self.seen[-1].step

    def series(self, name: str, phase: Phase = "train", *, since: int = 0) -> tuple[tuple[int, float], ...]:
        """(step, value) of every finite value logged under exactly this name, from step `since` on."""
        return tuple(
            (one.step, one.values[name])
            for one in self.seen
            if one.phase == phase and one.step >= since and name in one.values and isfinite(one.values[name])
        )

    def names(self, phase: Phase = "train") -> tuple[str, ...]:
        """Every name that was logged in a phase, in the order of its first appearance."""
        return tuple(dict.fromkeys(name for one in self.seen if one.phase == phase for name in one.values))

    def preferences(self) -> dict[str, list[float]]:
        """The training series of a preference loss by what they are: TRL's names, and those that end like them."""
        wanted = {"margins": ("margin",), "accuracies": ("reward", "accurac"), "chosen": ("logp", "chosen")}
        wanted["rejected"] = ("logp", "rejected")
        found = {}
        for kind, words in wanted.items():
            names = [name for name in self.names() if all(word in name.lower() for word in words)]
            if len(names) == 1:
                found[kind] = [value for _, value in self.series(names[0])]
        return found


@dataclass(frozen=True, slots=True)
class UnresetSeen:
    """A metric that an evaluation began with what it had counted in the one before.

    `before`: the batches (or rows) that were counted by then; `now`: those of this evaluation.
    """

    step: int
    name: str
    before: int
    now: int

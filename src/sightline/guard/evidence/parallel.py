"""What the ranks of one run did, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BESIDE = "beside the model:"  # how the names of parameters begin that its optimizer holds, and it has not


@dataclass(frozen=True, slots=True)
class RankFacts:
    """One rank at one step.

    Attributes:
        state: parameter -> integer hash of its values when the step began (sharded ones are left out).
        batch: a hash of the inputs of the step's last micro-batch; None where there was none to hash.
        called: modules that hold parameters and ran in the step's training forwards, sorted by name.
        graded: parameters that had a gradient when the optimizer stepped.
        forwards: training forwards whose backward pass exchanges gradients.
        finds_unused: whether the gradient exchange looks for parameters without a gradient (DDP's
            ``find_unused_parameters``); None without such a wrapper.
        held: whether DDP was made around the model, called or not: then all ranks began with the same values.
        sharded: whether some parameters are held in parts.
        pull: a hash of all gradients when the optimizer stepped; None where they were not hashed, or all zero.
        taught: of each micro-batch whose logits were seen: supervised positions, the sum of their weights, and the
            share of them that are cross-entropy's.
    """

    rank: int
    step: int
    state: Mapping[str, int]
    batch: int | None = None
    called: tuple[str, ...] = ()
    graded: tuple[str, ...] = ()
    forwards: int = 0
    finds_unused: bool | None = None
    held: bool = False
    sharded: bool = False
    pull: int | None = None
    taught: tuple[tuple[int, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Round:
    """All ranks at one step, by rank."""

    step: int
    ranks: tuple[RankFacts, ...]

    @property
    def comparable(self) -> bool:
        """Whether the ranks hold the same parameters by name."""
        return len({frozenset(r.state) for r in self.ranks}) == 1 and bool(self.ranks[0].state)

    @property
    def wrapped(self) -> bool:
        """Whether every rank's gradients go through DDP."""
        return all(r.finds_unused is not None for r in self.ranks)

    @property
    def began_alike(self) -> bool:
        """Whether DDP made every rank's values those of the first."""
        return self.wrapped or all(r.held for r in self.ranks)

    @property
    def pulled_alike(self) -> bool:
        """Whether all ranks stepped with the same gradients, bit for bit, so that they were exchanged."""
        return self.ranks[0].pull is not None and len({(r.pull, r.graded) for r in self.ranks}) == 1

    @property
    def differing(self) -> tuple[str, ...]:
        """Names whose values are not the same on all ranks, in the model's order."""
        first, *others = self.ranks
        return tuple(name for name, value in first.state.items() if any(r.state.get(name) != value for r in others))


@dataclass(frozen=True, slots=True)
class RanksSeen:
    """The rounds in which all ranks showed themselves, oldest first. `final`: the run is over, this is the last."""

    step: int
    world: int
    rounds: tuple[Round, ...]
    final: bool = False


@dataclass(frozen=True, slots=True)
class CollectivesSeen:
    """The same call in order, in one group of ranks, that is not the same call on two of them.

    `number`: which call of the group; `calls`: rank -> what it calls, with size and format where these must agree.
    `apart`: it is the same call at another place of the script, not for the first time, and all have something to give.
    """

    step: int
    number: int
    calls: Mapping[int, str]
    apart: bool = False

"""What the doctor says: what is wrong, what it was seen by, and what may have caused it, the likeliest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning", "note"]
Likelihood = Literal["shown", "likely", "possible"]

WORST_FIRST: tuple[Severity, ...] = ("error", "warning", "note")
LIKELIEST_FIRST: tuple[Likelihood, ...] = ("shown", "likely", "possible")


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause and its remedy. `shown`: the records prove it; `likely`: they point to it; `possible`: they allow it.

    `do` names the key of the recipe with its value, or the command.
    """

    likelihood: Likelihood
    says: str
    do: str


@dataclass(frozen=True, slots=True)
class Spot:
    """A step, or the window whose mean was logged: of which stage, from and to which step of it.

    `step`: the last one's number in the whole run.
    """

    stage: str
    first: int
    last: int
    step: int


@dataclass(frozen=True, slots=True)
class Fed:
    """The rows that a step was fed. `proved`: they are those whose print the run wrote down; None: it wrote none."""

    spot: Spot
    rows: tuple[str, ...]
    proved: bool | None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that is wrong.

    `seen`: the numbers. `spots`: the steps whose rows are worth a look; `rows` and what they answer are added later.
    """

    name: str
    severity: Severity
    says: str
    causes: tuple[Cause, ...]
    stage: str = ""
    step: int | None = None
    seen: Mapping[str, object] = field(default_factory=dict)
    spots: tuple[Spot, ...] = ()
    rows: tuple[Fed, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)

    def ordered(self) -> tuple[Cause, ...]:
        """The causes, the likeliest first; equals in the order in which they were thought of."""
        return tuple(sorted(self.causes, key=lambda cause: LIKELIEST_FIRST.index(cause.likelihood)))


@dataclass(frozen=True, slots=True)
class Look:
    """One part of the examination: what it is about, what was found, and a sentence on what was seen.

    `recorded` is False where the run holds nothing to look at; `says` then tells why.
    """

    about: str
    says: str
    found: tuple[Diagnosis, ...] = ()
    recorded: bool = True


@dataclass(frozen=True, slots=True)
class Examination:
    """All that was looked at, and all that was found, the worst first and of equals the earliest."""

    looks: tuple[Look, ...]
    notes: tuple[str, ...] = ()  # what could not be read

    @property
    def found(self) -> tuple[Diagnosis, ...]:
        """Every diagnosis."""
        every = [one for look in self.looks for one in look.found]
        every.sort(key=lambda one: (WORST_FIRST.index(one.severity), one.step is None, one.step or 0))
        return tuple(every)

    @property
    def wrong(self) -> tuple[Diagnosis, ...]:
        """The errors and warnings."""
        return tuple(one for one in self.found if one.severity != "note")

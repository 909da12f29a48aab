"""In which places the samples of a batch leave a model, beside those in which they came."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OrdersSeen:
    """Answer of a probe: for each place of an output, which row of an input moves it, for two inputs of a batch.

    Attributes:
        one, other: the rows of the first input and of the second, by the places that they come out in. Each is a
            permutation: each place is moved by one row alone, and each row moves one place alone.
        together: both move one and the same row of an output. Else they make vectors, or rows and columns of scores,
            of which a loss was seen to hold those in the same place together.
    """

    step: int
    one: tuple[int, ...]
    other: tuple[int, ...]
    together: bool

    @property
    def apart(self) -> tuple[int, ...]:
        """The places at which two samples meet."""
        return tuple(at for at, (a, b) in enumerate(zip(self.one, self.other, strict=True)) if a != b)

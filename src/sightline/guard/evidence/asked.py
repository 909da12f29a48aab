"""Answers to what a host asks for in a line of its own: an overfitting trial, a metric's oracle, a resume's proof."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OverfitSeen:
    """A copy of the model was trained on one batch alone. `rates`: learning rate -> least loss it came to.

    `complete`: its time was enough for all the steps, at each rate.
    """

    step: int
    first: float
    rates: tuple[tuple[float, float], ...]
    steps: int
    complete: bool = True

    @property
    def least(self) -> float:
        """The least loss of all."""
        return min((loss for _, loss in self.rates), default=self.first)


@dataclass(frozen=True, slots=True)
class OracleSeen:
    """A metric was given the ground truth as predictions, and then spoilt predictions.

    Attributes:
        name: the metric's.
        truth: its value for the ground truth.
        spoilt: its values for predictions that are wrong in part or in all, by shuffling.
        perfect: what the host says a perfect score is, or what the metric gives for `reads`; None where nobody says.
        reads: what the metric takes for the truth, where that is known.
        alone: batches of which the last one alone matters to it: `truth` is of wrong answers there, `spoilt` of wrong
            answers everywhere else; 0 where all matter, or where that is not known.
        pairs: each prediction met every label: `truth` is of predictions as they come, `perfect` of the same ones in
            the labels' shape, `spoilt` of those of other rows.
    """

    step: int
    name: str
    truth: float
    spoilt: tuple[float, ...]
    perfect: float | None = None
    reads: str | None = None
    alone: int = 0
    pairs: bool = False


@dataclass(frozen=True, slots=True)
class GeneratedSeen:
    """Texts that a model wrote to be judged, beside those that were wanted. Lengths in tokens, ends of text counted.

    Attributes:
        rows: texts written.
        limit: the longest of them; `unended`: how many are as long, and have no end of text.
        longer: of the wanted texts: how many are longer than `limit`; `wanted` is their median length.
    """

    step: int
    rows: int
    limit: int
    unended: int
    longer: int
    wanted: int


@dataclass(frozen=True, slots=True)
class ResumeSeen:
    """The live state of a resumed run beside the checkpoint it came from.

    Attributes:
        saved: what the checkpoint holds, of weights, optimizer, schedule, scaler.
        live: what the run has, of the same.
        differ: part -> what differs, in words; empty where all is as it was saved.
        compared: parts that both have.
    """

    step: int
    path: str
    saved: tuple[str, ...]
    live: tuple[str, ...]
    compared: tuple[str, ...] = ()
    differ: tuple[tuple[str, str], ...] = ()

"""Is a score of an evaluation one of the evaluations before it, too, because what it counts with is never set to zero?

The evaluation is run again (see `replay.py`), from what its counts were when it began, and from zero. They were carried
over where one of them is a whole number of evaluations of as many rows (or batches), and the score is that of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from math import isclose

from sightline.attach.script.scoring.asking import alone
from sightline.attach.script.scoring.batches import rows
from sightline.attach.script.scoring.cuttings import cuttings
from sightline.attach.script.scoring.recorded import Place, Recorded
from sightline.attach.script.scoring.replay import CUTS
from sightline.attach.script.scoring.stage import Piece, Stage
from sightline.guard.evidence import UnresetSeen

EXACT = 1e-5  # relative: sums in float32; what is printed has fewer digits and is not judged
SCALES = (1, 100)

Counts = dict[str, int | float]


def carried(record: Recorded, own: Callable[[str], bool], step: int, until: float) -> UnresetSeen | None:
    """The score that goes on from the evaluations before. One batch alone may be judged before each step of training,
    all answers together on purpose."""
    if not (record.whole and record.paired and len(record.told) > 1):
        return None
    sizes = {sum(rows(batch) for batch, _ in record.told), len(record.told)}
    for place in record.places:
        for begun, blank, counts in _ways(place):
            with alone(), suppress(Exception):  # the script's own code, with other counts than it was made for
                real, anew = (_scores(record, piece, own, until) for piece in (begun, blank))
                for name in real.keys() & anew.keys():
                    if (before := _of_both(real[name], anew[name], counts, sizes)) is not None:
                        return UnresetSeen(step, f"{name} ({begun.where})", *before)
    return None


def _ways(place: Place) -> Iterator[tuple[Piece, Piece, Counts]]:
    """The code from its counts as they were, the same from zero, and those that were not."""
    zero = {name: type(value)(0) if type(value) in (int, float) else value for name, value in place.names.items()}
    ways = zip(cuttings(place.code, place.line, place.names), cuttings(place.code, place.line, zero), strict=True)
    for number, (begun, blank) in enumerate(ways):
        found = {name: place.names[name] for name in begun.co_varnames if name in place.names}
        counts = {name: value for name, value in found.items() if type(value) in (int, float) and value}
        if counts and number < CUTS:
            one, other = (Piece(code, place.names, {}, {}, place.line) for code in (begun, blank))
            yield one, other, counts


def _scores(record: Recorded, piece: Piece, own: Callable[[str], bool], until: float) -> dict[str, float]:
    stage = Stage(record, piece, own, until, paired=True)
    return stage.score([output for _, output in record.told], [batch for batch, _ in record.told])


def _of_both(real: float, anew: float, counts: Counts, sizes: set[int]) -> tuple[int, int] | None:
    """How many were counted before and now, where the real score is the mean of the old ones and of the new one."""
    if isclose(real, anew, rel_tol=EXACT):
        return None
    for many in (value for value in counts.values() if value == round(value) and value > 0):
        for size in (size for size in sizes if many % size == 0):
            for summed in counts.values():
                for scale in SCALES:
                    both = (scale * summed + anew * size) / (many + size)
                    if summed is not many and isclose(real, both, rel_tol=EXACT):
                        return round(many), size
    return None

"""Accuracy over the bound of each attack: all rows attacked at every bound, answered about, and tallied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sightline.data.row import Row
from sightline.evaluate.gallery import thumbnail
from sightline.evaluate.robust.attacked import Attacked, attacked
from sightline.evaluate.robust.shown import picture
from sightline.evaluate.robust.tally import Tally
from sightline.evaluate.robust.view import Shown, View
from sightline.recipe.robust import Attack

Marking = Callable[[Sequence[Row], Sequence[str]], list[float]]
Tell = Callable[[int], None]
AMPLIFIED = 0.5  # the largest difference of a shown picture is drawn this far from grey


@dataclass(slots=True)
class Curve:
    """An attack's tallies by its bounds, narrow to wide, and a few pictures whose answer it changed from right."""

    attack: Attack
    tallies: list[Tally]
    pictures: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Trial:
    """What rows are tried with: the view, how answers are marked, seed, and who is told of progress (in rows)."""

    view: View
    mark: Marking
    seed: int
    tell: Tell

    def batches(self, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
        """Rows that are attacked together."""
        for start in range(0, len(rows), self.view.batch_size):
            yield rows[start : start + self.view.batch_size]

    def tallied(self, rows: Sequence[Row], attack: Attack, epsilon: float) -> Tally:
        """One point, by itself."""
        tally = Tally(attack, epsilon)
        for some in self.batches(rows):
            shown = self.view.show(some)
            self.one(shown, tally)
        return tally

    def one(self, shown: Shown, tally: Tally) -> tuple[Attacked, list[str]]:
        """Attack a batch and add it to `tally`; also the attacked pixels, and the answers given them as files."""
        view, rows = self.view, shown.rows
        target = view.target(shown, self.seed)
        made = attacked(target, tally.attack, tally.epsilon)
        tally.moved(shown.pixels, made.floats, made.levels, made.where)
        said = view.answer(view.in_files(rows, shown.owner, made.levels))
        tally.in_files += self.mark(rows, said)
        tally.marks += self.mark(rows, view.answer_floats(rows, shown.owner, made.floats))
        tally.noise += self.mark(rows, view.answer(view.in_files(rows, shown.owner, made.noise)))
        tally.clean_losses += target.losses(shown.pixels).tolist()
        tally.losses += target.losses(made.floats).tolist()
        tally.noise_losses += target.losses(made.noise).tolist()
        self.tell(len(rows))
        return made, said


def curves(
    trial: Trial, rows: Sequence[Row], attacks: Sequence[Attack], clean: Sequence[str], pictures: int
) -> list[Curve]:
    """A curve of each attack. `clean`: the answers before; up to `pictures` of each attack are kept for the eye."""
    marks = trial.mark(rows, clean)
    made = [Curve(attack, [Tally(attack, bound) for bound in sorted(attack.epsilon)]) for attack in attacks]
    if not made:
        return []  # a model that has no picture to attack is not asked for one
    for start, some in zip(range(0, len(rows), trial.view.batch_size), trial.batches(rows), strict=True):
        shown = trial.view.show(some)
        for curve in made:
            fooled: set[int] = set()
            for tally in curve.tallies:
                attack, said = trial.one(shown, tally)
                for place, row in enumerate(some):
                    right, wrong = marks[start + place] > 0, tally.in_files[-len(some) + place] == 0
                    if len(curve.pictures) < pictures and place not in fooled and right and wrong:
                        fooled.add(place)
                        answers = clean[start + place], said[place]
                        curve.pictures.append(_picture(shown, attack, tally, place, row, answers))
    return made


def _picture(
    shown: Shown, made: Attacked, tally: Tally, place: int, row: Row, answers: tuple[str, str]
) -> dict[str, Any]:
    """The first picture of a row before and after, and the difference around grey."""
    first = int((shown.owner == place).nonzero()[0])
    clean, attacked_ = shown.pixels[first], made.levels[first]
    return {
        "attack": tally.attack.name,
        "epsilon": tally.epsilon,
        "clean": thumbnail(picture(clean)),
        "attacked": thumbnail(picture(attacked_)),
        "difference": thumbnail(picture(_difference(clean, attacked_))),
        "question": row.question,
        "before": answers[0],
        "after": answers[1],
        "truth": row.answer,
    }


def _difference(clean: Tensor, other: Tensor) -> Tensor:
    delta = other - clean
    return 0.5 + AMPLIFIED * delta / delta.abs().max().clamp(min=1e-6)

"""What features that a model is given beside texts could tell of them."""

from __future__ import annotations

from dataclasses import dataclass

ROWS, STEPS = 256, 64  # of fewer different pairs a fit says little; steps until a model may have begun to look
NOTHING, CHANCE = 0.2, 1.5  # correlation, of which what goes together has 0.3 and more; times the largest by chance
SURE, LITTLE = 3.2, 0.01  # errors of a mean; share of the loss: what helps less than this is no help


@dataclass(frozen=True, slots=True)
class FeaturesSeen:
    """Features made beforehand, one set a text, in place of images; and how well a straight line tells words by them.

    Attributes:
        rows: different pairs of features and text; half of them were fitted, and the others are judged.
        words: kinds that are in some texts and not in others, and pairs of such.
        told: the largest correlation of what the fit says of one of these, and whether it is there.
        chance: the largest of the same with texts dealt anew, several times.
        gain: by how much the model's own loss is lower with a row's features than with another's; `error`: of that.
        loss: with its own.
    """

    step: int
    rows: int
    words: int
    told: float
    chance: float
    gain: float
    error: float
    loss: float

    @property
    def strangers(self) -> bool:
        """Whether nothing in the features goes with any word, or two together (a question and its answer), and the
        model found nothing either."""
        enough = self.rows >= ROWS and self.step >= STEPS and self.words > 0
        told = self.told > min(NOTHING, CHANCE * self.chance) or self.gain > max(SURE * self.error, LITTLE * self.loss)
        return enough and not told

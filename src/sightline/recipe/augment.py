"""What a recipe says of changes to training images."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sightline.recipe.part import Fraction, Part

Change = Literal["flip", "colour", "crop"]


class Augment(Part):
    """Changes to training images that leave each row's answer true.

    A row whose question or answers speak of what a change would touch is exempt from it (`data/augment.py`).
    """

    flip: Fraction = 0.0  # probability of a mirror image; not of what is about sides, order, clocks or text to be read
    colour: Fraction = (
        0.0  # brightness, contrast, saturation by up to this share, hue by a quarter of it; not of colours
    )
    crop: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0  # least share of the area kept; not of counts, presence, places
    also: dict[
        Change, list[str]
    ] = {}  # further words (regular expressions) that exempt a row; the known ones are English

    @field_validator("also")
    @classmethod
    def _expressions(cls, also: dict[Change, list[str]]) -> dict[Change, list[str]]:
        for change, words in also.items():
            for word in words:
                try:
                    re.compile(word)
                except re.error as error:
                    raise ValueError(f"'also.{change}': {word!r} is no regular expression: {error}") from None
        return also

    @model_validator(mode="after")
    def _changes_something(self) -> Augment:
        if unread := sorted(set(self.also) - set(self.changes)):
            raise ValueError(f"'also.{unread[0]}' exempts rows from a change that is off")
        if not self.changes:
            raise ValueError("give at least one of 'flip', 'colour' and 'crop', or leave 'augment' out")
        return self

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes that are on."""
        on: dict[Change, bool] = {"flip": self.flip > 0, "colour": self.colour > 0, "crop": self.crop < 1}
        return tuple(change for change, wanted in on.items() if wanted)

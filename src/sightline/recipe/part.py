"""What every part of a recipe is made of: a frozen value that no unknown key gets past, and the towers' names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Tower = Literal["vision", "connector", "language", "head"]
TOWERS: tuple[Tower, ...] = ("vision", "connector", "language")  # of every model; few have a head, too
Positive = Annotated[int, Field(gt=0)]
Above0 = Annotated[float, Field(gt=0.0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]  # of dropout: at 1 nothing would be left


class Part(BaseModel):
    """Base of every part of a recipe: frozen, and no unknown key gets past it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

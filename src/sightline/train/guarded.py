"""The trainer as the guard's host: it attaches by the public door, like anybody's loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sightline.recipe.schema import Recipe
from sightline.train.checkpoint import Position
from sightline.train.directory import RunDirectory
from sightline.train.stage import ReadyStage


from sightline.errors import UserError


class GuardError(UserError):
    findings: list = []


@contextlib.contextmanager
def guarded(recipe: Recipe, stage: ReadyStage, run: RunDirectory, position: Position) -> Iterator[None]:
    """Guard the block's training."""
    yield

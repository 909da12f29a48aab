"""TensorBoard and Weights & Biases, by a line of the recipe: the same numbers that metrics.jsonl holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from sightline.errors import UserError
from sightline.recipe.schema import Recipe


class Tracker(Protocol):
    """Takes the numbers of an event."""

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Record `numbers` at global step `step`."""

    def close(self) -> None:
        """Write out what is held back."""


class TensorBoard:
    """Writes event files into the run directory."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Record `numbers` at global step `step`."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is held back."""
        self._writer.close()


class WandB:
    """Sends the numbers to Weights & Biases (or keeps them, with WANDB_MODE=offline)."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        import wandb

        config = recipe.model_dump(mode="json")
        self._run = wandb.init(project="sightline", name=folder.name, dir=str(folder), config=config, resume="allow")

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Record `numbers` at global step `step`."""
        self._run.log(numbers, step=step)

    def close(self) -> None:
        """Finish the run there."""
        self._run.finish()


def open_trackers(recipe: Recipe, folder: Path) -> list[Tracker]:
    """The trackers that the recipe names.

    Raises:
        UserError: one that is not installed.
    """
    opened: list[Tracker] = []
    for name in recipe.track:
        try:
            opened.append(TensorBoard(folder) if name == "tensorboard" else WandB(folder, recipe))
        except ImportError:
            fix = f"pip install 'sightline[{name}]', or take it out of 'track'"
            raise UserError(f"{name} is not installed", where="track", fix=fix) from None
    return opened


def flat(event: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """An event's numbers as (name, value), nested ones with a slash: grad_norm/vision."""
    for key, value in event.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)

"""What freezing and caching save: the same stage, counted once more with one thing changed."""

from __future__ import annotations

from dataclasses import dataclass

from sightline.models.vlm import VLM
from sightline.plan.layouts import Layout, autocast, state_of
from sightline.plan.memory import StateBytes, human
from sightline.plan.speed import PRODUCTS
from sightline.plan.stage import Option, StageOnGpus


@dataclass(frozen=True, slots=True)
class Saving:
    """What is or could be saved on each GPU. `taken`: the stage does so already. `seconds`: of a step, where told."""

    what: str
    taken: bool
    bytes: int
    seconds: float = 0.0

    @property
    def told(self) -> str:
        """In words."""
        parts = [human(self.bytes)] if self.bytes else []
        parts += [f"{1000 * self.seconds:.2g} ms of a step"] if self.seconds else []
        return f"{self.what} {'saves' if self.taken else 'would save'} {' and '.join(parts)}"


def savings(found: StageOnGpus, written: Option) -> list[Saving]:
    """Of the stage as the recipe says: towers that are frozen, their precision, features that are kept."""
    told = [
        Saving(f"freezing {tower}", True, size)
        for tower in found.model.towers
        if not found.model.learns(tower) and (size := unfrozen(found, tower, written.layout)) > 0
    ]
    frozen = sum(p.numel() * p.element_size() for p in found.model.parameters() if not p.requires_grad)
    if frozen and autocast(written.layout) and found.half and found.held == "fp32":
        told.append(Saving("holding frozen weights in half precision", False, frozen // 2))
    cached = _cached(found, written)
    return told + ([cached] if cached else [])


def unfrozen(found: StageOnGpus, tower: str, layout: Layout) -> int:
    """Bytes of state that `tower` would add if it learned."""
    learning: VLM = found.make()
    for _, parameter in learning.tower_parameters(tower):  # type: ignore[arg-type]
        parameter.requires_grad_(True)
    return _state(learning, layout, found) - _state(found.model, layout, found)


def _state(model: VLM, layout: Layout, found: StageOnGpus) -> int:
    return sum(state_of(model, layout, found.world, adam=found.adam).values(), StateBytes()).total


def _cached(found: StageOnGpus, written: Option) -> Saving | None:
    """A frozen vision tower's forward pass, where its features could be kept from epoch to epoch."""
    seen = found.rehearsal(written.layout, written.checkpointing, found.micro)
    if seen is None or found.model.learns("vision") or found.stage.cache_features or found.stage.flip:
        return None
    rate = (found.gpu.half if found.half else found.gpu.single) * PRODUCTS
    seconds = written.times * written.micro / found.micro * seen.flops["vision"] / rate
    return Saving("keeping its features (cache_features)", False, 0, seconds) if seconds else None

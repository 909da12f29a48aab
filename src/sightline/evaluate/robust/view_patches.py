"""Models whose image processor cuts a picture into a list of patches (Qwen-VL), as attacks see them (see `view.py`).

Where each number of the list comes from is asked of the processor itself: pictures whose pixels tell their own place
are shown to it, and what it makes of them is read. So the list is known as a selection of pixels, through which
gradients flow. A processor that does more than select (tiles beside a small whole picture) is found out, and refused.

Sizes differ from picture to picture, so rows are attacked one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightline.data.batch import Batch
from sightline.data.row import Row
from sightline.data.scale import Scale
from sightline.evaluate.answer import Answerer, Precision
from sightline.evaluate.robust.view import AnswerView, Shown, no_picture
from sightline.models.build import Built

VALUES, GRID = "pixel_values", "image_grid_thw"
CHANNELS = (0, 128, 255)  # levels by which a probe's channels are told apart
NEAR = 1e-3  # of a value: what the processor's own rounding may leave


@dataclass(frozen=True, slots=True)
class Selection:
    """Where each value of a processed picture comes from: channel, row and column, each (patches, values a patch)."""

    channel: Tensor
    y: Tensor
    x: Tensor
    scale: Scale

    def values(self, pixels: Tensor) -> Tensor:
        """What the processor makes of (3, H, W) pixels from 0 to 1."""
        mean, std = (torch.tensor(each, device=pixels.device) for each in (self.scale.mean, self.scale.std))
        return (pixels[self.channel, self.y, self.x] - mean[self.channel]) / std[self.channel]

    def pixels(self, values: Tensor, height: int, width: int) -> Tensor:
        """The 8-bit picture behind `values`, as levels k / 255."""
        mean, std = (torch.tensor(each, device=values.device) for each in (self.scale.mean, self.scale.std))
        made = torch.zeros(3, height, width, device=values.device)
        made[self.channel, self.y, self.x] = values.float() * std[self.channel] + mean[self.channel]
        return (made * 255).round().clamp(0, 255) / 255


class PatchView(AnswerView):
    """See the module. Raises UserError, when rows are shown, for a processor that does more than select pixels."""

    def __init__(self, built: Built, *, batch: int, max_new_tokens: int, precision: Precision) -> None:
        settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "precision": precision}
        super().__init__(built, batch=batch, **settings)
        encoder: Any = self._substituting
        self.batch_size, self._by_floats = 1, Answerer(replace(built, encoder=encoder), batch=1, **settings)
        self._selections: dict[tuple[int, int], Selection] = {}

    def show(self, rows: Sequence[Row]) -> Shown:
        (row,) = rows
        batch = self._collate(rows).to(self.device)
        if VALUES not in batch.extra or GRID not in batch.extra or len(row.images) != 1:
            raise no_picture()
        size = self._size(batch.extra[GRID][0])
        pixels = self._selection(*size).pixels(batch.extra[VALUES], *size)[None]
        return Shown((row,), batch, pixels, torch.zeros(1, dtype=torch.int64, device=self.device))

    def with_pixels(self, batch: Batch, pixels: Tensor) -> Batch:
        values = self._selection(*pixels.shape[-2:]).values(pixels[0])
        return replace(batch, extra={**batch.extra, VALUES: values})

    def handed(self, batch: Batch, pixels: Mapping[str, Tensor]) -> Batch:
        known = [pixels[key] for key in batch.image_keys if key in pixels]
        return self.with_pixels(batch, known[0][None].cpu()) if known else batch

    def _size(self, grid: Tensor) -> tuple[int, int]:
        side = int(self.encoder.processor.image_processor.patch_size)
        return int(grid[1]) * side, int(grid[2]) * side

    def _selection(self, height: int, width: int) -> Selection:
        if (height, width) not in self._selections:
            self._selections[height, width] = self._probed(height, width)
        return self._selections[height, width]

    def _probed(self, height: int, width: int) -> Selection:
        """Ask the processor where its values come from."""
        y, x = np.mgrid[0:height, 0:width]
        told = np.broadcast_to(np.array(CHANNELS), (height, width, 3))
        codes = [told, *(np.repeat(code[..., None], 3, 2) for code in (y % 256, x % 256, (y // 256) * 16 + x // 256))]
        seen = [self._made(code.astype(np.uint8)) for code in codes]
        mean, std = (torch.tensor(each) for each in (self.scale.mean, self.scale.std))
        expected = (torch.tensor(CHANNELS) / 255 - mean) / std
        channel = (seen[0][..., None] - expected).abs().argmin(-1)
        low_y, low_x, high = (((each * std[channel] + mean[channel]) * 255).round().long() for each in seen[1:])
        where = (high // 16 * 256 + low_y).clamp(0, height - 1), (high % 16 * 256 + low_x).clamp(0, width - 1)
        found = Selection(channel, *where, self.scale)
        picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        again = found.values(torch.from_numpy(picture).permute(2, 0, 1) / 255)
        if float((again - self._made(picture)).abs().max()) > NEAR:
            raise no_picture()
        rows, columns = (each.to(self.device) for each in where)
        return Selection(channel.to(self.device), rows, columns, self.scale)

    def _made(self, levels: np.ndarray[Any, Any]) -> Tensor:
        """What the processor makes of a picture. Raises UserError where its size is not kept."""
        made = self.encoder.processor.image_processor(images=[Image.fromarray(levels)], return_tensors="pt")
        if self._size(made[GRID][0]) != levels.shape[:2]:
            raise no_picture()
        return torch.as_tensor(made[VALUES]).float()


def cuts_patches(encoder: Any) -> bool:
    """Whether images go into the model as a list of patches, each picture in its own shape."""
    processor = getattr(getattr(encoder, "processor", None), "image_processor", None)
    return hasattr(processor, "merge_size") and hasattr(processor, "patch_size")

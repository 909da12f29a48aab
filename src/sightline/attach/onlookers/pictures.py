"""Is there more than one image? Compares those of each training batch with each other, and with the first of all.

Or more than one image's features, where these come beside the ids of a text. Flat ones may be meant: a stage of texts,
which is over once others come.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from sightline.attach.onlookers.features import VAIN, pair_of
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import PicturesSeen
from sightline.guard.probes.call import Call, differentiable

BATCHES, IMAGES = 8, 64  # of flat images: no set of pictures begins with so many; twice as many of one picture
FLAT = 4  # dimensions of images, one a row
IDS = (torch.int64, torch.int32)


class Pictures(Onlooker):
    """Gives up at the first batch whose images differ, which is the first of nearly every run."""

    shows: ClassVar = ("PicturesSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._first: Tensor | None = None
        self._batches = self._images = self._vain = 0
        self._varied = self._done = False
        self._told_of: PicturesSeen | None = None

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """A training batch with images."""
        if not training or self._done:
            return
        pixels = self._images_of(call, output)
        if pixels is None or pixels.requires_grad or not pixels.numel():
            return
        first = pixels.detach()[:1] if self._first is None else self._first
        if first.shape[1:] != pixels.shape[1:]:
            self._done = True
            return
        self._first = first.clone() if self._first is None else self._first
        self._listen(output, len(pixels))
        count, given = len(pixels), [v for v in (*call.args, *call.kwargs.values()) if isinstance(v, Tensor)]
        texts = [v for v in given if v.dtype in IDS and v.dim() == 2 and len(v) == count]
        told = [(text != text[:1]).any() for text in texts]
        facts = [(pixels.detach() != first).any(), first.min(), first.max(), *told]
        self.recorder.mailbox.post(
            [torch.stack([fact.double() for fact in facts])], lambda values: self._came(values[0].tolist(), count)
        )

    def _images_of(self, call: Call, output: Any) -> Tensor | None:
        """A batch's images, or the features in their place; those are asked for in the first few batches alone."""
        pixels = call.tensor("pixel_values")
        if pixels is not None:
            return pixels if pixels.dim() >= FLAT else None
        pair = pair_of(call, output) if self._vain < VAIN else None
        self._vain += pair is None
        return None if pair is None else pair[0]

    def _listen(self, output: Any, count: int) -> None:
        """Equal images give equal outputs: gradients that differ tell that what is taught about them does."""
        given = next((t for t in differentiable(output) if t.dim() and len(t) == count), None)
        if given is None or self._varied:
            return

        def pulled(grad: Tensor) -> None:
            if not self.recorder.muted and not self._varied:
                self.recorder.mailbox.post([(grad != grad[:1]).any()], lambda values: self._told(bool(values[0])))

        given.register_hook(pulled)

    def _told(self, varied: bool) -> None:
        self._varied = self._varied or varied

    def _came(self, facts: list[float], count: int) -> None:
        different, least, most, *texts = facts
        if different or least != least or (least == most and self._first is not None and self._first.dim() < FLAT):
            self._done, self._first = True, None
            if self._told_of is not None:
                self.recorder.offer(replace(self._told_of, step=self.recorder.step, over=True))
            return
        self._batches, self._images = self._batches + 1, self._images + count
        self._told(any(texts))
        times = 1 if least == most else 2
        if (
            self._told_of is None
            and self._varied
            and self._batches >= times * BATCHES
            and self._images >= times * IMAGES
        ):
            shape = tuple(self._first.shape[1:]) if self._first is not None else ()
            value = least if least == most else None
            self._told_of = PicturesSeen(self.recorder.step, self._batches, self._images, shape, value)
            self._done = value is None
            self.recorder.offer(self._told_of)

    def close(self, *, broken: bool) -> None:
        """What belongs to the host is let go."""
        self._done, self._first = True, None

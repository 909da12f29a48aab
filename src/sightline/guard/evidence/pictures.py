"""What images have in common over batches, and in which numbers a vision tower is given them."""

from __future__ import annotations

from dataclasses import dataclass

BYTES = 255  # the largest number of a pixel in a file
BRIGHT, DARK = 128, -3.0  # the brightest pixel of several pictures; the darkest, with a mean off, over a spread
WIDEST = BYTES / 0.2  # the brightest one over the narrowest spread in use
STRONG = 16.0  # root mean square of pictures that nobody brought to unit size
NARROW = 1.01 / BYTES / 0.2  # all that is left of pictures divided by 255 twice, over the narrowest spread in use
CONTRAST = 0.3 / BYTES  # and what is left of several ordinary ones at least
BLACK = -0.4  # what black is with the usual means taken off, or less


@dataclass(frozen=True, slots=True)
class PicturesSeen:
    """All images of the training batches so far are one, to the last bit, and what is taught about them differs.

    Attributes:
        batches, images: how many of either were compared.
        value: of every pixel, where the one image has but one; None where it has several.
        shape: of an image.
        over: others came then: these stood for none, in a stage of texts alone.
    """

    step: int
    batches: int
    images: int
    shape: tuple[int, ...]
    value: float | None = None
    over: bool = False


@dataclass(frozen=True, slots=True)
class Pixels:
    """Of a batch of pictures: the least and the largest number, their root mean square, and the widest colour's range.

    `small`: the tower that was given them is surely made for numbers of about 1.
    """

    least: float
    most: float
    size: float
    range: float
    small: bool = False

    @property
    def raw(self) -> bool:
        """Whether they are as in files, 0 to 255, be it over a spread; nobody took the mean of such numbers off."""
        return self.least >= DARK and BRIGHT < self.most <= WIDEST and self.size >= STRONG

    @property
    def faint(self) -> bool:
        """Whether they were divided by 255 twice: all of them next to black, with or without a mean taken off."""
        if self.least >= 0:
            return 2 * CONTRAST <= self.most <= 1.01 / BYTES
        return CONTRAST <= self.range <= NARROW and self.least >= DARK and self.most <= BLACK

    @property
    def wrong(self) -> tuple[str, str] | None:
        """What is wrong with them, and what to do; None for pictures as towers are made for."""
        if not self.small:
            return None
        if self.raw:
            what = f"numbers up to {self.most:.4g}, as pixels have in files: it is made for about -1 to 1"
            return what, "divide pixels by 255 (do_rescale=True), and take off the mean that its processor names"
        if self.faint:
            what = f"numbers from {self.least:.3g} to {self.most:.3g}: pixels that were divided by 255 twice are black"
            return what, "divide once: do_rescale=False for pictures from 0 to 1, or hand the processor bytes"
        return None

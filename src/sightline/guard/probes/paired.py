"""Does a sample's target go where its image goes? The same samples, read again and again in a worker of our own."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from sightline.guard.evidence import PairedSeen
from sightline.guard.probes.draws import can_be_copied, quiet_copy
from sightline.guard.probes.placing import boxes_go, masks_go, place
from sightline.guard.probes.samples import arrays_of

READS, SAMPLES = 8, 4  # of each sample: of two versions of it, 8 are the same once in 128
SECONDS = 3.0
LEAST, VALUES = 8, 32  # pixels of a side; different numbers of a mask, where an image has more


def paired(loader: DataLoader[Any], step: int) -> PairedSeen | None:
    """Read a few samples `READS` times, and see where image and target of each were put beside the first reading.

    Nothing of the host's is touched or printed: a forked worker of a copy of `loader` reads, with random numbers of its
    own. None for iterable data sets, samples without an image and a mask or boxes, slow data sets and those that fail.
    """
    if not can_be_copied(loader, least=0):
        return None
    count, start = len(loader.dataset), time.monotonic()  # type: ignore[arg-type]
    batches = [[place * count // SAMPLES] * READS for place in range(min(SAMPLES, count))]
    copy = quiet_copy(loader.dataset, batches, _compare)
    found: Counter[str] = Counter()
    try:
        for answers in copy:
            found.update(answers)
            if not answers or time.monotonic() - start > SECONDS:
                break
    except RuntimeError:  # the worker failed or was too slow: the host's own loader will tell
        return None
    moved = found["together"] + found["apart"]
    return PairedSeen(step, "boxes" if found["boxes"] else "masks", moved, found["apart"]) if moved else None


def _compare(samples: list[Any]) -> list[str]:
    """Of each reading beside the first: "together" or "apart" where the image moved; "boxes" where those tell."""
    first = _parts(samples[0])
    if first is None:
        return []
    image, kind, target = first
    answers = [kind]
    for sample in samples[1:]:
        other = _parts(sample)
        if other is None or other[0].shape != image.shape or other[1] != kind:
            continue
        if (where := place(image, other[0])) is None or where.still:
            continue
        go = masks_go if kind == "masks" else boxes_go
        answers += [word for word in (go(target, other[2], where, image.shape),) if word]
    return answers


def _parts(sample: Any) -> tuple[Tensor, str, Tensor] | None:
    """(H, W) grey image, and its one mask (H, W) or its boxes (N, 4); None for other samples."""
    arrays = list(arrays_of(sample))
    pictures = [plane for array in arrays if (plane := _plane(array)) is not None]
    images = [p for p in pictures if len(p.unique()) > VALUES]
    masks = [p for p in pictures if 1 < len(p.unique()) <= VALUES]
    if len(images) != 1:
        return None
    if len(masks) == 1 and masks[0].shape == images[0].shape:
        return images[0], "masks", masks[0]
    boxes = [array for array in arrays if array.dim() == 2 and array.shape[1] == 4 and len(array)]
    return (images[0], "boxes", boxes[0].double()) if len(boxes) == 1 and not masks else None


def _plane(array: Tensor) -> Tensor | None:
    """(H, W) float64 of what looks like an image or a mask, with channels first, last or none."""
    if array.dim() == 3 and array.shape[0] in (1, 3, 4):
        array = array.double().mean(0)
    elif array.dim() == 3 and array.shape[-1] in (1, 3, 4):
        array = array.double().mean(-1)
    return array.double() if array.dim() == 2 and min(array.shape) >= LEAST else None

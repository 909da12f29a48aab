"""Do images go together with their labels, or with those of other files? By a measure that needs no training.

Image and label of the same sample have something to do with each other: colours, brightness or coarse shapes. How much
that is in all is compared with what labels that are dealt at random have (the norm of the cross-covariance of both,
HSIC with linear kernels: Gretton et al. 2005, https://doi.org/10.1007/11564089_7, section 3).
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.data import DataLoader

from sightline.guard.evidence import FiledSeen
from sightline.guard.evidence.filed import FITS
from sightline.guard.probes.draws import can_be_copied, quiet_copy
from sightline.guard.probes.fields import members
from sightline.guard.probes.samples import array_of

SAMPLES, LEAST = 256, 64  # images that are compared, at most and at least
SECONDS = 2.0  # for reading them
SIDE, CHANNELS = 8, 4  # pixels of a thumbnail's side; of an image at most
DEALS = 64  # of labels at random
WORDS, NUMBERS = 256, 64  # kinds of words, and numbers of a label
SAME = 0.98  # correlation of two thumbnails of one picture
Label = dict[str, tuple[Any, ...]]  # path in the sample -> its words, or its numbers
Order = Mapping[int, int]
Sample = tuple[Tensor, Label]


def filed(
    loader: DataLoader[Any], dataset: Any, names: Sequence[str], orders: Sequence[tuple[str, Order]], step: int
) -> FiledSeen | None:
    """`orders`: by its name, sample of `dataset` -> the one whose label it would have if labels stood in that order.

    A forked worker of a copy of `loader` reads; nothing of the host's is touched. None for samples without an image or
    a label, slow data sets and those that fail.
    """
    best: FiledSeen | None = None
    until = time.monotonic() + SECONDS
    for order, others in orders:
        chosen = random.Random(0).sample(sorted(others), min(SAMPLES, len(others)))
        wanted = list(dict.fromkeys(one for place in chosen for one in (place, others[place])))
        read = _read(loader, dataset, wanted, until)
        both = [place for place in chosen if place in read and others[place] in read]
        if len(both) < LEAST:
            return best
        images = torch.stack([read[place][0] for place in both])
        own, of_others = (encoded([read[at][1] for at in places]) for places in (both, [others[p] for p in both]))
        given, other = together(images, own), together(images, of_others)
        one = both[0]
        seen = FiledSeen(step, len(both), given, other, order, names[one], names[others[one]])
        best = seen if best is None or seen.other > best.other else best
        if given >= FITS:
            break  # they are where they belong
    return best


def same_picture(loader: DataLoader[Any], dataset: Any, runs: Iterator[list[str]]) -> list[str] | None:
    """The first run of files whose pictures are those of the samples, as far as some of each tell."""
    if (first := next(runs, None)) is None:
        return None
    places = [place * (len(first) - 1) // 3 for place in range(4)]
    until = time.monotonic() + SECONDS
    read = _read(loader, dataset, places, until)
    if len(read) < len(places):
        return None
    for names in chain([first], runs):
        if time.monotonic() > until:
            return None
        if all(_alike(read[place][0], names[place]) for place in places):
            return names
    return None


def _alike(image: Tensor, file: str) -> bool:
    from PIL import Image

    try:
        with Image.open(file) as picture:
            own = features(array_of(picture.convert("RGB")))
    except OSError:
        return False
    one, other = (
        (t[: SIDE * SIDE] - t[: SIDE * SIDE].mean() for t in (image, own)) if own is not None else (image, image)
    )
    return own is not None and float(torch.nn.functional.cosine_similarity(one, other, dim=0)) > SAME


def _read(
    loader: DataLoader[Any], dataset: Any, places: Sequence[int], until: float
) -> dict[int, tuple[Tensor, Label]]:
    """Sample -> its image in small, and its label, as far as time allows."""
    if not can_be_copied(loader, least=0):
        return {}
    copied = quiet_copy(dataset, [[place] for place in places], _parts)
    found: dict[int, Sample] = {}
    try:
        for place, parts in zip(places, copied, strict=True):
            if parts is None or time.monotonic() > until:
                break
            found[place] = parts
    except RuntimeError:  # the worker failed or was too slow: the host's own loader will tell
        return {}
    return found


def _parts(samples: list[Any]) -> Sample | None:
    """The image of a sample, and all that else is in it (in the worker)."""
    image: Tensor | None = None
    label: Label = {}
    for path, value in _leaves(samples[0], ""):
        array = value.detach() if isinstance(value, Tensor) else array_of(value)
        small = features(array) if array is not None else None
        if small is not None and image is None:
            image = small
        elif small is not None:  # a mask, a depth: what is where
            label |= {f"{path}[{at}]": (number,) for at, number in enumerate(small[: SIDE * SIDE].double().tolist())}
        elif isinstance(value, str):
            label[path] = tuple(value.lower().split())
        elif isinstance(value, bool | int | float):
            label[path] = (float(value),)
        elif array is not None and array.numel() <= NUMBERS * (array.dim() < 2):
            label[path] = tuple(array.flatten().double().tolist())
    return None if image is None or not label else (image, label)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    inside = list(members(value)) if isinstance(value, Mapping | list | tuple) else []
    for name, part in inside:
        yield from _leaves(part, f"{path}.{name}")
    if not inside:
        yield path, value


def features(array: Tensor | None) -> Tensor | None:
    """A grey thumbnail of (SIDE, SIDE), one of each channel, and how each row and column varies; None of no image."""
    if array is None or array.dim() not in (2, 3) or array.is_complex():
        return None
    image = array.double()
    image = image[None] if image.dim() == 2 else image
    image = image.permute(2, 0, 1) if image.shape[0] > CHANNELS >= image.shape[-1] else image
    if image.shape[0] > CHANNELS or min(image.shape[1:]) < SIDE:
        return None
    grey = image.mean(0, keepdim=True)
    small = [adaptive_avg_pool2d(part, SIDE).flatten() for part in (grey, image)]
    rough = [grey.diff(dim=dim).abs().mean().reshape(1) for dim in (1, 2)]
    return torch.cat([*small, *rough, image.mean((1, 2)), image.std((1, 2))]).float()


def encoded(labels: Sequence[Label]) -> Tensor:
    """One row of numbers for each label: kinds and words as ones and zeros, measures as they are."""
    columns: list[Tensor] = []
    for path in set.intersection(*(set(label) for label in labels)):
        values = [label[path] for label in labels]
        lengths = {len(value) for value in values}
        kinds = Counter(word for value in values for word in set(value))
        whole = all(isinstance(word, str) or word == int(word) for word in kinds)
        common = [word for word, times in kinds.most_common(WORDS) if 1 < times < len(labels)]
        if whole:
            columns += [torch.tensor([float(word in value) for value in values]) for word in common]
        elif len(lengths) == 1:
            columns += list(torch.tensor(values).float().T)
    return torch.stack(columns, dim=1) if columns else torch.zeros(len(labels), 1)


def together(images: Tensor, labels: Tensor) -> float:
    """How far both go together, in standard deviations above what they do when dealt at random."""
    x, y = _standard(images), _standard(labels)
    generator = torch.Generator().manual_seed(0)
    dealt = [y[torch.randperm(len(y), generator=generator)] for _ in range(DEALS)]
    own, *chance = ((x.T @ rows).square().sum() for rows in (y, *dealt))
    by_chance = torch.stack(chance)
    return float((own - by_chance.mean()) / by_chance.std().clamp(min=1e-12))


def _standard(values: Tensor) -> Tensor:
    centred = values - values.mean(0)
    return centred / centred.std(0).clamp(min=1e-6) * (centred.std(0) > 1e-6)

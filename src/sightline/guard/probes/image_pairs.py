"""Does the model look? The loss of each text with its own image, and with another row's image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sightline.guard.evidence import IGNORE, ImagePairsSeen
from sightline.guard.probes.call import Call, outcome, places
from sightline.guard.probes.fields import leaves
from sightline.guard.probes.reach import raw, tensors_of
from sightline.guard.probes.reads import before_text
from sightline.guard.probes.refused import refusable
from sightline.guard.probes.restore import untouched

IMAGES = ("pixel_values", "features")
FLAT = 4  # dimensions of images, one a row
LEAST = 8  # numbers of a feature: fewer are a box
ASIDE = ("mask", "bias", "type", "position", "label", "target", "logit", "weight", "embeds", "noise")
PLACES = 4  # of a text: where there are fewer, one alone may be asked
BEGINNING = 4096  # numbers of an input that are compared: as many as a row of the first layer's, or more


@refusable
def image_pairs(call: Call, step: int) -> ImagePairsSeen | None:
    """Compare the per-row loss on `call`'s batch with that on the same batch with its images rolled by one.

    Needs two images, and logits whose places are known (see `places`) with labels aligned to the ids; where the host
    keeps its labels to itself, every token of the text counts. Rolling keeps
    the images' own statistics, so what is left is whether *this* image matters to *this* text. A batch whose images
    are all the same, or are cut into unlike numbers of patches, can show nothing.

    Of features that were made beforehand, it is asked only whether anything moves with them. A model that keeps its
    logits to itself is read where a part of it has them beside labels; else its loss alone says whether it moves.
    """
    name = next((n for n in IMAGES if (t := call.tensor(n)) is not None and len(t) > 1), None)
    if name is None:
        return _of_features(call, step)
    images = call.tensor(name)
    assert images is not None
    other_images = _rolled(images, call.tensor("image_grid_thw"))
    if other_images is None or torch.equal(images, other_images):
        return None
    with untouched(call.model), torch.no_grad():
        call.model.eval()
        own, first = _read(call), 0
        if own is None and (first := before_text(call) or 0):
            own = _read(call, first)
        other = None if own is None else _read(call.changed(**{name: other_images}), first, own.ahead)
        if own is None or other is None or not len(own.losses):
            nothing = torch.zeros(0)
            unmoved = _unmoved(call, call.changed(**{name: _one_stays(images, other_images)}), len(images))
            return None if unmoved is None else ImagePairsSeen(step, nothing, nothing, changed=not unmoved)
    changed = not torch.equal(own.losses, other.losses)
    return ImagePairsSeen(step, own.losses.cpu(), other.losses.cpu(), changed, _first_alone(own.logits, other.logits))


@refusable
def gain_of(call: Call, given: Tensor, other: Tensor) -> tuple[float, float, float] | None:
    """By how much each row's loss grows with `other` in place of an input, in the mean; that mean's error; the loss."""
    with untouched(call.model), torch.no_grad():
        call.model.eval()
        mine = _read(call)
        theirs = None if mine is None else _read(call.swapped(given, other), ahead=mine.ahead)
    if mine is None or theirs is None or len(mine.losses) < 2:
        return None
    gain = (theirs.losses - mine.losses).double()
    return float(gain.mean()), float(gain.std()) / len(gain) ** 0.5, float(mine.losses.mean())


def features_of(call: Call) -> Tensor | None:
    """The one tensor of features that a call has beside the ids of its texts; None if gradients go on into it."""
    ids, named = call.tensor("input_ids"), leaves(call.args, call.kwargs).items()
    wide = [t for name, t in named if t.is_floating_point() and t.dim() > 1 and not any(w in name for w in ASIDE)]
    if ids is None or ids.dim() != 2 or len(wide) != 1 or wide[0].dim() > 3 or wide[0].shape[-1] < LEAST:
        return None
    return None if wide[0].requires_grad or len(wide[0]) != len(ids) else wide[0]


def _of_features(call: Call, step: int) -> ImagePairsSeen | None:
    """Each row's features in the next one's place. Which loss each word has is not asked of them."""
    if (features := features_of(call)) is None:
        return None
    other = _one_stays(features, _among_real(features, 1) if features.dim() > 2 else features.roll(1, dims=0))
    if torch.equal(features, other):
        return None
    with untouched(call.model), torch.no_grad():
        call.model.eval()
        unmoved = _unmoved(call, call.swapped(features, other), len(features))
    nothing = torch.zeros(0)
    return None if unmoved is None else ImagePairsSeen(step, nothing, nothing, changed=not unmoved)


def _unmoved(call: Call, other: Call, rows: int) -> bool | None:
    """Whether no output moves with the images, some for each of the `rows`, or one loss, though parameters get them.

    An image that goes into no parameter may be what a loss compares with: None.
    """
    with _inputs_of_parameters(call.model) as mine:
        own = tensors_of(raw(call))
    with _inputs_of_parameters(call.model) as theirs:
        new = tensors_of(raw(other))
    text = call.tensor("input_ids") is not None  # a mean over images alone does not tell whose they are
    loss = text and len(own) == 1 and not own[0].dim() and bool(own[0] != 0)
    if len(own) != len(new) or not (loss or any(t.dim() and len(t) == rows for t in own)):
        return None
    if not all(torch.equal(a, b) for a, b in zip(own, new, strict=True)):
        return False
    given = len(mine) != len(theirs) or any(not torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    return True if given else None


@contextmanager
def _inputs_of_parameters(model: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, the beginning of each tensor that a module with parameters of its own is given."""
    kept: list[Tensor] = []

    def given(module: nn.Module, args: tuple[Any, ...]) -> None:
        kept.extend(value.detach().reshape(-1)[:BEGINNING].clone() for value in args if isinstance(value, Tensor))

    owners = [m for m in model.modules() if m is not model and any(True for _ in m.parameters(recurse=False))]
    handles = [module.register_forward_pre_hook(given) for module in owners]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _rolled(images: Tensor, grid: Tensor | None) -> Tensor | None:
    """Each image in the next one's place. `grid` (n, 3): patches of each image in time, height and width, where
    `images` holds the patches of all images one after the other."""
    if grid is None:
        return _among_real(images, FLAT - 1) if images.dim() >= FLAT else images.roll(1, dims=0)
    if len(grid) < 2 or not (grid == grid[0]).all():
        return None
    return images.roll(len(images) // len(grid), dims=0)


def _among_real(images: Tensor, inner: int) -> Tensor:
    """(B, ..., C, H, W), or (B, N, D) of features: each real one in the place of another row's; empty ones stay.

    `inner`: dimensions of one, 3 of a picture. A model that looks at empty places alone, as under a mask that says the
    reverse, must not see a picture come there.
    """
    pictures = images.flatten(0, -inner - 1)
    pixels = pictures.flatten(2) if inner > 1 else pictures[:, None]
    blank = (pixels == pixels[:, :, :1]).all(dim=2).all(dim=1)
    if int(blank.sum()) > 1:
        blank &= pixels[:, 0, 0] == pixels[blank, 0, 0].mode().values
    filled = (~blank).nonzero().flatten()
    if len(filled) in (len(pictures), 0, 1):
        return images.roll(1, dims=0)
    other = pictures.clone()
    other[filled] = pictures[filled.roll(min(len(pictures) // len(images), len(filled) - 1))]
    return other.view(images.shape)


def _one_stays(own: Tensor, other: Tensor) -> Tensor:
    """The images are others then, and not the same ones in another order, which means over rows do not tell apart."""
    mixed = other.clone()
    mixed[:1] = own[:1]
    return mixed


class _Read(NamedTuple):
    """(n,) float32: mean negative log-likelihood of each row that has supervised tokens; the logits that it is of, and
    by how many places what they tell is ahead of them.
    """

    losses: Tensor
    logits: Tensor
    ahead: int


def _read(call: Call, first: int = 0, ahead: int | None = None) -> _Read | None:
    """`first`: the first of the text's logits, where those of the images come before.

    Whoever cuts logits himself may have moved them beside what they tell: without `ahead`, the likelier way is taken.
    """
    with _inner_logits(call.model) as inside:
        result = call.unfused().run()
    if result.logits is None and len(inside) == 1:
        logits, beside = inside[0]
        everywhere = torch.ones_like(beside, dtype=torch.bool).nonzero(as_tuple=True)
        return _Read(_losses(logits, beside, (everywhere[0], everywhere[1]), 1), logits, 1)
    if first and result.logits is not None:
        result = replace(result, logits=result.logits[:, first:])
    ids, labels, where = call.tensor("input_ids"), call.tensor("labels"), places(call, result)
    if result.logits is None or ids is None or where is None:
        return None
    ways = (1,) if labels is not None else (1, 0)
    if labels is None:  # placeholders may have ids that no logit stands for
        labels = ids.masked_fill((ids < 0) | (ids >= result.logits.shape[-1]), IGNORE)
    found = [(_losses(result.logits, labels, where, way), way) for way in ((ahead,) if ahead is not None else ways)]
    losses, way = min(found, key=lambda one: float(one[0].sum()))
    return _Read(losses, result.logits, way)


@contextmanager
def _inner_logits(model: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Inside, the logits (B, T, V) of each part of the model that was called with labels (B, T) of the next tokens."""
    kept: list[tuple[Tensor, Tensor]] = []

    def gave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        logits, labels = outcome(output).logits, kwargs.get("labels")
        if logits is None or not isinstance(labels, Tensor) or labels.dim() != 2:
            return
        if logits.shape[:-1] == labels.shape and not any(logits is one for one, _ in kept):
            kept.append((logits, labels))

    parts = [part for part in model.modules() if part is not model and hasattr(part, "config")]
    handles = [part.register_forward_hook(gave, with_kwargs=True) for part in parts]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _losses(logits: Tensor, labels: Tensor, where: tuple[Tensor, Tensor], ahead: int) -> Tensor:
    rows, columns = where
    inner = columns < labels.shape[1] - ahead  # the last position predicts nothing
    targets = labels[rows[inner], columns[inner] + ahead]
    each = cross_entropy(logits.flatten(0, -2)[inner].float(), targets, reduction="none", ignore_index=IGNORE)
    sums = torch.zeros(len(labels), device=each.device).index_add_(0, rows[inner], each)
    counts = (labels[:, ahead:] != IGNORE).sum(dim=1)
    return (sums / counts.clamp(min=1))[counts > 0]


def _first_alone(own: Tensor, other: Tensor) -> bool:
    """Whether what changed are the logits of the first of several places, in the rows where any did."""
    if own.dim() != 3 or own.shape != other.shape or own.shape[1] < PLACES:
        return False
    moved = (own != other).any(dim=-1).any(dim=0)
    return bool(moved[0]) and not bool(moved[1:].any())

"""Are features of images cut off where they were joined with a text's embeddings, and the whole was cut to a length?

A model of somebody's own may have no placeholders: it puts the two one behind the other, and cuts. The graph of its
outputs keeps what was joined and what was left of it. States that are taken apart behind its layers are none of that.

Or it writes features over placeholders, of all that a layer made as many as there are places: then the rest is made for
nothing, and behind the first row that lacks a place each has features of another's images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any, ClassVar

import torch

from sightline.attach.graph import nodes
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.scattered import CUT, LOOKED_UP, NODES, PUT, root
from sightline.guard.evidence import JoinedSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.fields import leaves

LOOKS = 16  # measured steps with images and ids that are looked at
BATCHES = 3  # that are cut to one length
PICTURE = 3  # dimensions of images, which may be grey, or of features of them
LEAST = 2  # features that are cut off: the last place alone is left out where places say the next one
DEEP = 400  # nodes behind a part that is joined, of which one tells what it is made of
JOINED, ADDED = "CatBackward0", "AddBackward0"
MADE = ("AddmmBackward0", "MmBackward0", "BmmBackward0", "ConvolutionBackward0", "NativeLayerNormBackward0")


class Joined(Onlooker):
    """Looks at the graphs of measured training steps."""

    shows: ClassVar = ("JoinedSeen",)
    measured_only: ClassVar = True

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._looks = LOOKS
        self._cut = Counter[int]()  # length -> batches that were cut to it
        self._written = self._short = 0  # batches whose features were written over words, and those with some left over

    def again(self) -> None:
        """Another stage may have other rows."""
        if self._looks >= 0:
            self._looks, self._cut, self._written, self._short = LOOKS, Counter(), 0, 0

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """A training pass over images and ids."""
        if not training or not measured or self._looks <= 0:
            return
        given = leaves(call.args, call.kwargs).values()
        seen = any(one.is_floating_point() and one.dim() >= PICTURE for one in given)
        ids = [one for one in given if one.dim() == 2 and not one.is_floating_point()]
        if not seen or not ids:
            return
        self._looks -= 1
        for node in nodes([root(output)], most=NODES):
            if node is None:
                continue
            if (put := left_over(node, {one.shape for one in ids})) is not None:
                self._put(*put)
                return
            if (cut := cut_join(node)) is None:
                continue
            left, features, length = cut
            self._cut[length] += 1
            if self._cut[length] >= BATCHES and len(self._cut) == 1:
                self._looks = -1
                self.recorder.offer(JoinedSeen(self.recorder.step, left, features, length))
            return

    def _put(self, places: int, features: int) -> None:
        """So many features of a batch found a place."""
        self._written += 1
        if not 0 < places < features:
            return
        self._short += 1
        if self._short >= BATCHES:
            self._looks = -1
            step, batches = self.recorder.step, (self._short, self._written)
            self.recorder.offer(JoinedSeen(step, places, features, batches=batches))


def left_over(node: Any, shapes: Collection[torch.Size]) -> tuple[int, int] | None:
    """(places, features) where this writes over what a mask names the first ones of what a layer made.

    `shapes`: of ids that the mask may belong to. None where a row has no place: an image that stands for none is
    perhaps made for it.
    """
    if type(node).__name__ != PUT or len(masks := node._saved_indices) != 1 or masks[0] is None:
        return None
    source = node.next_functions[1][0]
    if type(source).__name__ == ADDED:  # to what stood there, times zero
        parts = [part for part, _ in source.next_functions if type(part).__name__ == CUT]
        source = parts[0] if len(parts) == 1 else source
    if masks[0].dtype is not torch.bool or type(source).__name__ != CUT or source._saved_dim != 0:
        return None
    total, kinds = source._saved_self_sym_sizes[0], {type(one).__name__ for one in nodes([source], most=DEEP)}
    begin, end = (_place(place, total) for place in (source._saved_start, source._saved_end))
    if begin or source._saved_step != 1 or len(source._saved_self_sym_sizes) != 2 or not kinds.intersection(MADE):
        return None
    rows = [masks[0].reshape(shape) for shape in shapes if shape.numel() == masks[0].numel()]
    return (end, total) if rows and bool(rows[0].any(dim=1).all()) else None  # asked last: it waits for the device


def cut_join(node: Any) -> tuple[int, int, int] | None:
    """(features that are left of how many, the length) where this cuts a join of words and of what a layer made."""
    if type(node).__name__ != CUT or node._saved_dim != 1 or len(node._saved_self_sym_sizes) != 3:
        return None
    if node._saved_step != 1 or (join := _join(node.next_functions[0][0])) is None:
        return None
    total = node._saved_self_sym_sizes[1]
    begin, end = (_place(place, total) for place in (node._saved_start, node._saved_end))
    sizes = [_width(part, place) for part, place in join.next_functions]
    if sizes.count(None) > 1:
        return None
    rest = total - sum(size for size in sizes if size is not None)
    first, words, found = 0, False, list[tuple[int, int]]()
    for (part, _), known in zip(join.next_functions, sizes, strict=True):
        size = rest if known is None else known
        kinds = {type(one).__name__ for one in nodes([part], most=DEEP)}
        text = part is None or any(_of_rows(one) for one in nodes([part], most=DEEP))
        words = words or text
        if not text and kinds.intersection(MADE):
            found.append((max(0, min(end, first + size) - max(begin, first)), size))
        first += size
    if first != total or not words or len(found) != 1 or found[0][1] - found[0][0] < LEAST:
        return None
    return *found[0], end - begin


def _join(node: Any) -> Any:
    """The join that is cut, be it with places added to it; None else."""
    if type(node).__name__ == ADDED:
        parts = [part for part, _ in node.next_functions]
        joins = [part for part in parts if type(part).__name__ == JOINED]
        others = [part for part in parts if type(part).__name__ != JOINED]
        kinds = {type(one).__name__ for one in nodes(others, most=DEEP)}
        node = joins[0] if len(joins) == 1 and not kinds.intersection((JOINED, *MADE)) else None
    return node if type(node).__name__ == JOINED and node._saved_dim == 1 else None


def _of_rows(node: Any) -> bool:
    """Whether ids of rows were looked up, and not places, which are one row for all."""
    return type(node).__name__ == LOOKED_UP and node._saved_indices.dim() == 2 and len(node._saved_indices) > 1


def _width(part: Any, place: int) -> int | None:
    """Of a part (B, T, d) that is joined; None of one without a graph."""
    shapes = getattr(part, "_input_metadata", ())
    return shapes[place].shape[1] if len(shapes) > place and len(shapes[place].shape) == 3 else None


def _place(place: int, total: int) -> int:
    """Of a cut, as a number from the first place on."""
    signed = place - 2**64 if place >= 2**63 else place
    return max(0, min(total, signed + total if signed < 0 else signed))

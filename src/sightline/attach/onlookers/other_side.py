"""Is what the model is given one side of a pair? A loss may compare its vectors with those of the other side.

A text tower beside image features, a tower for users beside one for items, the two texts of a question and its answer
in two calls of one model. Told by the graph of the loss, in the first steps of a stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from torch import Tensor

from sightline.attach.graph import nodes

LOOKS, CALLS = 4, 64  # steps of a stage that are looked at, and outputs of one
NODES = 2048  # of a loss's graph that are gone through: losses have dozens, another tower has hundreds
LEAST = 4  # rows: a table of fewer by fewer is no comparison of all with all
NUMBERS = 8  # of a vector
ALL = {"MmBackward0", "BmmBackward0", "AddmmBackward0", "CdistBackward0", "EuclideanDistBackward0"}
EACH = {"MulBackward0", "SubBackward0"}
TAKEN = {"EmbeddingBackward0", "IndexBackward0", "IndexSelectBackward0", "ConvolutionBackward0"}  # no table as it is


class OtherSide:
    """Knows the outputs of the step in the making by their nodes of the graph."""

    def __init__(self) -> None:
        self.found = False
        self._made: dict[Any, tuple[int, int]] = {}  # node -> rows of the call, and where its input lies
        self._looks = 0

    def again(self) -> None:
        """Another stage may have another loss."""
        self._looks = 0

    def gave(self, given: Tensor, outputs: list[Tensor]) -> None:
        """A training forward of the rows `given`."""
        if self.found or self._looks >= LOOKS or len(self._made) >= CALLS:
            return
        for output in outputs:
            if output.dim() > 1 and len(output) == len(given) and output.grad_fn is not None:
                self._made[output.grad_fn] = (len(given), given.data_ptr())

    def backward(self, root: Tensor) -> None:
        """A backward pass is about to begin."""
        if self._made:
            self.found = self.found or any(map(self._compares, self._behind(root.grad_fn)))

    def forget(self) -> None:
        """The step is over."""
        self._looks += bool(self._made)
        self._made.clear()

    def _behind(self, root: Any) -> Iterator[Any]:
        return (node for node in nodes([root], most=NODES, stop=self._made.__contains__) if node is not None)

    def _compares(self, node: Any) -> bool:
        """Whether a node compares rows with what is no weight: all with all, or the rows of one call with another's."""
        kind = type(node).__name__
        if kind not in ALL | EACH or node in self._made:
            return False
        shape = tuple(size for size in _shape(node) if size > 1)
        sides = [behind for behind, _ in node.next_functions]
        sides = sides[-2:] if kind in ALL else sides
        calls = [self._calls(side) for side in sides]
        if len(sides) != 2 or not any(calls):
            return False
        one, other = calls
        if len(shape) == 2 and kind in EACH:
            apart = one and other and {at for _, at in one}.isdisjoint(at for _, at in other)
            return bool(apart) and shape[1] >= NUMBERS and any(rows == shape[0] for rows, _ in one | other)
        if len(shape) != (2 if kind in ALL else 3):
            return False
        least, most = sorted(shape[:2])
        fits = any(rows in (least, 2 * least, 3 * least) for rows, _ in one | other)  # both sides may be in one call
        if least < LEAST or not fits or most % least or any(self._weight(side, most) for side in sides):
            return False
        return most == least or None not in sides

    def _calls(self, side: Any) -> set[tuple[int, int]]:
        return {self._made[node] for node in self._behind(side) if node in self._made}

    def _weight(self, side: Any, rows: int) -> bool:
        """Whether a side is a weight with a row for each class, however it is scaled."""
        near = nodes([side], most=NODES, stop=lambda node: type(node).__name__ in ALL | TAKEN or node in self._made)
        leaves = (getattr(node, "variable", None) for node in near)
        return any(leaf is not None and leaf.dim() == 2 and rows in leaf.shape for leaf in leaves)


def _shape(node: Any) -> tuple[int, ...]:
    """Of what a node made; () where torch does not tell."""
    shapes = [tuple(one.shape) for one in getattr(node, "_input_metadata", ())]
    return max(shapes, key=prod, default=())

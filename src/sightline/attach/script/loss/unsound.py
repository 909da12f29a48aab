"""Which operation of a backward pass first makes NaN or infinity of finite gradients, where the loss itself is finite.

A root, a logarithm or a quotient of zero may be hidden from the loss, by a square, a mask or `where`; the gradient then
is 0 * inf. Only operations whose slope can be infinite are listened to, each for one flag that waits on its device.
Where they are is looked for in measured steps; in the others the nearest are found again by their ways from the loss.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sightline.attach.open_step import OpenStep
from sightline.attach.recorder import Recorder

_NAMES = """Sqrt Rsqrt Log Log2 Log10 Log1P Div Reciprocal Pow Exp Expm1 Acos Asin Atan2 Acosh Atanh Xlogy Erfinv
LinalgVectorNorm Cdist LinalgEigh LinalgSvd LinalgDet Lgamma Digamma"""
STEEP = frozenset(f"{name}Backward0" for name in _NAMES.split())
LOOKED = 2048  # nodes of a graph, nearest to the loss first: a millisecond or two
MOST = 32  # of them are listened to in a measured step
NEAR, LONG = 6, 48  # of them in any other step, and the longest way to one: some microseconds each
Way = tuple[int, ...]


class Unsound:
    """Listens inside the backward passes of one loop."""

    def __init__(self) -> None:
        self._ways: WeakKeyDictionary[Recorder, list[tuple[Way, str]]] = WeakKeyDictionary()

    def listen(self, root: Tensor, recorder: Recorder, *, measured: bool) -> list[tuple[str, Tensor]]:
        """The flags that this backward pass is going to fill in, in its order: an operation, and whether it was it."""
        flags: list[tuple[str, Tensor]] = []
        if measured:
            found = steep(root.grad_fn)
            self._ways[recorder] = [(way, type(node).__name__) for node, way in found if len(way) <= LONG][:NEAR]
            nodes = [node for node, _ in found]
        else:
            known = self._ways.get(recorder, ())
            nodes = [node for way, name in known if type(node := _followed(root.grad_fn, way)).__name__ == name]
        for node in nodes:
            node.register_hook(_Ear(type(node).__name__, flags))
        return flags

    @staticmethod
    def tell(flags: list[tuple[str, Tensor]], recorder: Recorder, step: OpenStep) -> None:
        """The pass is over, and it was one of these."""
        if not flags:
            return
        where = flags[0][1].device

        def arrived(values: list[Tensor]) -> None:
            bad = [name for (name, _), flag in zip(flags, values[0].tolist(), strict=True) if flag]
            if bad and step.unsound is None:
                step.unsound = recorder.stepping.unsound = bad[0]

        recorder.mailbox.post([torch.stack([flag.to(where) for _, flag in flags])], arrived)


class _Ear:
    """Hook of a node: gradients with respect to what it was made of, and those that came to it."""

    def __init__(self, name: str, flags: list[tuple[str, Tensor]]) -> None:
        self._name, self._flags = name, flags

    @torch.no_grad()
    def __call__(self, made: Any, came: Any) -> None:
        gave, met = ([g.detach() for g in part if isinstance(g, Tensor) and not g.is_sparse] for part in (made, came))
        if gave and met and len(self._flags) < MOST:
            sound, given = (torch.stack([g.isfinite().all() for g in part]).all() for part in (gave, met))
            self._flags.append((self._name, given & ~sound))


def steep(root: Any) -> list[tuple[Any, Way]]:
    """The nodes under `root` whose slope may be infinite, each with the way to it, the nearest first."""
    found: list[tuple[Any, Way]] = []
    seen, open_ = {root}, [root]
    ways: list[Way] = [()]
    for place, node in enumerate(open_):  # it grows
        way = ways[place]
        if type(node).__name__ in STEEP and not _harmless(node):
            found.append((node, way))
        if len(seen) > LOOKED or len(found) >= MOST:
            break
        for edge, (next_, _) in enumerate(node.next_functions):
            if next_ is not None and next_ not in seen:
                seen.add(next_)
                open_.append(next_)
                ways.append((*way, edge) if len(way) <= LONG else way)
    return found


def _harmless(node: Any) -> bool:
    """A division by one number, a power of one or more."""
    if type(node).__name__ == "DivBackward0":
        return node.next_functions[1][0] is None and getattr(getattr(node, "_saved_other", None), "ndim", 0) == 0
    return type(node).__name__ == "PowBackward0" and float(getattr(node, "_saved_exponent", 0.0)) >= 1


def _followed(node: Any, way: Way) -> Any:
    for edge in way:
        behind = getattr(node, "next_functions", ())
        if edge >= len(behind):
            return None
        node = behind[edge][0]
    return node

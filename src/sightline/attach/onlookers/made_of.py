"""What is a loss made of? The outputs of modules that nothing but the loss itself goes on to compute with."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sightline.attach.graph import nodes
from sightline.attach.onlookers.onlooker import Recording
from sightline.attach.quiet import Hook
from sightline.guard.probes.call import differentiable

WIDTH = 8, 8192  # numbers of a vector: fewer are scores, more are costly
NODES = 2048  # of a loss's graph that are gone through: losses have dozens
MODULES = 4096  # that are listened to
FAST = nn.TransformerEncoderLayer, nn.MultiheadAttention  # with a hook inside they evaluate another way


class MadeOf:
    """Listens to the modules inside of a model, and beside it, for a step, and tells what a loss was made of.

    Memory: outputs that are no vectors are known by their node of the graph alone; those of the model's own parts may
    be sequences of vectors, which a host then pools itself.
    """

    def __init__(self, recorder: Recording) -> None:
        self._recorder = recorder
        self._handles: list[Any] = []
        self._near: set[int] = set()  # the model, its parts and theirs
        self._made: dict[Any, list[Tensor] | None] = {}  # node -> the vectors it made; None for something else

    @property
    def listens(self) -> bool:
        """Whether it hears the step in the making."""
        return bool(self._handles)

    def listen(self) -> None:
        """Hear what modules give from now on."""
        if not self._handles:
            hook = Hook(self._gave)
            wholes = [self._recorder.model, *(m for ref in self._recorder.beside_it if (m := ref()) is not None)]
            every = [module for whole in wholes for module in whole.modules()][:MODULES]
            parts = [*wholes, *(child for whole in wholes for child in whole.children())]
            self._near = {id(m) for m in (*parts, *(inner for part in parts for inner in part.children()))}
            fast = {id(part) for module in every if isinstance(module, FAST) for part in module.modules()}
            self._handles = [m.register_forward_hook(hook) for m in every if id(m) not in fast]

    def rest(self) -> None:
        """Hear nothing, and know nothing of the step."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._made.clear()

    def forget(self) -> None:
        """Let go of what was made so far."""
        self._made.clear()

    def _gave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._recorder.muted:
            return
        for given in differentiable(output):
            if given.dim() < 2 or given.grad_fn is None:
                continue  # a loss in the making, or a parameter as it is
            known = self._made.get(given.grad_fn)
            if not (vectors(given) or (id(module) in self._near and sequences(given))):
                self._made.setdefault(given.grad_fn)
            elif known is None:
                self._made[given.grad_fn] = [given]
            elif not any(given is one for one in known):
                known.append(given)

    def under(self, root: Any) -> list[Tensor] | None:
        """The vectors that the loss at a node was made of; None where it knows of anything else that learns."""
        found: list[Tensor] = []
        for node in nodes([root], most=NODES, stop=self._made.__contains__):
            if node is None:
                return None
            if node in self._made:
                made = self._made[node]
                if made is None or any(one.grad_fn is not node for one in made):
                    return None
                found += made
            elif (leaf := getattr(node, "variable", None)) is not None and leaf.numel() > 1:  # not a temperature
                return None
        return found


def vectors(given: Tensor) -> bool:
    """Whether it is one vector for each of several samples."""
    return given.is_floating_point() and given.dim() == 2 and len(given) > 1 and WIDTH[0] <= given.shape[1] <= WIDTH[1]


def sequences(given: Tensor) -> bool:
    """Whether it is (B, T, D) some vectors for each of several samples."""
    return given.dim() == 3 and vectors(given[:, 0])


def pooled(values: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The vector (B, D) that a host made of each sequence (B, T, D), and its gradient; of vectors, themselves.

    A weighted mean of the places, whatever its weights: each place has its weight's share of the gradient.
    """
    if values.dim() == 2:
        return values, gradient
    whole = gradient.sum(dim=1, keepdim=True)
    weights = (gradient * whole).sum(-1, keepdim=True) / whole.square().sum(-1, keepdim=True).clamp(min=1e-30)
    return (weights * values).sum(dim=1), whole.squeeze(1)

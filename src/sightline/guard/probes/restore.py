"""Leave no trace: what a probe touches is put back bit for bit."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@contextmanager
def untouched(model: nn.Module, optimizer: Optimizer | None = None, *, weights: bool = False) -> Iterator[None]:
    """Run a probe on `model` and restore everything afterwards, whether it returns or raises.

    Restored: the random state of Python, NumPy and torch (CPU, CUDA, MPS), every module's train or eval mode, every
    buffer, requires_grad and gradients (inside, there are none). With `weights=True` also the parameters' values and
    `optimizer`'s state and groups; that needs a second copy of both, and must not happen between a forward pass and
    its backward pass. Quantised parameters get the layout that they had: some libraries pack them anew for inference.
    Attributes that a model sets on itself in Python are beyond reach.
    """
    if optimizer is not None and not weights:
        raise ValueError("a probe that steps an optimizer writes weights: pass weights=True")
    randomness = _random_state()
    modes = [(module, module.training) for module in model.modules()]
    buffers, layouts = _Buffers(model), _Layouts(model)
    parameters = [(p, p.requires_grad, p.grad, p.detach().clone() if weights else None) for p in model.parameters()]
    state = _OptimizerState(optimizer) if optimizer is not None else None
    for parameter, *_ in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        layouts.restore()
        for parameter, learns, gradient, value in parameters:
            parameter.requires_grad_(learns)
            parameter.grad = gradient
            if value is not None:
                _put_back(parameter, value)
        buffers.restore()
        if state is not None:
            state.restore()
        for module, mode in modes:
            module.training = mode
        _set_random_state(randomness)


@contextmanager
def same_randomness() -> Iterator[None]:
    """Draw what you like inside: afterwards the random state of Python, NumPy and torch is what it was."""
    randomness = _random_state()
    try:
        yield
    finally:
        _set_random_state(randomness)


def _put_back(live: Tensor, value: Tensor) -> None:
    """Write only what changed: an in-place write would spoil a graph that saved the tensor."""
    with torch.no_grad():
        if not torch.equal(as_bytes(live), as_bytes(value)):
            live.copy_(value)


def _version(tensor: Tensor) -> int:
    """How often the tensor was written to; inference tensors do not count."""
    return -1 if tensor.is_inference() else tensor._version


def as_bytes(tensor: Tensor) -> Tensor:
    """As bytes, so that a NaN equals itself and -0.0 is not 0.0."""
    flat = tensor.detach().contiguous().view(-1)
    return flat.as_strided(flat.shape, (1,)).view(torch.uint8)  # one number alone may have any stride


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if numpy := sys.modules.get("numpy"):
        state["numpy"] = numpy.random.get_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "numpy" in state:
        sys.modules["numpy"].random.set_state(state["numpy"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state:
        torch.mps.set_rng_state(state["mps"])


class _Buffers:
    """A model's buffers. A probe works on copies of them.

    Writing the old values back would not do: batch norm keeps its running statistics for the backward pass, and a graph
    refuses a tensor that was written to since, even with the same values.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.saved = [
            (module, name, buffer, _version(buffer), buffer.detach().clone())
            for module in model.modules()
            for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
        ]
        copies: dict[int, Tensor] = {}  # one tensor under two names stays one
        for module, name, buffer, _, value in self.saved:
            setattr(module, name, copies.setdefault(id(buffer), value.clone()))

    def restore(self) -> None:
        known = {(id(module), name) for module, name, *_ in self.saved}
        for module in self.model.modules():
            for name, _ in list(module.named_buffers(recurse=False, remove_duplicate=False)):
                if (id(module), name) not in known:
                    delattr(module, name)
        for module, name, buffer, version, value in self.saved:
            setattr(module, name, buffer)
            if _version(buffer) != version:  # reached by another way than the module's name for it
                _put_back(buffer, value)


class _Layouts:
    """Parameters of classes that are not torch's: their storage, and what else they hold, by which it is read.

    bitsandbytes on CPUs with bfloat16 packs 4-bit weights anew in their first call in evaluation mode, for good.
    """

    def __init__(self, model: nn.Module) -> None:
        own = [p for p in model.parameters() if not type(p).__module__.startswith("torch.") and vars(p)]
        self.saved = [(p, p.data, [(o, dict(vars(o))) for o in (p, *vars(p).values()) if _open(o)]) for p in own]

    def restore(self) -> None:
        for parameter, data, held in self.saved:
            if parameter.data_ptr() != data.data_ptr():
                parameter.data = data
            for one, attributes in held:
                vars(one).clear()
                vars(one).update(attributes)


def _open(value: Any) -> bool:
    """Whether it is a parameter, or an object of no class of Python's or torch's, with attributes of its own."""
    known = type(value).__module__.partition(".")[0] in ("builtins", "torch")
    return isinstance(value, nn.Parameter) or (hasattr(value, "__dict__") and not known)


class _OptimizerState:
    """An optimizer's groups (without their parameters) and per-parameter state."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.groups = [{k: _copy(v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
        self.state = {p: {k: (v, _copy(v)) for k, v in s.items()} for p, s in optimizer.state.items()}

    def restore(self) -> None:
        for group, saved in zip(self.optimizer.param_groups, self.groups, strict=True):
            parameters = group["params"]
            group.clear()
            group.update({**saved, "params": parameters})
        self.optimizer.state.clear()
        for parameter, saved in self.state.items():
            self.optimizer.state[parameter] = {key: _returned(live, value) for key, (live, value) in saved.items()}


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _returned(live: Any, value: Any) -> Any:
    """The tensor that was there, with the value it had."""
    if isinstance(live, Tensor):
        _put_back(live, value)
        return live
    return value

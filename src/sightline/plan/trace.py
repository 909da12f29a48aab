"""A step rehearsed without numbers: the model's own code on fake tensors, each allocation and product of it counted.

Nothing is computed and nothing allocated, so a model of any size is rehearsed on any machine. What autograd saves, what
autocast copies, which blocks compute again and which towers have no backward pass is not modelled here but seen.
"""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from transformers import masking_utils

from sightline.models.vlm import VLM
from sightline.plan.memory import size_of

DEVICE = torch.device("cpu")  # fake: the one device whose kernels every build of torch can choose between
OUTSIDE = "loss"  # what is made outside every tower
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
Work = Counter[tuple[int, int]]  # (FLOPs, bytes read and written) of an operation -> how often it is done


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What one micro-batch's forward and backward pass would take.

    Attributes:
        peak: bytes alive at once beyond weights: activations, passing copies, gradients that the pass made.
        bare: the same without the gradients of weights, once they are complete.
        kept: bytes alive between the two passes, by the tower that made them (OUTSIDE: logits and loss).
        flops: of the forward pass by tower; multiply and add count as two.
        forward, backward: every operation of the two passes; what is computed again belongs to the second.
    """

    peak: float
    bare: float
    kept: Counter[str]
    flops: Counter[str]
    forward: Work
    backward: Work

    def plus(self, other: Rehearsal, times: float) -> Rehearsal:
        """This and `times` (also less than 0) the other."""
        return Rehearsal(
            self.peak + times * other.peak,
            self.bare + times * other.bare,
            _sum(self.kept, other.kept, times),
            _sum(self.flops, other.flops, times),
            _sum(self.forward, other.forward, times),
            _sum(self.backward, other.backward, times),
        )


def total_flops(work: Work) -> float:
    """FLOPs of all operations."""
    return float(sum(flops * times for (flops, _), times in work.items()))


def _sum(one: Counter[Any], other: Counter[Any], times: float) -> Counter[Any]:
    both = {key: one[key] + times * other[key] for key in {**one, **other}}
    return Counter({key: value for key, value in both.items() if value})


def rehearse(model: VLM, forward: Callable[[VLM], Tensor], dtype: torch.dtype | None = None) -> Rehearsal:
    """Run `forward` of `model` and its backward pass on fake tensors.

    Args:
        model: on the meta device; its weights are fake tensors afterwards.
        forward: makes its inputs itself, on `DEVICE`, and returns the loss.
        dtype: of its weights, where it is not their own.
    """
    with FakeTensorMode(), _steady(), _rows_apart():
        faked(model, dtype)
        ledger = Ledger()
        with _tower_by_tower(model, ledger), ledger:
            loss = forward(model)
            kept, flops, work = ledger.by_tower(), ledger.flops, ledger.work
            ledger.tower, ledger.flops, ledger.work = OUTSIDE, Counter(), Counter()
            loss.backward()
        model.zero_grad(set_to_none=True)
    return Rehearsal(ledger.peak, ledger.bare, kept, flops, work, ledger.work)


def faked(model: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Put a fake tensor on `DEVICE` in the place of every weight and buffer; shared ones stay shared."""
    made: dict[int, Any] = {}
    for module in model.modules():
        held: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in held:
            for name, tensor in tensors.items():
                if tensor is not None:
                    if id(tensor) not in made:
                        fresh = _fake(tensor, dtype if isinstance(tensor, nn.Parameter) else None)
                        made[id(tensor)], made[id(fresh)] = fresh, fresh
                    tensors[name] = made[id(tensor)]


def _fake(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    fresh = torch.empty(tensor.shape, dtype=kind, device=DEVICE)
    return nn.Parameter(fresh, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fresh


class Ledger(TorchDispatchMode):
    """Storages by life, and FLOPs. Only storages that an operation made under it are in the book."""

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.now, self.peak = OUTSIDE, 0, 0
        self.gradients, self.bare = 0, 0
        self.flops: Counter[str] = Counter()
        self.work: Work = Counter()
        self._alive: dict[int, tuple[int, str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        flops = _flops(packet, args, kwargs or {}, out)
        self.flops[self.tower] += flops
        given = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
        keys = {_key(tensor) for tensor in given}
        told = [tensor for tensor in tree_leaves(out) if isinstance(tensor, Tensor)]
        fresh = [tensor for tensor in told if _key(tensor) not in keys]
        for tensor in fresh:
            self._enter(tensor.untyped_storage())
        if flops or fresh or packet.__name__.endswith("_"):
            self.work[flops, sum(map(size_of, (*given, *told)))] += 1
        return out

    def complete(self, gradient: Tensor) -> None:
        """`gradient` of a weight is there to stay."""
        size, _ = self._alive.pop(_key(gradient), (0, ""))
        if size:
            self._alive[_key(gradient)] = (size, "")
            self.gradients += size

    def by_tower(self) -> Counter[str]:
        """Bytes alive now, by the tower that made them."""
        totals: Counter[str] = Counter()
        for size, tower in self._alive.values():
            totals[tower] += size
        return totals

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        size = storage.nbytes()
        self._alive[key] = (size, self.tower)
        self.now += size
        self.peak = max(self.peak, self.now)
        self.bare = max(self.bare, self.now - self.gradients)
        weakref.finalize(storage, self._leave, key)

    def _leave(self, key: int) -> None:
        size, tower = self._alive.pop(key, (0, ""))
        self.now -= size
        self.gradients -= 0 if tower else size  # one that was added to an earlier one


def _flops(packet: Any, args: Any, kwargs: Any, out: Any) -> int:
    """By torch's own table, which lacks the CPU's attention; a causal one counts like a full one there."""
    if packet is ATTENTION:
        return int(sdpa_flop_count(*(tensor.shape for tensor in args[:3])))
    if packet is ATTENTION_BACKWARD:
        return int(sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4])))
    return int(flop_registry[packet](*args, **kwargs, out_val=out)) if packet in flop_registry else 0


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@contextmanager
def _steady() -> Iterator[None]:
    """No collection of cycles at times of its own, so that equal rehearsals give equal peaks."""
    gc.collect()
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def _rows_apart() -> Iterator[None]:
    """No search for rows packed into one: it reads positions, which fake tensors do not have, and then fears the worst.

    `transformers` would give every layer a (T, T) mask that a real step of these rows never makes.
    """
    was = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda *_, **__: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = was


@contextmanager
def _tower_by_tower(model: VLM, ledger: Ledger) -> Iterator[None]:
    """While open, the ledger knows which tower is at work."""
    handles = []

    def enter(tower: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            ledger.tower = tower

        return hook

    for tower in model.towers:
        for _, module in model.tower_modules(tower):
            handles.append(module.register_forward_pre_hook(enter(tower)))
            handles.append(module.register_forward_hook(enter(OUTSIDE)))
    for parameter in model.parameters():
        if parameter.requires_grad:
            handles.append(parameter.register_post_accumulate_grad_hook(lambda p: ledger.complete(p.grad)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

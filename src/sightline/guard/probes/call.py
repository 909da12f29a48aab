"""One forward pass of a model, as its host called it: readable by name, changeable, repeatable.

Hosts pass batches as keywords, one dictionary, one object with attributes, or bare tensors. All are read alike, by the
names of the field: ``input_ids``, ``labels``, ``attention_mask``, ``pixel_values`` and so on; those of a host's own by
what they hold (see `fields.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sightline.guard.evidence import IGNORE
from sightline.guard.probes.fields import leaves, plain, rebuilt, roles, table_rows, whole_numbers

PLAIN = (Tensor, bool, int, float, str, bytes, torch.dtype, torch.device, Path)
IDS = ("input_ids", "decoder_input_ids", "inputs_embeds")  # one of these names says what the ids are, and what not
NAMED = ("labels", "attention_mask", "position_ids", "token_type_ids", "group_ids", "segment_ids", "examples")
SIGNATURES: WeakKeyDictionary[nn.Module, tuple[str, ...]] = WeakKeyDictionary()  # model -> names of its arguments
Roles = dict[tuple[str, ...], dict[str, str]]
ROLES: WeakKeyDictionary[nn.Module, Roles] = WeakKeyDictionary()  # model -> paths of tensors -> what they stand for
SHARDED: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # model -> whether its parameters are in pieces
LOSS_ONLY = ("labels", "num_items_in_batch", "fused_lm_head")  # the last asks a model of TRL for log p without logits
COLOURS = (1, 3, 4)  # channels that make a floating tensor (..., channels, height, width) an image


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a forward pass gave: the host's own loss (0-dim), logits (..., V), and targets when they came along.

    `numbers`: one number a sample (B,), of a model that gives no logits.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    targets: Tensor | None = None
    numbers: Tensor | None = None

    @property
    def answers(self) -> Tensor | None:
        """What the model says, be it logits or one number a sample."""
        return self.logits if self.logits is not None else self.numbers


@dataclass(frozen=True, slots=True)
class Call:
    """`model` called with `args` and `kwargs`. `forward` replaces ``model(*args, **kwargs)`` where a host differs."""

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    forward: Callable[..., Any] | None = None

    def value(self, name: str) -> Any:
        """What the host passed under `name`, or None."""
        if (found := self.kwargs.get(name)) is not None:
            return found
        for argument in (*self.args, *self.kwargs.values()):
            if (found := _member(argument, name)) is not None:
                return found
        if (place := place_of(self.model, name)) is not None and place < len(self.args):
            return self.args[place]
        return self._bare().get(name)

    def tensor(self, name: str) -> Tensor | None:
        """The tensor the host passed under `name`, or None."""
        found = self.value(name)
        return found if isinstance(found, Tensor) else None

    @property
    def of_graph(self) -> bool:
        """Whether it is given a sparse tensor, as of a graph's edges: no row of the others is a sample by itself."""
        given = (*self.args, *self.kwargs.values())
        return any(isinstance(value, Tensor) and value.layout is not torch.strided for value in given)

    def ids_of(self, shape: torch.Size) -> Tensor | None:
        """The token ids that outputs of this shape stand for: a decoder's, where the first ids are an encoder's."""
        named = [self.tensor(name) for name in ("decoder_input_ids", "input_ids")]
        every = [*named, *leaves(self.args, self.kwargs).values()]
        fits = (t for t in every if t is not None and t.shape == shape and t.dtype in (torch.int64, torch.int32))
        return next(fits, named[1])

    def surely_read(self, ids: Tensor) -> bool:
        """Whether the model reads these ids at their own places: those of its first input, or of a name that says so.

        Others may be labels, which a decoder moves on by one place before it reads them.
        """
        first = next((v for v in (*self.args, *self.kwargs.values()) if isinstance(v, Tensor)), None)
        return any(ids is one for one in (first, self.tensor("decoder_input_ids"), self.tensor("input_ids")))

    def changed(self, **tensors: Tensor) -> Call:
        """The same call with these tensors in place of those that the host passed. Nothing is changed in place."""
        names = {id(self.value(name)): tensor for name, tensor in tensors.items()}
        return self._with(tensors, names)

    def swapped(self, old: Tensor, new: Tensor) -> Call:
        """The same call with `new` in place of the one tensor `old`."""
        same = {id(old): new}
        return self._with({}, same)

    @property
    def made(self) -> bool:
        """Whether a backward pass goes on from its inputs, into what made them."""
        return any(isinstance(v, Tensor) and v.grad_fn is not None for v in (*self.args, *self.kwargs.values()))

    @property
    def repeatable(self) -> bool:
        """Whether running it again changes nothing of the host's: plain values and tensors only, no cache objects.

        Nor does it where the model's parameters are in pieces on several ranks: each pass asks all ranks for them.
        """
        return not _sharded(self.model) and all(plain(value, PLAIN) for value in (*self.args, *self.kwargs.values()))

    def run(self) -> Outcome:
        """Run the model once more, as the host did."""
        with self._cast():
            if self.forward is not None:
                return outcome(self.forward(self.model, *self.args, **self.kwargs))
            return outcome(self.model(*self.args, **self.kwargs))

    def without_loss(self) -> Call:
        """The same call with nothing that only a loss needs, so that a model which fuses the two gives its logits."""
        return replace(self, kwargs={name: value for name, value in self.kwargs.items() if name not in LOSS_ONLY})

    def unfused(self) -> Call:
        """The same call, but where it asks a model of TRL's for log probabilities: that then gives logits."""
        return self.without_loss() if self.kwargs.get("fused_lm_head") else self

    def _cast(self) -> AbstractContextManager[object]:
        """Autocast, for a part that is given what another part made under it: the two would not fit without."""
        given = [v for v in (*self.args, *self.kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point()]
        half = next((one for one in given if one.dtype.itemsize == 2), None)
        weight = next((p for p in self.model.parameters() if p.is_floating_point()), None)
        if half is None or weight is None or weight.dtype != torch.float32:
            return nullcontext()
        return torch.autocast(half.device.type, dtype=half.dtype)

    def _with(self, named: Mapping[str, Tensor], same: Mapping[int, Tensor]) -> Call:
        """The same call with other tensors: members of these names, and wherever a tensor of these ids stands."""

        def act(value: Any, name: str) -> Any:
            return same.get(id(value), value if value is None else named.get(name, value))

        args = tuple(rebuilt(argument, act) for argument in self.args)
        return Call(self.model, args, {key: rebuilt(value, act) for key, value in self.kwargs.items()}, self.forward)

    def _bare(self) -> dict[str, Tensor]:
        """What no known name tells: bare arguments, and fields under names of the host's own."""
        if any(name in self.kwargs or any(_member(a, name) is not None for a in self.args) for name in IDS):
            tensors = {str(place): one for place, one in enumerate(self.args) if isinstance(one, Tensor)}
        else:
            every = leaves(self.args, self.kwargs)
            tensors = {path: one for path, one in every.items() if path.rpartition(".")[2] not in NAMED}
        whole = whole_numbers(tensors)
        if len(whole) == 1 and (only := next(iter(whole))).isdigit():
            return {**self._images(), "input_ids": whole[only]}
        known = ROLES.setdefault(self.model, {})
        if whole and tuple(whole) not in known:
            known[tuple(whole)] = roles(whole, table_rows(self.model))
        return {**self._images(), **{role: whole[path] for role, path in known.get(tuple(whole), {}).items()}}

    def _images(self) -> dict[str, Tensor]:
        """The one tensor that looks like images, whatever its name (4-D attention masks are square and wide as ids)."""
        found = [
            value
            for name, value in leaves(self.args, self.kwargs).items()
            if value.is_floating_point()
            and value.dim() >= 4
            and value.shape[-3] in COLOURS
            and "mask" not in name
            and "bias" not in name
        ]
        return {"pixel_values": found[0]} if len(found) == 1 else {}


def outcome(output: Any) -> Outcome:
    """Read a model's output: ``.loss`` and ``.logits``, a tuple (logits, targets) or (loss, logits), or one tensor.

    What has a loss or logits may also be one of a tuple, beside what a model of somebody's own adds to it.
    """
    for one in (output, *(output if isinstance(output, tuple | list) else ())):
        loss, logits = _member(one, "loss"), _member(one, "logits")
        if loss is not None or logits is not None:
            return Outcome(_floating(loss), _floating(logits))
    tensors = [t for t in (output if isinstance(output, tuple | list) else (output,)) if isinstance(t, Tensor)]
    loss = next((t for t in tensors if t.dim() == 0 and t.is_floating_point()), None)
    logits = next((t for t in tensors if t.dim() > 1 and t.is_floating_point()), None)
    targets = next((t for t in tensors if not t.is_floating_point() and t.dim() > 0), None)
    numbers = next((t for t in tensors if t.dim() == 1 and t.is_floating_point()), None)
    return Outcome(loss, logits, targets, numbers)


def differentiable(output: Any) -> list[Tensor]:
    """The tensors of a model's output that carry a gradient: members of a mapping, items of a tuple, one tensor."""
    if isinstance(output, Tensor):
        return [output] if output.requires_grad else []
    parts = output.values() if isinstance(output, Mapping) else output
    parts = parts if isinstance(output, Mapping | tuple | list) else (getattr(output, "__dict__", {}).values())
    inner = [one for part in parts for one in (part.values() if isinstance(part, Mapping) else (part,))]
    return [tensor for tensor in inner if isinstance(tensor, Tensor) and tensor.requires_grad]


def places(call: Call, result: Outcome) -> tuple[Tensor, Tensor] | None:
    """(row, position) of every logit vector, row by row: all positions of (B, T, V) logits, or the supervised ones.

    A model that gives (S, V) logits with targets gives those at positions t whose ``labels[:, t + 1]`` is supervised.
    """
    ids, labels = call.tensor("input_ids"), call.tensor("labels")
    if result.logits is None or ids is None or ids.dim() != 2:
        return None
    if result.logits.shape[:-1] == ids.shape:
        rows, columns = torch.ones_like(ids, dtype=torch.bool).nonzero(as_tuple=True)
        return rows, columns
    if result.targets is None or labels is None or result.logits.dim() != 2:
        return None
    rows, columns = (labels[:, 1:] != IGNORE).nonzero(as_tuple=True)
    return (rows, columns) if len(rows) == len(result.logits) else None


def place_of(model: nn.Module, name: str) -> int | None:
    """The place of the argument that the model's forward calls `name`."""
    if model not in SIGNATURES:
        try:
            SIGNATURES[model] = tuple(inspect.signature(model.forward).parameters)
        except (TypeError, ValueError):  # a forward written in C
            SIGNATURES[model] = ()
    names = SIGNATURES[model]
    return names.index(name) if name in names else None


def _sharded(model: nn.Module) -> bool:
    """Whether this rank holds parts of parameters (of FSDP, of tensor parallelism)."""
    if model not in SHARDED:
        SHARDED[model] = any(hasattr(p, "to_local") or hasattr(p, "_sharded_size") for p in model.parameters())
    return SHARDED[model]


def _member(thing: Any, name: str) -> Any:
    """A member of a mapping or of a plain object (never of a tensor or module)."""
    if isinstance(thing, Mapping):
        return thing.get(name)
    if thing is None or isinstance(thing, Tensor | nn.Module | str | bytes | int | float | list):
        return None
    if isinstance(thing, tuple) and name not in getattr(thing, "_fields", ()):
        return None  # but not ``index`` or ``count``
    return getattr(thing, name, None)


def _floating(value: Any) -> Tensor | None:
    return value if isinstance(value, Tensor) and value.is_floating_point() else None

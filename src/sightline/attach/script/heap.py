"""Finds whose a script's parameters are, and what else it keeps, without running any code of theirs."""

from __future__ import annotations

import gc
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.alive import living

TOKENIZER = "PreTrainedTokenizerBase"
FITS = 2.0  # a tokenizer's size over the embedding's rows, or the reverse: more, and it belongs to another model


def containers_alive(shapes: Mapping[str, torch.Size]) -> list[dict[str, Tensor] | list[Tensor]]:
    """Dictionaries that hold a tensor of each shape by its name, and lists of tensors of just these shapes."""
    if not shapes:
        return []
    (name, shape), wanted = next(iter(shapes.items())), list(shapes.values())
    found: list[Any] = []
    for thing in gc.get_objects():
        if issubclass(type(thing), dict):
            if _fits(dict.get(thing, name), shape) and all(_fits(dict.get(thing, n), s) for n, s in shapes.items()):
                found.append(thing)
        elif type(thing) is list and len(thing) == len(wanted) and all(map(_fits, thing, wanted)):
            found.append(thing)
    return found


def _fits(thing: Any, shape: torch.Size) -> bool:
    return type(thing) in (Tensor, nn.Parameter) and thing.shape == shape


def children(module: nn.Module) -> Iterator[nn.Module]:
    """Direct children, read without asking the module."""
    return (child for child in module.__dict__["_modules"].values() if child is not None)


def holders(modules: Iterable[nn.Module], wanted: Collection[int]) -> list[nn.Module]:
    """Those of `modules` that contain a parameter with an id of `wanted`, at any depth."""
    every = list(modules)
    parents: dict[int, list[nn.Module]] = {}
    for module in every:
        for child in children(module):
            parents.setdefault(id(child), []).append(module)
    open_ = [m for m in every if any(id(p) in wanted for p in m.__dict__["_parameters"].values())]
    found = {id(module): module for module in open_}
    while open_:
        for parent in parents.get(id(open_.pop()), ()):
            if id(parent) not in found:
                found[id(parent)] = parent
                open_.append(parent)
    return list(found.values())


def outermost(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those of `modules` that are not inside another of them."""
    every = list(modules)
    inside = {id(part) for module in every for part in module.modules() if part is not module}
    return [module for module in every if id(module) not in inside]


def apart(modules: Iterable[nn.Module], wanted: Mapping[int, int]) -> list[nn.Module]:
    """The outermost of `modules` that hold parameters of `wanted` (id -> place), in the order of these.

    [] if two of them share one.
    """
    parts = outermost(holders(modules, wanted))
    inside = [id(p) for part in parts for p in part.parameters()]
    parts.sort(key=lambda part: min(wanted[id(p)] for p in part.parameters() if id(p) in wanted))
    return parts if len(set(inside)) == len(inside) else []


def compiled_parts(module: nn.Module) -> list[nn.Module]:
    """What of `module` runs inside a compiled graph, where a hook would be traced: [] if nothing."""
    if "_orig_mod" in module.__dict__["_modules"]:  # a compiled module's way of keeping the plain one
        return [part for child in children(module) for part in child.modules()]
    return list(module.modules()) if module.__dict__.get("_compiled_call_impl") is not None else []


def joined(parts: Iterable[nn.Module]) -> nn.Module:
    """Parts that share an optimizer, as one module that nobody calls."""
    every = list(parts)
    whole = type(" + ".join(type(part).__name__ for part in every), (nn.Module,), {})()
    for place, part in enumerate(every):
        whole.add_module(f"{type(part).__name__}_{place}", part)
    return whole


def loose(tensors: Iterable[Tensor]) -> nn.Module:
    """Tensors that no module holds, as one module that nobody calls. They stay what they are, whatever their class."""
    whole = type("Tensors", (nn.Module,), {})()
    whole.__dict__["_parameters"].update({f"{place}": tensor for place, tensor in enumerate(tensors)})
    return whole


def tokenizer_for(rows: int | None) -> Any:
    """The script's tokenizer, if it has just one kind and that fits an embedding of `rows`; else None."""
    transformers = sys.modules.get("transformers.tokenization_utils_base")
    base = getattr(transformers, TOKENIZER, None)
    if base is None or rows is None:
        return None
    found = living(base)
    sizes = {(type(thing), len(thing)) for thing in found}
    if len(sizes) != 1:
        return None
    size = len(found[0])
    return found[0] if rows / FITS <= size <= rows * FITS else None

"""A function of a script built once more, from its own bytecode, where nothing that it does can reach the script.

All that the code names is gone through before: modules of plain computation, functions of theirs, the script's own
functions (built anew in turn), and plain data, of which it gets copies. Anything else, and it is not built: what reads
files, draws random numbers, sets an option, writes to an attribute, keeps a record in a global.
"""

from __future__ import annotations

import builtins
import copy
import dis
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

LIBRARIES = (
    *("torch", "numpy", "math", "cmath", "re", "string", "collections", "itertools", "functools", "operator", "typing"),
    *("statistics", "difflib", "unicodedata", "dataclasses", "time", "scipy", "sklearn", "torchvision", "torchmetrics"),
    *("einops", "Levenshtein", "rapidfuzz", "editdistance", "jiwer"),
)
ACTS = re.compile(  # names by which those libraries do more than compute, wherever they stand
    r"save\w*|load|loads|load_\w+|loadtxt|from_file|fromfile|tofile|dump\w*|memmap|open\w*|write\w*|print\w*|hub|distributed|multiprocessing"
    r"|\w*seed\w*|rand\w*|random\w*|bernoulli\w*|multinomial|poisson|normal_?|uniform_|dropout\w*|shuffle|choice\w*"
    r"|sample|sample_n|permutation|set_\w+|use_\w+|enable_\w+|seterr\w*|backward|requires_grad\w*|register_\w+|library"
    r"|jit|utils|share_memory_|__\w+__"
)
REFUSED = (
    *("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_ATTR", "DELETE_ATTR", "STORE_NAME"),
    *("LOAD_BUILD_CLASS", "IMPORT_STAR"),
)
GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
BUILTINS = (
    *("abs", "all", "any", "divmod", "enumerate", "filter", "format", "hasattr", "isinstance", "issubclass"),
    *("iter", "len", "map", "max", "min", "next", "ord", "chr", "pow", "range", "repr", "reversed", "round", "sorted"),
    *("sum", "zip", "slice", "type", "bool", "int", "float", "complex", "str", "list", "tuple", "dict", "set"),
    *("frozenset", "None", "True", "False", "NotImplemented", "Ellipsis", "Exception", "AssertionError", "IndexError"),
    *("KeyError", "StopIteration", "TypeError", "ValueError", "ZeroDivisionError", "ArithmeticError", "RuntimeError"),
)
PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, type(...), re.Pattern)
TORCH = os.path.dirname(torch.__file__) + os.sep
LAYERS = ("torch.nn.modules.loss", "torch.nn.modules.activation")
BAGS = ("Namespace", "SimpleNamespace")  # of options
BARS = ("tqdm", "trange")
NUMPY = ("ufunc", "_ArrayFunctionDispatcher")
MOST, DEEP = 1 << 20, 8  # elements of data that are copied; containers inside each other


class Unsafe(Exception):
    """The function may do more than compute, for all that can be told."""


class Replica:
    """Builds a function and what it reaches. `own`: whether a file is the script's: its functions are built anew.

    `instead`: what takes the place of a value, None for nothing special.
    """

    def __init__(self, own: Callable[[str], bool], instead: Callable[[Any], Any] = lambda value: None) -> None:
        self._own, self._instead = own, instead
        self._built: dict[int, Any] = {}
        self._kept: list[Any] = []  # what was built of, so that no other thing gets its id
        self._names: frozenset[str] = frozenset()
        self._objects: list[tuple[Any, _Object]] = []
        self._spaces: dict[int, dict[str, Any]] = {}
        names = vars(builtins)
        self._builtins = {name: names[name] for name in BUILTINS if name in names}
        self.said: list[str] = []  # what it would have printed
        self._builtins.update(print=self._print, __import__=_imported)

    def of(self, code: CodeType, namespace: Mapping[str, Any], free: Mapping[str, Any]) -> Any:
        """The function of `code`, to be called with all its arguments. `free`: the values of its closure, by name.

        Raises:
            Unsafe: something that the function reaches may do more than compute.
        """
        return self._function(code, namespace, free, None)

    def _print(self, *args: Any, **kwargs: Any) -> None:
        self.said.append(" ".join(str(one) for one in args if isinstance(one, str | int | float)))

    def argument(self, value: Any) -> Any:
        """What takes the place of an argument. Raises Unsafe."""
        return self._copied(value)

    def _function(
        self, code: CodeType, namespace: Mapping[str, Any], free: Mapping[str, Any], defaults: FunctionType | None
    ) -> Any:
        attributes = _attributes(code)
        for value, stand_in in list(self._objects):
            self._fill(value, stand_in, attributes)
        self._names |= attributes
        space = self._spaces.setdefault(id(namespace), {"__builtins__": self._builtins, "__name__": "replica"})
        cells = tuple(CellType() for _ in code.co_freevars)
        made = FunctionType(code, space, code.co_name, None, cells)
        self._built[id(defaults) if defaults is not None else id(code)] = made
        self._kept.append(defaults)
        if defaults is not None:
            made.__defaults__ = self._copied(defaults.__defaults__)
            made.__kwdefaults__ = self._copied(defaults.__kwdefaults__)
        for name in _globals(code):
            if name in namespace:
                if name not in space:
                    space[name] = None
                    space[name] = self._copied(namespace[name])
            elif name not in self._builtins:
                raise Unsafe(name)
        for name, cell in zip(code.co_freevars, cells, strict=True):
            if name in free:
                cell.cell_contents = self._copied(free[name])
        return made

    def _copied(self, value: Any, depth: int = 0) -> Any:
        """What takes the place of `value`: itself where it cannot be changed, else a copy."""
        if isinstance(value, PLAIN) or value is Ellipsis:
            return value
        if (other := self._instead(value)) is not None:
            return other
        if id(value) in self._built:
            return self._built[id(value)]
        if getattr(value, "__name__", "") in BARS and str(getattr(value, "__module__", "")).startswith("tqdm"):
            return lambda rows, *args, **kwargs: rows
        if isinstance(value, ModuleType):
            if value.__name__.partition(".")[0] in LIBRARIES and not ACTS.fullmatch(value.__name__.rpartition(".")[2]):
                return value
            raise Unsafe(value.__name__)
        if isinstance(value, FunctionType) and value.__code__.co_filename.startswith(TORCH):
            value = getattr(value, "__wrapped__", value)  # under `torch.no_grad()` and the like
        if isinstance(value, FunctionType) and self._own(value.__code__.co_filename):
            return self._function(value.__code__, value.__globals__, dict(_closure(value)), value)
        if _of_library(value):
            return value
        if depth < DEEP and (copy := self._data(value, depth)) is not None:
            return copy
        raise Unsafe(type(value).__name__)

    def _data(self, value: Any, depth: int) -> Any:
        if type(value) in (list, tuple, set, frozenset) and len(value) <= MOST:
            return type(value)(self._copied(one, depth + 1) for one in value)
        if type(value) is dict and len(value) <= MOST:
            return {key: self._copied(one, depth + 1) for key, one in value.items()}
        if isinstance(value, Tensor) and type(value) in (Tensor, nn.Parameter, nn.Buffer) and value.numel() <= MOST:
            return value.detach().clone()
        if type(value).__module__ == "numpy" and hasattr(value, "copy") and getattr(value, "size", 0) <= MOST:
            return value.copy()
        return self._object(value, depth)

    def _object(self, value: Any, depth: int) -> Any:
        """An object of a class of the script: what the code names of it, as far as that is safe."""
        kind = type(value)
        if isinstance(value, nn.Module) and kind.__module__.startswith(LAYERS) and not any(_held(value)):
            return copy.deepcopy(value)  # a loss
        functions = [one for one in vars(kind).values() if isinstance(one, FunctionType)]
        mine = any(self._own(one.__code__.co_filename) for one in functions)
        if not (mine or kind.__name__ in BAGS) or not hasattr(value, "__dict__"):
            return None
        made = _Object()
        self._built[id(value)] = made
        self._kept.append(value)
        self._objects.append((value, made))
        self._fill(value, made, self._names)
        return made

    def _fill(self, value: Any, made: _Object, names: frozenset[str]) -> None:
        kind = type(value)
        for name in names - set(made.__dict__):
            if name not in value.__dict__ and not hasattr(kind, name):
                continue
            found = value.__dict__.get(name, inspect.getattr_static(kind, name, None))
            bound = name not in value.__dict__ and isinstance(found, FunctionType)
            found = found.__func__ if isinstance(found, staticmethod) else found
            made.__dict__[name] = None
            try:
                copy = self._copied(found)
            except Unsafe:
                del made.__dict__[name]  # the code may never touch it; if it does, it fails
                continue
            made.__dict__[name] = _bound(copy, made) if bound else copy


class _Object:
    """Stands for an object of the script."""


def _bound(function: Any, made: _Object) -> Any:
    return lambda *args, **kwargs: function(made, *args, **kwargs)


def _imported(name: str, *args: Any) -> Any:
    """What stands for `import` inside a function: what is there already is found, nothing else is run."""
    if name not in sys.modules:
        raise Unsafe(name)
    return builtins.__import__(name, *args)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _attributes(code: CodeType) -> frozenset[str]:
    """The names of attributes that the code reads, if all it does is safe."""
    found = set()
    for part in _codes(code):
        for step in dis.get_instructions(part):
            if step.opname in REFUSED:
                raise Unsafe(step.opname)
            if step.opname == "IMPORT_NAME" and str(step.argval).partition(".")[0] not in LIBRARIES:
                raise Unsafe(f"import {step.argval}")
            if step.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM", "LOAD_SUPER_ATTR"):
                if ACTS.fullmatch(step.argval):
                    raise Unsafe(step.argval)
                found.add(step.argval)
    return frozenset(found)


def _globals(code: CodeType) -> list[str]:
    return sorted({i.argval for part in _codes(code) for i in dis.get_instructions(part) if i.opname in GLOBALS})


def _held(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _closure(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled yet
            continue


def _of_library(value: Any) -> bool:
    """A function, a class or a constant of the libraries."""
    name = getattr(value, "__name__", "")
    if isinstance(value, torch.dtype | torch.device | torch.layout):
        return True
    if isinstance(value, type) and value.__module__ == "builtins":
        return value.__name__ in BUILTINS
    if isinstance(value, BuiltinFunctionType) and value.__module__ == "builtins":
        return value.__name__ in BUILTINS
    root = str(getattr(value, "__module__", None) or type(value).__module__).partition(".")[0]
    known = root in LIBRARIES or root.lstrip("_") in LIBRARIES
    callable_ = isinstance(value, type | FunctionType | BuiltinFunctionType) or type(value).__name__ in NUMPY
    network = isinstance(value, type) and issubclass(value, nn.Module)
    return known and callable_ and not network and not ACTS.fullmatch(name)

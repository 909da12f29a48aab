"""A function of a script built once more, from its own bytecode, where nothing that it does can reach the script.

All that the code names is gone through before: modules of plain computation, functions of theirs, the script's own
functions (built anew in turn), and plain data, of which it gets copies. Anything else, and it is not built: what reads
files, draws random numbers, sets an option, writes to an attribute of another object, keeps a record in a global.
"""

from __future__ import annotations

import builtins
import copy
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodDescriptorType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.script.scoring.bytecode import ACTS, LIBRARIES, Unsafe, attributes, named

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
METRICS = "torchmetrics."
ASKED = "computed "  # before the name of a property
BAGS = ("Namespace", "SimpleNamespace")  # of options
BARS = ("tqdm", "trange")
CACHED = "_lru_cache_wrapper"
NUMPY = ("ufunc", "_ArrayFunctionDispatcher")
MOST, DEEP = 1 << 20, 8  # elements of data that are copied; containers inside each other


class Replica:
    """Builds a function and what it reaches. `own`: whether a file is the script's: its functions are built anew.

    `instead`: what takes the place of a value, None for nothing special. `copied`: is told of each copy of data.
    `states`: what objects hold, by their ids, where that is not what they hold now.
    `changes`: what is built keeps something for its next call. `holds`: it has something that it could keep it in.
    """

    def __init__(
        self,
        own: Callable[[str], bool],
        instead: Callable[[Any], Any] = lambda value: None,
        copied: Callable[[Any], None] = lambda copy: None,
        states: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> None:
        self._states = states or {}
        self._own, self._instead, self._tell = own, instead, copied
        self.changes = self.holds = False
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

    def state(self, value: Any) -> dict[str, Any]:
        """What the stand-in of an object holds, if there is one."""
        made = self._built.get(id(value))
        return made.__dict__ if isinstance(made, _Object) else {}

    def makers(self) -> dict[str, FunctionType]:
        """The functions that were built and can be called with one argument alone, by their names."""
        found = [one for one in self._built.values() if isinstance(one, FunctionType)]
        return {one.__name__: one for one in found if _takes_one(one)}

    def _print(self, *args: Any, **kwargs: Any) -> None:
        self.said.append(" ".join(str(one) for one in args if isinstance(one, str | int | float)))

    def argument(self, value: Any) -> Any:
        """What takes the place of an argument. Raises Unsafe."""
        return self._copied(value)

    def _function(
        self, code: CodeType, namespace: Mapping[str, Any], free: Mapping[str, Any], defaults: FunctionType | None
    ) -> Any:
        reads, stores = attributes(code)
        self.changes = self.changes or stores
        for value, stand_in in list(self._objects):
            self._fill(value, stand_in, reads)
        self._names |= reads
        space = self._spaces.setdefault(id(namespace), {"__builtins__": self._builtins, "__name__": "replica"})
        cells = tuple(CellType() for _ in code.co_freevars)
        made = FunctionType(code, space, code.co_name, None, cells)
        self._built[id(defaults) if defaults is not None else id(code)] = made
        self._kept.append(defaults)
        if defaults is not None:
            made.__defaults__ = self._copied(defaults.__defaults__)
            made.__kwdefaults__ = self._copied(defaults.__kwdefaults__)
        for name in named(code):
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
        if type(value).__name__ == CACHED:
            value = value.__wrapped__
        if isinstance(value, FunctionType) and self._own(value.__code__.co_filename):
            return self._function(value.__code__, value.__globals__, dict(_closure(value)), value)
        if _of_library(value):
            return value
        if isinstance(value, type) and self._mine(value):
            return lambda *args, **kwargs: self._made(value, args, kwargs)
        if depth < DEEP and (copy := self._data(value, depth)) is not None:
            if not isinstance(copy, _Object | dict | set | frozenset):
                self._tell(copy)
            return copy
        raise Unsafe(type(value).__name__)

    def _data(self, value: Any, depth: int) -> Any:
        self.holds = self.holds or type(value) in (list, set, dict)
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
        if isinstance(value, nn.Module) and kind.__module__.startswith(METRICS) and hasattr(value, "reset"):
            self.changes, twin = True, copy.deepcopy(value)
            twin.reset()  # type: ignore[operator]
            return twin
        if not (self._mine(kind) or kind.__name__ in BAGS) or not hasattr(value, "__dict__"):
            return None
        return self._stand_in(value)

    def _mine(self, kind: type) -> bool:
        """Whether a class is the script's, and nothing but Python's is behind it."""
        functions = [one for one in vars(kind).values() if isinstance(one, FunctionType)]
        return any(self._own(one.__code__.co_filename) for one in functions)

    def _stand_in(self, value: Any) -> _Object:
        made = _Object()
        self._built[id(value)] = made
        self._kept.append(value)
        self._objects.append((value, made))
        self._fill(value, made, self._names | {"__call__"})
        return made

    def _made(self, kind: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Object:
        """A new object of a class of the script, begun as the class says."""
        if kind.__mro__ != (kind, object) or "__new__" in vars(kind):
            raise Unsafe(kind.__name__)
        begin = vars(kind).get("__init__")
        blank: Any = object.__new__(kind)
        made = self._stand_in(blank)
        if is_dataclass(kind):
            made.__dict__.update(_begun(kind, args, kwargs))
        elif isinstance(begin, FunctionType):
            self._copied(begin)(made, *args, **kwargs)
        elif begin is not None or args or kwargs:
            raise Unsafe(kind.__name__)
        return made

    def _fill(self, value: Any, made: _Object, names: frozenset[str]) -> None:
        kind, held = type(value), self._states.get(id(value), value.__dict__)
        for name in names - set(made.__dict__):
            if name not in held and not hasattr(kind, name):
                continue
            found = held.get(name, inspect.getattr_static(kind, name, None))
            asked = isinstance(found, property) and name not in held
            bound = name not in held and isinstance(found, FunctionType)
            found = found.fget if asked else found.__func__ if isinstance(found, staticmethod) else found
            place = ASKED + name if asked else name
            made.__dict__[place] = None
            try:
                copy = self._copied(found)
            except Unsafe:
                del made.__dict__[place]  # the code may never touch it; if it does, it fails
                continue
            made.__dict__[place] = _bound(copy, made) if bound or asked else copy


class _Object:
    """Stands for an object of the script."""

    def __getattr__(self, name: str) -> Any:
        """What the object computes when it is asked for it."""
        if (asked := self.__dict__.get(ASKED + name)) is None:
            raise AttributeError(name)
        return asked()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["__call__"](*args, **kwargs)


def _begun(kind: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The fields of a new dataclass."""
    given = dict(zip((one.name for one in fields(kind) if one.init), args, strict=False)) | kwargs
    for one in fields(kind):
        if one.name not in given and one.default is not MISSING:
            given[one.name] = copy.copy(one.default)
        elif one.name not in given and one.default_factory in (list, dict, set):
            given[one.name] = one.default_factory()
        elif one.name not in given or hasattr(kind, "__post_init__"):
            raise Unsafe(kind.__name__)
    return given


def _takes_one(function: FunctionType) -> bool:
    code, optional = function.__code__, len(function.__defaults__ or ())
    plain = not code.co_flags & (inspect.CO_VARARGS | inspect.CO_GENERATOR)
    keywords = code.co_kwonlyargcount - len(function.__kwdefaults__ or {})
    return plain and keywords == 0 and code.co_argcount - optional <= 1 <= code.co_argcount


def _bound(function: Any, made: _Object) -> Any:
    return lambda *args, **kwargs: function(made, *args, **kwargs)


def _imported(name: str, *args: Any) -> Any:
    """What stands for `import` inside a function: what is there already is found, nothing else is run."""
    if name not in sys.modules:
        raise Unsafe(name)
    return builtins.__import__(name, *args)


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
    if isinstance(value, MethodDescriptorType):  # str.lower
        return value.__objclass__ is str
    if isinstance(value, BuiltinFunctionType) and isinstance(value.__self__, str | re.Pattern):  # "...".join
        return True
    if isinstance(value, type) and value.__module__ == "builtins":
        return value.__name__ in BUILTINS
    if isinstance(value, BuiltinFunctionType) and value.__module__ == "builtins":
        return value.__name__ in BUILTINS
    root = str(getattr(value, "__module__", None) or type(value).__module__).partition(".")[0]
    known = root in LIBRARIES or root.lstrip("_") in LIBRARIES
    callable_ = isinstance(value, type | FunctionType | BuiltinFunctionType) or type(value).__name__ in NUMPY
    network = isinstance(value, type) and issubclass(value, nn.Module) and root != "torchmetrics"
    return known and callable_ and not network and not ACTS.fullmatch(name)

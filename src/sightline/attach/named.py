"""Loops of a script that freeze, or wake, parameters by their names: which of them met no such name?

    for name, p in model.named_parameters():
        if name.startswith("vision_tower"):
            p.requires_grad = False

And loops over modules by their names, of which they set all parameters. The script's own condition is asked of the
names that it was given. It is only read where it compares names with texts.
"""

from __future__ import annotations

import ast
import functools
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeGuard

import torch
from torch import nn

from sightline.attach.quiet import Hook

LARGEST = 1 << 19  # bytes of a script
LISTINGS = ("named_parameters", "named_modules", "named_children")
MOST = 64  # loops that are remembered
ASKED = ("startswith", "endswith", "split", "lower", "strip", "find", "count")
NODES = (
    *(ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Compare, ast.In, ast.NotIn, ast.Eq, ast.NotEq),
    *(ast.Constant, ast.Name, ast.Load, ast.Store, ast.List, ast.Tuple, ast.Set, ast.Call, ast.Attribute),
    *(ast.GeneratorExp, ast.ListComp, ast.comprehension, ast.Subscript, ast.UnaryOp, ast.USub),
)
_dynamo = torch.compiler.is_dynamo_compiling


@dataclass(frozen=True)
class Unmet:
    """A loop over a module's parameters that set none of them. `wakes`: it was to let them learn."""

    module: weakref.ref[nn.Module]
    place: tuple[str, int]
    test: str
    wakes: bool


@dataclass(eq=False)
class Named:
    """What the loops of scripts did, told by each call of `named_parameters`, `named_modules` and `named_children`."""

    unmet: list[Unmet] = field(default_factory=list)
    met: set[tuple[str, int]] = field(default_factory=set)
    _files: dict[str, list[ast.For]] = field(default_factory=dict)

    def listen(self, own: Callable[[str], bool], fault: Callable[[Exception], None]) -> None:
        """From now on. `own`: whether a file is the script's."""
        theirs, tell = functools.lru_cache(maxsize=None)(own), Hook(self.listed, fault)

        def heard(known: Callable[..., Any]) -> Callable[..., Any]:
            inner = getattr(known, "__wrapped__", known)

            @functools.wraps(inner)
            def listing(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
                if not _dynamo() and theirs((frame := sys._getframe(1)).f_code.co_filename):
                    tell(module, frame, [name for name, _ in inner(module, *args, **kwargs)])
                return inner(module, *args, **kwargs)

            return listing

        for name in LISTINGS:
            setattr(nn.Module, name, heard(getattr(nn.Module, name)))

    def listed(self, module: nn.Module, frame: FrameType, names: Sequence[str]) -> None:
        """Somebody asks for these names."""
        file, line = frame.f_code.co_filename, frame.f_lineno
        loop = next((one for one in self._loops(file) if one.iter.lineno <= line <= (one.iter.end_lineno or 0)), None)
        if loop is None or len(self.unmet) >= MOST:
            return
        place, told = (file, loop.lineno), {**frame.f_globals, **frame.f_locals}
        met = [_sites(loop, {**_texts(told), loop.target.elts[0].id: name}) for name in names]  # type: ignore[attr-defined]
        if any(one is None for one in met):
            return
        if any(met):
            self.met.add(place)
        elif (found := _first(loop)) is not None:
            one = Unmet(weakref.ref(module), place, *found)
            self.unmet += [one] * (one not in self.unmet)

    def unmatched(self, model: nn.Module) -> tuple[str, ...]:
        """The conditions that none of a model's parameters met, though there is nothing else that did what they ask."""
        if not self.unmet:
            return ()
        parts = {id(part) for part in model.modules()}
        found = []
        for one in self.unmet:
            module = one.module()
            if module is None or id(module) not in parts or one.place in self.met:
                continue
            learns = [p.requires_grad for p in module.parameters()]
            if learns and (not all(learns) if one.wakes else all(learns)):
                found.append(one.test)
        return tuple(dict.fromkeys(found))

    def _loops(self, file: str) -> list[ast.For]:
        if file not in self._files:
            path = Path(file)
            small = path.is_file() and path.stat().st_size <= LARGEST
            tree = ast.parse(path.read_text(errors="replace")) if small else ast.Module([], [])
            self._files[file] = [one for one in ast.walk(tree) if isinstance(one, ast.For) and _by_name(one)]
        return self._files[file]


def _by_name(loop: ast.For) -> bool:
    """Whether it goes over (name, parameter), and sets some of them behind conditions that can be asked again."""
    pair = loop.target
    plain = isinstance(pair, ast.Tuple) and len(pair.elts) == 2 and all(isinstance(one, ast.Name) for one in pair.elts)
    return plain and _first(loop) is not None


def _owners(loop: ast.For) -> set[str]:
    """The loop's own variable, and those of loops over its parameters."""
    assert isinstance(loop.target, ast.Tuple) and isinstance(loop.target.elts[1], ast.Name)
    own = loop.target.elts[1].id
    inner = [one.target.id for one in ast.walk(loop) if _over(one, own) and isinstance(one.target, ast.Name)]
    return {own, *inner}


def _over(one: ast.AST, own: str) -> TypeGuard[ast.For]:
    call = one.iter if isinstance(one, ast.For) else None
    method = call.func if isinstance(call, ast.Call) else None
    on = method.value if isinstance(method, ast.Attribute) and method.attr == "parameters" else None
    return isinstance(on, ast.Name) and on.id == own


def _value(one: ast.stmt, loop: ast.For) -> bool | None:
    """What a statement sets `requires_grad` of the loop's parameter, or module, to."""
    value: ast.expr | None = None
    if isinstance(one, ast.Assign) and len(one.targets) == 1:
        place, value = one.targets[0], one.value
    elif isinstance(one, ast.Expr) and isinstance(one.value, ast.Call):
        place, value = one.value.func, one.value.args[0] if one.value.args else ast.Constant(True)
    else:
        return None
    if not isinstance(place, ast.Attribute) or place.attr not in ("requires_grad", "requires_grad_"):
        return None
    own = isinstance(place.value, ast.Name) and place.value.id in _owners(loop)
    return value.value if own and isinstance(value, ast.Constant) and isinstance(value.value, bool) else None


def _first(loop: ast.For) -> tuple[str, bool] | None:
    """(the first condition on the way to what is set, as the script has it; the value that is set behind it)."""
    for number, one in enumerate(loop.body):
        if isinstance(one, ast.If):
            values = [
                v for part in ast.walk(one) if isinstance(part, ast.stmt) and (v := _value(part, loop)) is not None
            ]
            passes = isinstance(one.body[-1], ast.Continue)
            values += [v for part in loop.body[number + 1 :] if passes and (v := _value(part, loop)) is not None]
            if values:
                return ast.unparse(one.test), values[0]
    return None


def _sites(loop: ast.For, told: Mapping[str, Any]) -> int | None:
    """How often one name comes to a statement that sets something behind a condition; None if that cannot be asked."""
    count, behind = 0, False

    def walk(body: Sequence[ast.stmt], inside: bool) -> bool:
        """Whether the rest of the loop is passed over."""
        nonlocal count, behind
        for one in body:
            if isinstance(one, ast.If):
                if _asked(one.test, told):
                    if walk(one.body, True):
                        return True
                elif walk(one.orelse, True):
                    return True
                behind = behind or any(isinstance(part, ast.Continue) for part in one.body)
            elif isinstance(one, ast.For):
                walk(one.body, inside)
            elif isinstance(one, ast.Continue | ast.Break):
                return True
            elif _value(one, loop) is not None:
                count += inside or behind
        return False

    try:
        walk(loop.body, False)
    except (TypeError, ValueError, NameError, AttributeError, IndexError):
        return None
    return count


def _asked(test: ast.expr, told: Mapping[str, Any]) -> bool:
    """A condition on texts, asked again. Raises ValueError for any other."""
    for node in ast.walk(test):
        called = isinstance(node, ast.Call) and not (
            (isinstance(node.func, ast.Attribute) and node.func.attr in ASKED)
            or (isinstance(node.func, ast.Name) and node.func.id in ("any", "all", "len"))
        )
        if not isinstance(node, NODES) or called or (isinstance(node, ast.Attribute) and node.attr not in ASKED):
            raise ValueError(ast.dump(node))
    code = compile(ast.Expression(test), "<names>", "eval")
    return bool(eval(code, {"__builtins__": {"any": any, "all": all, "len": len}, **told}))  # texts and nothing else


def _texts(told: Mapping[str, Any]) -> dict[str, Any]:
    """Of a frame's variables those that are texts, or lists of texts. With an empty one nothing is asked for."""
    kept = {name: (value,) if isinstance(value, str) else value for name, value in told.items() if value is not None}
    lists = {n: v for n, v in kept.items() if type(v) in (list, tuple, set) and v}
    return {n: told[n] for n, v in lists.items() if all(isinstance(one, str) and one for one in v)}


NAMED = Named()

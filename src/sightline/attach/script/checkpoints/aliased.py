"""What is to be the best model so far, and is the very model that trains on: `best = model`, without a copy, or its
weights by reference, `[p.data for p in model.parameters()]`, `{k: v.numpy() for k, v in ...}`.

Where a script compares a score with the best one and notes both the score and the model, what it notes is meant to stay
as it is. That is read off the code, whatever the names; which object it noted, that this one trained on since, and that
no better score came for as long as two of its comparisons, is seen in the run. Told at the end, where the code uses
what it kept and brought nothing back into it.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.hook import Hook, unwrapped
from sightline.attach.script.checkpoints.contents import address
from sightline.attach.script.checkpoints.counters import HELD, OWN, held_by, scopes
from sightline.attach.script.watch import Models, Watched
from sightline.guard.evidence import RoundTripSeen

LIBRARIES = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")})
LARGEST = 1 << 19  # bytes of a script
NUMBERS = (int, float)
EVERY = 4  # steps between two looks
FEW = 8  # tensors that tell whether a state brings anything
PASSED = 2  # comparisons' time since the best one: one of them at least was not better


@dataclass(eq=False)
class Best:
    """A place in a script where the best is kept: `kept` and `score` are names, or attributes of one object."""

    kept: str
    score: str
    inside: bool  # of an object
    one: Watched | None = None
    optimizer: weakref.ref[Optimizer] | None = None
    last: Any = None
    begun: int = 0
    changes: list[int] = field(default_factory=list)
    several: bool = False  # models were kept there
    reloaded: int = -1

    @property
    def name(self) -> str:
        """As the script has it."""
        return f"{'self.' if self.inside else ''}{self.kept}"

    def look(self, one: Watched, optimizer: Optimizer, names: Mapping[str, Any]) -> None:
        """`optimizer` is about to move the model of `one`: is that kept, and did the score change?"""
        kept, score, model = names.get(self.kept), names.get(self.score), one.recorder.model
        module = unwrapped(kept)[1] if isinstance(kept, nn.Module) else None
        self.several |= module is not None and module is not model
        if self.one is not one or self.optimizer is None or self.optimizer() is not optimizer:
            self.one, self.optimizer, self.changes = one, weakref.ref(optimizer), []
            self.begun = one.recorder.step
        elif not self._is_last(score) and (module is model or (module is None and _is_memory_of(model, kept))):
            self.changes.append(one.recorder.step)
        self.last = weakref.ref(score) if isinstance(score, Tensor) else score if isinstance(score, NUMBERS) else None
        self.several |= self.last is None and score is not None

    def _is_last(self, score: Any) -> bool:
        """Numbers are compared, tensors are not looked into."""
        last = self.last() if isinstance(self.last, weakref.ref) else self.last
        return last is score or (isinstance(last, NUMBERS) and isinstance(score, NUMBERS) and last == score)

    @property
    def lost(self) -> bool:
        """Whether what was kept went on training, and is as it was then nowhere."""
        if self.one is None or not self.changes or self.several:
            return False
        now = self.one.recorder.step
        return self.reloaded < now and now - self.changes[-1] >= PASSED * max(EVERY, self.changes[0] - self.begun)


class Aliased:
    """Looks for such places in the files of the functions that train. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._models = models
        self._places: list[Best] = []
        self._files: set[str] = set()
        self._known: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._steps = 0
        models.before.append(Hook(self._stepping, lambda error: fault(f"best: {type(error).__name__}: {error}")))
        models.ending.append(self._ending)
        models.attention.needs.append(lambda: bool(self._places))

    def loaded(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        """A module is given values: they may be the best ones, unless it has them."""
        for place in self._places:
            one = place.one if place.one is not None and place.one.recorder is not None else None
            if one is not None and one.recorder.model is module and not _has(module, state):
                place.reloaded = one.recorder.step

    def _stepping(self, optimizer: Optimizer) -> None:
        if optimizer not in self._known:
            self._known.add(optimizer)
            for path in _files() - self._files:
                self._files.add(path)
                self._places += places(Path(path).read_text(errors="ignore")) if _is_script(path) else []
        self._steps += 1
        if not self._places or self._steps % EVERY:
            return
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        those = (one for one in self._models.live if any(id(p) in mine for p in one.recorder.model.parameters()))
        if (one := next(those, None)) is None:
            return
        for place in self._places:
            names = next((names for names in _objects(place) if place.kept in names and place.score in names), None)
            if names is not None:
                place.look(one, optimizer, names)

    def _ending(self, which: Watched) -> None:
        for place in self._places:
            if place.one is which and which.attachment is not None and place.lost:
                count = len(list(which.recorder.model.parameters()))
                since = place.changes[-1]
                which.attachment.show(
                    RoundTripSeen(which.recorder.step, "", count, kept=count, since=since, alias=place.name)
                )


def _is_memory_of(model: nn.Module, kept: Any) -> bool:
    """Whether all the numbers in a list or a dictionary are weights of the model, where they are."""
    values = list(kept.values()) if isinstance(kept, dict) else kept
    if not isinstance(values, list | tuple) or not values or _place(values[0]) == 0:
        return False
    own = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())} - {0}
    return all(_place(value) in own for value in values)


def _place(value: Any) -> int:
    """The address of a tensor's numbers, or of an array's of NumPy."""
    if isinstance(value, Tensor):
        return address(value)
    told = getattr(value, "__array_interface__", None) if type(value).__module__ == "numpy" else None
    return int(told["data"][0]) if isinstance(told, dict) else 0


def _has(module: nn.Module, state: Mapping[str, Any]) -> bool:
    """Whether a state holds what the module has already."""
    own = {name: p.detach() for name, p in module.named_parameters() if isinstance(state.get(name), Tensor)}
    pairs = [(p, state[name].detach()) for name, p in own.items()][:FEW]
    return bool(pairs) and all(p.shape == t.shape and torch.equal(p, t.to(p.device, p.dtype)) for p, t in pairs)


def _files() -> set[str]:
    """Of the functions that wait for this step."""
    frame: types.FrameType | None = sys._getframe(1)
    found = set[str]()
    while frame is not None:
        found.add(frame.f_code.co_filename)
        frame = frame.f_back
    return found


def _is_script(name: str) -> bool:
    path = Path(name)
    return not name.startswith((*OWN, *LIBRARIES)) and path.is_file() and path.stat().st_size <= LARGEST


def _objects(place: Best) -> Iterator[Mapping[str, Any]]:
    """The names among which it may be: of the functions that wait, or of an object that one of them knows."""
    for _, names in scopes():
        if not place.inside:
            yield names
            continue
        first = [held_by(value) for value in list(names.values())[:HELD]]
        yield from first
        yield from (held_by(value) for inside in first if len(inside) <= HELD for value in list(inside.values()))


def places(source: str) -> list[Best]:
    """Where a branch that compares a score with another notes it there, and with it a thing as it is, used later."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    found = {}
    for branch in (node for node in ast.walk(tree) if isinstance(node, ast.If)):
        pairs = [pair for line in branch.body if isinstance(line, ast.Assign) for pair in _pairs(line)]
        compared = {ast.unparse(part) for test in ast.walk(branch.test) if _orders(test) for part in ast.walk(test)}
        scores = [target for target, value in pairs if {ast.unparse(target), ast.unparse(value)} <= compared]
        for target, value in pairs:
            if not scores or target in scores or isinstance(value, ast.Constant):
                continue
            kept, score, inside = _name(target), _name(scores[0]), isinstance(target, ast.Attribute)
            alike = kept and score and type(target) is type(scores[0])
            if not isinstance(value, ast.Name | ast.Attribute) and _is_saved(tree, target):
                continue  # perhaps at once: it holds the best values then
            if alike and not _passes(branch, value) and _is_used(tree, branch, target):
                found[kept, inside] = Best(kept, score, inside)
    return list(found.values())


def _pairs(line: ast.Assign) -> Iterator[tuple[ast.expr, ast.expr]]:
    for target in line.targets:
        if isinstance(target, ast.Tuple) and isinstance(line.value, ast.Tuple):
            yield from zip(target.elts, line.value.elts, strict=False)
        else:
            yield target, line.value


def _orders(node: ast.AST) -> bool:
    return isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)


def _name(target: ast.expr) -> str:
    """Of a name, or of an attribute of one."""
    if isinstance(target, ast.Attribute):
        return target.attr if isinstance(target.value, ast.Name) else ""
    return target.id if isinstance(target, ast.Name) else ""


def _passes(branch: ast.If, value: ast.expr) -> bool:
    """Whether the branch gives the thing to anybody too, who may save it."""
    own, text = {id(node) for node in ast.walk(value)}, ast.unparse(value)
    calls = (node for line in branch.body for node in ast.walk(line) if isinstance(node, ast.Call))
    parts = (part for call in calls for part in ast.walk(call) if id(part) not in own and isinstance(part, ast.expr))
    return any(ast.unparse(part) == text for part in parts)


def _is_saved(tree: ast.Module, target: ast.expr) -> bool:
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and "save" in ast.unparse(node.func))
    parts = (part for call in calls for part in ast.walk(call) if isinstance(part, ast.Name | ast.Attribute))
    return any(type(part) is type(target) and _name(part) == _name(target) for part in parts)


def _is_used(tree: ast.Module, branch: ast.If, target: ast.expr) -> bool:
    """Whether what is kept there is asked for elsewhere, but to know that there is any."""
    inside = {id(node) for node in ast.walk(branch)}
    asked = {id(node.left) for node in ast.walk(tree) if isinstance(node, ast.Compare)}
    others = (node for node in ast.walk(tree) if type(node) is type(target) and id(node) not in inside | asked)
    return any(isinstance(node.ctx, ast.Load) and _name(node) == _name(target) for node in others)  # type: ignore[attr-defined]

"""An evaluation that is no function of its own, cut out of the code around it: a loop, what it adds up, what is told.

Of the statements around a call of the model those are kept that make a number: the loop (or the one statement) that
the call stands in, the ones before it in which what it adds up begins, and the ones after it that go on with that.
What else they name is as it was when the model was called.
"""

from __future__ import annotations

import ast
import builtins
import linecache
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType
from typing import Any

LOOPS = (ast.For, ast.While)
BLOCKS = (*LOOPS, ast.If, ast.With, ast.Try)
LONGEST = 60  # characters of an expression by which a number is called
SIMPLE = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr)
Block = list[ast.stmt]


@dataclass
class Cutting:
    """What is kept, in its order. `root`: None where all of it is told to a call. `named`: what it gives a name.

    `lost`: names that left-out statements make. `aside`: statements that have to do with nothing of it so far, by the
    names they make.
    """

    before: Block
    root: ast.stmt | None
    after: Block = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    aside: dict[str, ast.stmt] = field(default_factory=dict)


def cuttings(code: CodeType, line: int, values: Mapping[str, Any]) -> Iterator[CodeType]:
    """Functions without arguments for the call in `line` of `code`, the most that is around it first.

    Each gives the numbers that it names, by their names, as far as they are made anew. `values`: of the names there.
    """
    tree = parsed(code.co_filename)
    scope = _scope(tree, code) if tree is not None else None
    if scope is None:
        return
    path = list(_path(scope.body, line))
    roots = [depth for depth, (block, at) in enumerate(path) if isinstance(block[at], LOOPS)]
    alone = [len(path) - 1] if path and isinstance(path[-1][0][path[-1][1]], SIMPLE) else []
    for depth in dict.fromkeys([*roots, *alone]):
        found = _cut(path[: depth + 1])
        if found.named:
            yield _compiled(found, code, values)


@lru_cache(maxsize=16)
def parsed(file: str) -> ast.Module | None:
    """The code of a file."""
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return None


def _scope(tree: ast.Module, code: CodeType) -> ast.Module | ast.FunctionDef | None:
    if code.co_name == "<module>":
        return tree
    kinds = (ast.FunctionDef,)
    firsts = {min([n.lineno, *(d.lineno for d in n.decorator_list)]): n for n in ast.walk(tree) if isinstance(n, kinds)}
    found = firsts.get(code.co_firstlineno)
    return found if found is not None and found.name == code.co_name else None


def _path(block: Block, line: int) -> Iterator[tuple[Block, int]]:
    """The statements around a line, the outermost first, each as its place in its block."""
    for at, one in enumerate(block):
        if not one.lineno <= line <= (one.end_lineno or one.lineno):
            continue
        yield block, at
        if isinstance(one, BLOCKS):
            for name in ("body", "orelse", "finalbody"):
                yield from _path(getattr(one, name, []), line)
        return


# --- what belongs to it ----------------------------------------------------------------------------------------------


def _cut(path: list[tuple[Block, int]]) -> Cutting:
    """The last of `path` and what stands around it: through `with`, but out of no loop and no branch."""
    block, at = path[-1]
    root = block[at]
    grows, found = _grown(root), Cutting([], root)
    ahead, behind = block[:at], block[at + 1 :]
    for outer, place in reversed(path[:-1]):
        if not isinstance(outer[place], ast.With):
            break
        ahead, behind = [*outer[:place], *ahead], [*behind, *outer[place + 1 :]]
    for one in reversed(ahead):
        if not isinstance(one, SIMPLE):
            break
        if isinstance(one, ast.Expr):
            keep = bool(_changed(one) & grows)
        else:
            keep = bool(_stored(one)) and _stored(one) <= grows
        if keep:
            found.before.insert(0, one)
    begun = set().union(*map(_stored, found.before)) | _stored(root) | grows
    if isinstance(root, ast.Expr):
        found.root = None
        _tell(found, root, None)
    found.named += sorted(_stored(root)) if isinstance(root, SIMPLE) else []
    for one in behind:
        _follow(found, one, begun)
    if not found.after:
        found.named += sorted({name for one in found.before for name in _stored(one)} - set(found.named))
    return found


def _follow(found: Cutting, one: ast.stmt, begun: set[str]) -> None:
    """Take what comes after, if it goes on with what was begun, or is gone on with beside it."""
    if isinstance(one, ast.Return) and one.value is not None:
        target = ast.Name("returned", ast.Store())
        one = ast.copy_location(ast.Assign([ast.copy_location(target, one)], one.value), one)
    loaded, stored = _loaded(one), _stored(one)
    said = isinstance(one, ast.Expr) and isinstance(one.value, ast.Call)
    given = isinstance(one, ast.Assign | ast.AnnAssign | ast.AugAssign) and bool(stored)
    if not (said or given) or (given and loaded & found.lost):
        found.lost |= stored | _changed(one) | _handed(one)
        return
    if not loaded & begun:
        found.aside.update(dict.fromkeys(stored if given else (), one))
        return
    aside = [other for name, other in found.aside.items() if name in loaded]
    found.after += [other for other in dict.fromkeys(aside) if other not in found.after]
    if said and not _changed(one) & begun:
        _tell(found, one, begun)
        found.lost |= _handed(one)
        return
    found.after.append(one)
    begun |= stored
    found.named += [name for name in sorted(stored) if name not in found.named]


def _tell(found: Cutting, one: ast.stmt, begun: set[str] | None) -> None:
    """Give names to the numbers that a call is told, which is left out itself: what prints, logs or keeps them."""
    for value in _parts(one.value, whole=True) if isinstance(one, ast.Expr) else ():
        names = _loaded(value)
        mine = bool(names & begun) if begun is not None else any(isinstance(part, ast.Call) for part in ast.walk(value))
        if not mine or names & found.lost or (isinstance(value, ast.Name) and value.id in found.named):
            continue
        name = ast.unparse(value)[:LONGEST]
        found.after.append(ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], value), one))
        found.named.append(name)


def _parts(value: ast.expr, *, whole: bool = False) -> Iterator[ast.expr]:
    """The expressions of numbers in what is told: in a text that is formatted, a table, a call around one of these.

    `whole`: a call stands for nothing but what it is told.
    """
    inner: list[ast.expr] = []
    if isinstance(value, ast.Starred):
        inner = [value.value]
    elif isinstance(value, ast.JoinedStr):
        inner = [one.value for one in value.values if isinstance(one, ast.FormattedValue)]
    elif isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mod) and isinstance(value.left, ast.Constant):
        inner = [value.right]
    elif isinstance(value, ast.Dict | ast.Tuple | ast.List):
        inner = value.values if isinstance(value, ast.Dict) else value.elts
    elif isinstance(value, ast.Call):
        told = [*value.args, *(one.value for one in value.keywords)]
        text = isinstance(value.func, ast.Attribute) and isinstance(value.func.value, ast.Constant)
        inner = told if whole or text or any(isinstance(one, ast.Dict | ast.JoinedStr) for one in told) else []
    if not inner:
        yield value
    for one in inner:
        yield from _parts(one)


def _names(tree: ast.AST, kind: type[ast.expr_context]) -> set[str]:
    return {one.id for one in ast.walk(tree) if isinstance(one, ast.Name) and isinstance(one.ctx, kind)}


def _stored(tree: ast.AST) -> set[str]:
    loops = [one.target for one in ast.walk(tree) if isinstance(one, ast.comprehension)]
    return _names(tree, ast.Store) - {name for target in loops for name in _names(target, ast.Store)}


def _loaded(tree: ast.AST) -> set[str]:
    return _names(tree, ast.Load) | _added(tree)


def _added(tree: ast.AST) -> set[str]:
    added = (one.target for one in ast.walk(tree) if isinstance(one, ast.AugAssign))
    return {one.id for one in added if isinstance(one, ast.Name)}


def _handed(tree: ast.AST) -> set[str]:
    """What is handed to a function that is called for nothing else, and may change it."""
    calls = [one.value for one in ast.walk(tree) if isinstance(one, ast.Expr) and isinstance(one.value, ast.Call)]
    kept = [call for call in calls if not (isinstance(call.func, ast.Name) and call.func.id == "print")]
    return {value.id for call in kept for value in call.args if isinstance(value, ast.Name)}


def _base(one: ast.AST) -> str:
    while isinstance(one, ast.Attribute | ast.Subscript):
        one = one.value
    return one.id if isinstance(one, ast.Name) else ""


def _changed(tree: ast.AST) -> set[str]:
    """What is changed in place: by a method that is called for nothing else, or in one of its parts."""
    found = set()
    for one in ast.walk(tree):
        if isinstance(one, ast.Expr) and isinstance(one.value, ast.Call) and isinstance(one.value.func, ast.Attribute):
            found.add(_base(one.value.func))
        elif isinstance(one, ast.Attribute | ast.Subscript) and isinstance(one.ctx, ast.Store):
            found.add(_base(one))
    return found - {""}


def _grown(root: ast.stmt) -> set[str]:
    """What it adds to: it is there before."""
    return _added(root) | _changed(root) | (_stored(root) & _loaded(root))


# --- as a function ---------------------------------------------------------------------------------------------------


def _compiled(cut: Cutting, code: CodeType, values: Mapping[str, Any]) -> CodeType:
    body = [*cut.before, *([cut.root] if cut.root is not None else []), *cut.after]
    stored = set().union(*map(_stored, body))
    begun = set().union(*map(_stored, cut.before))
    first = [
        ast.Assign([ast.Name(name, ast.Store())], ast.Constant(values[name]))
        for name in sorted(stored - begun)
        if type(values.get(name)) in (int, float) and name not in vars(builtins)
    ]
    told = ast.Return(ast.Dict([ast.Constant(n) for n in cut.named], [ast.Name(n, ast.Load()) for n in cut.named]))
    made = ast.parse("def evaluation(): pass")
    function = made.body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body = [*first, *body, told]
    whole = compile(ast.fix_missing_locations(made), code.co_filename, "exec")
    return next(one for one in whole.co_consts if isinstance(one, CodeType))

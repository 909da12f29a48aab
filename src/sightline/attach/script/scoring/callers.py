"""Whether a script makes more of what a function returns, where it calls it: twice an overlap is a whole again."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from sightline.attach.script.scoring.cuttings import parsed

DEPTH = 3  # functions that return what another returned
MORE = (ast.Mult, ast.Add, ast.Sub)


def scaled(file: str, name: str, depth: int = DEPTH) -> bool:
    """Whether what the function of that name returns is multiplied or added to, for all that can be told."""
    tree = parsed(file)
    if tree is None or not depth:
        return True
    above = {child: one for one in ast.walk(tree) for child in ast.iter_child_nodes(one)}
    calls = [one for one in ast.walk(tree) if isinstance(one, ast.Call) and _called(one) == name]
    return not calls or any(_more(one, tree, above, file, depth) for one in calls)


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def _more(call: ast.AST, tree: ast.Module, above: dict[ast.AST, ast.AST], file: str, depth: int) -> bool:
    ways = [call, *_ways(call, above)]
    if any(isinstance(one, ast.BinOp) and isinstance(one.op, MORE) for one in ways):
        return True
    last = ways[-1]
    if isinstance(last, ast.Return):
        inside = next((one for one in _ways(last, above, whole=True) if isinstance(one, ast.FunctionDef)), None)
        return inside is None or scaled(file, inside.name, depth - 1)
    targets = last.targets if isinstance(last, ast.Assign) else [getattr(last, "target", None)]
    names = {
        one.id for target in targets if target is not None for one in ast.walk(target) if isinstance(one, ast.Name)
    }
    products = (one for one in ast.walk(tree) if isinstance(one, ast.BinOp) and isinstance(one.op, ast.Mult))
    return any(isinstance(part, ast.Name) and part.id in names for one in products for part in ast.walk(one))


def _ways(one: ast.AST, above: dict[ast.AST, ast.AST], *, whole: bool = False) -> Iterator[ast.AST]:
    """What is around it, up to its statement, or to the `whole`."""
    while one in above and (whole or not isinstance(one, ast.stmt)):
        one = above[one]
        yield one

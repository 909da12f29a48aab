"""The import graph of a source tree, read with `ast`: lazy imports inside functions count like any other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

Graph = dict[str, dict[str, int]]  # module -> module it imports -> first line that does so


def modules(src: Path) -> dict[str, Path]:
    """Every module under `src` by its dotted name (a package by its `__init__.py`)."""
    found = {}
    for path in sorted(src.rglob("*.py")):
        parts = path.relative_to(src).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def import_graph(src: Path) -> Graph:
    """Edges between the modules under `src`; imports of other packages are left out."""
    known = modules(src)
    roots = {name.partition(".")[0] for name in known}
    graph: Graph = {name: {} for name in known}
    for name, path in known.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for target, line in _imports(ast.parse(path.read_text(encoding="utf-8")), package):
            if target.partition(".")[0] in roots and (found := _resolve(target, known)) and found != name:
                graph[name].setdefault(found, line)
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Groups of modules that import one another (strongly connected components of two or more; Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for successor in graph[node]:
            if successor not in index:
                visit(successor)
                low[node] = min(low[node], low[successor])
            elif successor in stack:
                low[node] = min(low[node], index[successor])
        if low[node] == index[node]:
            start = stack.index(node)
            component = stack[start:]
            del stack[start:]
            if len(component) > 1:
                found.append(sorted(component))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def _imports(tree: ast.Module, package: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and (target := _import_module(node)):
            yield target, node.lineno


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """The dotted name that `from ... import` starts at, relative dots resolved."""
    if not node.level:
        return node.module or ""
    parents = package.split(".")
    start = parents[: len(parents) - (node.level - 1)]
    return ".".join([*start, *([node.module] if node.module else [])])


def _import_module(call: ast.Call) -> str | None:
    """The target of `import_module("a.b")`; of an f-string, as much of it as is known before the first brace."""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if called not in ("import_module", "__import__") or not call.args:
        return None
    argument = call.args[0]
    if isinstance(argument, ast.JoinedStr) and argument.values:
        argument = argument.values[0]
    value = argument.value if isinstance(argument, ast.Constant) else None
    return value.rstrip(".") if isinstance(value, str) else None


def _resolve(target: str, known: dict[str, Path]) -> str | None:
    """The module that provides `target`: itself, or the longest prefix of it that is a module."""
    while target and target not in known:
        target = target.rpartition(".")[0]
    return target or None

"""What a call of a script's own function may leave behind, which is to be asked more often than the script asks it."""

from __future__ import annotations

import contextlib
import copy
import dis
import functools
from collections.abc import Iterator
from types import CodeType
from typing import Any

RECORDS = (list, dict, set)  # what a function may keep its calls in
VALUES = (str, int, float, bool, bytes, type(None))
MOST = 100_000  # entries that are copied
STORES = ("STORE_GLOBAL", "STORE_ATTR")


def keeps_records(compute: Any) -> bool:
    """Whether a call may leave something behind that cannot be put back: a global, a table of results, an object's
    own state."""
    codes, free, reached = _behind(compute)
    within = [i for code in codes for i in dis.get_instructions(code)]
    stores = any(i.opname in STORES or (i.opname == "STORE_DEREF" and i.argval in free) for i in within)
    kept = any(callable(getattr(one, "reset", None)) for one in reached)
    return not codes or stores or kept or not all(map(_plain, _written_to(codes, reached)))


@contextlib.contextmanager
def put_back(compute: Any) -> Iterator[None]:
    """Afterwards, containers that calls inside may have written into hold what they held."""
    codes, _, reached = _behind(compute)
    before = [(one, copy.copy(one)) for one in _written_to(codes, reached)]
    try:
        yield
    finally:
        for one, held in before:
            if one != held:
                one.clear()
                (one.extend if isinstance(one, list) else one.update)(held)


def _written_to(codes: list[CodeType], reached: list[Any]) -> list[Any]:
    """Containers that the code may write into, if it writes into any."""
    return [one for one in reached if isinstance(one, RECORDS)] if any(map(_written, codes)) else []


def _plain(record: Any) -> bool:
    """Whether all that it holds are values, which nobody can write into."""
    values = record.values() if isinstance(record, dict) else record
    return type(record) in RECORDS and len(record) <= MOST and all(isinstance(value, VALUES) for value in values)


def _behind(compute: Any) -> tuple[list[CodeType], set[str], list[Any]]:
    """The code that a call runs, of an object with those of its methods that are named; the names of what outlives it;
    and what it reaches beside its arguments. None where it is not Python's."""
    given: list[Any] = []
    while isinstance(compute, functools.partial):
        given += [*compute.args, *compute.keywords.values()]
        compute = compute.func
    owner, function = getattr(compute, "__self__", None), getattr(compute, "__func__", compute)
    if not hasattr(function, "__code__"):
        owner, function = compute, next(_methods(compute, "__call__"), None)
    if function is None or not hasattr(function, "__code__"):
        return [], set(), []
    codes: list[CodeType] = []
    open_ = [function.__code__]
    while open_:
        if (code := open_.pop()) not in codes:
            codes.append(code)
            open_ += [one for one in code.co_consts if isinstance(one, CodeType)]
            named = (method for name in code.co_names if owner is not None for method in _methods(owner, name))
            open_ += [found for method in named if (found := getattr(method, "__code__", None)) is not None]
    names = {i.argval for code in codes for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    globals_ = [function.__globals__.get(name) for name in names]
    return (
        codes,
        {*function.__code__.co_freevars},
        [*given, *cells, *globals_, *getattr(owner, "__dict__", {}).values()],
    )


def _methods(owner: Any, name: str) -> Iterator[Any]:
    """Those of its class and of the classes behind it."""
    return (vars(kind)[name] for kind in type(owner).__mro__ if name in vars(kind))


def _written(code: Any) -> bool:
    """Whether the code writes into containers, or calls what does."""
    called = {"append", "extend", "update", "add", "setdefault", "insert"}
    return any(i.opname == "STORE_SUBSCR" or i.argval in called for i in dis.get_instructions(code))


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True

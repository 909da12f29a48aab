"""Reads the bytecode of functions: whether all they do is compute, and what they name."""

from __future__ import annotations

import dis
import re
from collections.abc import Iterator
from types import CodeType

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
    *("STORE_GLOBAL", "DELETE_GLOBAL", "DELETE_ATTR", "STORE_NAME"),
    *("LOAD_BUILD_CLASS", "IMPORT_STAR"),
)
GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")


class Unsafe(Exception):
    """The function may do more than compute, for all that can be told."""


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def attributes(code: CodeType) -> tuple[frozenset[str], bool]:
    """The names of attributes that the code reads, if all it does is safe, and whether it writes to any of its own."""
    found, stores = set(), False
    for part in _codes(code):
        steps = list(dis.get_instructions(part))
        for at, step in enumerate(steps):
            if step.opname in REFUSED:
                raise Unsafe(step.opname)
            if step.opname == "IMPORT_NAME" and str(step.argval).partition(".")[0] not in LIBRARIES:
                raise Unsafe(f"import {step.argval}")
            if step.opname == "STORE_ATTR":
                if not _to_itself(part, steps[:at], step.argval):
                    raise Unsafe(f"{step.opname} {step.argval}")
                stores = True
            if step.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM", "LOAD_SUPER_ATTR"):
                if ACTS.fullmatch(step.argval):
                    raise Unsafe(step.argval)
                found.add(step.argval)
    return frozenset(found), stores


def _to_itself(code: CodeType, steps: list[dis.Instruction], name: str) -> bool:
    """Whether a method writes to its own object, of which a replica has a stand-in (``self.x = ...``, or ``+=``)."""
    first = code.co_varnames[0] if code.co_argcount else None
    if "." not in code.co_qualname or any(s.opname == "STORE_FAST" and s.argval == first for s in steps):
        return False
    last, before = steps[-1], [s.opname for s in steps[-2:]]
    if before == ["BINARY_OP", "SWAP"]:  # the object was put down before what is added was computed
        reads = [at for at, s in enumerate(steps) if s.opname == "LOAD_ATTR" and s.argval == name]
        last = next((steps[at - 2] for at in reversed(reads) if at > 1 and steps[at - 1].opname == "COPY"), last)
    return last.opname == "LOAD_FAST" and last.argval == first is not None


def named(code: CodeType) -> list[str]:
    """The names outside of it that it reads."""
    return sorted({i.argval for part in _codes(code) for i in dis.get_instructions(part) if i.opname in GLOBALS})

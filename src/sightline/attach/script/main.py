"""Run a file or a module as Python would: its own `__main__`, `sys.argv`, `sys.path[0]`, traceback and exit status.

Nothing here knows torch. What Python does is written down in its reference for the command line
(https://docs.python.org/3/using/cmdline.html, 2026-11-20) and in `runpy`'s.
"""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any

from sightline.errors import NotAScript

INTERRUPTED = 128 + 2
OURS = str(Path(__file__).parents[2]) + os.sep
INSTALLED = tuple(f"{os.sep}{folder}{os.sep}" for folder in ("site-packages", "dist-packages"))
_kept: list[Any] = []  # the `__main__` that ours replaced: its globals must outlive it


def installed(file: str) -> bool:
    """Whether a file of code is a library's or ours, and none of the script's own."""
    return file.startswith(OURS) or any(folder in file for folder in INSTALLED)


@dataclass(frozen=True, slots=True)
class Program:
    """What is to run. `compiled` reads and compiles it, and may raise what Python's own reading of it raises."""

    argv: tuple[str, ...]
    path0: str
    file: str
    spec: ModuleSpec | None
    loader: Any
    compiled: Callable[[], types.CodeType]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit status, and the exception that nobody caught."""

    status: int
    error: BaseException | None = None


def script_program(script: str, arguments: Sequence[str]) -> Program:
    """A file, or a folder that holds `__main__.py`. Raises NotAScript where there is neither."""
    path = Path(script)
    if path.is_dir():
        inside = path / "__main__.py"
        if not inside.is_file():
            raise NotAScript("the script is a folder without __main__.py", where=script, fix="name the file to run")
        return _file_program(str(inside), script, os.path.realpath(path), arguments)
    if not path.exists():
        raise NotAScript("no such file", where=script, fix="give the path of a Python script, or -m and a module")
    return _file_program(script, script, os.path.dirname(os.path.realpath(script)), arguments)


def _file_program(file: str, shown: str, path0: str, arguments: Sequence[str]) -> Program:
    absolute = os.path.abspath(file)

    def compiled() -> types.CodeType:
        with io.open_code(absolute) as source:
            return compile(source.read(), absolute, "exec", dont_inherit=True)

    return Program((shown, *arguments), path0, absolute, None, SourceFileLoader("__main__", absolute), compiled)


def module_program(name: str, arguments: Sequence[str]) -> Program:
    """`-m NAME`: a module, or a package with `__main__`. Its parent packages are imported, as Python does.

    Raises NotAScript where there is no such module.
    """
    if not sys.flags.safe_path:
        sys.path[0] = os.getcwd()
    spec = _spec_of(name)
    loader: Any = spec.loader
    return Program((spec.origin or name, *arguments), sys.path[0], spec.origin or name, spec, loader, _code(spec))


def _code(spec: ModuleSpec) -> Callable[[], types.CodeType]:
    loader: Any = spec.loader

    def compiled() -> types.CodeType:
        code: types.CodeType | None = loader.get_code(spec.name)
        if code is None:
            raise NotAScript(f"module {spec.name} has no Python code", where="-m", fix="name one that has")
        return code

    return compiled


def _spec_of(name: str) -> ModuleSpec:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        spec = None
    except ValueError:  # a module without a spec, or an empty name
        spec = None
    if spec is None or spec.loader is None:
        raise NotAScript(f"no module named {name!r}", where="-m", fix="check the name and the current folder")
    if spec.submodule_search_locations is not None:
        if importlib.util.find_spec(f"{name}.__main__") is None:
            raise NotAScript(f"{name!r} is a package without __main__", where="-m", fix=f"name a module of {name}")
        return _spec_of(f"{name}.__main__")
    return spec


def run_program(program: Program) -> Ended:
    """Run it to its end in this process, in the place of `__main__`, and say how it ended. Never raises its errors."""
    main = types.ModuleType("__main__")
    main.__dict__.update(
        __builtins__=builtins,
        __file__=program.file,
        __cached__=None,
        __spec__=program.spec,
        __loader__=program.loader,
        __package__=program.spec.parent if program.spec else None,
        __annotations__={},
    )
    _kept.append(sys.modules["__main__"])
    sys.modules["__main__"] = main
    sys.argv[:] = program.argv
    if not sys.flags.safe_path:
        sys.path[0] = program.path0
    return ended_by(lambda: exec(program.compiled(), main.__dict__))


def ended_by(work: Callable[[], Any]) -> Ended:
    """Do `work` and end as the interpreter ends a program: exceptions are shown, and become an exit status."""
    try:
        work()
    except SystemExit as leaving:
        return Ended(_status(leaving))
    except NotAScript:
        raise
    except BaseException as caught:  # noqa: BLE001 - the interpreter's own last resort, for which we stand in
        error = caught
    else:
        return Ended(0)
    _show(error)  # not while it is handled: what a failing hook raises is not its consequence
    return Ended(INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1, error)


def _status(leaving: SystemExit) -> int:
    if leaving.code is None:
        return 0
    if isinstance(leaving.code, int):
        return leaving.code & 0xFF
    _write(f"{leaving.code}\n")
    return 1


def _show(error: BaseException) -> None:
    """Through `sys.excepthook`, which the script may have replaced; without our frames."""
    _clean(error, set())
    kind, trace = type(error), error.__traceback__
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace
    try:
        sys.excepthook(kind, error, trace)
    except SystemExit:
        raise
    except BaseException as other:  # noqa: BLE001 - as the interpreter does with a hook that fails
        _clean(other, set())
        _write("Error in sys.excepthook:\n" + "".join(traceback.format_exception(other)))
        _write("\nOriginal exception was:\n" + "".join(traceback.format_exception(error)))


def _clean(error: BaseException | None, seen: set[int]) -> None:
    """Take our frames out of the traceback of `error` and of those that led to it."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    error.__traceback__ = _theirs(error.__traceback__)
    for other in (error.__cause__, error.__context__, *getattr(error, "exceptions", ())):
        _clean(other, seen)


def _theirs(trace: types.TracebackType | None) -> types.TracebackType | None:
    frames = []
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(OURS):
            frames.append(trace)
        trace = trace.tb_next
    kept: types.TracebackType | None = None
    for frame in reversed(frames):
        kept = types.TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return kept


def _write(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()

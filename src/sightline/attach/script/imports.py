"""Notice that a library was imported, at the moment when its import is done; change nothing of the import itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class Notice(MetaPathFinder):
    """Calls `when[name]()` once, right after module `name` was imported. Stands first on `sys.meta_path`."""

    def __init__(self, when: Mapping[str, Callable[[], None]]) -> None:
        self._when = dict(when)
        self._asking: set[str] = set()  # two of us may listen for one module, and would ask each other for ever

    def install(self) -> None:
        """Start listening; what is there already is told at once."""
        sys.meta_path.insert(0, self)
        for name in [name for name in self._when if name in sys.modules and not _under_way(sys.modules[name])]:
            self._tell(name)

    def remove(self) -> None:
        """Stop listening."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give, its loader followed by our word."""
        if fullname not in self._when or fullname in self._asking:
            return None
        self._asking.add(fullname)
        try:
            return self._spec(fullname, path, target)
        finally:
            self._asking.discard(fullname)

    def _spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in sys.meta_path:
            ask = getattr(finder, "find_spec", None)
            if finder is self or ask is None:
                continue
            spec: ModuleSpec | None = ask(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Then(spec.loader, lambda: self._tell(fullname))
                return spec
        return None

    def _tell(self, name: str) -> None:
        if (act := self._when.pop(name, None)) is not None:
            act()


def _under_way(module: ModuleType) -> bool:
    """Whether it is still being imported: then it is told of when that is done."""
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


class _Then(Loader):
    """Another loader, then `act`. The module keeps its own loader, as if we had not been there."""

    def __init__(self, loader: Any, act: Callable[[], None]) -> None:
        self._loader, self._act = loader, act

    def __getattr__(self, name: str) -> Any:
        """All else that a loader knows, such as a module's code and its resources."""
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        spec.loader = self._loader
        made: ModuleType | None = self._loader.create_module(spec)
        spec.loader = self
        return made

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._act()

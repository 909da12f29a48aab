"""The processes that a script starts by itself (`torch.multiprocessing.spawn`, `Process`, pools): those that train.

A child is watched from the first optimizer that it makes, and writes what it found into a folder of its parent's; the
parent adds that to its own report. A child that makes none (a worker of a DataLoader, a helper) writes nothing.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

READERS = "torch.utils.data"  # its workers train nothing
KINDS = ("findings", "not_run", "passed", "allowed")


class Children:
    """The children of this process. `become`: makes the session of a child, in the child, of (folder, budget)."""

    def __init__(self, become: Callable[[str, float], Any], budget: float) -> None:
        self._become, self._budget, self._folder = become, budget, ""

    def install(self) -> None:
        """Watch each process that is started from now on."""
        start = BaseProcess.start

        @functools.wraps(start)
        def started(process: BaseProcess) -> None:
            target = getattr(process, "_target", None)
            if "run" in process.__dict__ or str(getattr(target, "__module__", "")).startswith(READERS):
                start(process)
                return
            if not self._folder:
                self._folder = tempfile.mkdtemp(prefix="sightline-")
            process.run = Child(process, self._become, self._folder, self._budget)  # type: ignore[method-assign]
            try:
                start(process)
            finally:
                process.__dict__.pop("run", None)

        BaseProcess.start = started  # type: ignore[method-assign, assignment]

    def inside(self, folder: str) -> None:
        """This process is a child itself: its children tell the same parent."""
        self._folder = folder

    def told(self) -> list[dict[str, Any]]:
        """What children wrote, by rank where they have one."""
        if not self._folder:
            return []
        files = sorted(Path(self._folder).glob("*.json"))
        every = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        return sorted(every, key=lambda one: -1 if one["run"]["rank"] is None else one["run"]["rank"])

    def tidy(self) -> None:
        """All is told."""
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


class Child:
    """Stands for the `run` of a process while it starts, and travels with it. Light: it is read before torch is."""

    def __init__(self, process: BaseProcess, become: Callable[[str, float], Any], folder: str, budget: float) -> None:
        self.process, self.become, self.folder, self.budget = process, become, folder, budget

    def __call__(self) -> None:
        run: Callable[[BaseProcess], None] = type(self.process).run
        session = self.become(self.folder, self.budget)
        try:
            run(self.process)
        except BaseException as error:
            session.child_ended(error)
            raise
        session.child_ended(None)


def added(own: dict[str, Any], children: list[dict[str, Any]], trained: bool) -> dict[str, Any]:
    """Found in any process is found; else passed in any is passed. `trained`: this process did so itself."""
    parts = ([(None, own)] if trained or not children else []) + [(one["run"]["rank"], one) for one in children]
    found: list[dict[str, Any]] = []
    for rank, part in parts:
        known = {(finding["check"], finding.get("model")) for finding in found}
        told = [f for f in part["findings"] if (f["check"], f.get("model")) not in known]
        found += told if rank is None else [{**finding, "rank": rank} for finding in told]
    done = {finding["check"] for finding in found}
    rest: dict[str, list[Any]] = {"findings": found}
    for kind in ("allowed", "passed", "not_run"):
        first: dict[str, Any] = {}
        for _, part in parts:
            for record in part[kind]:
                if record["check"] not in done:
                    first.setdefault(record["check"], record)
        rest[kind] = list(first.values())
        done |= first.keys()
    return {kind: rest[kind] for kind in ("not_run", "findings", "passed", "allowed")}


def own_file(folder: str) -> Path:
    """Where this process writes."""
    return Path(folder, f"{os.getpid()}.json")

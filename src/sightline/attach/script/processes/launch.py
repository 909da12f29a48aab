"""Launchers of ranks (`torch.distributed.run`, `accelerate launch`) as the script: each rank they start is watched.

The launcher itself trains nothing. It starts Python with a script; we have it start Python with `-m sightline run` and
the script. The ranks meet and tell as they do under a launcher of their own, and rank 0 writes the report.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PLAIN = frozenset({"-u", "-B", "-O", "-OO", "-s", "-S", "-E", "-q"})  # options of Python that take no value


class Launches:
    """The ranks that this process launches. `findings`: where they are to write; None for a place of ours."""

    def __init__(self, findings: Path | None, budget: float) -> None:
        self._findings, self._budget = findings, budget
        self._folder = ""
        self.done = False

    def on_import(self) -> Mapping[str, Callable[[], None]]:
        """Module -> what to do once it is there."""
        return {"torch.distributed.launcher.api": self._elastic, "accelerate.utils.launch": self._simple}

    def _elastic(self) -> None:
        launch = sys.modules["torch.distributed.launcher.api"].elastic_launch
        call = launch.__call__

        @functools.wraps(call)
        def launched(launcher: Any, *args: Any) -> Any:
            return call(launcher, *(self._watched([launcher._entrypoint, *args])[1:]))

        launch.__call__ = launched

    def _simple(self) -> None:
        module: Any = sys.modules["accelerate.utils.launch"]
        prepare = module.prepare_simple_launcher_cmd_env

        @functools.wraps(prepare)
        def prepared(*args: Any, **kwargs: Any) -> Any:
            command, environment = prepare(*args, **kwargs)
            return self._watched(command), environment

        module.prepare_simple_launcher_cmd_env = prepared

    def _watched(self, command: Sequence[Any]) -> list[Any]:
        """`python [-u] SCRIPT ...` with us in between; any other command as it is."""
        place = 1
        while place < len(command) and command[place] in PLAIN:
            place += 1
        python = isinstance(command[0], str) and os.path.basename(command[0]).startswith("python")
        script = command[place] if place < len(command) else "-"
        if not python or (script.startswith("-") and script != "-m"):
            return list(command)
        self.done = True
        ours = ["-m", "sightline", "run", "--findings", str(self._place()), "--budget", f"{100 * self._budget:g}"]
        return [*command[:place], *ours, *command[place:]]

    def _place(self) -> Path:
        if self._findings is not None:
            return self._findings
        self._folder = self._folder or tempfile.mkdtemp(prefix="sightline-")
        return Path(self._folder, "told.json")

    def told(self) -> dict[str, Any]:
        """What the ranks found; nothing where rank 0 is on another machine, or never came to write."""
        try:
            found: dict[str, Any] = json.loads(self._place().read_text(encoding="utf-8"))
        except FileNotFoundError:
            found = {"findings": []}
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        return found

"""Runs scripts one after another, each in a fork of this process, so that heavy imports are paid for once a group.

    python forked.py JOBS.json module [module ...]

A job is {"argv", "folder", "out", "command"}: `command` is the arguments for `sightline`, or absent for a plain run of
`argv`. Its standard output goes to `out`, standard error to `out` + ".err", its exit status and seconds to
`out` + ".json". The modules are imported first.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import sys
import time
import traceback
from typing import Any

SECONDS = 120  # a script that hangs is ended by SIGALRM, and its group goes on


def main(jobs: str, modules: list[str]) -> None:
    """Import, then fork once a job and wait for it."""
    sys.path.pop(0)  # this file's folder is not on a script's path
    for name in modules:
        importlib.import_module(name)
    with open(jobs, encoding="utf-8") as file:
        todo = json.load(file)
    for job in todo:
        began = time.perf_counter()
        child = os.fork()
        if child == 0:
            _play(job)
        _, status = os.waitpid(child, 0)
        with open(job["out"] + ".json", "w", encoding="utf-8") as file:
            json.dump({"status": os.waitstatus_to_exitcode(status), "seconds": time.perf_counter() - began}, file)


def _play(job: dict[str, Any]) -> None:
    """In the child: never returns."""
    signal.alarm(SECONDS)
    os.chdir(job["folder"])
    for stream, path in ((1, job["out"]), (2, job["out"] + ".err")):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, stream)
        os.close(file)
    status = 0
    try:
        if "command" in job:
            sys.argv = ["sightline", *job["command"]]
            from sightline.cli import app

            app()
        else:
            sys.argv = list(job["argv"])
            runpy.run_path(job["argv"][0], run_name="__main__")
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # noqa: BLE001 - the interpreter's own last resort, for which this stands in
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

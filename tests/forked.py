"""Scripts as processes of their own that need not import torch anew: each is a fork of a server that has imported it.

A process of a script costs some tenths of a second then, and no longer the six seconds of importing torch, the guard
and what torch's optimizers import. What is run is the same: own folder, arguments, streams, environment, exit
handlers and exit status. Only what a test says of imports themselves needs a process of its own.

Run as a program (`python forked.py MODULE ...`) this file is the server; it stays free of imports that a script would
not have. It computes nothing, so that a fork inherits neither threads nor drawn numbers.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

TORCH = ("torch", "torch.utils.data", "torch._dynamo")  # the last is what making an optimizer imports
CHECKS = sorted((Path(__file__).parents[1] / "src" / "sightline" / "guard" / "checks").glob("*/[a-z]*.py"))
GUARD = (
    *("pydantic", "sightline.cli", "sightline.commands.run", "sightline.attach.script.listening"),
    *(f"sightline.guard.checks.{path.parent.name}.{path.stem}" for path in CHECKS),
)
MODELS = ("transformers.models.siglip.modeling_siglip", "transformers.models.llama.modeling_llama")
HF = (
    *(*TORCH, "transformers.trainer", "transformers.models.llama.modeling_llama"),
    *("transformers.models.gpt2.modeling_gpt2", "peft", "datasets"),
    *(f"trl.trainer.{name}_trainer" for name in ("sft", "dpo", "reward")),
)
LIGHTNING = (*TORCH, "lightning")
TRAINER = (*TORCH, "transformers", *MODELS, "sightline.train.run")
STREAMS = ("stdin", "stdout", "stderr")
WHERE = signal.SIGRTMAX  # says where a process is, in its standard error


class Forks:
    """Servers, one for each set of modules; each begins when it is first needed."""

    def __init__(self) -> None:
        self._servers: dict[tuple[str, ...], subprocess.Popen[str]] = {}

    def run(
        self,
        *command: str,
        cwd: Path,
        knows: Sequence[str] = TORCH,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout: float = 240,
    ) -> subprocess.CompletedProcess[str]:
        """`sightline ...`, or a script and its arguments, to its end, as `subprocess.run` runs it.

        `knows`: modules that are imported beforehand. Where `sightline` is not the command, it is not among them.
        """
        server = self._server((*knows, *(GUARD if command[0] == "sightline" else ())))
        with tempfile.TemporaryDirectory() as folder:
            streams = [Path(folder, name) for name in STREAMS]
            streams[0].write_text(stdin)
            job = {"command": command, "cwd": str(cwd), "env": dict(os.environ if env is None else env)}
            pid = int(_asked(server, {**job, "streams": [str(path) for path in streams]}))
            status = _ended(server, pid, timeout)
            out, err = (path.read_text() for path in streams[1:])
        if status is None:
            raise TimeoutError(f"{' '.join(command)} had not ended after {timeout} s:\n{out[-1000:]}\n{err[-6000:]}")
        assert not check or status == 0, f"{' '.join(command)} ended with {status}:\n{err[-4000:]}"
        return subprocess.CompletedProcess(command, status, out, err)

    def _server(self, modules: tuple[str, ...]) -> subprocess.Popen[str]:
        server = self._servers.get(modules)
        if server is None or server.poll() is not None:
            command = [sys.executable, __file__, *modules]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            server = self._servers[modules] = subprocess.Popen(command, start_new_session=True, **pipes)
        return server

    def close(self) -> None:
        """End the servers."""
        for server in self._servers.values():
            server.communicate()
        self._servers.clear()


def _asked(server: subprocess.Popen[str], job: dict[str, Any]) -> str:
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(job) + "\n")
    server.stdin.flush()
    return server.stdout.readline()


def _ended(server: subprocess.Popen[str], pid: int, timeout: float) -> int | None:
    """The exit status of a fork, which is killed with all that it started when its time is over.

    Where each of them was then is in its standard error.
    """
    assert server.stdout is not None
    late = []

    def over() -> None:
        late.append(pid)
        with suppress(ProcessLookupError):
            os.killpg(pid, WHERE)
            time.sleep(1)
            os.killpg(pid, signal.SIGKILL)

    timer = threading.Timer(timeout, over)
    timer.start()
    status = int(server.stdout.readline())
    timer.cancel()
    return None if late else status


# --- the server ---------------------------------------------------------------------------------------------------


def serve(modules: Sequence[str]) -> dict[str, Any] | None:
    """Fork once a job (a line of standard input), say its process, and its status when it has ended.

    Returns None when there are no more jobs, and in a fork its job.
    """
    jobs, answers = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # what a library prints when it is imported is no answer
    for name in modules:
        importlib.import_module(name)
    sys.stdout.flush()
    gc.collect()
    gc.freeze()  # so that no collection of the server's touches what it shares with its forks
    with open(jobs, "rb", buffering=0) as lines:
        for line in lines:
            child = os.fork()
            if child == 0:
                return dict(json.loads(line))
            os.write(answers, f"{child}\n".encode())
            _, status = os.waitpid(child, 0)
            os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    return None


def become(job: dict[str, Any]) -> None:
    """In the fork: what a process is given by whoever starts it."""
    os.setsid()
    gc.unfreeze()
    os.closerange(3, 64)  # the server's own
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    for number, path in enumerate(job["streams"]):
        file = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, number)
        os.close(file)
    faulthandler.register(WHERE)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()  # as a new process; Python's own generator does so by itself


def play(command: Sequence[str]) -> None:
    """As `python -m sightline ...`, or as `python SCRIPT ...`."""
    sys.argv = list(command)
    if command[0] == "sightline":
        sys.path.insert(0, os.getcwd())
        from sightline.cli import app

        app(prog_name="sightline")
        return
    script = Path(command[0]).absolute()
    sys.path.insert(0, str(script.parent))
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=str(script), __builtins__=__builtins__, __annotations__={})
    kept.append(sys.modules["__main__"])
    sys.modules["__main__"] = main
    exec(compile(script.read_bytes(), str(script), "exec", dont_inherit=True), main.__dict__)


def end(work: Callable[[], None]) -> None:
    """Do `work` and end as the interpreter does, but for taking its modules apart, which takes a second."""
    leave, status = os._exit, 0
    try:
        work()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if not isinstance(leaving.code, int | None):
            print(leaving.code, file=sys.stderr)
    except BaseException as error:  # noqa: BLE001 - the interpreter's own last resort, for which this stands in
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    leave(status)


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder is not on a script's path
    kept: list[types.ModuleType] = []
    if (todo := serve(sys.argv[1:])) is not None:
        become(todo)
        end(lambda: play(todo["command"]))

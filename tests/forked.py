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
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

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
    """Servers, one for each set of modules; each begins when it is first needed, as a fork of one that knows less."""

    def __init__(self) -> None:
        self._servers: dict[tuple[str, ...], Server] = {}

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
        server = self._server(*_layers(knows), *((GUARD,) if command[0] == "sightline" else ()))
        with tempfile.TemporaryDirectory() as folder:
            streams = [Path(folder, name) for name in STREAMS]
            streams[0].write_text(stdin)
            job = {"command": command, "cwd": str(cwd), "env": dict(os.environ if env is None else env)}
            pid = int(server.asked({**job, "streams": [str(path) for path in streams]}))
            status = _ended(server, pid, timeout)
            out, err = (path.read_text() for path in streams[1:])
        if status is None:
            raise TimeoutError(f"{' '.join(command)} had not ended after {timeout} s:\n{out[-1000:]}\n{err[-6000:]}")
        assert not check or status == 0, f"{' '.join(command)} ended with {status}:\n{err[-4000:]}"
        return subprocess.CompletedProcess(command, status, out, err)

    def _server(self, *layers: tuple[str, ...]) -> Server:
        modules = tuple(name for layer in layers for name in layer)
        server = self._servers.get(modules)
        if server is None or not server.alive():
            root = len(layers) == 1
            server = _started(modules) if root else _branched(self._server(*layers[:-1]), layers[-1])
            self._servers[modules] = server
        return server

    def close(self) -> None:
        """End the servers, those first that came of others."""
        for server in reversed(self._servers.values()):
            server.close()
        self._servers.clear()


@dataclass(eq=False)
class Server:
    """Where jobs go to and answers come from. `process`: of the first of the servers that this one came of."""

    process: subprocess.Popen[str]
    jobs: IO[str]
    answers: IO[str]

    def alive(self) -> bool:
        return self.process.poll() is None

    def asked(self, job: dict[str, Any]) -> str:
        """The first line of its answer."""
        self.jobs.write(json.dumps(job) + "\n")
        self.jobs.flush()
        return self.answers.readline()

    def close(self) -> None:
        self.jobs.close()
        if self.answers is self.process.stdout:
            self.process.wait()
        self.answers.close()


def _layers(knows: Sequence[str]) -> list[tuple[str, ...]]:
    """What torch alone needs, and the rest: all servers that know torch come of one."""
    known = tuple(knows)
    return [layer for layer in (TORCH, known[len(TORCH) :]) if layer] if known[: len(TORCH)] == TORCH else [known]


def _started(modules: Sequence[str]) -> Server:
    command = [sys.executable, __file__, *modules]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **pipes)
    assert process.stdin is not None and process.stdout is not None
    return Server(process, process.stdin, process.stdout)


def _branched(server: Server, modules: Sequence[str]) -> Server:
    """A fork of `server` that imports `modules`, too, and serves."""
    with tempfile.TemporaryDirectory() as folder:
        ends = [os.path.join(folder, name) for name in ("jobs", "answers")]
        for end_ in ends:
            os.mkfifo(end_)
        server.asked({"modules": list(modules), "ends": ends})
        return Server(server.process, open(ends[0], "w"), open(ends[1]))


def _ended(server: Server, pid: int, timeout: float) -> int | None:
    """The exit status of a fork, which is killed with all that it started when its time is over.

    Where each of them was then is in its standard error.
    """
    late = []

    def over() -> None:
        late.append(pid)
        with suppress(ProcessLookupError):
            os.killpg(pid, WHERE)
            time.sleep(1)
            os.killpg(pid, signal.SIGKILL)

    timer = threading.Timer(timeout, over)
    timer.start()
    status = int(server.answers.readline())
    timer.cancel()
    return None if late else status


# --- the server ---------------------------------------------------------------------------------------------------


def serve(modules: Sequence[str], jobs: int, answers: int) -> dict[str, Any] | None:
    """Fork once a job (a line of `jobs`), answer its process, and its status when it has ended.

    A job of modules is a server of its own, which lives beside this one. Returns None when there are no more jobs, and
    in a fork its job.
    """
    for name in modules:
        importlib.import_module(name)
    sys.stdout.flush()
    gc.collect()
    gc.freeze()  # so that no collection of the server's touches what it shares with its forks
    with open(jobs, "rb", buffering=0) as lines:
        for line in lines:
            child, job = os.fork(), dict(json.loads(line))
            if child == 0 and "modules" in job:
                lines.close()
                os.close(answers)
                first, second = job["ends"]
                return serve(job["modules"], os.open(first, os.O_RDONLY), os.open(second, os.O_WRONLY))
            if child == 0:
                return job
            os.write(answers, f"{child}\n".encode())
            if "modules" not in job:
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
    ends = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # what a library prints when it is imported is no answer
    if (todo := serve(sys.argv[1:], *ends)) is not None:
        become(todo)
    end(lambda: play(todo["command"]) if todo else None)

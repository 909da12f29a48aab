"""The door for a whole script: `sightline run train.py`. The script is run as Python runs it, and watched.

torch is not imported before the script imports it; a script that never does runs untouched. The only things of others
that are wrapped are here, in `scout`, `loaders`, `saves` and `attach/alive`: the making of optimizers and modules, the
reading of loaders, saving, the compiling of modules (which reads hooks as code), and `os._exit` (after which nothing
could be told).
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.attach.script.hub import Hub
from sightline.attach.script.imports import Notice
from sightline.attach.script.main import Ended, ended_by, module_program, run_program, script_program
from sightline.attach.script.processes.children import Children, added, own_file
from sightline.attach.script.processes.launch import Launches
from sightline.attach.script.processes.ranks import report, share_of, this_rank
from sightline.attach.script.report import merged, say_end, say_finding, write
from sightline.guard.catalogue import pages
from sightline.guard.check import Finding

if TYPE_CHECKING:
    from sightline.attach.script.scout import Scout
    from sightline.attach.script.watch import Models

GUARDED = 3


def run_script(
    target: str,
    arguments: Sequence[str] = (),
    *,
    module: bool = False,
    findings: Path | None = None,
    strict: bool = False,
    budget: float = 0.02,
) -> int:
    """Run a script (or, with `module`, a module) in this process, watched; returns its exit status.

    The end is told when the process ends, after the script's own exit handlers; with `strict`, a process that would
    have ended with 0 then ends with 3 where an error was found.

    Raises:
        NotAScript: there is no such script or module.
    """
    session = Session([target, *arguments], findings.absolute() if findings else None, strict, budget)
    session.begin()
    try:
        if module:
            program: list[Any] = []
            found = ended_by(lambda: program.append(module_program(target, arguments)))
            ended = run_program(program[0]) if program else found
        else:
            ended = run_program(script_program(target, arguments))
    except BaseException:
        session.leave()
        raise
    session.script_ended(ended)
    return ended.status


class Session:
    """One watched run of a script: what is known of it, and telling it once, however it ends.

    `running`: that of this process; in a forked one, still its parent's.
    """

    running: Session | None = None

    def __init__(self, command: list[str], findings: Path | None, strict: bool, budget: float) -> None:
        self._command, self._file, self._strict, self._budget = command, findings, strict, budget
        self._pid, self._began, self._ended = os.getpid(), time.time(), Ended(0)
        self._rank = this_rank()
        self._temporary = findings is None and self._rank.world > 1
        if self._temporary:  # ranks meet in a file of their launcher's
            names = (os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"))
            self._file = Path(tempfile.gettempdir(), f"sightline-{'-'.join(names)}.json")
        self._children, self._is_child = Children(Session.of_child, budget), False
        self._problems: list[str] = []
        self._models: Models | None = None
        self._closing: list[Callable[[], None]] = []
        self._told = False
        self._lock = threading.RLock()
        self._leave_process: Callable[[int], Any] = os._exit
        self._launches, self._hub = Launches(findings, budget), Hub()
        when = {"torch": self._torch_came, "multiprocessing.process": self._children.install}
        self._notice = Notice({**when, **self._launches.on_import(), **self._hub.on_import()})

    def begin(self) -> None:
        """Start noticing."""
        Session.running = self
        self._notice.install()
        atexit.register(self._exit)  # registered first, so called last
        os._exit = self._leaving(os._exit)  # type: ignore[assignment]

    @classmethod
    def of_child(cls, folder: str, budget: float) -> Session:
        """That of a process which the script started, at its beginning. It writes into `folder`, if it trains."""
        session = cls.running
        if session is None:  # spawned: nothing is here yet
            session = cls([], own_file(folder), False, budget)
            session._is_child = True
            session.begin()
        else:  # forked: what is watched is the parent's
            session._forked(own_file(folder))
        session._children.inside(folder)
        return session

    def _forked(self, file: Path) -> None:
        self._is_child, self._pid, self._file, self._temporary = True, os.getpid(), file, False
        self._lock, self._told, self._problems, self._began = threading.RLock(), False, [], time.time()
        if self._models is not None:
            self._models.forget()

    def child_ended(self, error: BaseException | None) -> None:
        """The child's own work is done."""
        self._ended = Ended(0 if error is None else 1, error)
        self._tell()

    def leave(self) -> None:
        """There was no script: say nothing."""
        self._told = True
        self._notice.remove()
        atexit.unregister(self._exit)
        os._exit = self._leave_process  # type: ignore[assignment]

    def _torch_came(self) -> None:
        """A fault of ours must not end somebody's import; it is told, not lost."""
        try:
            if self._is_child:
                self._when_it_trains()
            else:
                self._watch_torch()
        except Exception as error:  # noqa: BLE001
            self._problem(f"{type(error).__name__}: {error}")

    def _when_it_trains(self) -> None:
        """Most children never do, and are to cost nothing."""
        from torch.optim import Optimizer

        make = Optimizer.__init__

        @functools.wraps(make)
        def first(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            make(optimizer, *args, **kwargs)
            if self._models is None:
                try:
                    self._watch_torch().noticed(optimizer)
                except Exception as error:  # noqa: BLE001
                    self._problem(f"{type(error).__name__}: {error}")

        Optimizer.__init__ = first  # type: ignore[method-assign, assignment]

    def _watch_torch(self) -> Scout:
        from sightline.attach.script.listening import watched

        self._models, scout, close = watched(self._budget, self._found, self._problem)
        self._closing.append(close)
        self._write(over=False)  # whatever ends this process from now on, there is a report
        return scout

    # --- telling -------------------------------------------------------------------------------------------------

    def _found(self, finding: Finding) -> None:
        if os.getpid() != self._pid:  # forked by itself
            return
        with self._lock:
            if finding.severity == "error":
                rank = self._number()
                say_finding(finding, f"rank {rank}: " if rank is not None else "")
            self._write(over=False)

    def _number(self) -> int | None:
        """Which rank of several this process is."""
        if self._rank.world > 1:
            return self._rank.number
        found = [one.rank for one in self._models.watched if one.rank is not None] if self._models else []
        return found[0] if found else None

    def _problem(self, what: str) -> None:
        self._problems.append(what)

    def _verdicts(self) -> dict[str, Any]:
        models = self._models.records() if self._models else []
        why = self._seen()
        nothing: list[dict[str, object]] = [
            {"kind": "not-run", "check": page.name, "code": page.code, "why": why} for page in pages()
        ]
        asked = self._hub.records(self._ended.error, trained=bool(models))
        return (
            merged([*(models or [("", nothing)]), ("the script", asked)], nothing) if asked else merged(models, nothing)
        )

    def _seen(self) -> str:
        if (self._models is not None and self._models.watched) or self._of_children("models"):
            return "models were trained"
        if self._models is None:
            return "the script did not import torch: nothing was watched"
        if self._models.backwards and not self._models.optimizers:
            seen = f"{self._models.backwards} backward passes were seen, and nothing"
            return f"{seen} that was moved along its gradients, by an optimizer of torch or by hand"
        return "no model was trained that an optimizer of torch moves"

    def _facts(self, *, over: bool) -> dict[str, Any]:
        error = self._ended.error
        return {
            "command": self._command,
            "models": [*(self._models.facts() if self._models else []), *self._of_children("models")],
            "seen": self._seen(),
            "problems": [*self._problems, *self._of_children("problems")],
            "status": self._ended.status if over else None,
            "error": f"{type(error).__name__}: {error}" if error is not None else None,
            "seconds": round(time.time() - self._began, 3),
            "ended": time.time(),
            "rank": self._number() if self._is_child else self._rank.number,
            "world": self._rank.world,
        }

    def _of_children(self, what: str) -> list[Any]:
        """What each child wrote, with its rank where it has one."""
        if self._is_child:
            return []
        ranks = [(one["run"]["rank"], one["run"][what]) for one in self._children.told()]
        return [
            {**thing, "rank": rank} if isinstance(thing, dict) and rank is not None else thing
            for rank, things in ranks
            for thing in things
        ]

    def _write(self, *, over: bool) -> dict[str, Any]:
        verdicts = self._verdicts()
        if not self._is_child:
            verdicts = added(verdicts, self._children.told(), bool(self._models and self._models.watched))
        elif not (self._models and self._models.watched):
            return verdicts
        if self._file is not None:
            try:
                if self._rank.world == 1:
                    write(self._file, verdicts, self._facts(over=over))
                else:
                    facts = self._facts(over=over)
                    verdicts, silent = report(verdicts, facts, self._file, self._rank, self._began)
                    self._problems += [f"rank {rank} told nothing of its end" for rank in silent]
            except OSError as error:
                where, self._file = self._file, None
                self._problem(f"{where}: {error.strerror}")
        return verdicts

    # --- the end -------------------------------------------------------------------------------------------------

    def script_ended(self, ended: Ended) -> None:
        """The script's last line has run, or raised. Threads of its own may still be at work."""
        self._ended = ended
        if not any(t is not threading.current_thread() and not t.daemon for t in threading.enumerate()):
            self._close()

    def _close(self) -> None:
        if self._models is not None:
            self._models.close_all(whole=self._ended.error is None)
        while self._closing:
            self._closing.pop()()

    def _tell(self) -> dict[str, Any]:
        """Once: judge, write, print. In a forked process: nothing."""
        with self._lock:
            if self._told or os.getpid() != self._pid:
                return {"findings": []}
            self._told = True
            if self._launches.done:  # the ranks tell
                return self._launches.told()
            self._close()
            verdicts = self._write(over=True)
            if self._rank.first and not self._is_child:
                say_end(verdicts, self._facts(over=True))
                self._tidy()
            return verdicts

    def _tidy(self) -> None:
        self._children.tidy()
        if self._temporary and self._file is not None:
            for rank in range(self._rank.world):
                share_of(self._file, rank).unlink(missing_ok=True)

    def _status(self, verdicts: dict[str, Any], status: int) -> int:
        wrong = any(record["severity"] == "error" for record in verdicts["findings"])
        # a launcher ends all ranks when one fails: only the rank that tells may
        return GUARDED if self._strict and self._rank.first and not self._is_child and wrong and status == 0 else status

    def _exit(self) -> None:
        """The last exit handler. The status can then only be changed by leaving at once."""
        verdicts, status = self._tell(), self._ended.status
        if (changed := self._status(verdicts, status)) != status:
            logging.shutdown()
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            self._leave_process(changed)

    def _leaving(self, leave: Callable[[int], Any]) -> Callable[[int], Any]:
        @functools.wraps(leave)
        def _exit(status: int) -> None:
            if os.getpid() == self._pid and not self._told:
                self._ended = Ended(status)
                status = self._status(self._tell(), status)
            leave(status)

        return _exit

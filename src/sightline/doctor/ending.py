"""How the run ended, or whether it lives: a crash, a killed job, a stuck one, and how to go on."""

from __future__ import annotations

import re

from sightline.doctor.diagnosis import Cause, Diagnosis, Look
from sightline.doctor.record import Last, Record
from sightline.report.format import plural, seconds
from sightline.report.values import Facts

ABOUT = "how it ended"
PATIENCE = 60.0  # seconds without a line that nobody worries about
SLOW = 20  # windows of steps: a run that is so late is not just slow
LATE = 3  # windows: one that is so late, and whose lock nobody holds, is gone
SLOW_UNKNOWN = 1800.0  # seconds, where no step was timed
TRACE_LINES = 6
WITHIN = ("train", "steps", "layers")  # events after which the next step is to come
DEVICES = r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|can't allocate memory|Cannot allocate memory"
PEERS = r"NCCL|gloo|Connection (?:closed|reset)|timed out|Timed out|Broken pipe|rank \d+ "
WORKERS = r"DataLoader worker|worker .*(?:killed|exited)|Bus error|shared memory|shm"
DISK = r"No space left|Disk quota|checkpoint could not be written|Errno 28"
NUMBER = r"loss is no longer a number"


def how_it_ended(record: Record) -> Look:
    """Judge the run's status, its lock, and the age of its last line."""
    status, last = record.facts.status, record.last
    where = _where(last)
    if status == "finished":
        return Look(ABOUT, f"finished{where}")
    if status == "interrupted":
        says = f"stopped by a signal{where}; it can go on"
        cause = Cause("shown", "somebody or the scheduler asked it to stop, and it saved itself", _go_on(record))
        return Look(ABOUT, says, (_told(record, "interrupted", "note", says, (cause,)),))
    if status in ("failed", "stopped"):
        return Look(ABOUT, f"{status}{where}", (_crash(record),))
    return _living(record, where)


def _living(record: Record, where: str) -> Look:
    """A run whose status is still "running" lives, hangs, or was killed without a word."""
    age, limit = record.silent or 0.0, _limit(record)
    told = f"the last line was written {seconds(age)} ago"
    late = LATE / SLOW * limit if record.step_seconds else 0.0
    if record.held is False and age > max(PATIENCE, late):
        return _killed(record, told)
    if age > limit and record.last is not None and record.last.event in WITHIN:
        step = record.step_seconds
        pace = f"a step takes {seconds(step)}" if step else "no step was timed"
        says = f"the process lives and stands still: {told}, and {pace}"
        return Look(ABOUT, says, (_told(record, "stuck", "error", says, _why_stuck(record)),))
    if age > limit:
        return Look(ABOUT, f"running{where}; {told}, in set-up or evaluation, which write none", recorded=False)
    return Look(ABOUT, f"running{where}; {told}")


def _killed(record: Record, told: str) -> Look:
    says = f"the process is gone and said nothing: run.json says running, nobody holds run.lock, {told}"
    killed = "killed from outside: the system ran out of memory (see `dmesg`), the scheduler's limit, a lost machine"
    causes = (
        Cause("likely", killed, _go_on(record)),
        Cause("possible", "it lives on another machine, whose lock is not seen here", "look there before going on"),
        Cause("possible", "too little memory on the host", "workers=0, or a smaller stages.<stage>.micro_batch"),
    )
    return Look(ABOUT, says, (_told(record, "killed", "error", says, causes),))


def _limit(record: Record) -> float:
    step = record.step_seconds
    return max(PATIENCE, SLOW * record.window * step) if step else SLOW_UNKNOWN


def _why_stuck(record: Record) -> tuple[Cause, ...]:
    end = f"end it (`kill PID`, the PID is in run.lock), then {_go_on(record)}"
    causes = []
    if (_processes(record.facts) or 1) > 1:
        causes.append(Cause("likely", "a rank died or waits in another collective than the others", end))
    if record.recipe and record.recipe.workers:
        causes.append(
            Cause("likely", "a loading process hangs (a lock copied by fork, a dead file system)", "workers=0")
        )
    if record.recipe and any(each.stream for each in record.recipe.data.values()):
        causes.append(
            Cause("possible", "a shard that is streamed does not come", "see the disk or the network it is on")
        )
    return (*causes, Cause("possible", "a deadlock: `py-spy dump --pid PID` shows where it stands", end))


def _crash(record: Record) -> Diagnosis:
    error = record.error.strip() or "no exception was written down"
    what, _, fix = error.partition("\n  fix: ")
    trace = record.trace or (error if error.startswith("Traceback") else "")
    first = what.splitlines()[-1 if error.startswith("Traceback") else 0]
    said = f"{error}\n{trace}"
    causes = [cause for pattern, cause in _known(record) if re.search(pattern, said, re.IGNORECASE)]
    if fix:
        causes.insert(0, Cause("shown", "what stopped it says so itself", fix))
    again = _resumable(record)
    causes.append(Cause("possible" if causes else "likely", "when that is mended, the run can go on", again))
    seen = {"exception": first}
    if trace:
        seen["where"] = "\n".join(trace.strip().splitlines()[-TRACE_LINES:])
    says = f"the run {'stopped' if record.facts.status == 'stopped' else 'crashed'}{_where(record.last)}: {first}"
    return _told(record, "crashed", "error", says, tuple(causes), seen)


def _known(record: Record) -> list[tuple[str, Cause]]:
    """Exceptions whose cause is known, and what to set."""
    stage = record.last.stage if record.last and record.last.stage else "<stage>"
    spec = next((seen.spec for seen in record.stages if seen.name == stage), None)
    size = (spec.micro_batch or spec.batch) if spec else None
    smaller = f"stages.{stage}.micro_batch={max(1, size // 2)}" if size else f"a smaller stages.{stage}.micro_batch"
    if not (spec and spec.gradient_checkpointing):
        smaller += f", or stages.{stage}.gradient_checkpointing=true"
    alone = "resume all ranks together; the rank that failed first wrote its own exception to its log"
    return [
        (DEVICES, Cause("shown", "out of memory", smaller)),
        (DISK, Cause("shown", "the disk is full", "make room, or keep fewer saves: checkpoints.keep=1")),
        (NUMBER, Cause("likely", "the loss left the numbers; see what is said of the loss", "as told there")),
        (
            WORKERS,
            Cause("likely", "a loading process was killed", "workers=0, or give the container more shared memory"),
        ),
        (PEERS, Cause("likely", "another rank died or hung first", alone)),
    ]


def _where(last: Last | None) -> str:
    if last is None or last.own is None:
        return " before the first logged step"
    of = f" of {last.planned:,}" if last.planned else ""
    return f" in stage {last.stage}, step {last.own:,}{of}"


def _resumable(record: Record) -> str:
    if record.facts.status == "stopped" and not record.saves and record.last is None:
        return "start it anew: it had not begun"
    return _go_on(record)


def _go_on(record: Record) -> str:
    """The command that resumes the run, and how far back that goes."""
    ranks = _processes(record.facts)
    start = f"torchrun --nproc-per-node {ranks} -m sightline" if ranks and ranks > 1 else "sightline"
    command = f"{start} train --resume {record.folder}"
    done = record.history.last_step
    if not record.saves:
        return f"{command} (no checkpoint: it begins again; set checkpoints.every in the next run)"
    save = record.saves[-1]
    lost = max(0, done - save.step)
    return f"{command} (from checkpoint {save.name}" + (f"; {plural(lost, 'step')} are taken again)" if lost else ")")


def _processes(facts: Facts) -> int | None:
    said = facts.settings.get("processes", "")
    return int(said) if said.isdigit() else None


def _told(
    record: Record, name: str, severity: str, says: str, causes: tuple[Cause, ...], seen: dict[str, str] | None = None
) -> Diagnosis:
    last = record.last
    return Diagnosis(
        name,
        severity,  # type: ignore[arg-type]
        says,
        causes,
        last.stage if last else "",
        last.step if last else None,
        {"last step": record.history.last_step, **(seen or {})},
    )

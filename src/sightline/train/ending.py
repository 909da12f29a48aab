"""How a run ended, written into its directory with the report, by whichever process can."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

from sightline.errors import Elsewhere, UserError
from sightline.report.page import write_report
from sightline.train.clock import Clock
from sightline.train.directory import RunDirectory
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.verdict import RanksLost

TRACE = 4000  # characters of a traceback that run.json keeps


def close(run: RunDirectory, clock: Clock, status: str, error: str | None, trace: str | None = None) -> None:
    """Write down the end, and the report. On a run that ended badly neither may hide why (a full disk, say)."""
    with contextlib.nullcontext() if status == "finished" else contextlib.suppress(OSError, UserError):
        ended = {"status": status, "error": error, "finished": datetime.now(UTC).isoformat()}
        run.record(**ended, **({"traceback": trace} if trace else {}), time=dict(clock.seconds))
        write_report(run.path)


def abandon(run: RunDirectory, ranks: Ranks, error: RanksLost) -> None:
    """Write down that ranks were lost: whichever rank tells of it does so, where that is not the main one."""
    if not ranks.main and not isinstance(error, Elsewhere) and (run.path / "run.json").is_file():
        run.catch_up()
        close(run, Clock(run.facts.get("time")), "failed", str(error))

"""`sightline report`: the page of a run, written anew from its files."""

from __future__ import annotations

from pathlib import Path

from sightline.commands.terminal import say
from sightline.report.page import write_report


def report(run: Path) -> None:
    """Write report.html into `run` and say where it is."""
    say(f"report: {write_report(run).resolve().as_uri()}")

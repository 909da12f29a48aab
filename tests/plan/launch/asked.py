"""Jobs to write files for: shipped recipes on machines."""

from __future__ import annotations

from typing import Any

from sightline.plan.launch.job import Asked, Job, job
from sightline.recipe import load

PAIR = ("stages.see.batch=64", "stages.instruct.batch=64")


def made(*overrides: str, **asked: Any) -> Job:
    """The quickstart on the machines of `asked`."""
    return job(load("quickstart", (*PAIR, *overrides)), Asked(**asked))

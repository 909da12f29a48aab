"""Settings for the whole suite, made before any test imports torch or transformers."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forked import Forks

# No test may need the network: a hub id that is not on disk must fail at once, not after a time-out.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["WANDB_MODE"] = "offline"

# The tests' models are so small that a second thread costs more than it gives; a fixed count fixes the order of sums.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Messages are compared as text: no colour, no wrapping at the width of somebody's terminal.
os.environ["NO_COLOR"] = "1"
os.environ["COLUMNS"] = "160"
os.environ.pop("FORCE_COLOR", None)

# Here a rule is tried in many ways to write the same script: the first of them are quick, the others are slow tests.
WIDE = tuple(Path(__file__).parent / place for place in ("attach", "hosts/torch_loop"))
FIRST = 2


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` is asked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen: Counter[str] = Counter()
    for item in items:
        test = item.nodeid.partition("[")[0]
        seen[test] += 1
        if seen[test] > FIRST and any(item.path.is_relative_to(place) for place in WIDE):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def _what_was_there_is_left_alone() -> None:
    """What other modules' tests and imports have left is for good: the guard looks for objects among the others alone.

    A process of tests has ten times the objects of a script, and each run of the guard looks for optimizers once.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Runs scripts in processes that need not import torch anew: see `tests/forked.py`."""
    forks = Forks()
    yield forks
    forks.close()

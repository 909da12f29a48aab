"""Signals: one asks for a save, the same one sent on by a launcher asks for nothing more, a later one ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from sightline.train import interrupt
from sightline.train.interrupt import watched_signals


def test_a_signal_that_is_sent_on_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with watched_signals() as interrupts, interrupts.held():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.number == signal.SIGTERM
        monkeypatch.setattr(interrupt, "REPEATED", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_loop_it_acts_at_once() -> None:
    with watched_signals(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


FED = """
import signal, sys, time
import sightline.train.feed as feed

if sys.argv[1] == "together":
    feed._apart = None

class Plan:
    accumulate = 1

class Feed:
    plan, seed = Plan(), 0

    def orders(self, first):
        return range(100)

    def __getitem__(self, order):
        time.sleep(0.02)
        return order

signal.signal(signal.SIGTERM, lambda *_: None)
for number, _ in enumerate(feed.steps(Feed(), 0, 1)):
    if number == 10:
        print("ready", flush=True)
print("all")
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["apart", "together"])
def test_a_signal_to_the_group_leaves_the_loading_processes_alone(how: str) -> None:
    """torchrun signals a rank's whole process group; a loading process that ends would end the run before it saved."""
    command = [sys.executable, "-c", FED, how]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGTERM)
    out, error = process.communicate(timeout=240)
    assert (out == "all\n") == (how == "apart"), error
    assert how == "apart" or "DataLoader worker" in error

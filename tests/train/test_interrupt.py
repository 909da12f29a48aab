"""Signals: one asks for a save, the same one sent on by a launcher asks for nothing more, a later one ends it."""

from __future__ import annotations

import os
import signal

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

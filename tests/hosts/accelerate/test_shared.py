"""Faults of tests/hosts/shared in this host: found, and nothing in their clean twins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.hosts.accelerate.training import train
from tests.hosts.planting import same
from tests.hosts.shared import asked
from tests.hosts.shared.every import planted_in
from tests.hosts.task import Fault, proved

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.slow
@pytest.mark.parametrize("fault", planted_in("accelerate"))
def test_found_in_the_task_and_not_in_its_twin(fault: Fault, tmp_path: Path) -> None:
    proved(fault, lambda task: train(task, tmp_path))


@pytest.mark.parametrize("fault", [asked.only_the_last_norm_learns, asked.an_accuracy_over_positions_without_a_label])
def test_what_a_script_asks_changes_no_bit(fault: Fault, tmp_path: Path) -> None:
    asks, silent = fault(False), replace(fault(False), asks=lambda guard: None)
    train(asks, tmp_path)
    train(silent, tmp_path)
    assert same(asks.model, silent.model)

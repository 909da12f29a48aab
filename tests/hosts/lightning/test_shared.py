"""Faults of tests/hosts/shared in this host: found, and nothing in their clean twins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts.lightning.training import train
from tests.hosts.shared.every import planted_in
from tests.hosts.task import Fault, proved

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.slow
@pytest.mark.parametrize("fault", planted_in("lightning"))
def test_found_in_the_task_and_not_in_its_twin(fault: Fault, tmp_path: Path) -> None:
    proved(fault, lambda task: train(task, tmp_path))

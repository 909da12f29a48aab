"""Faults of tests/hosts/shared in this host: found, and nothing in their clean twins.

Its trainers are those of transformers, where the same faults are looked for each time; here with `-m slow`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts.shared.every import planted_in
from tests.hosts.task import Fault, proved
from tests.hosts.trl.training import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.mark.parametrize("fault", planted_in("trl"))
def test_found_in_the_task_and_not_in_its_twin(fault: Fault, tmp_path: Path) -> None:
    proved(fault, lambda task: train(task, tmp_path))

"""State bytes under DeepSpeed's ZeRO against what gloo processes really hold, to the byte."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from sightline.plan.layouts import World, state_of
from sightline.plan.memory import StateBytes
from tests.plan.rehearsed import ALIGN, TUNE, model
from tests.plan.zero import ZERO, held_by_a_rank

SIZE = {"words": 501, "width": 384}  # so that some weights have more elements than those that ZeRO-3 keeps whole

pytestmark = [
    pytest.mark.ddp,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed (sightline[deepspeed])"),
]


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("learn", [ALIGN, TUNE], ids=["frozen-language", "language-learns"])
def test_zero_state_is_what_a_process_holds(learn: dict[str, str], world: int, tmp_path: Path) -> None:
    held = held_by_a_rank(world, learn, SIZE, tmp_path)
    made = model(learn, **SIZE)
    planned = {kind: sum(state_of(made, kind, World(world, 1, 1.0, 1.0)).values(), StateBytes()) for kind in ZERO}
    assert planned == held

"""What is said of ranks that are gone, hang, never came, or are unlike the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sightline.errors import UserError
from sightline.train.parallel.machines import Machine, ranks_told, unlike
from sightline.train.parallel.places import place_in, place_of
from sightline.train.parallel.verdict import absent, by_others, judge, remedy

GIB = 2**30
H100 = Machine("node-1", 7, "cuda", "NVIDIA H100 80GB HBM3", 80 * GIB, "2.13.0")
A100 = Machine("node-2", 9, "cuda", "NVIDIA A100-SXM4-80GB", 80 * GIB, "2.13.0")
SMALL = Machine("node-2", 9, "cuda", "NVIDIA H100 80GB HBM3", 40 * GIB, "2.13.0")
CPU = Machine("node-1", 7, "cpu", "cpu", 0, "2.13.0")
CLOSED = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:5526."
HERE = "train/parallel/ranks.py:52 sum"


def test_ranks_alike_are_no_matter() -> None:
    assert unlike({0: H100, 1: H100, 2: Machine("node-2", 8, "cuda", H100.name, H100.memory - GIB, "2.13.0")}) is None
    assert unlike({0: CPU, 1: CPU}) is None


@pytest.mark.parametrize(("other", "said"), [(A100, "A100-SXM4-80GB, 80 GiB (node-2)"), (SMALL, "40 GiB (node-2)")])
def test_unlike_gpus_are_told_by_rank(other: Machine, said: str) -> None:
    told = unlike({0: H100, 1: H100, 2: other, 3: other})
    assert told is not None and "ranks 0-1: NVIDIA H100" in told and "ranks 2-3: " in told and said in told


def test_kinds_of_device_and_versions_of_torch_that_cannot_be_in_one_run() -> None:
    with pytest.raises(UserError, match="ranks 0, 2: cuda; rank 1: cpu"):
        unlike({0: H100, 1: CPU, 2: H100})
    with pytest.raises(UserError, match=r"rank 1: 2\.11\.0"):
        unlike({0: H100, 1: Machine("node-2", 9, "cuda", H100.name, H100.memory, "2.11.0")})


def test_ranks_are_told_in_runs() -> None:
    assert ranks_told([5, 0, 1, 2]) == "ranks 0-2, 5" and ranks_told([3]) == "rank 3"


def test_a_silent_rank_is_gone_and_one_elsewhere_hangs() -> None:
    places = {0: HERE, 1: "data/images.py:40 load_image", 2: HERE}
    machines = {0: CPU, 1: A100, 2: CPU}
    gone = judge(0, [1], places, machines, CLOSED, 8.0)
    assert gone.lost == (1,) and gone.said.startswith("rank 1 (node-2 process 9) does not answer any more")
    assert "last seen at data/images.py:40 load_image" in gone.said
    hangs = judge(0, [], places, machines, "Timed out", 600.0)
    assert hangs.lost == (1,) and "did not come to where the others waited, for 600 s" in hangs.said
    assert "it is alive, rank 1 at data/images.py:40 load_image" in hangs.said
    net = judge(0, [], dict.fromkeys(places, HERE), machines, CLOSED, 8.0)
    assert net.lost == () and "all are alive (Connection closed by peer" in net.said


def test_who_never_arrived() -> None:
    verdict = absent(0, [1, 3], {0: CPU, 2: A100}, 4, 600.0)
    said = "2 of 4 ranks never arrived in 600 s: ranks 1, 3; ranks 0, 2 arrived (node-1, node-2)"
    assert verdict.said == said and verdict.lost == (1, 3)


def test_what_to_do_depends_on_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "sightline train --resume runs/one" in remedy(Path("runs/one"))
    assert "start all of them again" in remedy(None)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert "starts all ranks anew (2 more times)" in remedy(Path("runs/one"))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "3")
    assert "--resume runs/one" in remedy(Path("runs/one"))


def test_a_restart_must_know_where_the_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from sightline.commands.train import train

    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(UserError, match="--out: torchrun starts the ranks anew, and nothing says where the run is"):
        train(None, None, None)


def test_errors_that_tell_of_other_ranks() -> None:
    wrapped = UserError("the checkpoint could not be written")
    wrapped.__cause__ = RuntimeError(CLOSED)
    assert by_others(RuntimeError(CLOSED)) and by_others(wrapped)
    assert not by_others(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not by_others(UserError("a broken row")) and not by_others(OSError(104, "Connection reset by peer"))


def test_an_error_and_a_waiting_thread_are_at_one_place() -> None:
    import sys

    frames = []

    class Looking(torch.optim.Optimizer):
        def __init__(self) -> None: ...

        @property
        def param_groups(self) -> list[dict[str, object]]:  # type: ignore[override]
            frames.append(place_in(sys._getframe()))
            raise RuntimeError(CLOSED)

    from sightline.train.groups import rates

    with pytest.raises(RuntimeError) as caught:
        rates(Looking())
    assert frames == [place_of(caught.value)] and frames[0].startswith("train/groups.py:")

"""L10 on bare evidence: what a run reads and writes, with and without a token."""

from __future__ import annotations

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.data.unauthenticated_gated_model import find
from sightline.guard.evidence import AccessSeen

LLAMA = "meta-llama/Llama-3.2-1B"


@pytest.mark.parametrize(
    "seen",
    [
        AccessSeen(0, token=False),
        AccessSeen(0, token=True, repos=(LLAMA,)),
        AccessSeen(0, token=True, push="me/model"),
        AccessSeen(0, token=True, refused="org/mine"),  # a token of somebody else's: its scope only the hub knows
        AccessSeen(0, token=False, offline=True),
    ],
)
def test_silent(seen: AccessSeen) -> None:
    assert find(seen) is None


@pytest.mark.parametrize(
    ("seen", "severity", "says"),
    [
        (AccessSeen(0, token=False, push="me/model"), "error", "pushes to 'me/model'"),
        (AccessSeen(0, token=False, push=""), "error", "pushes to the hub"),
        (AccessSeen(0, token=False, repos=("org/open", LLAMA)), "note", LLAMA),
        (AccessSeen(0, token=False, repos=("org/open", LLAMA), unread=("org/open",)), "note", LLAMA),
        (AccessSeen(0, token=False, repos=(LLAMA,), unread=(LLAMA,)), "warning", "trained without it"),
        (AccessSeen(0, token=False, repos=("org/mine",), refused="org/mine"), "error", "refused 'org/mine'"),
        (AccessSeen(0, token=True, push="me/model", offline=True), "error", "HF_HUB_OFFLINE"),
    ],
)
def test_found(seen: AccessSeen, severity: str, says: str) -> None:
    verdict = find(seen)
    assert isinstance(verdict, Finding) and verdict.severity == severity and says in verdict.message


def test_cannot_tell_who_may_read() -> None:
    assert isinstance(find(AccessSeen(0, token=False, repos=("org/some-model",))), CannotTell)

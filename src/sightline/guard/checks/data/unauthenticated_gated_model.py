"""L10 · The run needs a repository that asks who it is, and no token is in sight.

Symptom: "401 Client Error", "GatedRepoError" or "Repository Not Found" after minutes of start-up, or at the first save,
when hours of training are done and shall be pushed; or no error, where the script catches it and trains a stand-in.
Root cause: no token in the environment of this process: a login on another machine, a job without the variable, a
container without the file. A private repository that nobody may see is reported as not found.
Fix: `HF_TOKEN` in the job's environment (or `hf auth login`) before anything is built, with write scope where the run
pushes; accept the terms of a gated model on its page with the account of that token.
Stays silent when: a token is in sight (whether its scope suffices only the hub knows); nothing is pushed, and models
are folders, or in the local cache, or open to everybody. Never prints a token.
Sources:
- https://github.com/huggingface/autotrain-advanced/issues/312 (2023-10-23): no token, found out when pushing
- https://github.com/katanaml/sparrow/issues/21 (2023-07-27): 403 after an epoch of training
- https://github.com/huggingface/huggingface_hub/issues/2002 (2024-01-26): a token of another scope
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Severity, Verdict
from sightline.guard.evidence import AccessSeen
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vlm", "vision", "diffusion")
GATED = (  # families that ask for their terms to be accepted: worth a note, for only the hub knows
    "meta-llama/",
    "google/gemma-",
    "google/paligemma",
    "black-forest-labs/FLUX.1-dev",
    "stabilityai/stable-diffusion-3",
    "CohereLabs/",
    "bigcode/starcoder",
)


def find(access: AccessSeen) -> Verdict:
    """What is written and what is gated, against the token."""
    gated = [repo for repo in access.repos if repo.startswith(GATED)]
    if access.push is not None and access.offline:
        return _finding(f"the run pushes to {_named(access.push)}, and HF_HUB_OFFLINE is on", "unset it", access)
    if access.token:
        return None
    if access.refused is not None:
        fix = "set HF_TOKEN (it is not set) before anything is built, with an account that may read it"
        return _finding(f"the hub refused '{access.refused}', and no token is in sight", fix, access)
    if access.push is not None:
        fix = "set HF_TOKEN to a token with write scope (it is not set), or push_to_hub=False"
        return _finding(f"the run pushes to {_named(access.push)}, and no token is in sight: 401", fix, access)
    if gated:
        fix = "set HF_TOKEN (it is not set) before anything is built, with an account that accepted the terms"
        if unread := [repo for repo in gated if repo in access.unread]:
            what = f"{unread[0]} is gated and was not read (no token is in sight), and the run trained without it"
            return _finding(what, fix, access, "warning")
        what = f"{gated[0]} is gated, not in the local cache, and no token is in sight"
        return _finding(what, fix, access, "note")
    if access.repos:
        return CannotTell(f"word on whether {access.repos[0]} is open to everybody")
    return None


def _named(repository: str) -> str:
    return f"'{repository}'" if repository else "the hub"


def _finding(message: str, fix: str, access: AccessSeen, severity: Severity = "error") -> Finding:
    return Finding(
        severity=severity,
        message=message,
        fix=fix,
        seen={"token in sight": access.token, "reads": list(access.repos), "writes": access.push},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """A run that pushes, as a host shows it."""
    from torch import nn
    from torch.optim import SGD

    token = True
    if faulty:
        token = False
    model = nn.Linear(2, 2)
    run.attach(model, SGD(model.parameters(), lr=0.1)).show(AccessSeen(0, token, push="somebody/model"))

"""What a run needs of a model hub, told without asking it: which repositories, and whether a token is in sight."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from sightline.guard.evidence import AccessSeen

REPOSITORY = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # as huggingface_hub reads them, the newer name first
YES = ("1", "ON", "YES", "TRUE")


def access_seen(
    repos: Iterable[str] = (),
    push: str | None = None,
    *,
    token: bool = False,
    refused: str | None = None,
    unread: Iterable[str] = (),
    step: int = 0,
    environment: Mapping[str, str] | None = None,
) -> AccessSeen:
    """The evidence. Reads no token, only whether there is one; opens no connection.

    Args:
        repos: names of models or data sets as the run gives them; folders and what the cache holds are left out.
        push: the repository to write to, "" where the hub names it; None for none.
        token: whether the run gives a token by itself.
        refused: what the hub turned the run away from, so that it ended.
        unread: what could not be read, and the run trained without it.
        environment: instead of this process's.
    """
    known = os.environ if environment is None else environment
    wanted = tuple(dict.fromkeys(name for name in repos if _remote(name, known)))
    offline = any(known.get(name, "").upper() in YES for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return AccessSeen(step, token or _token(known), wanted, push, offline, refused, tuple(unread))


def _token(environment: Mapping[str, str]) -> bool:
    if any(environment.get(name, "").strip() for name in TOKENS):
        return True
    place = Path(environment.get("HF_TOKEN_PATH") or _home(environment) / "token")
    try:
        return place.stat().st_size > 0
    except OSError:
        return False


def _home(environment: Mapping[str, str]) -> Path:
    cache = Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(environment.get("HF_HOME") or cache / "huggingface").expanduser()


def _remote(name: str, environment: Mapping[str, str]) -> bool:
    if not REPOSITORY.match(name) or Path(name).exists():
        return False
    cache = Path(environment.get("HF_HUB_CACHE") or _home(environment) / "hub")
    folder = name.replace("/", "--")
    return not any((cache / f"{kind}--{folder}" / "snapshots").is_dir() for kind in ("models", "datasets"))

"""What a script asks of a model hub, and whether the hub turned it away. Nothing is asked of the hub by us.

Names are noted where `huggingface_hub` is asked to download, which is where all libraries end up. That a repository is
closed is proven by the error alone that ended the script; of one that was not read and did not end it, its name tells.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

REFUSED = ("GatedRepoError", "RepositoryNotFoundError", "LocalTokenNotFoundError")  # the second hides what is private
ASKS = "auth_check"
UNKNOWN = (401, 403)  # HTTP: who are you; you may not
PLACE = re.compile(r"https?://[^/]+/(?:api/)?(?:models/|datasets/|spaces/)?([\w.-]+/[\w.-]+)")


class Hub:
    """The repositories that a script asked for."""

    def __init__(self) -> None:
        self._asked: dict[str, bool] = {}  # name -> whether it was asked with a token of its own
        self._read: set[str] = set()

    def on_import(self) -> Mapping[str, Callable[[], None]]:
        """Module -> what to do once it is there."""
        places = {"huggingface_hub.file_download": "hf_hub_download"}
        places["huggingface_hub._snapshot_download"] = "snapshot_download"
        places["huggingface_hub.hf_api"] = ASKS  # before anything is read
        return {place: functools.partial(self._wrap, place, name) for place, name in places.items()}

    def _wrap(self, place: str, function: str) -> None:
        module: Any = sys.modules[place]
        download = getattr(module, function)

        @functools.wraps(download)
        def asked(*args: Any, **kwargs: Any) -> Any:
            name = args[0] if args else kwargs.get("repo_id")
            if isinstance(name, str):
                self._asked[name] = isinstance(kwargs.get("token"), str)
            result = download(*args, **kwargs)
            if function != ASKS:
                self._read.add(str(name))
            return result

        setattr(module, function, asked)

    def records(self, error: BaseException | None, *, trained: bool) -> list[dict[str, object]]:
        """The verdict on it, as a model's records are; [] where nothing was asked.

        `error`: what ended the script. `trained`: whether it trained a model, of whatever name.
        """
        refused = next((place for one in _chain(error) if (place := _refused(one)) is not None), None)
        if (not self._asked and refused is None) or "torch" not in sys.modules:
            return []
        from sightline.attach.access import access_seen
        from sightline.guard.catalogue import load, page
        from sightline.guard.watch import Watch

        watch = Watch(load((page("L10"),)))
        token, unread = any(self._asked.values()), [name for name in self._asked if trained and name not in self._read]
        watch.offer(access_seen(self._asked, token=token, refused=refused, unread=unread))
        return watch.records()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _refused(error: BaseException) -> str | None:
    """The repository that the hub refused, where this is the hub's own word for it."""
    kinds = [kind for kind in type(error).__mro__ if kind.__module__.startswith("huggingface_hub")]
    status = getattr(vars(error).get("response"), "status_code", None)  # a property of it may raise
    if not kinds or not (any(kind.__name__ in REFUSED for kind in kinds) or status in UNKNOWN):
        return None
    found = PLACE.search(str(error))
    return found[1] if found else "a repository"

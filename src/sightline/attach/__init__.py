"""The guard's doors: one module a host. ``sightline.attach(model, optimizer, ...)`` is the door for a PyTorch loop.

This package is callable, so that the verb and the room share the name; calling it imports torch, importing it does not.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.attach.torch_loop import Attachment


class _Door(ModuleType):
    """A module that can be called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Attachment:
        """See `sightline.attach.torch_loop.attach`."""
        from sightline.attach.torch_loop import attach

        return attach(*args, **kwargs)


sys.modules[__name__].__class__ = _Door

"""What a callback passes on to `sightline.attach`: known options only, told before training begins."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any

from sightline.attach.torch_loop import attach
from sightline.errors import UserError, nearest


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as a dictionary. Raises UserError for one that `sightline.attach` does not know."""
    known = [name for name, p in signature(attach).parameters.items() if p.kind is Parameter.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise UserError(f"'{name}' is no option of the guard", where="GuardCallback", fix=nearest(name, known))
    return dict(options)

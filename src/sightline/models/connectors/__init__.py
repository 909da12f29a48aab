"""Connectors: how vision features become language embeddings. One file each; its name is the recipe's `connector.kind`.

A connector file has two functions:

- `tokens(count, spec) -> int`: language tokens made of `count` vision tokens;
- `build(width_in, width_out, spec) -> nn.Module`: a module from (N, P, width_in) to (N, tokens(P), width_out).

One that reads `connector.layers` and `connector.start` says so with `LAYERED = True`; its module may tell its layers
(`blocks`) and what the first of them reads though it is registered behind them (`inputs`).
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from torch import nn

from sightline.errors import UserError, nearest
from sightline.recipe.schema import ConnectorSpec

WHERE = "model.compose.connector"


def known() -> tuple[str, ...]:
    """The kinds of connector, as a recipe writes them."""
    return tuple(sorted(info.name.replace("_", "-") for info in pkgutil.iter_modules(__path__)))


def _module(spec: ConnectorSpec) -> ModuleType:
    kind = spec.kind.replace("_", "-")
    if kind not in known():
        raise UserError(
            f"no connector is called '{spec.kind}' ({nearest(kind, known())})",
            where=f"{WHERE}.kind",
            fix=f"set {WHERE}.kind to one of {', '.join(known())}",
        )
    return _by_name(kind)


def _by_name(kind: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{kind.replace('-', '_')}")


def token_count(count: int, spec: ConnectorSpec) -> int:
    """Language tokens that an image of `count` vision tokens takes. Raises UserError where the grid does not fit."""
    return int(_module(spec).tokens(count, spec))


def build_connector(width_in: int, width_out: int, spec: ConnectorSpec) -> nn.Module:
    """The connector that `spec` names, from vision width to language width. Raises UserError for an unknown kind."""
    if width_in < 1 or width_out < 1:
        raise UserError(f"a connector cannot join widths {width_in} and {width_out}", where=WHERE)
    module = _module(spec)
    for key, told in (("layers", spec.layers), ("start", spec.start)):
        if told != type(told)() and not getattr(module, "LAYERED", False):
            kinds = ", ".join(kind for kind in known() if getattr(_by_name(kind), "LAYERED", False))
            what = f"a {spec.kind} has no cross-attention for '{key}' to change"
            raise UserError(what, where=f"{WHERE}.{key}", fix=f"leave it out, or choose one of {kinds}")
    return module.build(width_in, width_out, spec)

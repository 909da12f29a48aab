"""How far do a model's rotary positions reach? Read from the frequencies it runs with, not from its config alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sightline.guard.evidence import ContextSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.refused import refusable
from sightline.guard.probes.restore import untouched

GROWS = ("dynamic", "longrope")
FULL = "full_attention"  # of models with several kinds of layers, the one that looks back without a window


def context(model: nn.Module, step: int) -> ContextSeen | None:
    """The reach of `model`'s rotary embedding; None for a model without one, or without a config that says its reach.

    Touches nothing of the model: the frequencies are a buffer, and a second rotary embedding is made beside it.
    """
    config = getattr(model, "config", None)
    ask = getattr(config, "get_text_config", None)
    config = ask() if callable(ask) else config
    trained, rotary = getattr(config, "max_position_embeddings", None), _rotary(model, config)
    if rotary is None or not isinstance(trained, int):
        return None
    said = _said(config)
    theta = said.get("rope_theta") or getattr(config, "rope_theta", None)
    original, factor = said.get("original_max_position_embeddings"), said.get("factor")
    kind = str(said.get("rope_type") or said.get("type") or "default")
    return ContextSeen(
        step=step,
        trained=trained,
        original=original if isinstance(original, int) else None,
        kind=kind,
        factor=float(factor) if isinstance(factor, int | float) else None,
        running=_stretch(_frequencies(rotary, kind), theta),
        reloaded=_stretch(_frequencies(_anew(rotary, config), kind), theta),
        source=_source(config, trained, theta),
    )


@refusable
def widened(call: Call, part: nn.Module, seen: ContextSeen) -> ContextSeen | None:
    """The same with how long rows are for `part`, where the host's own module puts other features beside the tokens.

    The host's call is repeated once. None where it cannot be, or where nothing was put there.
    """
    ids, rotary = call.tensor("input_ids"), _rotary(part, getattr(part, "config", None))
    inner = next((m for m in part.modules() if any(child is rotary for child in m.children())), None)
    if ids is None or ids.dim() != 2 or inner is None or rotary is None or not call.repeatable:
        return None
    found: list[int] = []

    def given(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows, mask = kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
        if not isinstance(rows, Tensor) or rows.dim() != 3 or kwargs.get("position_ids") is not None:
            return
        if isinstance(mask, Tensor) and mask.shape == rows.shape[:2]:
            found.append(int(mask.bool().sum(dim=1).max()))
        else:  # which of the tokens are padding is not known: there is one at least
            found.append(rows.shape[1] - ids.shape[1] + 1)

    handle = inner.register_forward_pre_hook(given, with_kwargs=True)
    try:
        with untouched(call.model), torch.no_grad():
            call.model.eval()
            call.run()
    finally:
        handle.remove()
    return replace(seen, longest=max(found)) if found else None


def _rotary(model: nn.Module, config: Any) -> nn.Module | None:
    """The first module that keeps rotary frequencies and was made from this config."""
    for module in model.modules():
        own = getattr(module, "config", None)
        alike = own is config or getattr(own, "model_type", 0) == getattr(config, "model_type", 1)
        if alike and _frequencies(module) is not None:
            return module
    return None


def _frequencies(module: nn.Module | None, kind: str = "default") -> Tensor | None:
    """A module's inverse frequencies; of kinds that exchange them when a long row comes, those it began with."""
    names = ("original_inv_freq", "inv_freq") if kind in GROWS else ("inv_freq",)
    for prefix in ("", f"{FULL}_"):
        for name in names:
            found = getattr(module, prefix + name, None)
            if isinstance(found, Tensor) and found.dim() == 1 and len(found):
                return found
    return None


def _said(config: Any) -> Mapping[str, Any]:
    """What the config says of its rotary positions, under transformers 5's name or the older one."""
    said = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if isinstance(said, Mapping) and isinstance(said.get(FULL), Mapping):
        return said[FULL]
    return said if isinstance(said, Mapping) else {}


def _source(config: Any, trained: int, theta: Any) -> int | None:
    """The shorter context, without a stretch, of the folder that the weights came from."""
    file = Path(str(getattr(config, "name_or_path", "") or "")) / "config.json"
    try:
        saved = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (OSError, ValueError):
        return None
    if not isinstance(saved, Mapping):
        return None
    saved = saved.get("text_config") or saved
    said = saved.get("rope_parameters") or saved.get("rope_scaling") or {}
    said = said.get(FULL, said)
    length, was = saved.get("max_position_embeddings"), {**saved, **said}.get("rope_theta")
    plain = said.get("rope_type", said.get("type", "default")) == "default"
    return length if plain and isinstance(length, int) and length < trained and was == theta else None


def _stretch(frequencies: Tensor | None, theta: Any) -> tuple[float, float] | None:
    if frequencies is None or frequencies.is_meta or not isinstance(theta, int | float):
        return None
    plain = float(theta) ** -(torch.arange(len(frequencies), dtype=torch.float64) / len(frequencies))
    ratios = plain / frequencies.detach().double().cpu()
    return float(ratios.min()), float(ratios.max())


def _anew(rotary: nn.Module, config: Any) -> nn.Module | None:
    """The same kind of module, made from what the config says now."""
    try:
        with torch.device("cpu"), torch.no_grad():
            return type(rotary)(config=config)
    except (TypeError, ValueError, KeyError, AttributeError):  # made in another way: there is no second one
        return None

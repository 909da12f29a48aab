"""Layers of the towers: what is written down of each, now and then, for `sightline doctor`.

A step that is looked into computes what every other step computes. Norms are taken of what the step leaves behind; what
happens inside is taken from the first micro-batch's forward pass, beside it, and stays on the device until it is
written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sightline.models.vlm import VLM
from sightline.train.measure import UpdateRatio, gradient_norms
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.sharded import norm
from sightline.train.step import StepResult

FEW = 16  # modules of a tower without blocks that are told one by one
ROWS, QUERIES = 2, 32  # of a micro-batch, whose attention is looked at
DEAD = 1e-5  # an activation below this says nothing (TheDeepChecker, arXiv 2204.00480)
ATTENTION = torch.nn.functional.scaled_dot_product_attention
ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
SOFTMAX = (torch.nn.functional.softmax, torch.softmax, Tensor.softmax)
ACTIVATIONS = ("torch.nn.modules.activation", "transformers.activations")


def layers_of(model: VLM) -> dict[str, list[Tensor]]:
    """The parameters that learn, by layer, in the order in which a picture and its question pass through.

    A tower of blocks has the layers `<tower>.in`, `<tower>.0` and so on, and `<tower>.out`; any other has its modules.
    """
    found: dict[str, list[Tensor]] = {}
    taken: set[int] = set()
    for tower in model.towers:
        blocks = model.blocks(tower)
        places = {id(p): f"{tower}.{number}" for number, block in enumerate(blocks) for p in block.parameters()}
        below = {id(p) for module in model.inputs(tower) for p in module.parameters()}
        own: dict[str, list[Tensor]] = {f"{tower}.in": []} if blocks else {}
        own |= {f"{tower}.{number}": [] for number in range(len(blocks))}
        reached = False
        for name, parameter in model.tower_parameters(tower):
            place = places.get(id(parameter))
            reached = reached or place is not None
            if place is None:
                end = "out" if reached and id(parameter) not in below else "in"
                place = f"{tower}.{end}" if blocks else name.rpartition(".")[0] or name
            if parameter.requires_grad and id(parameter) not in taken:
                taken.add(id(parameter))
                own.setdefault(place, []).append(parameter)
        if not blocks and len(own) > FEW:
            own = {tower: [p for parameters in own.values() for p in parameters]}
        found |= {name: parameters for name, parameters in own.items() if parameters}
    return found


class LayersSeen:
    """One step's layers: made before the step, entered around it, and told afterwards."""

    def __init__(self, model: VLM) -> None:
        self._layers = layers_of(model)
        self._ratio = UpdateRatio(self._layers)
        self._inside = _Inside(model)

    def __enter__(self) -> Self:
        self._inside.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._inside.silence()

    def told(self, result: StepResult, clip: Any, ranks: Ranks) -> dict[str, dict[str, float | None]]:
        """Norms before clipping (None: no gradient came), of the weights, and of the update; entropies; dead shares.

        Every rank is to ask.
        """
        reached = {name: ps for name, ps in self._layers.items() if any(p.grad is not None for p in ps)}
        total = float(result.grad_norm)
        norms: dict[str, float | None] = dict.fromkeys(self._layers)
        norms |= gradient_norms(reached, total, clip if isinstance(clip, float) else None)
        if isinstance(clip, dict):
            for tower, before in result.tower_norms.items():
                most = clip.get(tower)
                shrunk = min(1.0, most / float(before)) if most is not None and float(before) > 0 else 1.0
                norms |= {n: v / shrunk for n, v in norms.items() if v is not None and n.partition(".")[0] == tower}
        weights = {name: float(norm([p.detach() for p in own])) for name, own in self._layers.items()}
        ratios = self._ratio.after_step(ranks)
        told: dict[str, Any] = {"grad_norm": norms, "weight_norm": weights, "update_ratio": ratios}
        told |= self._inside.told()
        return {kind: {name: _short(value) for name, value in values.items()} for kind, values in told.items()}


class _Inside:
    """Hooks on blocks and activations: the share of dead units, and how spread attention is."""

    def __init__(self, model: VLM) -> None:
        self._model = model
        self._entropy: dict[str, list[Tensor]] = {}
        self._dead: dict[str, Tensor] = {}
        self._handles: list[Any] = []
        self._open: dict[str, _Looking] = {}
        self._done: set[str] = set()

    def listen(self) -> None:
        for tower in self._model.towers:
            blocks = self._model.blocks(tower)
            for number, block in enumerate(blocks):
                name = f"{tower}.{number}"
                self._handles.append(block.register_forward_pre_hook(self._enter(name)))
                self._handles.append(block.register_forward_hook(self._leave(name), always_call=True))
                self._watch_units(name, block)
            if not blocks:
                for path, module in self._model.tower_modules(tower):
                    self._watch_units(path, module)

    def silence(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def told(self) -> dict[str, dict[str, float]]:
        entropy = {name: torch.stack(seen).mean() for name, seen in self._entropy.items() if seen}
        return {"attention_entropy": _numbers(entropy), "dead_units": _numbers(self._dead)}

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, arguments: Any) -> None:
            if name not in self._done and name not in self._open:
                self._open[name] = _Looking(self._entropy.setdefault(name, []))
                self._open[name].__enter__()

        return enter

    def _leave(self, name: str) -> Callable[..., None]:
        def leave(module: nn.Module, arguments: Any, output: Any) -> None:
            if (looking := self._open.pop(name, None)) is not None:
                looking.__exit__(None, None, None)
                self._done.add(name)

        return leave

    def _watch_units(self, name: str, parent: nn.Module) -> None:
        for path, module in parent.named_modules():
            plain = not list(module.children()) and not list(module.parameters(recurse=False))
            if plain and type(module).__module__ in ACTIVATIONS and not isinstance(module, nn.Softmax):
                self._handles.append(module.register_forward_hook(self._units(name, f"{name}.{path}")))

    def _units(self, name: str, place: str) -> Callable[..., None]:
        def units(module: nn.Module, arguments: Any, output: Any) -> None:
            if place in self._done or type(output) is not Tensor or output.ndim < 2:
                return
            self._done.add(place)
            with torch.no_grad():  # without a copy of the activations, for which there may be no room
                seen = (
                    output.detach().transpose(0, 1).flatten(1) if output.ndim == 4 else output.detach().flatten(0, -2).T
                )
                share = (torch.maximum(seen.amax(1), -seen.amin(1)) < DEAD).float().mean()
            self._dead[name] = torch.maximum(self._dead[name], share) if name in self._dead else share

        return units


class _Looking(TorchFunctionMode):
    """Sees the attention of what runs inside; every function is called as it would be without it."""

    def __init__(self, entropy: list[Tensor]) -> None:
        self._entropy = entropy

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if func is ATTENTION:
            asked = dict(zip(ARGUMENTS, args, strict=False)) | kwargs
            if type(query := asked["query"]) is Tensor and type(key := asked["key"]) is Tensor and query.ndim == 4:
                mask, causal = asked.get("attn_mask"), bool(asked.get("is_causal"))
                self._entropy.append(attention_entropy(query, key, mask, causal, asked.get("scale")))
        elif func in SOFTMAX and type(found) is Tensor and found.ndim == 4:
            self._entropy.append(_spread(_some(found[:ROWS], 2)))
        return found


@torch.no_grad()
def attention_entropy(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    """Mean entropy of attention over its largest possible, from 0 (one place each) to 1 (all alike), 0-dim.

    Args:
        query: (B, H, T, D). key: (B, G, S, D), G dividing H. mask: (B or 1, H or 1, T, S), bool or added.
        causal: position t sees the first t + 1 alone. scale: of the scores; None: D ** -0.5.

    Of the first rows, at positions spread over each.
    """
    query, key = query[:ROWS].detach(), key[:ROWS].detach()
    length, width = query.shape[-2], query.shape[-1]
    places = _places(length, query.device)
    with torch.autocast(query.device.type, enabled=False):
        asked = query.index_select(2, places).float()
        by_key = asked.unflatten(1, (key.shape[1], -1)).flatten(2, 3)  # queries that share keys, side by side
        scores = (by_key @ key.float().transpose(-1, -2)).view(*asked.shape[:3], -1)
        scores = scores * (width**-0.5 if scale is None else scale)
    if causal:
        hidden = torch.arange(key.shape[-2], device=query.device)[None] > places[:, None]
        scores = scores.masked_fill(hidden, float("-inf"))
    if mask is not None:
        mask = mask[:ROWS].detach()
        mask = mask.index_select(2, places) if mask.shape[2] == length else mask
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask.float()
    return _spread(scores.softmax(-1))


def _some(weights: Tensor, dim: int) -> Tensor:
    return weights.detach().index_select(dim, _places(weights.shape[dim], weights.device))


def _places(length: int, device: torch.device) -> Tensor:
    return torch.arange(0, length, max(1, -(-length // QUERIES)), device=device)


@torch.no_grad()
def _spread(weights: Tensor) -> Tensor:
    """Mean over positions that see at least two places of entropy over the logarithm of how many they see."""
    weights = weights.float()
    seen = (weights > 0).sum(-1)
    entropy = torch.special.entr(weights).sum(-1) / seen.clamp_min(2).float().log()
    counted = (seen > 1).float()
    return (entropy.nan_to_num() * counted).sum() / counted.sum().clamp_min(1)


def _numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Numbers of 0-dim tensors, fetched together."""
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True)) if values else {}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")

"""A model that is read back with parts of it missing, or without any, and then used as if it were whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sightline.attach.hook import Hook
from sightline.attach.origins import ORIGINS
from sightline.attach.script_watch import Models, Watched
from sightline.guard.evidence import RoundTripSeen
from sightline.guard.evidence.answers import Prefix, prefix_between, renamed_between

ENOUGH = 8  # tensors that tell whether a module was given others after all
PATIENCE = 16  # calls of a module until one of its script's models is watched


def watch_reload(
    module: nn.Module, missing: Sequence[str], one: Watched, path: str, hook: Callable[[Callable[..., Any]], Hook]
) -> None:
    """Judge at `module`'s next forward pass whether what its file lacked came from elsewhere, or never did.

    Only where `module` is built as the model of `one` is, which was trained and saved; a head that is left out and then
    trained anew is as its author wants it.
    """
    if one.attachment is None or list(one.recorder.model.state_dict()) != list(module.state_dict()):
        return
    at_load = {name: value.clone() for name, value in _of(module, missing).items()}
    handles: list[Any] = []

    def used(*_: Any) -> None:
        handles.pop().remove()
        if torch.is_grad_enabled() or module.training or one.attachment is None:
            return
        trained = _of(one.recorder.model, missing)
        shared = {value.data_ptr() for value in _of(module, set(module.state_dict()) - set(missing)).values()}
        lost = tuple(
            name
            for name, value in _of(module, missing).items()
            if torch.equal(value, at_load[name])
            and not torch.equal(value, trained[name].to(value.device, value.dtype))
            and value.data_ptr() not in shared  # tied to what the file holds
        )
        if lost:
            compared = len(module.state_dict()) - len(missing)
            one.attachment.show(RoundTripSeen(one.recorder.step, path, compared, lost))

    handles.append(module.register_forward_pre_hook(hook(used)))


def watch_nothing_came(
    module: nn.Module, state: Mapping[str, Any], result: Any, path: str, models: Models, hook: Callable[..., Hook]
) -> None:
    """Judge at `module`'s next forward pass a state of which not one name was known, though with others they would fit.

    Another prefix for all, or another name for the part that they are of, which is as its initialiser left it.

    Nothing is concluded where the module was given its weights in another way before it is used.
    """
    missing, given = tuple(result.missing_keys), tuple(result.unexpected_keys)
    if not given or len(given) < len(state):
        return
    live = module.state_dict()
    prefix = prefix_between(missing, given)
    found = [_meant(live, state, missing, one) for one in ([prefix] if prefix else renamed_between(missing, given))]
    if sum(map(bool, found)) != 1:
        return
    meant = next(filter(None, found))
    parameters = dict(module.named_parameters(remove_duplicate=False))
    if prefix is None and not any(name in parameters and ORIGINS.fresh(parameters[name]) for name in meant):
        return
    at_load = {name: live[name].detach().clone() for name in list(meant)[:ENOUGH]}
    if all(torch.equal(value, meant[name].to(value.device, value.dtype)) for name, value in at_load.items()):
        return  # the very weights were there already
    handles: list[Any] = []
    calls: list[bool] = []  # whether it had what it was made with

    def used(*_: Any) -> None:
        now = module.state_dict()
        calls.append(calls[0] if calls else all(torch.equal(now[name], value) for name, value in at_load.items()))
        if models.live or not calls[0] or len(calls) >= PATIENCE:
            while handles:
                handles.pop().remove()
        if calls[0] and (one := _near(models, module)) is not None and one.attachment is not None:
            one.attachment.show(RoundTripSeen(one.recorder.step, path, 0, tuple(meant), given, loaded=True))

    def stepped(optimizer: Optimizer, *_: Any) -> None:
        mine = {id(parameter) for parameter in module.parameters()}
        if handles and any(id(p) in mine for group in optimizer.param_groups for p in group["params"]):
            used()

    handles.append(module.register_forward_pre_hook(hook(used)))
    handles.append(register_optimizer_step_pre_hook(hook(stepped)))  # a compiled module calls no hooks of its own


def _meant(
    live: Mapping[str, Any], state: Mapping[str, Any], missing: Sequence[str], prefix: Prefix
) -> dict[str, Tensor]:
    """Name of the module's own -> the value that it was to have; {} where these do not fit."""
    fits = {name: state[other] for name in missing if (other := prefix.other(name)) in state}
    tensors = {name: value for name, value in fits.items() if isinstance(value, Tensor)}
    return {} if any(live[name].shape != value.shape for name, value in tensors.items()) else tensors


def _near(models: Models, module: nn.Module) -> Watched | None:
    """The watched model that `module` is a part of, else the last one that was begun."""
    mine = {id(p) for p in module.parameters()}
    inside = [one for one in models.live if any(id(p) in mine for p in one.recorder.model.parameters())]
    return next(iter((*inside, *reversed(models.live))), None)


def _of(module: nn.Module, names: Sequence[str] | set[str]) -> dict[str, Tensor]:
    return {n: t.detach() for n, t in module.state_dict().items() if n in names and isinstance(t, Tensor)}

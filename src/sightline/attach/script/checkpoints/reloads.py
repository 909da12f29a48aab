"""A model that is read back with parts of it missing, or without any, and then used as if it were whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sightline.attach.hook import Hook, unwrapped
from sightline.attach.origins import ORIGINS
from sightline.attach.script.again import alike, few
from sightline.attach.script.watch import Models, Watched
from sightline.guard.evidence import RoundTripSeen
from sightline.guard.evidence.answers import Prefix, partly_prefixed, prefix_between, renamed_between
from sightline.guard.probes.call import Call
from sightline.guard.probes.reach import reach, tensors_of

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


def watch_half(
    module: nn.Module, state: Mapping[str, Any], missing: Sequence[str], models: Models, hook: Callable[..., Hook]
) -> None:
    """Judge a state that brought what a watched model had learned, from whatever file, and not all of that.

    What did not come must be as it was before training, and all that the model answers must hang on it: values from
    elsewhere are as their author wants them, and so is a part that is taken out of the live model, trained anew before
    the run is over, or an extra that is dropped.
    """
    found = ((one, _not_brought(module, one.recorder.model, state, set(missing))) for one in models.live)
    one, lost = next((each for each in found if each[1]), (None, []))
    if one is None:
        return
    named = dict(module.named_parameters(remove_duplicate=False))
    at_load = {name: few(named[name]).cpu() for name in lost}
    used, trained, compared = [False], [False], len(module.state_dict()) - len(missing)
    mine = {id(named[name]) for name in lost}

    def called(its: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if one.recorder.muted:
            return  # a pass of our own, for another state of the same module
        handles.pop(0).remove()
        now, recorder = its.state_dict(), one.recorder
        still = all(alike(few(now[name]).cpu(), value) for name, value in at_load.items())
        if still and not its.training and one.attachment is not None:
            with recorder.silence():
                used[0] = _all_move(Call(its, args, kwargs), lost, output)
        while handles and not used[0]:
            handles.pop().remove()

    def stepped(optimizer: Optimizer, *_: Any) -> None:
        trained[0] = trained[0] or any(id(p) in mine for group in optimizer.param_groups for p in group["params"])

    def ending(which: Watched) -> None:
        if which is not one:
            return
        while handles:
            handles.pop().remove()
        if which.attachment is not None and used[0] and not trained[0]:
            which.attachment.show(RoundTripSeen(which.recorder.step, "", compared, tuple(lost), loaded=True))

    handles = [
        module.register_forward_hook(hook(called), with_kwargs=True),
        register_optimizer_step_pre_hook(hook(stepped)),
    ]
    models.ending.append(ending)


def _all_move(call: Call, names: Sequence[str], output: Any) -> bool:
    """Whether there is an answer, and none that is the same whatever the values of `names` are."""
    places = range(len(tensors_of(output)))
    return bool(places) and all(reach(call, names, [place]) for place in places)


def _not_brought(module: nn.Module, model: nn.Module, state: Mapping[str, Any], missing: set[str]) -> list[str]:
    """Names of what `model` learned and `module` has not, though `state` brought `module` all else that it holds."""
    own = {name: p.detach() for name, p in module.state_dict().items() if isinstance(p, Tensor)}
    theirs = {name: p.detach() for name, p in model.state_dict().items() if isinstance(p, Tensor)}
    brought = [name for name in own if name not in missing]
    if model is module or list(own) != list(theirs) or not brought or any(own[n].shape != theirs[n].shape for n in own):
        return []
    live = {p.data_ptr() for p in theirs.values()}
    if any(isinstance(value, Tensor) and value.data_ptr() in live for value in state.values()):
        return []
    parts = dict(model.named_parameters(remove_duplicate=False))
    if not any(name in parts and ORIGINS.moved(parts[name]) for name in brought):
        return []
    if not all(torch.equal(own[name], theirs[name].to(own[name].device, own[name].dtype)) for name in brought):
        return []
    tied = {own[name].data_ptr() for name in brought}
    named = dict(module.named_parameters(remove_duplicate=False))
    learned = [name for name in missing if name in named and name in parts and parts[name].requires_grad]
    learned = [name for name in learned if own[name].data_ptr() not in tied]
    modules = {_module(name) for name in learned if ORIGINS.untrained(named[name], parts[name])}
    return sorted(n for n in learned if _module(n) in modules and not torch.equal(own[n], theirs[n].to(own[n])))


def _module(name: str) -> str:
    return name.rpartition(".")[0]  # what is too small to tell an origin by, such as a bias, is as the rest of its own


def watch_nothing_came(
    module: nn.Module, state: Mapping[str, Any], result: Any, path: str, models: Models, hook: Callable[..., Hook]
) -> None:
    """Judge at `module`'s next forward pass a state of which not one name was known, though with others they would fit.

    Another prefix for all, or another name for the part that they are of, which is as its initialiser left it; or what
    was given is the content of a file, ``{"model": state}``, in place of the state in it.

    Nothing is concluded where the module was given its weights in another way before it is used.
    """
    missing, state = tuple(result.missing_keys), _whole(state, result.unexpected_keys)
    given, live = tuple(state), module.state_dict()
    if not given:
        return
    prefix = prefix_between(missing, given)
    others = renamed_between(missing, given) or partly_prefixed(missing, given)
    found = [_meant(live, state, missing, one) for one in ([prefix] if prefix else others)]
    if sum(map(bool, found)) != 1:
        return
    meant = next(filter(None, found))
    parameters = dict(module.named_parameters(remove_duplicate=False))
    if prefix is None and not any(name in parameters and ORIGINS.fresh(parameters[name]) for name in meant):
        return
    at_load = {name: live[name].detach().clone() for name in list(meant)[:ENOUGH]}
    if all(torch.equal(value, meant[name].to(value.device, value.dtype)) for name, value in at_load.items()):
        return  # the very weights were there already
    watch_use(module, tuple(meant), given, path, models, hook, lambda: True)


def watch_use(
    module: nn.Module,
    meant: Sequence[str],
    given: Sequence[str],
    path: str,
    models: Models,
    hook: Callable[..., Hook],
    sure: Callable[[], bool],
) -> None:
    """Tell that nothing came for `meant` where they are still as they are when `module` is called, or trained."""
    live, inner = module.state_dict(), unwrapped(module)[1]
    at_load = {name: live[name].detach().clone() for name in meant[:ENOUGH]}
    handles: list[Any] = []
    calls: list[bool] = []  # whether it had what it was made with

    def used(*_: Any) -> None:
        now = module.state_dict()
        calls.append(calls[0] if calls else all(torch.equal(now[name], value) for name, value in at_load.items()))
        if models.live or not calls[0] or len(calls) >= PATIENCE:
            handles[0].remove()
            handles.clear()  # the other stays, deaf: torch may be going through its kind just now
        if calls[0] and sure() and (one := _near(models, module)) is not None and one.attachment is not None:
            one.attachment.show(RoundTripSeen(one.recorder.step, path, 0, tuple(meant), tuple(given), loaded=True))

    def stepped(optimizer: Optimizer, *_: Any) -> None:
        mine = {id(parameter) for parameter in module.parameters()}
        if handles and any(id(p) in mine for group in optimizer.param_groups for p in group["params"]):
            used()

    handles.append(inner.register_forward_pre_hook(hook(used)))
    handles.append(register_optimizer_step_pre_hook(hook(stepped)))  # a compiled module calls no hooks of its own


def _whole(state: Mapping[str, Any], unexpected: Sequence[str]) -> Mapping[str, Any]:
    """What was given, if nothing of it was known; of a file's content the state in it, by dotted names."""
    if len(unexpected) < len(state):
        return {}
    inside = [
        {f"{key}.{name}": value for name, value in part.items()}
        for key, part in state.items()
        if isinstance(part, Mapping) and part and all(isinstance(value, Tensor) for value in part.values())
    ]
    return state if any(isinstance(value, Tensor) for value in state.values()) else next(iter(inside), {})


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

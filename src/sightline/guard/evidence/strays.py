"""Parameters that stay outside while others learn: frozen, in no optimizer, in plain lists, or under no_grad."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from sightline.guard.evidence.cut_off import CutOffSeen
from sightline.guard.evidence.fresh_frozen import FreshFrozenSeen
from sightline.guard.evidence.hidden import HiddenSeen
from sightline.guard.evidence.learning import HeadSeen
from sightline.guard.evidence.origin import new, untrained
from sightline.guard.evidence.replaced import ReplacedSeen
from sightline.guard.evidence.setup import Setup
from sightline.guard.evidence.steps import ParameterSeen, Progress, StepSeen

LONG = 16  # steps: optimizers that take turns have had theirs
WHOLE = 64  # steps of others: an optimizer that steps seldom, or later, has begun
LOOKS = 4  # steps after they were unfrozen: a loop may give them to its optimizer a moment later
NUMBER = re.compile(r"\d+")  # which of several layers a parameter's name tells
TURNS = 3  # measured steps of each of two optimizers that take turns
WAYS = {
    "between": "parts that were loaded or trained come before and after them",
    "behind": "what learns stands before them and is judged through them",
    "attribute": "the loss is made through them, and somebody set requires_grad = True on their module",
    "idle": "they were added to parts that were loaded or trained, times zeros that are frozen too",
    "alone": "parts that were loaded or trained come before them, and no other matrix learns",
}
BEYOND = "give them to the optimizer beside the model's: Adam([*model.parameters(), *criterion.parameters()])"
ALONE = "give them to an optimizer, as what that term is to teach; or leave the term out"
ITSELF = "add the term as it was computed: no .item() and torch.tensor(..., requires_grad=True) on its way"
WRITE = "write into each of them: slow.mul_(decay).add_(fast, alpha=1 - decay), or slow.copy_(...); a name is no tensor"
EVERY = "call step() on each of the optimizers after the backward pass"
BARE = "make each an nn.Parameter in its module, and the optimizer after that (or call detach() on it)"
EACH = "give each optimizer the parameters of the part that it trains"
LATE = "make the optimizer after the model is final: it holds {} foreign elements"
AFTER = "unfreeze first, and make the optimizer after that (or give them to it: optimizer.add_param_group)"
UNFROZEN = "give them to the optimizer when they are unfrozen: optimizer.add_param_group({'params': ...})"
ADD = "add them to a parameter group, or set requires_grad to False"


@dataclass(frozen=True, slots=True)
class Stray:
    """What stays outside, in words. `sure`: whether nobody can have meant it."""

    what: str
    remedy: str
    sure: bool = False
    seen: dict[str, object] = field(default_factory=dict)


def stray(
    measured: Sequence[StepSeen],
    setup: Setup | None,
    head: HeadSeen | None,
    hidden: HiddenSeen | None,
    cut: CutOffSeen | None,
    fresh: FreshFrozenSeen | None,
    replaced: ReplacedSeen | None = None,
    progress: Progress | None = None,
) -> Stray | None:
    """The first of these that the run shows."""
    if (whole := held_twice(measured) or never_stepped(measured, progress)) is not None:
        return whole
    if replaced is not None:
        return _replaced(replaced)
    if (late := _unfrozen(measured, setup) or _too_late(measured, setup)) is not None:
        return late
    left, foreign = left_behind(measured, setup), setup.orphans if setup is not None else 0
    alone = head is not None and all(p.name.startswith(head.name.removesuffix("weight")) for p in left)
    if head is not None and alone and not (left and foreign) and (why := idle_head(head, measured, setup)):
        what = f"the output layer {head.name} is as its init left it and is {why}, while other parameters learn"
        remedy = "set requires_grad to True" if why == "frozen" else "add it to a parameter group"
        return Stray(what, f"{head.name}: {remedy}", False, {"weights": head.rms, "norms alone": head.only_norms})
    if left:
        numel, names = sum(p.numel for p in left), [p.name for p in left]
        what = f"{len(left)} parameters ({numel:,} elements) get gradients and are in no optimizer, e.g. {names[0]}"
        return Stray(what, LATE.format(foreign) if foreign else ADD, bool(foreign), {"parameters": names[:5]})
    if hidden is not None:
        return _hidden(hidden)
    if (picked := _picked(measured, setup)) is not None:
        return picked
    if cut is not None:
        how, remedy = "run under no_grad", "remove no_grad around them"
        if cut.detached:
            how, remedy = "make outputs and never get a gradient", "remove detach(), .data or numpy behind them"
        what = f"{len(cut.modules)} modules {how}, though the optimizer holds them, e.g. {cut.modules[0]}"
        seen = {"elements": cut.numel, "of": cut.of, "parameters": cut.parameters[:5]}
        return Stray(what, f"{remedy}, or set their requires_grad to False", False, seen)
    return never_given(fresh) if fresh is not None else None


def never_given(fresh: FreshFrozenSeen) -> Stray:
    """Frozen parameters in the way of the loss that nobody ever gave a value."""
    if fresh.place == "rows":
        what = f"most rows teach some of {fresh.tokens} new tokens, whose weights are frozen as they were made: "
        remedy = "let the embedding and the output layer learn (PEFT: modules_to_save, or trainable_token_indices)"
        return Stray(
            f"{what}{fresh.parameters[0]}", remedy, False, {"new tokens": fresh.tokens, "elements": fresh.numel}
        )
    what = f"{len(fresh.parameters)} frozen parameters ({fresh.numel:,} elements) are as their init left them, though "
    remedy = "set requires_grad to True on each of them before the optimizer is made (PEFT: name it in modules_to_save)"
    if fresh.attribute:
        remedy = f"call {fresh.attribute[0]}.requires_grad_(True): requires_grad = True on a module is a mere attribute"
    seen: dict[str, object] = {
        "parameters": fresh.parameters[:5],
        "place": fresh.place,
        "loaded or trained": fresh.given,
    }
    return Stray(f"{what}{WAYS[fresh.place]}, e.g. {fresh.parameters[0]}", remedy, False, seen)


def held_twice(measured: Sequence[StepSeen]) -> Stray | None:
    """Two optimizers that take turns hold the very same parameters, and others with gradients are in none."""
    names = {n: frozenset(p.name for p in s.parameters if p.optimized) for s in measured for n in [s.optimizer]}
    turns = [step.optimizer for step in measured]
    pairs = [(a, b) for a in names for b in names if a < b and names[a] and names[a] == names[b]]
    if measured[-1].step < LONG or not any({a, b} <= set(turns[-2 * TURNS :]) for a, b in pairs):
        return None
    if any(turns.count(one) < TURNS for pair in pairs for one in pair):
        return None
    held = frozenset().union(*names.values())
    rest = [same for same in _each(measured) if same[0].name not in held and not any(p.moved for p in same)]
    out = [same[0] for same in rest if 2 * sum(bool(p.trainable and p.grad_norm) for p in same) >= len(same)]
    if not out:
        return None
    numel = sum(p.numel for p in out)
    twice = sorted(names[pairs[0][0]])
    what = f"two optimizers hold the same {len(twice)} parameters, and none holds {len(out)} others with gradients"
    seen = {"in none": [p.name for p in out[:5]], "elements in none": numel, "in two": twice[:5]}
    return Stray(what, EACH, True, seen)


def never_stepped(measured: Sequence[StepSeen], progress: Progress | None) -> Stray | None:
    """An optimizer whose parameters get gradients, which somebody clears, and that never stepped in a whole run."""
    if progress is None or not progress.closed or progress.steps - measured[0].step < WHOLE:
        return None
    idle = set(progress.idle)
    mine = [same for same in _each(measured) if same[0].name in idle]
    if not mine or any(p.moved or p.optimized or p.weight_norm != same[0].weight_norm for same in mine for p in same):
        return None
    out = [same[0] for same in mine if all(p.trainable and p.grad_norm for p in same)]
    if not out or any(not step.met or step.met[0] for step in measured):
        return None
    what = f"an optimizer never stepped in {progress.steps} steps of others, and alone holds {len(out)} parameters that"
    seen: dict[str, object] = {"parameters": [p.name for p in out[:5]], "elements": sum(p.numel for p in out)}
    return Stray(f"{what} get gradients, e.g. {out[0].name}", EVERY, False, seen)


def _hidden(hidden: HiddenSeen) -> Stray:
    """What nobody moves, though it has gradients, or should have."""
    if hidden.twins or hidden.loose:
        return _mistaken(hidden) if hidden.twins else _unreached(hidden)
    if hidden.dropped:
        what = f"an average of the weights is computed at each step and dropped: {hidden.parameters} parameters of "
        return Stray(f"{what}{' and '.join(hidden.places)} stay as they were", WRITE, True, {"elements": hidden.numel})
    if hidden.term:
        what = f"a term of the loss hangs on {hidden.parameters} parameters alone that no optimizer was given, of "
        seen: dict[str, object] = {
            "elements": hidden.numel,
            "gradient norm": hidden.grad_norm,
            "elements that learn": hidden.of,
        }
        return Stray(f"{what}{' and '.join(hidden.places)}", ALONE, False, seen)
    if hidden.beyond:
        what = f"{hidden.parameters} parameters of {' and '.join(hidden.places)}, between the model and the loss, get "
        rest = "gradients and stay as they were drawn: no optimizer holds them"
        return Stray(what + rest, BEYOND, False, {"elements": hidden.numel, "elements that learn": hidden.of})
    if hidden.bare:
        what = (
            f"{hidden.parameters} plain tensors that require gradients are used, and are no parameters of the model: "
        )
        seen = {"places": hidden.places[:5], "elements": hidden.numel, "gradient norm": hidden.grad_norm}
        return Stray(f"{what}no optimizer holds them, e.g. {hidden.places[0]}", BARE, True, seen)
    what = f"{hidden.places[0]} keeps {hidden.parameters} parameters in a plain container: no optimizer holds them"
    remedy = "use nn.ModuleList, nn.ModuleDict or nn.ParameterList, and make the optimizer after them"
    return Stray(what, remedy, True, {"places": hidden.places[:5], "gradient norm": hidden.grad_norm})


def _mistaken(hidden: HiddenSeen) -> Stray:
    """An optimizer of one of two networks that was made from the parameters of the other."""
    what = f"two optimizers hold the same {hidden.twins} parameters, and one never finds a gradient: its backward "
    rest = f"passes go to {hidden.parameters} parameters of {' and '.join(hidden.places)}, which are in none"
    return Stray(what + rest, EACH, True, {"elements in none": hidden.numel, "gradient norm": hidden.grad_norm})


def _unreached(hidden: HiddenSeen) -> Stray:
    """What a number was computed with that was made a tensor again."""
    what = "a term of the loss is a new tensor in each step, and nothing comes back through it: "
    seen: dict[str, object] = {"parameters": hidden.places[:5], "elements": hidden.numel, "of": hidden.of}
    return Stray(f"{what}{hidden.parameters} parameters never moved, e.g. {hidden.places[0]}", ITSELF, True, seen)


def _replaced(seen: ReplacedSeen) -> Stray:
    """Layers that stand in the place of those that the optimizer has."""
    what = f"{len(seen.parameters)} parameters ({seen.numel:,} elements) get gradients and are in no optimizer, which "
    (now, before), name = seen.shapes[0], seen.parameters[0]
    numbers: dict[str, object] = {
        "parameters": seen.parameters[:5],
        "shape": now,
        "shape of what the optimizer holds instead": before,
    }
    return Stray(f"{what}holds what stood in their place before, e.g. {name}", LATE.format(seen.foreign), True, numbers)


def _unfrozen(measured: Sequence[StepSeen], setup: Setup | None) -> Stray | None:
    """What somebody unfroze in mid-run, and gave to no optimizer."""
    named = set(setup.unfrozen) if setup is not None else set()
    free = sum(tower.trainable - tower.optimized for tower in setup.towers.values()) if setup is not None else 0
    late = [
        same for same in _each(measured) if same[0].name in named and all(p.trainable and p.grad_norm for p in same)
    ]
    left = [same[0] for same in late if not any(p.optimized or p.moved for p in same)]
    numel = sum(p.numel for p in left)
    if setup is None or not left or free < numel or measured[-1].step < setup.step + LOOKS:
        return None
    what = f"{len(left)} parameters ({numel:,} elements) were unfrozen by step {setup.step}, get gradients and are in "
    seen: dict[str, object] = {"parameters": [p.name for p in left[:5]], "steps since": measured[-1].step - setup.step}
    return Stray(f"{what}no optimizer, e.g. {left[0].name}", UNFROZEN, True, seen)


def _too_late(measured: Sequence[StepSeen], setup: Setup | None) -> Stray | None:
    """What somebody unfroze between the making of the optimizer and the first step."""
    named = set(setup.late) - set(setup.unfrozen) if setup is not None else set()
    if not named or measured[-1].step < LONG:
        return None
    late = [same for same in _each(measured) if same[0].name in named]
    out = [p for same in late for p in graded_anew(same)[:1] if all(p.trainable and p.grad_norm for p in same)]
    if not out or any(p.optimized or p.moved for same in late for p in same):
        return None
    what = (
        f"{len(out)} parameters ({sum(p.numel for p in out):,} elements) were unfrozen after the optimizer was made, "
    )
    return Stray(
        f"{what}get gradients and are in none, e.g. {out[0].name}",
        AFTER,
        True,
        {"parameters": [p.name for p in out[:5]]},
    )


def _picked(measured: Sequence[StepSeen], setup: Setup | None) -> Stray | None:
    """Layers that somebody left free to learn where others of their kind are frozen, and that no optimizer holds."""
    if setup is None or measured[-1].step < LONG:
        return None
    each = _each(measured)
    frozen = {_kind(same[0]) for same in each if not any(p.trainable or p.moved for p in same)}
    free = [same for same in each if all(p.trainable and p.grad_norm for p in same)]
    out = [same for same in free if _kind(same[0]) in frozen and not any(p.optimized or p.moved for p in same)]
    left = [p for same in out for p in graded_anew(same)[:1] if NUMBER.search(p.name)]
    numel = sum(p.numel for p in left)
    if not left or sum(tower.trainable - tower.optimized for tower in setup.towers.values()) < numel:
        return None
    what = f"{len(left)} parameters ({numel:,} elements) get gradients, unlike those of frozen layers beside them, and "
    return Stray(
        f"{what}are in no optimizer, e.g. {left[0].name}", ADD, False, {"parameters": [p.name for p in left[:5]]}
    )


def _kind(seen: ParameterSeen) -> tuple[str, int]:
    """What layers of a kind have in common. A table of words and the layer behind it in an nn.Sequential are of two."""
    return NUMBER.sub("*", seen.name), seen.numel


def left_behind(measured: Sequence[StepSeen], setup: Setup | None) -> list[ParameterSeen]:
    """Parameters that no optimizer holds, that have gradients in every measured step, and that nobody meant to leave.

    A body in front of what learns may be left out on purpose, and so may what was trained before. What comes behind or
    beside it, and is as an init leaves it, may not; nor a layer's matrices whose biases learn; nor what took the place
    of tensors that the optimizer still holds.
    """
    if setup is None or measured[-1].step < LONG:
        return []
    held = [any(p.optimized or p.moved for p in same) for same in _each(measured)]
    out = [all(p.trainable and p.grad_norm for p in same) for same in _each(measured)]
    first = held.index(True) if any(held) else len(held)
    rows = list(enumerate(measured[0].parameters))
    beside = {_layer(p) for place, p in rows if held[place]} - {""}
    left = [p for place, p in rows if out[place] and not held[place] and (place > first or _layer(p) in beside)]
    free = sum(tower.trainable - tower.optimized for tower in setup.towers.values())
    if not left or free < sum(p.numel for p in left):
        return []
    maps = {p.name for p in left if p.name.endswith("weight") or _tail(p).startswith("weight")}  # weight_hh_l0
    drawn = bool(maps) and maps <= set(setup.outside)
    return left if setup.orphans or drawn or untrained(left) else []


def _layer(seen: ParameterSeen) -> str:
    return seen.name.rpartition(".")[0]


def _tail(seen: ParameterSeen) -> str:
    return seen.name.rpartition(".")[2]


def graded_anew(seen: Sequence[ParameterSeen]) -> list[ParameterSeen]:
    """Without those whose gradient is always the same to the last bit: an earlier stage's, not cleared since."""
    norms: dict[str, set[float | None]] = {}
    for p in seen:
        norms.setdefault(p.name, set()).add(p.grad_norm)
    return [p for p in seen if len(norms[p.name]) > 1]


def _each(measured: Sequence[StepSeen]) -> list[tuple[ParameterSeen, ...]]:
    """Parameter by parameter, what the measured steps show of it."""
    return list(zip(*(step.parameters for step in measured), strict=False))


def idle_head(head: HeadSeen, measured: Sequence[StepSeen], setup: Setup | None) -> str | None:
    """Why an output layer that is as an init leaves it never moves while other parameters do; None where that is fine.

    "frozen": only scales and shifts of normalisations learn, or the layers in front of it were trained before.
    "left out": it has gradients, and no optimizer holds it.
    """
    if not new(head):
        return None
    weight = [p for step in measured for p in step.parameters if p.name == head.name]
    others = any(p.moved for step in measured for p in step.parameters if p.name != head.name)
    if not weight or not others or any(p.moved for p in weight):
        return None
    if not head.learns and not weight[-1].trainable:
        return "frozen" if head.only_norms or head.trained_body else None
    towers = setup.towers.values() if setup else ()
    out = all(p.trainable and p.grad_norm and not p.optimized for p in weight)
    out = out and sum(t.trainable - t.optimized for t in towers) >= weight[0].numel
    return "left out" if out and measured[-1].step >= LONG else None

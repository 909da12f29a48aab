"""What learns: turns a stage's `learn` into `requires_grad`, tower by tower. The only place that sets it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from sightline.errors import UserError
from sightline.models.vlm import VLM
from sightline.recipe.schema import LearnPart, Stage, Tower


@dataclass(frozen=True, slots=True)
class TowerPlan:
    """What was decided for one tower: the rule in words, and how many parameters it lets learn."""

    rule: str
    trainable: int
    frozen: int


def freeze(model: VLM, stage: Stage) -> dict[Tower, TowerPlan]:
    """Set `requires_grad` of every parameter of `model` by the stage's plan, and return the plan with counts.

    Raises:
        UserError: a rule that matches no parameter, more `last` blocks than there are, a stage that trains nothing.
    """
    plans: dict[Tower, TowerPlan] = {}
    for tower in model.towers:
        rule = stage.rule_for(tower)
        where = f"stages.{stage.name}.learn.{tower}"
        learning = _learning(model, tower, rule, where) - model.idle(tower, stage.objective)
        parameters = dict(model.tower_parameters(tower))
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in learning)
        trainable = sum(parameters[name].numel() for name in learning)
        total = sum(parameter.numel() for parameter in parameters.values())
        plans[tower] = TowerPlan(in_words(rule), trainable, total - trainable)
    if not any(plan.trainable for plan in plans.values()):
        raise UserError("this stage trains nothing", where=f"stages.{stage.name}.learn", fix="let a tower learn")
    return plans


def in_words(rule: str | LearnPart) -> str:
    """The rule as people read it: all, none, lora, last 2, norms, pattern 'x'."""
    if isinstance(rule, str):
        return rule
    if rule.last:
        return f"last {rule.last}"
    return "norms" if rule.norms else f"pattern '{rule.pattern}'"


def _learning(model: VLM, tower: Tower, rule: str | LearnPart, where: str) -> set[str]:
    """Names of the parameters of `tower` that `rule` lets learn."""
    names = [name for name, _ in model.tower_parameters(tower)]
    if rule == "none" or not names:
        return set()
    if rule == "all":
        return set(names)
    if rule == "lora":
        chosen = {name for name in names if "lora_" in name}
    elif isinstance(rule, LearnPart) and rule.last:
        chosen = _last_blocks(model, tower, rule.last, where)
    elif isinstance(rule, LearnPart) and rule.norms:
        chosen = _norms(model, tower)
    elif isinstance(rule, LearnPart) and rule.pattern:
        chosen = _matching(names, rule.pattern, where)
    else:
        raise AssertionError(f"a rule that the schema does not admit: {rule}")
    if not chosen:
        hint = f"its parameters are called e.g. {', '.join(names[:3])}"
        raise UserError(f"'{in_words(rule)}' matches no parameter of the {tower} tower", where=where, fix=hint)
    return chosen


def _last_blocks(model: VLM, tower: Tower, count: int, where: str) -> set[str]:
    blocks = model.blocks(tower)
    if count > len(blocks):
        raise UserError(f"the {tower} tower has {len(blocks)} blocks, not {count}", where=where, fix="lower 'last'")
    wanted = {id(parameter) for block in blocks[-count:] for parameter in block.parameters()}
    return {name for name, parameter in model.tower_parameters(tower) if id(parameter) in wanted}


def _norms(model: VLM, tower: Tower) -> set[str]:
    # By class name: torch's LayerNorm and the towers' own RMSNorms share nothing else.
    wanted = {
        id(parameter)
        for _, module in model.tower_modules(tower)
        for part in module.modules()
        if isinstance(part, nn.LayerNorm | nn.GroupNorm) or "Norm" in type(part).__name__
        for parameter in part.parameters(recurse=False)
    }
    return {name for name, parameter in model.tower_parameters(tower) if id(parameter) in wanted}


def _matching(names: list[str], pattern: str, where: str) -> set[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"'{pattern}' is not a regular expression: {error}", where=where) from None
    return {name for name in names if compiled.search(name)}

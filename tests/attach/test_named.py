"""Loops that freeze by name: which names met their conditions?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from torch import nn

from sightline.attach.named import LISTINGS, Named
from sightline.guard.check import Finding
from sightline.guard.checks.model.wrong_stage_freeze import find
from sightline.guard.evidence import Setup

FREEZE = """
for one in ():
    pass
for at, (one, two) in ():
    one.requires_grad = False
PREFIXES, NOTHING = ["{0}", "other."], []
def freeze(model, first="{0}"):
    for name, p in model.named_parameters():
        if {1}:
            p.requires_grad = False
"""
SKIP = FREEZE.replace("if {1}", "if not ({1})").replace(
    "p.requires_grad = False", "continue\n        p.requires_grad_(False)"
)

MODULES = FREEZE.replace("_parameters", "_modules").replace("p.requires_grad = False", "p.requires_grad_(False)")
CHILDREN = FREEZE.replace("_parameters", "_children").replace(
    "p.requires_grad = False", "for one in p.parameters():\n                one.requires_grad = False"
)


@pytest.fixture
def named(tmp_path: Path) -> Iterator[tuple[Named, Callable[[str], Callable[[nn.Module], None]]]]:
    """The listener, and what defines `freeze` from its text."""
    known, heard = {name: getattr(nn.Module, name) for name in LISTINGS}, Named()
    faults: list[Exception] = []
    heard.listen(lambda file: file.startswith(str(tmp_path)), faults.append)

    def defined(text: str) -> Callable[[nn.Module], None]:
        path = tmp_path / f"script{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text)
        space: dict[str, Callable[[nn.Module], None]] = {}
        exec(compile(text, str(path), "exec"), space)  # a script's own file
        return space["freeze"]

    yield heard, defined
    for name, method in known.items():
        setattr(nn.Module, name, method)
    assert not faults


def towers() -> nn.Module:
    return nn.ModuleDict({"vision": nn.Linear(2, 2), "head": nn.Linear(2, 2)})


@pytest.mark.parametrize("form", [FREEZE, SKIP, MODULES, CHILDREN])
@pytest.mark.parametrize("test", ["name.startswith(first)", "any(one in name for one in PREFIXES)", "'{0}' in name"])
@pytest.mark.parametrize("prefix", ["vision", "model.vision"])
def test_a_name_that_nothing_has(named: tuple, form: str, test: str, prefix: str) -> None:
    heard, defined = named
    defined(form.format(prefix, test.format(prefix)))(model := towers())
    wrong = prefix != "vision"
    assert bool(heard.unmatched(model)) == wrong
    verdict = find(Setup(towers={}, unmatched=heard.unmatched(model)))
    assert isinstance(verdict, Finding) == wrong


def test_what_is_frozen_otherwise_or_by_a_loop_that_serves_several_models(named: tuple) -> None:
    heard, defined = named
    freeze = defined(FREEZE.format("body.", "name.startswith(first)"))
    freeze(model := towers())
    assert heard.unmatched(nn.Sequential(model)) and not heard.unmatched(towers())
    model["vision"].requires_grad_(False)
    assert not heard.unmatched(model)
    model["vision"].requires_grad_(True)
    freeze(nn.ModuleDict({"body": nn.Linear(2, 2)}))
    assert not heard.unmatched(model)


@pytest.mark.parametrize(
    "test",
    [
        "p.dim() > 9",
        "any(one in name for one in NOTHING)",
        "name.startswith(tuple(NOTHING))",
        "len(name) > 99 and p.ndim",
        "unknown in name",
    ],
)
def test_conditions_that_are_not_of_names_alone(named: tuple, test: str) -> None:
    heard, defined = named
    with pytest.raises(NameError) if "unknown" in test else nullcontext():
        defined(FREEZE.format("x", test))(model := towers())
    assert not heard.unmatched(model)

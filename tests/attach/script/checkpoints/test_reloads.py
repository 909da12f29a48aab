"""A state of which nothing came, for its part has another name in the model; and states for which that is fine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sightline.attach.hook import Hook
from sightline.attach.script.checkpoints.reloads import watch_half, watch_nothing_came
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding
from sightline.guard.evidence.answers import partly_prefixed

pytestmark = pytest.mark.usefixtures("origins")
State = dict[str, Tensor]


class Eyes(nn.Module):
    def __init__(self, names: tuple[str, ...] = ("projector",), width: int = 8) -> None:
        super().__init__()
        self.tower, self.head = nn.Linear(4, 8), nn.Linear(width, 2)
        for name in names:
            self.add_module(name, nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, width)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.tower(x)
        for name in ("projector", "second"):
            x = getattr(self, name, nn.Identity())(x)
        return self.head(x)


def of_a_file(prefix: str) -> State:
    """A projector that was trained elsewhere."""
    return {f"{prefix}{name}": torch.randn(shape) for name, shape in SHAPES.items()}


SHAPES = {"0.weight": (8, 8), "0.bias": (8,), "2.weight": (8, 8), "2.bias": (8,)}


def findings(
    model: nn.Module,
    state: Mapping[str, Any],
    then: Callable[[], object] = lambda: None,
    ready: Callable[[nn.Module], Callable[[Tensor], Tensor]] = lambda model: model,
) -> list[Finding]:
    """Load `state` without strictness, do `then`, train what `ready` makes of it."""
    problems: list[str] = []
    found: list[Finding] = []
    models = Models(1.0, found.append, problems.append)
    result = model.load_state_dict(dict(state), strict=False)
    watch_nothing_came(
        model, state, result, "", models, lambda act: Hook(act, lambda error: problems.append(repr(error)))
    )
    then()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    models.attach(model, [opt], blind=False)
    net = ready(model)
    for _ in range(2):
        opt.zero_grad()
        net(torch.randn(4, 4)).square().mean().backward()
        opt.step()
    models.close_all(whole=True)
    assert not problems
    return [one for one in found if one.code == "K1"]


@pytest.mark.parametrize("prefix", ["mm_projector.", "adapter.", "net.adapter."])
def test_another_name(prefix: str) -> None:
    (found,) = findings(Eyes(), of_a_file(prefix))
    assert found.severity == "error" and found.message.endswith("nothing was loaded")
    assert found.seen["saved"] == f"{prefix}0.weight" and found.seen["model"] == "projector.0.weight"
    assert findings(Eyes(), of_a_file("projector.")) == []


@pytest.mark.parametrize("prefix", ["projector.", "mm_projector."])
def test_the_content_of_a_file_in_place_of_the_state_in_it(prefix: str) -> None:
    whole, epoch = {**Eyes().state_dict(), **of_a_file("projector.")}, torch.tensor(3)
    (found,) = findings(Eyes(), {"model": whole, "epoch": epoch.item(), "optimizer": {"state": {}}})
    assert found.severity == "error" and found.seen["saved"].startswith("model.") and "checkpoint['model']" in found.fix
    part = {name.removeprefix("projector."): value for name, value in of_a_file("projector.").items()}
    (found,) = findings(Eyes(), {prefix[:-1]: part})
    assert found.seen["saved"] == f"{prefix}0.weight" and found.seen["model"] == "projector.0.weight"
    assert findings(Eyes(), {"epoch": 3, "numbers": {"loss": epoch}}) == []


@pytest.mark.parametrize("prefix", ["_orig_mod.", ""], ids=["saved from the compiled module", "from the module"])
def test_a_compiled_module(prefix: str) -> None:
    """It calls no hook of the module's: what came is judged before the first step."""
    state = {f"{prefix}{name}": torch.randn_like(value) for name, value in Eyes().state_dict().items()}
    torch.compiler.reset()
    steps: list[int] = []

    def ready(model: nn.Module) -> nn.Module:
        """Another listener comes after ours, and must hear all that it would hear without."""
        handles.append(register_optimizer_step_pre_hook(lambda *_: steps.append(1)))
        return torch.compile(model, backend="eager")

    handles: list[Any] = []
    try:
        found = findings(Eyes(), state, ready=ready)
    finally:
        handles.pop().remove()
    assert len(found) == bool(prefix) and len(steps) > 1


def test_what_is_renamed_later() -> None:
    model, state = Eyes(), of_a_file("adapter.")
    own = {name.replace("adapter", "projector"): value for name, value in state.items()}
    assert findings(model, state, lambda: model.load_state_dict(own, strict=False)) == []


def test_what_was_trained_here() -> None:
    """The part has its weights already; a look into some other file changes nothing."""
    model = Eyes()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(4, 4)).square().mean().backward()
    opt.step()
    assert findings(model, of_a_file("adapter.")) == []


def test_what_may_be_of_two_parts() -> None:
    assert findings(Eyes(("projector", "second")), of_a_file("adapter.")) == []


def test_what_does_not_fit() -> None:
    assert findings(Eyes(width=6), of_a_file("adapter.")) == []


def test_a_state_of_which_something_came() -> None:
    """A body with another head on it: the head is left out on purpose."""
    body = {f"tower.{name}": torch.randn_like(value) for name, value in nn.Linear(4, 8).state_dict().items()}
    assert findings(Eyes(), {**of_a_file("adapter."), **body}) == []


class Tuned(nn.Module):
    """A frozen tower, an adapter and a head."""

    def __init__(self, *, both: bool = False) -> None:
        super().__init__()
        self.tower, self.adapter, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.tower.requires_grad_(False)
        self.both = both

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.adapter(self.tower(x))
        return (features, self.head(features)) if self.both else self.head(features)


def train(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    for _ in range(2):
        opt.zero_grad()
        out = model(torch.randn(4, 4))
        (out[1] if isinstance(out, tuple) else out).square().mean().backward()
        opt.step()


def of_half(
    then: Callable[[Tuned], object] = lambda _: None,
    kept: str | tuple[str, ...] = "adapter.",
    *,
    both: bool = False,
    live: bool = False,
) -> list[Finding]:
    """Train, keep a part of what was trained, read it into another model, do `then`, and ask that for answers."""
    problems: list[str] = []
    found: list[Finding] = []
    models = Models(1.0, found.append, problems.append)
    model, other = Tuned(both=both), Tuned(both=both)
    first = {name: value.clone() for name, value in model.state_dict().items()}
    opt = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    models.attach(model, [opt], blind=False)
    train(model, opt)
    other.load_state_dict(first)  # both begin with one pretrained model
    state = {n: v if live else v.clone() for n, v in model.state_dict().items() if n.startswith(kept)}
    result = other.load_state_dict(state, strict=False)
    watch_half(
        other, state, result.missing_keys, models, lambda act: Hook(act, lambda error: problems.append(repr(error)))
    )
    then(other)
    other.eval()
    with torch.no_grad():
        other(torch.randn(4, 4))
    if then is retrained:
        train(other.train(), torch.optim.SGD(other.head.parameters(), lr=0.1))
    models.close_all(whole=True)
    assert not problems
    return [one for one in found if one.code == "K1"]


def retrained(_: Tuned) -> None:
    """A new head for what was learned; it is scored before it is trained, too."""


def replaced(model: Tuned) -> None:
    """The head comes by another way."""
    nn.init.constant_(model.head.weight, 0.5)


def test_a_file_that_holds_a_part_of_what_was_trained() -> None:
    (found,) = of_half()
    assert found.severity == "error" and found.seen["missing"] == ["head.bias", "head.weight"]


@pytest.mark.parametrize(
    "quiet",
    [
        lambda: of_half(kept=("adapter.", "head.")),
        lambda: of_half(replaced),
        lambda: of_half(retrained),
        lambda: of_half(both=True),
        lambda: of_half(live=True),
    ],
    ids=["all of it", "a head from elsewhere", "trained anew", "features are an answer too", "parts of the live model"],
)
def test_parts_that_are_meant(quiet: Callable[[], list[Finding]]) -> None:
    assert quiet() == []


def test_a_prefix_that_most_names_have() -> None:
    """An average keeps a count beside its weights, and the head is left out on purpose."""
    names = ("head.bias", "tower.bias", "tower.weight")
    (prefix,) = partly_prefixed(names, ("n_averaged", "module.tower.bias", "module.tower.weight"))
    assert prefix.other("tower.bias") == "module.tower.bias"
    assert partly_prefixed(names, ("module.tower.bias", "a", "b")) == []
    assert partly_prefixed(names, ("eyes.tower.bias", "body.tower.weight", "x.y")) == []
    assert partly_prefixed(names, ()) == []

"""A new connector at the rate of a trained language model: X3 where the run leaves it where chance had put it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.attach.towers import resolve
from sightline.attach.travelled import Travelled
from sightline.guard.catalogue import load, page

pytestmark = pytest.mark.usefixtures("origins")


class Teller(nn.Module):
    """Counts by ones or twos, as the image says."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = nn.Sequential(nn.Conv2d(3, 8, 4), nn.Flatten())
        self.connector = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 32))
        self.language = nn.Sequential(nn.Embedding(32, 32), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        return self.language[1:](self.language[0](ids) + self.connector(self.vision(images))[:, None])


def train(model: Teller, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        by = torch.randint(1, 3, (16, 1))
        images = torch.randn(16, 3, 4, 4) * 0.2 + (by * 2.0 - 3)[..., None, None]
        ids = (torch.randint(32, (16, 1)) + by * torch.arange(9)) % 32
        optimizer.zero_grad()
        F.cross_entropy(model(images, ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()


def codes(
    rate: float,
    own: float | None = None,
    *,
    trained: bool = True,
    named: bool = True,
    scaled: str = "",
    loaded: str = "",
) -> bool:
    """Whether X3 is found: `own` is the connector's rate, whose group is picked by a name.

    `scaled`, `loaded`: the names of connector's layers that were, after they were drawn.
    """
    torch.manual_seed(0)
    source, model = Teller(), Teller()
    if trained:
        train(source, torch.optim.Adam((source if loaded else source.language).parameters(), lr=1e-2), 30)
        model.language.load_state_dict(source.language.state_dict())
    for name, layer in model.connector.named_children():
        if name in scaled:
            layer.weight.data.mul_(0.5)
        if name in loaded:
            layer.load_state_dict(source.connector.get_submodule(name).state_dict())
    picked = {n: p for n, p in model.named_parameters() if ("connector" if named else "projector") in n}
    rest = [p for n, p in model.named_parameters() if n not in picked]
    optimizer = torch.optim.Adam([{"params": rest}, {"params": list(picked.values()), "lr": own or rate}], lr=rate)
    towers = {name: [name] for name in ("vision", "connector", "language")}
    with sightline.attach(model, optimizer, towers=towers, on_finding=None, checks=load((page("X3"),))) as guard:
        train(model, optimizer, 50)
    return any(finding.code == "X3" for finding in guard.findings)


def aligned(rate: float, rest: float) -> bool:
    """Whether X3 is found where a stage that taught the connector alone is followed by one at this `rate`."""
    torch.manual_seed(0)
    source, model = Teller(), Teller()
    train(source, torch.optim.Adam(source.language.parameters(), lr=1e-2), 60)
    model.language.load_state_dict(source.language.state_dict())
    model.vision.requires_grad_(False)
    model.language.requires_grad_(False)
    towers = {name: [name] for name in ("vision", "connector", "language")}
    first = torch.optim.Adam(model.connector.parameters(), lr=2e-3)
    with sightline.attach(model, first, towers=towers, on_finding=None, checks=()):
        train(model, first, 50)
    model.requires_grad_(True)
    groups = [{"params": getattr(model, name).parameters(), "lr": rest} for name in ("vision", "language")]
    second = torch.optim.Adam([{"params": model.connector.parameters()}, *groups], lr=rate)
    plan = torch.optim.lr_scheduler.OneCycleLR(second, [rate, rest, rest], total_steps=60, pct_start=0.1)
    with sightline.attach(model, second, towers=towers, on_finding=None, checks=load((page("X3"),))) as guard:
        second.register_step_post_hook(lambda *_: plan.step())
        train(model, second, 59)
    return any(finding.code == "X3" for finding in guard.findings)


def test_all_at_the_rate_of_a_connector_that_was_aligned() -> None:
    """The schedule begins far below it."""
    assert aligned(2e-3, 2e-3)
    assert not aligned(2e-3, 1e-4) and not aligned(2e-4, 2e-4)


def test_the_rate_of_the_rest() -> None:
    assert codes(1e-4)
    assert not codes(1e-4, 3e-3)
    assert not codes(1e-4, trained=False)


@pytest.mark.parametrize(("scaled", "loaded", "told"), [("1", "", True), ("1", "0", False), ("", "01", False)])
def test_a_layer_that_was_scaled(scaled: str, loaded: str, told: bool) -> None:
    """It is no longer as it was drawn; a connector that was loaded, be it in part, is none that chance has made."""
    assert codes(1e-4, scaled=scaled, loaded=loaded) == told


def test_a_trained_tower_that_is_carried_away() -> None:
    assert codes(8e-2)
    assert codes(2e-3) and not codes(2e-3, 2e-2)  # further than the connector
    assert not codes(4e-4) and not codes(2e-3, trained=False)
    assert not codes(8e-2, trained=False)


def test_a_table_of_tokens_does_not_count() -> None:
    """Its numbers are fifty times those of the rest, and stay, whatever becomes of these."""
    torch.manual_seed(0)
    model, other = Teller(), Teller()
    with torch.no_grad():
        other.language[0].weight.mul_(10)
    train(other, torch.optim.Adam(other.language.parameters(), lr=1e-2), 10)
    model.language.load_state_dict(other.language.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    travelled = Travelled(
        model, resolve(model, {name: [name] for name in ("vision", "connector", "language")}), optimizer
    )
    with torch.no_grad():
        for layer in model.connector:
            layer.weight.mul_(1.5)
        model.language[1].weight.mul_(2)
    assert travelled.far() == pytest.approx((0.5, 1.0), rel=1e-4)


def test_a_name_that_no_parameter_has() -> None:
    assert codes(2e-3, 2e-2, named=False)

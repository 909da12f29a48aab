"""A teacher that was left in train mode; and networks beside the one that learns which are in train mode on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.attach.script.teachers import STEPS, Teachers
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding

pytestmark = pytest.mark.usefixtures("origins")
Ask = Callable[[nn.Module, Tensor], Tensor]


def net(rate: float = 0.3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(rate), nn.Linear(16, 3))


def trained(model: nn.Module) -> nn.Module:
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        opt.zero_grad()
        model(torch.randn(16, 6)).square().mean().backward()
        opt.step()
    return model.requires_grad_(False)


def once(teacher: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return teacher(x)


def average(teacher: nn.Module, x: Tensor) -> Tensor:
    """It follows the student a little."""
    with torch.no_grad():
        teacher[0].weight.mul_(0.99)
        return teacher(x)


def spread(teacher: nn.Module, x: Tensor) -> Tensor:
    """The mean of several answers with dropout."""
    with torch.no_grad():
        return torch.stack([teacher(x) for _ in range(4)]).mean(0)


def now_and_then(teacher: nn.Module, x: Tensor, state: list[int] = [0]) -> Tensor:  # noqa: B006
    state[0] += 1
    return once(teacher, x) if state[0] % 3 == 0 else torch.zeros(len(x), 3)


class Both(nn.Module):
    """A student, and its teacher as a part. `calls`: how the teacher is asked."""

    def __init__(self, teacher: nn.Module, calls: Ask) -> None:
        super().__init__()
        self.teacher, self.student, self.calls = teacher, nn.Sequential(nn.Linear(6, 3)), calls

    def forward(self, x: Tensor) -> Tensor:
        wanted = self.calls(self.teacher, x)
        return F.cross_entropy(self.student(x), wanted.softmax(-1))


def inside(teacher: nn.Module, ask: Ask = once, *, calm: bool = False) -> list[Finding]:
    """The same with a teacher that is a part of the model. `calm`: it is put back into evaluation mode."""
    problems: list[str] = []
    found: list[Finding] = []
    model = Both(teacher, ask).train()
    teacher.train(not calm)
    opt = torch.optim.SGD(model.student.parameters(), lr=0.1)
    models = Models(1.0, found.append, problems.append)
    Teachers(models, problems.append).look([model, *model.modules()], {id(p) for p in model.student.parameters()})
    models.attach(model, [opt], blind=False)
    for _ in range(STEPS + 6):
        opt.zero_grad()
        model(torch.randn(16, 6)).backward()
        opt.step()
    models.close_all(whole=True)
    assert not problems
    return [one for one in found if one.code == "T3"]


def test_a_teacher_inside_the_model() -> None:
    """`train()` of the model switches it back."""
    torch.manual_seed(0)
    teacher = trained(net())
    (found,) = inside(teacher)
    assert "'teacher'" in found.message and "the parent's train() switched it back" in found.fix
    assert not teacher._forward_hooks
    assert inside(teacher, calm=True) == []


def graded(teacher: nn.Module, x: Tensor) -> Tensor:
    """A frozen backbone in train mode, through which gradients could pass."""
    return teacher(x)


def partly(teacher: nn.Module, x: Tensor) -> Tensor:
    """Its batch norm alone is in train mode, or its dropout: somebody chose that."""
    teacher.eval()[1].train()
    return once(teacher, x)


@pytest.mark.parametrize("ask", [average, spread, now_and_then, graded, partly])
def test_a_part_of_the_model_on_purpose(ask: Ask) -> None:
    torch.manual_seed(0)
    assert inside(trained(net()), ask) == []


def test_a_random_part_and_one_whose_mode_changes_nothing() -> None:
    torch.manual_seed(0)
    assert inside(net().requires_grad_(False)) == []
    plain = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.0), nn.Linear(16, 3))
    assert inside(trained(plain)) == []


def findings(teacher: nn.Module, ask: Ask = once) -> list[Finding]:
    """Distil `teacher` into a student."""
    problems: list[str] = []
    found: list[Finding] = []
    models, student = Models(1.0, found.append, problems.append), net(0.0)
    opt = torch.optim.SGD(student.parameters(), lr=0.1)
    Teachers(models, problems.append).look([student, teacher], {id(p) for p in student.parameters()})
    models.attach(student, [opt], blind=False)
    for _ in range(STEPS + 6):
        x = torch.randn(16, 6)
        soft = ask(teacher, x).softmax(-1)
        opt.zero_grad()
        F.cross_entropy(student(x), soft).backward()
        opt.step()
    models.close_all(whole=True)
    assert not problems and not any(part._forward_hooks for part in student.modules())
    return [one for one in found if one.code == "T3"]


def test_a_teacher_in_train_mode() -> None:
    torch.manual_seed(0)
    teacher = trained(net())
    (found,) = findings(teacher)
    assert found.severity == "warning" and found.seen["in train mode"] == ["1", "3"]
    assert not teacher._forward_hooks
    assert findings(teacher.eval()) == []


def test_a_teacher_can_be_read_as_code() -> None:
    """TorchScript takes hooks for a part of the model: ours are off while it reads."""
    models, teacher, student = Models(1.0, print, print), trained(net()).eval(), net()
    Teachers(models, print).look([student, teacher], {id(p) for p in student.parameters()})
    assert teacher._forward_hooks
    with models.lifted():
        assert not teacher._forward_hooks
        torch.jit.script(teacher)
    assert teacher._forward_hooks
    models.close_all(whole=True)


@pytest.mark.parametrize("ask", [average, spread, now_and_then])
def test_what_is_done_on_purpose(ask: Ask) -> None:
    torch.manual_seed(0)
    assert findings(trained(net()), ask) == []


def test_what_may_be_random_on_purpose() -> None:
    torch.manual_seed(0)
    assert findings(net().requires_grad_(False)) == []


def test_what_the_mode_does_not_change() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.0), nn.Linear(16, 3))
    assert findings(trained(plain)) == []


def test_what_learns_too() -> None:
    """Two networks that teach each other; each has its own optimizer."""
    torch.manual_seed(0)
    other = trained(net()).requires_grad_(True)
    opt = torch.optim.SGD(other.parameters(), lr=0.1)

    def ask(teacher: nn.Module, x: Tensor) -> Tensor:
        opt.zero_grad()
        teacher(x).square().mean().backward()
        opt.step()
        return once(teacher, x)

    assert findings(other, ask) == []

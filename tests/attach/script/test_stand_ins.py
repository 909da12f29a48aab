"""Copies of a model by which a script judges it, in train mode; and copies that are in train mode for a reason."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, update_bn

from sightline.attach.script.stand_ins import StandIns
from sightline.attach.script.watch import Models

EPOCHS, BATCHES = 3, 4
Judge = Callable[[nn.Module, int], None]


class Net(nn.Module):
    def __init__(self, drop: float = 0.3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12) if drop else nn.Identity(), nn.ReLU())
        self.drop, self.head = nn.Dropout(drop), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.body(x)))


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    hits = [float((model(x).argmax(1) == x[:, :3].argmax(1)).float().mean()) for x in torch.randn(3, 16, 6)]
    return sum(hits) / len(hits)


class Speaker(nn.Module):
    """Rows of numbers through a model with rotary positions, as one that is given embeddings."""

    def __init__(self, factor: float | None) -> None:
        super().__init__()
        stretch = {} if factor is None else {"rope_type": "linear", "factor": factor}
        self.config = transformers.LlamaConfig(
            vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=16, rope_parameters={"rope_theta": 10000.0, **stretch},
        )  # fmt: skip
        self.inside, self.head = transformers.LlamaModel(self.config), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        states = self.inside(inputs_embeds=x[..., None].expand(-1, -1, 16)).last_hidden_state
        return self.head(states.mean(dim=1))


@pytest.mark.parametrize(("factor", "codes"), [(None, {"L5"}), (2.0, set())])
def test_positions_that_weights_do_not_hold(factor: float | None, codes: set[str]) -> None:
    def judge(model: nn.Module, epoch: int) -> None:
        last = Speaker(factor)
        last.load_state_dict(model.state_dict())
        accuracy(last.eval())

    assert found(judge, model=Speaker(2.0)) == codes


@pytest.mark.parametrize(("factor", "codes"), [(None, {"L5"}), (2.0, set())])
def test_positions_of_what_a_library_read(factor: float | None, codes: set[str]) -> None:
    """It writes weight after weight, and loads no state: `from_pretrained(folder, config=another)`."""
    tell: list[Callable[[nn.Module], None]] = []

    @torch.no_grad()
    def judge(model: nn.Module, epoch: int) -> None:
        last = Speaker(factor)
        for mine, theirs in zip(last.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs)
        for act in tell:
            act(last)
        accuracy(last.eval())

    assert found(judge, model=Speaker(2.0), tell=tell) == codes


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.usefixtures("origins")
def test_positions_of_a_copy_that_is_trained_next(trains: bool) -> None:
    """What was trained with a stretch goes on without it, or is asked first."""
    kept: list[nn.Module] = []

    def judge(model: nn.Module, epoch: int) -> None:
        if epoch == EPOCHS - 1:
            kept.append(last := Speaker(None))
            last.load_state_dict(model.state_dict())
            accuracy(last.eval())
            if trains:
                optimizer = torch.optim.SGD(last.train().parameters(), lr=0.05)
                F.cross_entropy(last(torch.randn(16, 6)), torch.zeros(16, dtype=torch.long)).backward()
                optimizer.step()
                optimizer.zero_grad()

    assert found(judge, model=Speaker(2.0)) == (set() if trains else {"L5"})


def test_positions_that_are_stretched_further_on_purpose() -> None:
    def judge(model: nn.Module, epoch: int) -> None:
        last = Speaker(4.0)
        last.load_state_dict(model.state_dict())
        accuracy(last.eval())

    assert found(judge, model=Speaker(None)) == found(judge, model=Speaker(2.0)) == set()


def found(
    judge: Judge,
    *,
    drop: float = 0.3,
    each: Judge | None = None,
    model: nn.Module | None = None,
    tell: list[Callable[[nn.Module], None]] | None = None,
) -> set[str]:
    """Codes of findings of a run with `judge` after every epoch, and `each` after every step.

    `tell` gets whom to tell of what a library read.
    """
    torch.manual_seed(0)
    problems: list[str] = []
    codes: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("__setstate__", "load_state_dict"):
            patch.setattr(nn.Module, name, getattr(nn.Module, name))
        models = Models(1.0, lambda finding: codes.append(finding.code), problems.append)
        StandIns(models, problems.append).install()
        if tell is not None:
            tell += models.read
        model = model or Net(drop)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        models.attach(model, [optimizer], blind=False)
        for epoch in range(EPOCHS):
            for _ in range(BATCHES):
                x = torch.randn(16, 6)
                optimizer.zero_grad()
                F.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
                optimizer.step()
                if each is not None:
                    each(model, epoch)
            judge(model, epoch)
        models.close_all(whole=True)
    assert not problems
    return set(codes)


class Average:
    """As written by hand: its weights follow those of the model."""

    def __init__(self, *, evaluates: bool) -> None:
        self.evaluates, self.copy = evaluates, None

    def __call__(self, model: nn.Module, epoch: int) -> None:
        if self.copy is None:
            self.copy = copy.deepcopy(model).requires_grad_(False)  # type: ignore[assignment]
            assert isinstance(self.copy, nn.Module)
            self.copy.train(not self.evaluates)
        with torch.no_grad():
            for mine, other in zip(self.copy.parameters(), model.parameters(), strict=True):
                mine.lerp_(other, 0.5)
        accuracy(self.copy)


def read_back(*, evaluates: bool) -> Judge:
    def judge(model: nn.Module, epoch: int) -> None:
        if epoch == EPOCHS - 1:
            final = Net()
            final.load_state_dict(model.state_dict())
            accuracy(final.eval() if evaluates else final)

    return judge


def unpickled(*, evaluates: bool) -> Judge:
    def judge(model: nn.Module, epoch: int) -> None:
        if epoch == EPOCHS - 1:
            file = io.BytesIO()
            torch.save(model, file)
            file.seek(0)
            final = torch.load(file, weights_only=False)
            accuracy(final.eval() if evaluates else final)

    return judge


class Scaled(nn.Module):
    """Divides by statistics that `fit` takes of the data; `memory` is of the batch before."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self.mean, self.memory, self.body = torch.zeros(6), torch.zeros(3), nn.Linear(6, 3)
        if "buffers" in case:
            del self.mean
            self.register_buffer("mean", torch.zeros(6), persistent="unsaved" not in case)
        self.add, self.single = False, case == "one number a sample"

    def fit(self, x: Tensor) -> None:
        self.mean = x.mean(0)

    def forward(self, x: Tensor) -> Tensor:
        answer = self.body(x - self.mean) + (self.memory if self.add else 0)
        self.memory = answer.detach().mean(0)
        return answer.mean(1) if self.single and not torch.is_grad_enabled() else answer


def scaled(case: str) -> set[str]:
    """Of a model that is read back after its training, and judged."""
    data, other = torch.randn(64, 6) + 4, torch.randn(64, 6) - 4

    def judge(model: nn.Module, epoch: int) -> None:
        if epoch < EPOCHS - 1:
            return
        final = Scaled(case)
        if case == "fitted before":
            final.fit(other)
        final.load_state_dict(model.state_dict())
        if "fitted after" in case:
            final.fit(other)
        if case in ("copied after", "a memory"):
            final.mean = model.mean
        final.add = case == "a memory"
        with torch.no_grad():
            final.eval()(data)

    model = Scaled(case)
    if case != "never fitted":
        model.fit(data)
    return found(judge, model=model)


def test_what_is_kept_outside_of_the_state_does_not_come_back() -> None:
    assert scaled("lost") == {"K1"} == scaled("unsaved buffers") == scaled("one number a sample")
    for case in (
        "unsaved buffers, fitted after",
        "buffers",
        "fitted before",
        "fitted after",
        "copied after",
        "a memory",
        "never fitted",
    ):
        assert scaled(case) == set(), case


class Heads(nn.Module):
    """Attention over six numbers; no dropout, and no tensors beside its state."""

    def __init__(self, heads: int = 2) -> None:
        super().__init__()
        self.up, self.mix, self.head = (
            nn.Linear(1, 8),
            nn.MultiheadAttention(8, heads, batch_first=True),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        states = self.up(x[..., None])
        return self.head(self.mix(states, states, states)[0].mean(1))


@pytest.mark.parametrize(("heads", "codes"), [(2, {"K1"}), (4, set())])
def test_a_model_that_is_rebuilt_with_other_heads(heads: int, codes: set[str]) -> None:
    def judge(model: nn.Module, epoch: int) -> None:
        final = Heads(heads)
        final.load_state_dict(model.state_dict())
        accuracy(final.eval())

    def another(model: nn.Module, epoch: int) -> None:
        """Weights that the trained one never had: those of a model of its own."""
        final = Heads(heads)
        final.load_state_dict(Heads().state_dict())
        accuracy(final.eval())

    assert found(judge, model=Heads(4)) == codes
    assert found(another, model=Heads(4)) == set()


class Rebuilt(nn.Module):
    """With settings that no state holds: an activation, a pooling, heads of an attention of its own, and others."""

    def __init__(self, act: str = "gelu", pool: str = "mean", heads: int = 4, steps: int = 2, out: str = "logits"):
        super().__init__()
        self.up, self.qkv, self.head = nn.Linear(1, 8), nn.Linear(8, 24), nn.Linear(8, 3)
        self.act: nn.Module = {"gelu": nn.GELU, "tanh": nn.Tanh}[act]()
        self.pool, self.heads, self.steps, self.out = pool, heads, steps, out

    def forward(self, x: Tensor) -> Tensor:
        rows, length = x.shape
        states = self.act(self.up(x[..., None]))
        for _ in range(self.steps):
            parts = self.qkv(states).view(rows, length, 3, self.heads, 8 // self.heads)
            q, k, v = parts.permute(2, 0, 3, 1, 4)
            states = states + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, length, 8)
        logits = self.head(states.mean(1) if self.pool == "mean" else states.amax(1))
        return logits if self.out == "logits" else logits.softmax(-1)


def rebuilt(*others: dict[str, object]) -> Judge:
    """At the end, models for the same weights, built with these settings."""

    def judge(model: nn.Module, epoch: int) -> None:
        for settings in others if epoch == EPOCHS - 1 else ():
            final = Rebuilt(**settings)  # type: ignore[arg-type]
            final.load_state_dict(model.state_dict())
            accuracy(final.eval())

    return judge


@pytest.mark.parametrize("setting", [{"act": "tanh"}, {"pool": "max"}, {"heads": 2}, {"heads": 2, "steps": 3}])
def test_a_model_that_is_rebuilt_with_another_setting(setting: dict[str, object]) -> None:
    assert found(rebuilt(setting), model=Rebuilt()) == {"K1"}


@pytest.mark.parametrize(
    "others", [[{}], [{"steps": 3}], [{"out": "probabilities"}], [{"pool": "max"}, {}], [{"heads": 2}, {"heads": 8}]]
)
def test_a_model_that_is_rebuilt_as_it_was_or_otherwise_on_purpose(others: list[dict[str, object]]) -> None:
    """The last two compare settings."""
    assert found(rebuilt(*others), model=Rebuilt()) == set()


def test_a_setting_that_is_changed_after_loading() -> None:
    def judge(model: nn.Module, epoch: int) -> None:
        final = Rebuilt()
        final.load_state_dict(model.state_dict())
        final.pool = "max"
        accuracy(final.eval())

    assert found(judge, model=Rebuilt()) == set()


@pytest.mark.parametrize("kind", [Average, read_back, unpickled])
def test_a_copy_is_judged_in_train_mode(kind: Callable[..., Judge]) -> None:
    assert found(kind(evaluates=False)) == {"T3"}
    assert found(kind(evaluates=True)) == set()


def weights_averaged(model: nn.Module, epoch: int) -> None:
    if epoch == EPOCHS - 1:
        average = AveragedModel(model)
        update_bn(torch.randn(4, 16, 6), average)
        accuracy(average.eval())


def statistics_taken_anew(model: nn.Module, epoch: int) -> None:
    if epoch == EPOCHS - 1:
        final = copy.deepcopy(model)
        accuracy(final.train())
        accuracy(final.eval())


def spread_of_answers(model: nn.Module, epoch: int) -> None:
    final, x = copy.deepcopy(model), torch.randn(16, 6)
    with torch.no_grad():
        torch.stack([final(x) for _ in range(8)]).std(0)


def a_fold_of_its_own(model: nn.Module, epoch: int) -> None:
    fold = copy.deepcopy(model)
    optimizer = torch.optim.SGD(fold.parameters(), lr=0.05)
    for x in torch.randn(4, 16, 6):
        F.cross_entropy(fold(x), x[:, :3].argmax(1)).backward()
        optimizer.step()
        optimizer.zero_grad()
    accuracy(fold.eval())


@pytest.mark.parametrize("judge", [weights_averaged, statistics_taken_anew, spread_of_answers, a_fold_of_its_own])
def test_copies_that_are_meant_so(judge: Judge) -> None:
    assert found(judge) == set()


def test_a_teacher_that_follows_answers_at_every_step() -> None:
    assert found(lambda model, epoch: None, each=Average(evaluates=False)) == set()


def test_a_copy_that_no_mode_changes() -> None:
    assert found(Average(evaluates=False), drop=0.0) == set()

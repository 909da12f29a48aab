"""Strangers' loops, written unlike any specimen: odd names, no hints at the door, and a fault beside its clean twin.

Every clean twin must be free of findings of every check.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sightline

BOS, IMG, EOS, PAD, WORDS = 1, 2, 3, 0, 24


class Eyes(nn.Module):
    """Patches of 4 x 4, a batch norm, and a mixing layer."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, wide, 4, stride=4)
        self.bn = nn.BatchNorm2d(wide)
        self.mix = nn.Linear(wide, wide)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.mix(self.bn(self.cut(pictures)).flatten(2).transpose(1, 2)).relu()


class Mouth(nn.Module):
    """A decoder of one recurrent layer."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.tok = nn.Embedding(WORDS, wide)
        self.rnn = nn.GRU(wide, wide, batch_first=True)
        self.out = nn.Linear(wide, WORDS)


class Parrot(nn.Module):
    """Four picture tokens, then text. Switches plant faults."""

    def __init__(self, wide: int = 32, *, no_grad: bool = False, deaf: bool = False) -> None:
        super().__init__()
        self.eyes, self.bridge, self.mouth = Eyes(16), nn.Linear(16, wide), Mouth(wide)
        self.no_grad, self.deaf = no_grad, deaf

    def forward(self, tokens: Tensor, pictures: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.no_grad):
            seen = self.eyes(pictures)
        seen = self.bridge(seen)
        words = self.mouth.tok(tokens)
        if not self.deaf:
            place = (tokens == IMG).unsqueeze(-1)
            words = words.masked_scatter(place, seen)
        return self.mouth.out(self.mouth.rnn(words)[0])


def batch(rows: int = 8) -> tuple[Tensor, Tensor]:
    """Pictures of two brightnesses; the text says which, then counts from it, and ends."""
    bright = torch.arange(rows) % 2
    pictures = bright.view(-1, 1, 1, 1) * 2 - 1 + 0.3 * torch.randn(rows, 3, 8, 8)
    start = 6 + 8 * bright
    text = torch.stack([start, start + torch.randint(1, 3, (rows,)), start + 3, torch.full_like(start, EOS)], dim=1)
    head = torch.tensor([BOS, IMG, IMG, IMG, IMG, 5]).expand(rows, -1)
    return torch.cat([head, text], dim=1), pictures


def nll(scores: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(scores[:, 5:-1].reshape(-1, WORDS), tokens[:, 6:].reshape(-1))


def train(model: Parrot, optimizer: torch.optim.Optimizer, steps: int, prepare: Any = None, loss_of: Any = nll) -> Any:
    """An ordinary loop. Only the model and its loss are told to the guard."""
    guard = sightline.attach(model, optimizer, on_finding=None)
    for _ in range(steps):
        if prepare is not None:
            prepare()
        tokens, pictures = batch()
        loss = loss_of(model(tokens, pictures), tokens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        guard.step(loss=loss.item())
    guard.close()
    return guard


def codes(guard: Any) -> set[str]:
    return {finding.code for finding in guard.findings}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


def taught() -> Parrot:
    """A parrot whose language tower has learnt the texts, without pictures."""
    model = Parrot(deaf=True)
    teacher = torch.optim.AdamW(model.mouth.parameters(), lr=1e-2)
    for _ in range(60):
        tokens, pictures = batch()
        teacher.zero_grad()
        nll(model(tokens, pictures), tokens).backward()
        teacher.step()
    model.deaf = False
    return model


def adamw(model: Parrot, eyes: float = 1e-3, bridge: float = 1e-3, mouth: float = 1e-3) -> torch.optim.Optimizer:
    parts = ((model.eyes, eyes), (model.bridge, bridge), (model.mouth, mouth))
    return torch.optim.AdamW([{"params": list(part.parameters()), "lr": rate} for part, rate in parts])


def test_from_scratch_with_one_rate_is_clean() -> None:
    model = Parrot()
    guard = train(model, torch.optim.AdamW(model.parameters(), lr=3e-3), 80)
    assert guard.findings == ()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 40])
def test_resumed_from_scratch_with_one_rate_is_clean(steps: int) -> None:
    model = Parrot()
    train(model, torch.optim.AdamW(model.parameters(), lr=1e-2), 40)
    assert train(model, torch.optim.AdamW(model.parameters(), lr=1e-2), steps + 40).findings == ()


def test_x1_a_tower_under_no_grad() -> None:
    model = Parrot(no_grad=True)
    said = codes(train(model, torch.optim.AdamW(model.parameters(), lr=1e-3), 6))
    assert {"X1"} <= said <= {"X1", "T1"}  # the tower, and its modules
    model = Parrot(no_grad=True)
    model.eyes.requires_grad_(False).eval()
    held = [p for p in model.parameters() if p.requires_grad]
    assert train(model, torch.optim.AdamW(held, lr=1e-3), 6, lambda: model.eyes.eval()).findings == ()


def test_x1_batch_norm_alive_in_a_frozen_tower() -> None:
    for wrong in (True, False):
        model = Parrot()
        model.eyes.requires_grad_(False)

        def prepare(model: Parrot = model, wrong: bool = wrong) -> None:
            model.train()
            model.eyes.train(wrong)

        guard = train(model, torch.optim.AdamW(model.bridge.parameters(), lr=1e-3), 6, prepare)
        model.mouth.requires_grad_(False)
        assert ("X1" in codes(guard)) == wrong


def test_x2_the_language_model_hot_beside_a_fresh_projector() -> None:
    model = taught()
    assert "X2" in codes(train(model, adamw(model, mouth=1.0), 20))
    model = taught()
    model.mouth.requires_grad_(False)
    held = [*model.eyes.parameters(), *model.bridge.parameters()]
    assert train(model, torch.optim.AdamW(held, lr=1e-2), 20).findings == ()


def test_x2_the_projector_initialised_anew() -> None:
    for wrong in (True, False):
        model, steps = Parrot(), iter(range(40))

        def prepare(model: Parrot = model, steps: Any = steps, wrong: bool = wrong) -> None:
            if next(steps) == 30 and wrong:
                model.bridge.reset_parameters()

        guard = sightline.attach(model, budget=1.0, on_finding=None)
        optimizer = adamw(model, bridge=1e-2)
        for _ in range(40):
            prepare()
            tokens, pictures = batch()
            optimizer.zero_grad()
            nll(model(tokens, pictures), tokens).backward()
            optimizer.step()
        guard.close()
        assert codes(guard) == ({"X2"} if wrong else set())


def test_x3_one_rate_for_fresh_and_trained() -> None:
    model = taught()
    assert "X3" in codes(train(model, torch.optim.AdamW(model.parameters(), lr=3e-1), 20))
    model = taught()
    assert train(model, adamw(model, eyes=1e-4, bridge=3e-3, mouth=1e-4), 20).findings == ()


def test_x3_one_low_rate_for_fresh_and_trained() -> None:
    model = taught()
    assert codes(train(model, torch.optim.AdamW(model.parameters(), lr=5e-6), 30)) == {"X3"}


def test_x5_features_that_reach_nobody() -> None:
    """The pictures are a positional argument under a name of the host's own; the labels stay in the loop."""
    model = Parrot(deaf=True)
    held = list(model.mouth.parameters())
    model.eyes.requires_grad_(False).eval()
    model.bridge.requires_grad_(False)
    guard = train(model, torch.optim.AdamW(held, lr=1e-3), 20, lambda: model.eyes.eval())
    assert codes(guard) == {"X5"}


def test_t4_softmax_in_the_loop() -> None:
    model = Parrot()
    guard = train(model, adamw(model), 8, loss_of=lambda scores, tokens: nll(scores.softmax(dim=-1), tokens))
    assert codes(guard) == {"T4"}


class Speller:
    """A tokenizer as strangers write them."""

    eos_token_id = EOS

    def __init__(self, pad: int | None) -> None:
        self.pad_token_id = pad

    def __len__(self) -> int:
        return WORDS


@pytest.mark.parametrize("fault", ["eos as pad", "no pad", None])
def test_l3_padding(fault: str | None) -> None:
    model = nn.Sequential(nn.Embedding(WORDS, 16), nn.Linear(16, WORDS))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pad = EOS if fault == "eos as pad" else PAD
    rows = [torch.tensor([BOS, *range(6, 6 + n), EOS]) for n in (3, 7, 5)]
    tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    goal = tokens.masked_fill(tokens == pad, -100)
    guard = sightline.attach(model, optimizer, tokenizer=Speller(None if fault == "no pad" else pad), on_finding=None)
    for _ in range(6):
        loss = F.cross_entropy(model(tokens)[:, :-1].transpose(1, 2), goal[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    guard.close()
    assert codes(guard) == ({"L3"} if fault == "eos as pad" else set())

"""A script's own perplexity: its losses are heard while it evaluates, and no longer."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.text import perplexity

import sightline
from sightline.attach.feed import Feed
from sightline.attach.phases.state import State
from sightline.attach.script.loss.judging import Judging
from sightline.attach.script.loss.logits import left_out
from sightline.attach.script.loss.words import _show

PAD, KINDS = 0, 12
LIKELY, METRIC = "likelihoods, pads scored", "a metric, pads scored"
PADDED = ("pads scored", LIKELY, METRIC, "pads left out", "mean times places")  # by models that know which id pads
LEFT_OUT = "pads scored, which the loss in training leaves out"
FAULTS = ("means of batches", "sums over padding", "pads scored", "mean times places")
TWICE, ALONE = "the model takes it, and the script again", "the model takes it, the script their mean"
ENDS = "ends alike"  # the last target of each text is the id that pads, and no input


@pytest.fixture
def judging() -> Iterator[Judging]:
    faults: list[str] = []
    one, before = Judging(faults.append), State.audience
    one.install()
    yield one
    one.close()
    assert State.audience is before and not faults


class Judged(nn.Sequential):
    """A model that takes its own loss of what it is told to predict, at each place that it is given."""

    wanted: Tensor | None = None
    loss: Tensor

    def forward(self, ids: Tensor) -> Tensor:  # type: ignore[override]
        logits: Tensor = super().forward(ids)
        if self.wanted is not None:
            targets = F.pad(self.wanted, (0, 1), value=PAD)
            padded = F.pad(logits, (0, 0, 0, 1)).flatten(0, 1)
            self.loss = F.cross_entropy(padded, targets.flatten(), ignore_index=PAD)
        return logits


def batches() -> list[Tensor]:
    """Short texts of any tokens, long ones of a single one, padded."""
    draw = torch.Generator().manual_seed(3)
    short = torch.randint(2, KINDS, (8, 5), generator=draw)
    long = torch.ones(4, 40, dtype=torch.long)
    long[0, 10:] = PAD
    return [short, long, short.flip(0)]


def losses(style: str, model: nn.Module) -> tuple[list[Tensor], list[int], list[int]]:
    """Each batch's loss, its tokens, and its places."""
    smoothing = 0.1 if style == "smoothed" else 0.0
    criterion = nn.CrossEntropyLoss(ignore_index=PAD, label_smoothing=smoothing)
    found, counts = [], []
    for ids in batches():
        model.wanted = ids[:, 1:] if style in (TWICE, ALONE) else None  # type: ignore[assignment]
        logits, wanted = model(ids[:, :-1]), ids[:, 1:]
        if style == ENDS:
            ended = torch.cat((wanted, torch.full_like(wanted[:, :1], PAD)), 1)[:, 1:]
            wanted = ended.masked_fill((ended == PAD).cumsum(1) > 1, -100)
            found.append(F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum"))
            counts.append(int((wanted != -100).sum()))
            continue
        if style in (LIKELY, METRIC):
            if style == LIKELY:
                found.append(F.nll_loss(logits.log_softmax(-1).flatten(0, 1), wanted.flatten(), reduction="sum"))
            else:
                found.append(perplexity._perplexity_update(logits, wanted, None)[0])
        elif style in ("sums over padding", TWICE):
            found.append(F.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=PAD, reduction="sum"))
        elif style == ALONE:
            found.append(model.loss)  # type: ignore[arg-type]
        elif style == "masked by hand":
            each = cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
            found.append((each * (wanted != PAD)).sum() / (wanted != PAD).sum())
        elif "pads" in style:
            each = F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
            found.append(each.sum() if style in ("pads scored", LEFT_OUT) else each[wanted != PAD].sum())
        elif style == "mean times places":
            found.append(F.cross_entropy(logits.transpose(1, 2), wanted) * wanted.numel())
        else:
            found.append(criterion(logits.flatten(0, 1), wanted.flatten()))
        counts.append(int((wanted != PAD).sum()))
    return found, counts, [ids[:, 1:].numel() for ids in batches()]


def said(style: str, judging: Judging, name: str = "val ppl") -> list[tuple[str, str]]:
    torch.manual_seed(0)
    known = PAD if style in (*PADDED, ENDS) else None
    model = Judged(nn.Embedding(KINDS, 16, padding_idx=known), nn.Linear(16, KINDS))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    guard = sightline.attach(model, optimizer, on_finding=None)
    for _ in range(20):
        ids = batches()[1]
        loss = cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD)
        guard._recorder.ignored = left_out(loss) if style == LEFT_OUT else None
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    plain = torch._C._nn.cross_entropy_loss
    model.eval()
    with torch.no_grad():
        found, counts, places = losses(style, model)
    assert torch._C._nn.cross_entropy_loss is not plain
    if style == "tokens":
        nats = sum(float(loss) * count for loss, count in zip(found, counts, strict=True)) / sum(counts)
    elif style in ("pads left out", ENDS):
        nats = float(sum(found)) / sum(counts)
    elif style == "last":
        nats = float(found[-1])
    elif style == "sums over padding" or style in (*PADDED, TWICE, LEFT_OUT):
        nats = float(sum(found)) / sum(places)
    else:
        nats = sum(float(loss) for loss in found) / len(found)
    _show(guard._recorder, {name: f"{nats if 'loss' in name else math.exp(nats):.3f}"})
    guard.close()
    assert torch._C._nn.cross_entropy_loss is plain
    return [(finding.code, finding.severity) for finding in guard.findings if finding.code == "L7"]


@pytest.mark.parametrize("style", [*FAULTS, TWICE, ALONE, LEFT_OUT, LIKELY, "smoothed"])
def test_a_perplexity_that_is_miscounted(style: str, judging: Judging) -> None:
    assert said(style, judging) == [("L7", "warning")]


@pytest.mark.slow
def test_a_metric_that_takes_the_likelihoods(judging: Judging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perplexity, "_perplexity_update", perplexity._perplexity_update)
    judging.on_import()["torchmetrics.text.perplexity"]()
    assert said(METRIC, judging) == [("L7", "warning")]


@pytest.mark.parametrize("style", ["tokens", "masked by hand", "pads left out", ENDS])
def test_one_that_is_right_or_made_otherwise(style: str, judging: Judging) -> None:
    assert said(style, judging) == []


def test_a_loss_is_a_note(judging: Judging) -> None:
    assert said("means of batches", judging, "val loss") == [("L7", "note")]
    assert said("smoothed", judging, "val loss") == []


@pytest.mark.parametrize("ended", [True, False])
def test_the_last_batch_alone(ended: bool, judging: Judging, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the loader's own end: what a loop prints on its way is each batch's loss."""
    loader = DataLoader(TensorDataset(torch.zeros(4)))
    monkeypatch.setattr(Feed, "source", lambda: Feed(loader, 0, 0.0, 2, {0: 3} if ended else {}))
    assert said("last", judging) == ([("L7", "warning")] if ended else [])


def test_two_models_judged_at_once_show_nothing(judging: Judging) -> None:
    torch.manual_seed(0)
    models = [nn.Linear(4, 3) for _ in range(2)]
    guards = [sightline.attach(m, torch.optim.SGD(m.parameters(), lr=0.1), on_finding=None) for m in models]
    with torch.no_grad():
        for model in models:
            cross_entropy(model(torch.randn(6, 4)), torch.randint(0, 3, (6,)))
    for guard in guards:
        guard.close()
        assert "JudgedLossesSeen" not in guard.watch._latest

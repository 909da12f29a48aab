"""M1 for rows that are nearly equal: pictures saved again, texts with a word changed; and what looks like it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one

DRAW = torch.Generator()


def pictures(count: int, seed: int) -> Tensor:
    low = torch.randn(count, 3, 6, 6, generator=DRAW.manual_seed(seed))
    return F.interpolate(low, size=32, mode="bicubic").clamp(-2, 2)


def saved_again(images: Tensor) -> Tensor:
    """Smaller, and as large as before, in steps of a 40th."""
    small = F.interpolate(F.interpolate(images, size=20, mode="bilinear"), size=32, mode="bilinear")
    return (small * 40).round() / 40


def found(train: Tensor, tests: list[Tensor], *, augment: bool = False, epochs: int = 3) -> list[str]:
    """A stranger's loop; the messages of M1."""
    torch.manual_seed(0)
    text = not train.is_floating_point()
    net: nn.Module = nn.Embedding(50, 8) if text else nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
    opt = torch.optim.SGD(net.parameters(), lr=0.01)
    with sightline.attach(net, opt, on_finding=None) as guard:
        for _ in range(epochs):
            for rows in torch.randperm(len(train)).split(16):
                x = train[rows]
                if augment:
                    x = x.roll(int(torch.randint(-1, 2, ())), 3) + 0.01 * torch.randn_like(x)
                opt.zero_grad()
                net(x).square().mean().backward()
                opt.step()
            with torch.no_grad():
                for x in (part for test in tests for part in test.split(16)):
                    net(x)
    return [f.message for f in guard.findings if f.code == "M1"]


@pytest.mark.slow
def test_pictures_that_were_saved_again() -> None:
    train, test = pictures(256, 1), pictures(64, 2)
    assert found(train, [test]) == []
    copies = torch.cat([saved_again(train[:20]), test[20:]])[torch.randperm(64, generator=DRAW)]
    assert found(train, [copies]) == ["20 of 64 evaluated images are nearly equal to ones trained on"]
    assert found(train, [saved_again(train[:64])]) == ["64 of 64 evaluated images are nearly equal to ones trained on"]


def test_a_word_changed() -> None:
    draw = torch.Generator().manual_seed(3)
    train, test = torch.randint(0, 50, (256, 96), generator=draw), torch.randint(0, 50, (64, 96), generator=draw)
    assert found(train, [test]) == []
    test[::3], test[::3, 20] = train[:22], 3
    assert [m.split(" evaluated")[1] for m in found(train, [test])] == [" texts are nearly equal to ones trained on"]


@pytest.mark.parametrize("epochs", [1, 4])
def test_a_training_score_of_augmented_training_beside_a_test(epochs: int) -> None:
    train = pictures(256, 1)
    assert found(train, [train, pictures(64, 2)], augment=True, epochs=epochs) == []


def test_drawings_that_are_all_alike() -> None:
    """The same scene with a little noise: what is near says nothing."""
    scenes = pictures(8, 1)
    train, test = (scenes[torch.arange(n) % 8] + 0.02 * pictures(n, n) for n in (256, 64))
    assert found(train, [test]) == []


def test_texts_from_one_template() -> None:
    train, test = (torch.arange(96).remainder(50).repeat(n, 1) for n in (256, 64))
    for part, start in ((train, 0), (test, 25)):
        part[:, 40] = torch.arange(len(part)) % 25 + start
        part[:, 41] = torch.arange(len(part)) // 25
    assert found(train, [test]) == []


@pytest.mark.parametrize(
    ("evaluated", "rows", "count"),
    [("mixed", 256, 1), ("new", 256, 0), ("trained on", 256, 0), ("both kinds", 256, 0), ("mixed", 4096, 0)],
)
def test_runs_of_more_batches_than_are_hashed(evaluated: str, rows: int, count: int) -> None:
    """Once an epoch's worth of rows came again, it is known what was trained on; in a first epoch it is not."""
    torch.manual_seed(3)
    train, new = torch.randn(rows, 12), torch.randn(64, 12)
    mixed = torch.cat([train[:20], new[:44]])[torch.randperm(64)]
    judged = {"mixed": [mixed], "new": [new], "trained on": [train], "both kinds": [train, new]}[evaluated]
    net = nn.Linear(12, 3)
    opt = torch.optim.SGD(net.parameters(), lr=0.01)
    with sightline.attach(net, opt, on_finding=None) as guard:
        for _ in range(8 if rows == 256 else 1):
            for places in torch.randperm(rows).split(16):
                opt.zero_grad()
                net(train[places]).square().mean().backward()
                opt.step()
        with guard.evaluating(), torch.no_grad():
            for x in (part for one in judged for part in one.split(16)):
                net(x)
    assert [f.code for f in guard.findings if f.code == "M1"] == ["M1"] * count


def classified(train: Tensor, test: Tensor, classes: int) -> list[str]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes))
    net(train[:1])
    opt = torch.optim.SGD(net.parameters(), lr=0.01)
    with sightline.attach(net, opt, on_finding=None) as guard:
        for _ in range(2):
            for rows in torch.randperm(len(train)).split(16):
                opt.zero_grad()
                net(train[rows]).square().mean().backward()
                opt.step()
            with torch.no_grad():
                for x in test.split(16):
                    net(x)
    return [f.message for f in guard.findings if f.code == "M1"]


@pytest.mark.parametrize("classes", [4, 64])
def test_pictures_copied_before_the_split(classes: int) -> None:
    """Three more of each, so that copies are as frequent on either side; or views of one thing, which is the class."""
    first = pictures(64, 4)
    noise = torch.randn(3, *first.shape, generator=DRAW.manual_seed(5))
    every = torch.cat([first, *(first + 0.02 * noise)])
    order = torch.randperm(256, generator=DRAW)
    found = classified(every[order[:200]], every[order[200:]], classes)
    assert len(found) == (classes == 4) and all("nearly equal to ones trained on" in one for one in found)
    kept = (order % 64 < 50).nonzero().flatten()
    assert not classified(every[order[kept]], first[50:], classes)


def test_pictures_of_few_kinds() -> None:
    """Each of forty drawings comes as often as chance has it."""
    kinds = pictures(40, 6)[torch.randint(0, 40, (256,), generator=DRAW.manual_seed(7))]
    every = kinds + 0.02 * torch.randn(kinds.shape, generator=DRAW)
    assert not classified(every[:200], every[200:], 4)

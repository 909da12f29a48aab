"""FGSM and PGD give what torchattacks and foolbox give, on a pretrained ResNet-20; skipped where they are not there.

Neither library is a dependency: torchattacks asks for torchvision. `pip install --no-deps torchattacks` (with scipy,
requests and tqdm), or `foolbox eagerpy GitPython`, in an environment of one's own is enough for this test.
"""

from __future__ import annotations

import pytest
import torch

from sightline.evaluate.robust.attacks.fgsm import fgsm
from sightline.evaluate.robust.attacks.pgd import pgd
from tests.evaluate.robust.plain import photos, pretrained, target

EPSILON, COUNT = 8 / 255, 8


@pytest.fixture(scope="module")
def attacked():
    """A network, photographs, and the classes that it sees in them; fp64, where rounding flips no sign or ReLU."""
    model, pixels = pretrained().double(), photos(COUNT).double()
    with torch.no_grad():
        labels = model(pixels).argmax(1)
    return model, pixels, labels


def alike(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


def test_fgsm_and_pgd_of_torchattacks(attacked):
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed", exc_type=ImportError)
    model, pixels, labels = attacked
    ours = target(model, pixels, labels)
    alike(fgsm(ours, EPSILON), torchattacks.FGSM(model, eps=EPSILON)(pixels, labels))
    linf = torchattacks.PGD(model, eps=EPSILON, alpha=2 / 255, steps=10, random_start=False)
    alike(pgd(ours, EPSILON, steps=10, step_size=2 / 255, random_start=False), linf(pixels, labels))
    l2 = torchattacks.PGDL2(model, eps=0.5, alpha=0.1, steps=10, random_start=False)
    made = pgd(ours, 0.5, "l2", steps=10, step_size=0.1, random_start=False)
    alike(made, l2(pixels, labels))
    assert (model(made).argmax(1) == labels).float().mean() < 0.3


def test_pgd_of_torchattacks_from_the_same_random_point(attacked):
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed", exc_type=ImportError)
    model, pixels, labels = attacked
    theirs = torchattacks.PGD(model, eps=EPSILON, alpha=2 / 255, steps=5, random_start=True)
    torch.manual_seed(3)
    expected = theirs(pixels, labels)
    torch.manual_seed(3)
    begin = (pixels + torch.empty_like(pixels).uniform_(-EPSILON, EPSILON)).clamp(0, 1)
    alike(pgd(target(model, pixels, labels), EPSILON, steps=5, step_size=2 / 255, begin=begin), expected)


def test_fgsm_and_pgd_of_foolbox(attacked):
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed", exc_type=ImportError)
    model, pixels, labels = attacked
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    ours = target(model, pixels, labels)
    one = foolbox.attacks.FGSM(random_start=False)
    alike(fgsm(ours, EPSILON), one.run(wrapped, pixels, labels, epsilon=EPSILON))
    linf = foolbox.attacks.LinfPGD(abs_stepsize=2 / 255, steps=10, random_start=False)
    made = pgd(ours, EPSILON, steps=10, step_size=2 / 255, random_start=False)
    alike(made, linf.run(wrapped, pixels, labels, epsilon=EPSILON))
    l2 = foolbox.attacks.L2PGD(abs_stepsize=0.1, steps=10, random_start=False)
    made = pgd(ours, 0.5, "l2", steps=10, step_size=0.1, random_start=False)
    alike(made, l2.run(wrapped, pixels, labels, epsilon=0.5))

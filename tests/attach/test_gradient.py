"""What a loss supervised, read off its gradient, against what the loss was told."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, nll_loss

from sightline.attach.gradient import class_dim, loss_seen, read_gradient


def read(logits: torch.Tensor, loss: torch.Tensor):
    (grad,) = torch.autograd.grad(loss, logits)
    statistics, targets = read_gradient(logits, grad)
    return loss_seen(1, 0, [statistics, targets, torch.zeros_like(targets)])


def example(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    targets = torch.randint(0, 50, (3, 7))
    targets[0, :4] = targets[2, 6] = -100
    return torch.randn(3, 7, 50).to(dtype).requires_grad_(), targets


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_targets_and_weights_of_cross_entropy(dtype: torch.dtype, reduction: str) -> None:
    logits, targets = example(dtype)
    seen = read(logits, cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction=reduction))
    assert torch.equal(seen.targets, targets)
    assert seen.supervised == 16 and seen.softmax_rows == 1.0 and seen.probability_rows == 0.0
    assert seen.weight == pytest.approx(1 / 16 if reduction == "mean" else 1.0, rel=1e-2)


def test_maps_have_their_classes_in_front() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 5, 8, 8).requires_grad_(), torch.randint(0, 5, (2, 8, 8))
    targets[1, 3:] = -100
    seen = read(logits, cross_entropy(logits, targets))
    assert torch.equal(seen.targets, targets) and seen.supervised == 88 and seen.softmax_rows == 1.0
    assert seen.weight == pytest.approx(1 / 88, rel=1e-3) and class_dim(logits) == 1
    assert class_dim(torch.zeros(2, 4, 7, 50)) == class_dim(torch.zeros(2, 7, 7)) == -1


def test_probabilities_given_for_logits() -> None:
    logits, targets = example()
    probabilities = logits.softmax(dim=-1)
    double = read(probabilities, cross_entropy(probabilities.flatten(0, 1), targets.flatten()))
    assert double.probability_rows == 1.0 and double.softmax_rows == 1.0
    logs = probabilities.log()
    right = read(probabilities, nll_loss(logs.flatten(0, 1), targets.flatten()))
    assert right.probability_rows == 1.0 and right.softmax_rows == 0.0
    plain = log_softmax(logits, dim=-1)
    assert read(plain, nll_loss(plain.flatten(0, 1), targets.flatten())).probability_rows == 0.0


def test_nothing_supervised() -> None:
    logits, targets = example()
    seen = read(logits, (logits * 0).sum() + 0 * targets.sum())
    assert seen.supervised == 0 and seen.weight is None and bool((seen.targets == -100).all())


def test_the_size_of_logits_where_something_is_supervised() -> None:
    logits, targets = example()
    with torch.no_grad():
        logits[0, 0] = 1e4  # not supervised
        logits[..., 3] = float("-inf")  # a token that is shut out
        targets[targets == 3] = 4
    seen = read(logits, cross_entropy(logits.flatten(0, 1), targets.flatten()))
    taught = logits.detach()[targets != -100]
    assert seen.log_z == pytest.approx(float(taught.logsumexp(-1).mean()), rel=1e-5)
    assert seen.largest_logit == pytest.approx(float(taught[taught.isfinite()].abs().max()), rel=1e-5)
    assert seen.loss == pytest.approx(float(cross_entropy(taught, targets[targets != -100])), rel=1e-5)


@pytest.mark.parametrize("away", [False, True])
def test_a_gradient_that_leads_away_from_its_targets_is_no_double_softmax(away: bool) -> None:
    """As that of a preference loss for the rejected answer, of a model that has learnt nothing yet."""
    logits, targets = example()
    logits = (logits.detach() * 1e-3).requires_grad_()
    loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
    seen = read(logits, -loss if away else loss)
    assert seen.doubled_rows == 0.0 and (seen.loss is None) == away


@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_class_weights_hide_no_double_softmax(scale: float) -> None:
    torch.manual_seed(0)
    logits, targets = (scale * torch.randn(48, 3)).requires_grad_(), torch.randint(3, (48,))
    weight = torch.tensor([0.3, 1.0, 2.5])

    def doubled(loss: torch.Tensor) -> float:
        return read(logits, loss).doubled_rows

    def each() -> torch.Tensor:
        return cross_entropy(logits, targets, reduction="none")

    once = [
        cross_entropy(logits, targets, weight=weight),
        cross_entropy(logits, targets, weight=weight, label_smoothing=0.1),
        ((1 - (-each()).exp()) ** 2 * each()).mean(),
        (each() * weight[targets] * (1 - (-each()).exp())).mean(),
        (each() * torch.rand(48)).mean(),
        cross_entropy(logits, torch.randn(48, 3).softmax(dim=-1)),
    ]
    assert max(doubled(loss) for loss in once) < 0.7
    if scale >= 1:  # before it learns, one softmax and two weigh all alike
        assert doubled(cross_entropy(logits.softmax(dim=-1), targets, weight=weight)) > 0.9
        assert doubled(cross_entropy(logits.softmax(dim=-1), targets)) > 0.9

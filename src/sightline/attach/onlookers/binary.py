"""The first binary cross-entropy of a run, recognised by its gradient: what it is, and what a guess would have.

Near 0 a sigmoid is a line, so that outputs that are all small fit one sigmoid as well as two: then later ones are read.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.onlookers.outputs import given_out
from sightline.guard.evidence import BinaryLossSeen
from sightline.guard.probes.call import Call

MOST = 65_536  # outputs looked at: enough for a mean, and less than a millisecond
LEAST, LOWEST = 1e-12, -100.0  # torch's own bounds of p (1 - p), and of the logarithm of a probability
UNSURE = 0.02  # of a probability: nearer to 0 and 1 the gradient is that of an absolute error, plus and minus one
FEWEST = 2  # unsure outputs: they can hardly both lie within 2 % by chance
SAME = 1e-3  # relative: a gradient that outputs do not change is no sigmoid's; of two, 2 % in the first are 0.6 % here
EVEN = 0.02  # relative: all answers of a kind weigh the same, up to the rounding of bf16 gradients (2^-8)
SHAPING = (
    "View",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Transpose",
    "Permute",
    "TBackward",
    "ToCopy",
    "Select",
)
HALF = 0.5  # of the weights: around their median some agree in any form
LOOKS = 12  # measured steps until the outputs have spread, or never will
DOUBLED = 0.9  # of the outputs fit two sigmoids
DEEP = 6  # such operations between a sigmoid and what the model gives: squeezed, cast, turned; more is no output layer


class Binary(Onlooker):
    """Looks at the outputs of the first training forward and at their gradient; at later ones if those fit both."""

    shows: ClassVar = ("BinaryLossSeen",)
    measured_only: ClassVar = True

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._looks, self._due = LOOKS, True

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Listen to the gradient of the run's first outputs."""
        if not self._due or not training:
            return
        self._due = False
        given, step = given_out(output), self.recorder.step
        if (step and self._looks == LOOKS) or given is None or not given.requires_grad:
            return
        self._looks -= 1
        classes, values = 1 if given.dim() == 1 else given.shape[-1], given.detach()
        squashed = from_sigmoid(given)

        def came(grad: Tensor) -> None:
            self.recorder.mailbox.post([read_binary(values, grad)], lambda found: arrived(found[0].tolist()))

        def arrived(found: list[float]) -> None:
            graded, fits, loss, ones, probable, again, once, twice = found[1:]
            self._due = once > HALF and twice > DOUBLED and self._looks > 0
            doubled = max(again if squashed else 0.0, twice if once <= HALF else 0.0)
            seen = (graded, fits, loss, ones, probable, doubled, squashed)
            self.recorder.offer(BinaryLossSeen(step, classes, int(found[0]), *seen))

        self.heed(given, came)


def from_sigmoid(output: Tensor) -> bool:
    """Whether a model's output is what a sigmoid gave, but for its shape and dtype. Its graph says so."""
    node = output.grad_fn
    for _ in range(DEEP):
        if node is None or not node.name().startswith(SHAPING):
            break
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith("SigmoidBackward")


def read_binary(outputs: Tensor, grad: Tensor) -> Tensor:
    """(9,) float32: outputs; shares of those with a gradient and of those that fit; mean loss; ones; probabilities;
    shares that fit when probabilities are taken for logits (and not for what they are: where all are nearly one half,
    they fit both), when logits are, and when these pass one sigmoid more.

    With logits, w (sigmoid(z) - y) is the gradient, with probabilities w (p - y) / (p (1 - p)): its sign tells y, and
    what is left is one w for all answers of a kind (a positive weight makes it two). What has none is right, and sure.
    """
    with torch.no_grad():
        stride = max(1, outputs.numel() // MOST)
        z, g = (part.detach().flatten()[::stride].float() for part in (outputs, grad))
        ones, seen = g < 0, g != 0
        logit = torch.where(ones, -g / torch.sigmoid(-z), g / torch.sigmoid(z))
        chance = (g * (z * (1 - z)).clamp(min=LEAST)).abs() / torch.where(ones, 1 - z, z).abs()
        probable = ((z >= 0) & (z <= 1)).all()
        likely = torch.where(probable, z, torch.sigmoid(z))
        unsure = (likely > UNSURE) & (likely < 1 - UNSURE)
        fits = _even(torch.where(probable, chance, logit), ones, seen, unsure)
        once, again = _even(logit, ones, seen, unsure), _even(logit, ones, seen, seen)
        once = torch.maximum(once, _even(g.abs(), ones, seen, seen, SAME))  # so that two sigmoids are not told of it
        squashed = torch.sigmoid(z)  # flat where it is near 0 or 1: there every gradient fits, being none
        middling = (squashed > UNSURE) & (squashed < 1 - UNSURE)
        coarse = (g.bfloat16() == g).all()  # rounded on its way: else a pair's loss fits while rewards are near 0
        even = torch.where(coarse, EVEN, SAME)
        twice = _even(_through_sigmoid(z, g, ones), ones, seen, middling, even)
        plain = _even(chance, ones, seen, seen, even) > HALF
        bounded = torch.where(ones, z, 1 - z).clamp(min=0).log().clamp(min=LOWEST)
        nats = -torch.where(probable, bounded, F.logsigmoid(torch.where(ones, z, -z)))
        count = seen.sum()
        shares = [count / len(z), fits, nats.masked_fill(~seen, 0.0).mean()]
        answers = (ones & seen).sum() / count.clamp(min=1)
        again = again.masked_fill(~probable | plain, 0.0)
        return torch.stack([torch.full_like(z[0], len(z)), *shares, answers, probable.float(), again, once, twice])


def _through_sigmoid(z: Tensor, grad: Tensor, ones: Tensor) -> Tensor:
    """Weights of answers whose loss took sigmoid(z) for a logit: the gradient is w s (1 - s) (sigmoid(s) - y)."""
    s = torch.sigmoid(z)
    error = torch.where(ones, torch.sigmoid(-s), torch.sigmoid(s))
    return grad.abs() / (s * (1 - s) * error).clamp(min=LEAST)


def _even(weights: Tensor, ones: Tensor, seen: Tensor, unsure: Tensor, even: float | Tensor = EVEN) -> Tensor:
    """Share of the outputs whose weight is the median one of their kind; 0 where none that is unsure proves it."""
    good = torch.zeros_like(seen)
    for kind in (ones & seen, ~ones & seen):
        middle = weights.masked_fill(~kind, float("nan")).nanmedian()
        good |= ((weights - middle).abs() <= even * middle.abs()) & kind
    shares = [(good & part).sum() / (seen & part).sum().clamp(min=FEWEST) for part in (seen, unsure)]
    return torch.minimum(*shares)

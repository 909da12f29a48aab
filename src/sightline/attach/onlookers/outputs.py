"""What the model gives out: the layer that made the first logits, and how far samples' outputs differ."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from math import gcd
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sightline.attach.gradient import class_dim
from sightline.attach.graph import is_log_softmax, nodes, signed
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.onlookers.origin import only_norms, trained_before
from sightline.attach.origins import ORIGINS
from sightline.guard.evidence import HeadSeen, OutputsSeen
from sightline.guard.probes.call import Call, outcome
from sightline.guard.probes.fields import leaves

ROWS = 64  # samples compared: enough to see that they are one
WIDE = 4096  # elements of a sample compared
RECENT = 3  # readings shown together
TEXT = 3  # dimensions of outputs that may be one row of words after the other
MAPS = 4  # dimensions of a convolution's weights that makes them
ALIKE = 16  # samples of an evaluation: a few may be of one kind
SETS = 4  # of vectors in one output
NEAR = 64  # nodes behind a loss that are gone through for its softmax
FROM = 8  # steps: outputs that start out equal (a head of zeros) differ by then
WRITES = 16  # to a matrix, one for each step: an init and a checkpoint's loading make a few, so this one was trained
FIRST, EVERY = 6, 4  # looks that a run gets whatever the budget, and the steps between them: a millisecond in all


class Head(Onlooker):
    """The layer of the first training forward's logits, before any step."""

    shows: ClassVar = ("HeadSeen",)
    measured_only: ClassVar = True

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._done = False

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Measure the last matrix whose one side is the number of classes; of maps, the last such convolution."""
        if self._done or not training:
            return
        self._done = True
        logits = given_out(output)
        shape = behind(output) if logits is None else logits.shape
        if self.recorder.step or shape is None:
            return
        classes = shape[-1] if logits is None else 1 if logits.dim() == 1 else shape[class_dim(logits)]
        candidates = self._matrices(classes) or (self._convolutions(classes) if len(shape) > TEXT else [])
        if not candidates:
            return
        name, weight = candidates[-1]
        inputs = weight[0].numel() if weight.shape[0] == classes else weight.shape[0]
        if not weight.is_inference() and weight._version > WRITES:  # by an optimizer that came before this one
            return
        if ORIGINS.given(weight):  # from a file, by a run that goes on
            return
        bias = dict(self.recorder.model.named_parameters()).get(name.removesuffix("weight") + "bias")
        values = weight.detach().float()
        second = values.square().mean()
        moments = [second.sqrt(), values.pow(4).mean() / second.square().clamp(min=1e-30)]
        moments += [bias.detach().float().square().mean().sqrt()] if bias is not None and bias.dim() == 1 else []

        tables = (module.weight for module in self.recorder.model.modules() if isinstance(module, nn.Embedding))
        tied = any(weight is table for table in tables)
        learns = any(p.requires_grad for p in (bias, *(p for _, p in candidates)) if p is not None)
        norms, body = only_norms(self.recorder.model), trained_before(self.recorder.model, weight)
        fresh = ORIGINS.fresh(weight) if ORIGINS.listens else None

        def arrived(came: list[Tensor]) -> None:
            (rms, kurtosis, *rest), trained = (float(value) for value in came[:-1]), bool(came[-1])
            self.recorder.offer(
                HeadSeen(
                    0,
                    name,
                    inputs,
                    classes,
                    rms,
                    kurtosis,
                    rest[0] if rest else None,
                    tied,
                    learns,
                    norms,
                    trained,
                    fresh,
                )
            )

        self.recorder.mailbox.post([*moments, body], arrived)

    def _matrices(self, classes: int) -> list[tuple[str, Tensor]]:
        """What could be the output layer, in the model's order."""
        named = self.recorder.model.named_parameters()
        return [
            (name, p)
            for name, p in named
            if p.dim() == 2 and p.is_floating_point() and classes in p.shape and not hasattr(p, "to_local")
        ]

    def _convolutions(self, classes: int) -> list[tuple[str, Tensor]]:
        """What could be the output layer of maps."""
        named = self.recorder.model.named_parameters()
        return [
            (name, p)
            for name, p in named
            if p.dim() == MAPS and p.is_floating_point() and p.shape[0] == classes and not hasattr(p, "to_local")
        ]


class Outputs(Onlooker):
    """How much outputs, inputs and the gradients of outputs differ from sample to sample, on sampled steps."""

    shows: ClassVar = ("OutputsSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._recent: dict[int, list[tuple[float, float]]] = {}
        self._looks = 0
        self._last: dict[int, OutputsSeen] = {}
        self._judged: deque[tuple[int, int, float, float]] = deque(maxlen=RECENT)

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Compare the samples of a measured training forward, once its gradient has come."""
        step = self.recorder.step
        if not training and step >= FROM and measured and not call.model.training:
            self._judge(call, given_out(output))
        if not training or step < FROM or not (measured or (self._looks < FIRST and step % EVERY == 0)):
            return
        given = given_out(output)
        every = _vectors(output) if given is None else [given]
        self._looks += any(one.requires_grad for one in every)
        for place, one in enumerate(every):
            if one.requires_grad:
                self._listen(place, call, one, wanted=given is not None or one.dim() > 1)

    def _judge(self, call: Call, given: Tensor | None) -> None:
        """In an evaluation no dropout makes samples differ that are one."""
        inputs = spread_of_inputs(call, given) if given is not None else None
        if given is None or inputs is None or given.dim() == TEXT or len(kept := _samples(given)) < ALIKE:
            return
        step, rows, ids = self.recorder.step, len(kept), call.tensor("input_ids")
        if ids is not None:  # of one text over and over, the outputs are one
            inputs = (ids != ids[:1]).flatten(1).any(dim=1).float().mean()

        def arrived(values: list[Tensor]) -> None:
            self._judged.append((step, rows, float(values[0]), float(values[1])))

        self.recorder.mailbox.post([spread(kept), inputs], arrived)

    def _listen(self, place: int, call: Call, given: Tensor, *, wanted: bool) -> None:
        """`wanted`: it may be told that samples are wanted apart. One number a sample, beside others, may be a
        parameter that was repeated."""
        step = self.recorder.step
        inputs, kept = spread_of_inputs(call, given), _samples(given)
        if len(kept) < 2 or inputs is None:
            return
        out = spread(kept)

        def came(grad: Tensor) -> None:
            self.recorder.mailbox.post([out, inputs, spread(_samples(grad))], arrived)

        def arrived(values: list[Tensor]) -> None:
            recent = [
                *self._recent.get(place, [])[-RECENT + 1 :],
                (float(values[0]), float(values[2]) if wanted else 0.0),
            ]
            self._recent[place] = recent
            outputs, pulls = zip(*recent, strict=True)
            self._last[place] = OutputsSeen(step, len(kept), outputs, float(values[1]), pulls)
            self.recorder.offer(self._last[place])

        self.heed(given, came)

    def close(self, *, broken: bool) -> None:
        """The last passes once more, where they tell of the run's end."""
        for last in self._last.values():
            if 2 * last.step >= self.recorder.step:
                self.recorder.offer(replace(last, over=True))
        if 0 in self._last and len(self._judged) == RECENT:
            steps, rows, outputs, inputs = zip(*self._judged, strict=True)
            late = 2 * max(steps) >= self.recorder.step
            last = replace(self._last[0], rows=min(rows), outputs=outputs, inputs=min(inputs), over=late, mode="eval")
            self.recorder.offer(last)


def _vectors(output: Any) -> list[Tensor]:
    """Of an output without logits: what has a vector or a number for each sample, which nobody repeated for all."""
    kept = [t for t in leaves((output,), {}).values() if t.dim() in (1, 2) and t.is_floating_point() and t.stride(0)]
    return [t for t in kept if len(t) == len(kept[0]) and (t.dim() == 1 or t.shape[1] > 1)][:SETS]


def spread(samples: Tensor) -> Tensor:
    """Root mean square of the deviations of (rows, width) from the mean row, over that of the rows; 0-dim."""
    power = samples.square().mean()
    return ((samples - samples.mean(dim=0)).square().mean() / power.clamp(min=1e-30)).sqrt()


def behind(output: Any) -> torch.Size | None:
    """The shape of the one softmax, over its last dimension, that a model's own loss was made of."""
    loss = outcome(output).loss
    if loss is None or loss.grad_fn is None:
        return None
    found = [node for node in nodes([loss.grad_fn], most=NEAR, stop=is_log_softmax) if is_log_softmax(node)]
    if len(found) != 1:
        return None
    shape = found[0]._saved_result.shape
    return shape if signed(found[0]._saved_dim) in (len(shape) - 1, -1) else None


def given_out(output: Any) -> Tensor | None:
    """(..., C) output, or a plain (B,) one."""
    if isinstance(output, Tensor) and output.dim() == 1 and output.is_floating_point():
        return output
    return outcome(output).logits


def _samples(values: Tensor) -> Tensor:
    """At most ROWS samples, evenly spaced: (rows, width) float32.

    Of (samples, places, width) each at another place, for the first places of all texts are alike; maps are whole ones.
    """
    if values.dim() > TEXT:
        whole = few_rows(values.detach().flatten(1))
        return whole[:, :: max(1, whole.shape[1] // WIDE)].float()
    rows = values.detach().unsqueeze(-1) if values.dim() == 1 else values.detach().flatten(0, -2)
    return few_rows(rows, places=values.shape[1:-1].numel()).float()


def spread_of_inputs(call: Call, output: Tensor | None) -> Tensor | None:
    """Spread of what the samples were made of; 1 for ids that are not all the same; None where that is unknown.

    Without `output` (a loss), of whatever number of them.
    """
    ids = call.tensor("input_ids")
    if ids is not None:
        return (ids.min() != ids.max()).float()
    for value in leaves(call.args, call.kwargs).values():
        fits = value.is_floating_point() and value.dim() > 1
        if fits and (output is None or len(value) == len(output)):
            flat = value.detach().flatten(1)
            few = few_rows(flat)[:, :: max(1, flat.shape[1] // WIDE)].float()
            if value.dim() == 2:  # of a table's columns, the one with the largest unit would hide the others
                few = few / few.square().mean(dim=0).sqrt().clamp(min=1e-30)
            return spread(few)
    return None


def few_rows(rows: Tensor, *, places: int = 1) -> Tensor:
    """At most ROWS of them, evenly spaced; not all at one place, where each sample has several."""
    apart = max(1, -(-len(rows) // ROWS))
    while gcd(apart, places) > 1:
        apart += 1
    return rows[::apart]

"""Features that a script makes of a loader's batches with one model, keeps, and trains another model on.

Each pass of a loader has an order of its own, and features that are kept have that of the pass they were made in. What
is remembered of it: hashes of the features, and the labels and places in the data set of the samples that they are of.
When a model was trained on some of these very features, the classes that its loss taught show whether the labels had
the same order. Nothing is said where it is no order of theirs: other labels, or other tasks.

Listened to are models in evaluation mode that no optimizer holds, while they are called without gradients.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.hook import Hook
from sightline.attach.origins import ORIGINS
from sightline.attach.prints import row_hashes
from sightline.attach.script.loaders import Loaders
from sightline.attach.script.watch import Models, Watched
from sightline.guard.evidence import ExtractedSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.fields import leaves

MOST = 4  # models listened to at a time
ROWS = 65_536  # samples remembered
COLUMNS = 256  # numbers of a sample by which it is known again
TURNS = 8  # steps between which it was called: then it is a part of training, and nothing of it is kept
OWN = 0.95  # of a batch's rows that must be most alike to the sample in their place: transforms change numbers


@dataclass(eq=False)
class Batch:
    """One of a pass. `labels`: columns of whole numbers; `made`: (B,) hashes of its features in several forms."""

    labels: list[Tensor]
    places: list[int]
    inputs: Tensor | None
    made: list[Tensor] = field(default_factory=list)
    sure: Tensor | None = None


class Extracted:
    """All of a process. `fault`: told of errors of our own."""

    def __init__(self, models: Models, loaders: Loaders, fault: Callable[[str], None]) -> None:
        self._models, self._loaders = models, loaders
        self._hook = lambda act: Hook(act, lambda error: fault(f"features: {type(error).__name__}: {error}"))
        self._known: list[tuple[weakref.ref[nn.Module], Any]] = []
        self._passes: dict[int, list[Batch]] = {}  # by the number of the pass
        self._rows = self._steps = self._turns = self._at = 0
        self._last: Batch | None = None
        models.others.append(lambda: [module for ref, _ in self._known if (module := ref()) is not None])

    def install(self) -> None:
        """Notice from now on what is put into evaluation mode."""
        evaluate, came = nn.Module.eval, self._hook(self._came)

        @functools.wraps(evaluate)
        def evaluated(module: nn.Module) -> Any:
            result = evaluate(module)
            came(module)
            return result

        nn.Module.eval = evaluated  # type: ignore[method-assign, assignment]
        self._models.before.append(self._hook(self._stepping))
        self._models.ending.append(self._hook(self._ends))

    def _came(self, module: nn.Module) -> None:
        """A model is in evaluation mode."""
        self._known = [(ref, handle) for ref, handle in self._known if ref() is not None]
        if len(self._known) >= MOST or self._rows >= ROWS or any(ref() is module for ref, _ in self._known):
            return
        parameters = list(module.parameters())
        if parameters and not any(map(ORIGINS.optimized, parameters)):
            handle = module.register_forward_hook(self._hook(self._gave), with_kwargs=True)
            self._known.append((weakref.ref(module), handle))
            self._loaders.hearing = self._hook(self._batch)

    def made(self, optimizer: Any) -> None:
        """An optimizer was made: what it holds is to be trained, or compiled, without a hook of ours."""
        self._hook(self._made)(optimizer)

    def _made(self, optimizer: Any) -> None:
        for module in [ref() for ref, _ in self._known]:
            if module is not None and any(map(ORIGINS.optimized, module.parameters())):
                self._leave(module)

    def _leave(self, module: nn.Module | None) -> None:
        for ref, handle in self._known:
            if module is None or ref() is module:
                handle.remove()
        self._known = [(ref, handle) for ref, handle in self._known if module is not None and ref() is not module]
        if not self._known:
            self._loaders.hearing, self._last = None, None

    def _stepping(self, optimizer: Any) -> None:
        """A model learns."""
        self._steps += 1

    def _batch(self, number: int, batch: Any, places: list[int]) -> None:
        """A loader gave its next one, of samples in these places."""
        every = list(leaves((batch,), {}).values())
        columns = [t.flatten() for t in every if not t.is_floating_point() and t.numel() == len(places)]
        self._last = None
        if not columns or self._rows >= ROWS:
            return
        inputs = next((t for t in every if t.dim() > 1 and len(t) == len(places) and t.numel() > len(t)), None)
        self._rows += len(places)
        one = Batch([t.to("cpu", torch.int64) for t in columns], places, None if inputs is None else _print(inputs))
        self._passes.setdefault(number, []).append(one)
        self._last = one if one.inputs is not None else None

    def _gave(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """A model was called."""
        if any(one.recorder.muted for one in self._models.live):
            return
        self._turns, self._at = self._turns + (self._steps != self._at), self._steps
        if self._rows >= ROWS or self._turns > TURNS:
            self._leave(None)
            return
        if any(map(ORIGINS.optimized, module.parameters())):
            self._leave(module)
            return
        batch, self._last = self._last, None
        if batch is None or batch.inputs is None:
            return
        given = [t for t in leaves(args, dict(kwargs)).values() if t.dim() > 1 and len(t) == len(batch.places)]
        features = [t for t in leaves((output,), {}).values() if t.dim() > 1 and len(t) == len(batch.places)]
        features = [t for t in features if t.is_floating_point() and not t.requires_grad]
        if given and features and (sure := _in_order(_print(given[0]), batch.inputs)) is not None:
            forms = (form for one in features[:2] for form in _forms(one))
            batch.made = [found for form in forms if (found := row_hashes(Call(module, (form,)))) is not None]
            batch.sure = sure
        batch.inputs = None

    def _ends(self, one: Watched) -> None:
        """The last chance to tell of a model that was trained on such features."""
        passes = [_Pass(batches) for batches in self._passes.values()]
        if one.attachment is None or not any(found.hashes for found in passes):
            return
        one.recorder.mailbox.open(wait=True)
        taught: dict[int, int] = {}
        for fed in one.attachment.loading.fed:
            taught.update(zip(fed.inputs, fed.classes or (), strict=False))
        for mine in passes:
            if (seen := _compared(mine, passes, taught, one.recorder.step)) is not None:
                one.attachment.show(seen)
                return


class _Pass:
    """A pass as a whole: columns of labels, the samples' places, and each feature's place in the pass by its hash."""

    def __init__(self, batches: list[Batch]) -> None:
        count = min(len(batch.labels) for batch in batches)
        self.columns = [torch.cat([batch.labels[i] for batch in batches]).tolist() for i in range(count)]
        self.places = [place for batch in batches for place in batch.places]
        self.hashes: dict[int, int] = {}
        start, twice = 0, set[int]()
        for batch in batches:
            if batch.sure is not None and bool(batch.sure):
                for made in batch.made:
                    for row, value in enumerate(made.tolist()):
                        if self.hashes.setdefault(value, start + row) != start + row:
                            twice.add(value)
            start += len(batch.places)
        for value in twice:
            del self.hashes[value]

    def orders(self, column: int) -> Iterator[dict[int, int]]:
        """Place in the pass -> label: of the data set's own order, as far as this pass showed it."""
        labels = self.columns[column] if column < len(self.columns) else []
        yield dict(zip(self.places, labels, strict=False))
        yield dict(enumerate(labels))


def _compared(mine: _Pass, passes: list[_Pass], taught: Mapping[int, int], step: int) -> ExtractedSeen | None:
    """What fits best of the orders that were seen; None where none tells of a fault, nor of order."""
    found = {place: taught[value] for value, place in mine.hashes.items() if value in taught}
    best: ExtractedSeen | None = None
    for column, own in enumerate(mine.columns):
        if all(own[place] == label for place, label in found.items()):
            break
        for other in passes:
            for order in other.orders(column):
                both = [place for place in found if place in order]
                rows = [(found[place], own[place], order[place]) for place in both]
                if rows:
                    seen = ExtractedSeen(step, *map(tuple, zip(*rows, strict=True)))
                    best = seen if best is None or seen.in_another_order else best
    return best


def _forms(features: Tensor) -> Iterator[Tensor]:
    """How features may be kept: as they are, in one row each, or what is left of their places; at length 1."""
    flat = features.detach().flatten(1)
    yield flat
    yield torch.nn.functional.normalize(flat, dim=1)
    if features.dim() == 3:
        yield features[:, 0]
        yield features.mean(1)
    elif features.dim() > 3:
        yield features.flatten(2).mean(2)


def _print(rows: Tensor) -> Tensor:
    """(B, <= COLUMNS) float32: some numbers of each row, the mean row taken off."""
    flat = rows.detach().flatten(1)
    few = flat[:, :: max(1, -(-flat.shape[1] // COLUMNS))].float()
    return few - few.mean(0)


def _in_order(given: Tensor, batch: Tensor) -> Tensor | None:
    """0-dim: whether each row is that of the batch in its place, but for its numbers' scale."""
    if given.shape != batch.shape:
        return None
    one, other = (nn.functional.normalize(rows.to(given.device), dim=1) for rows in (given, batch))
    return ((one @ other.T).argmax(1) == torch.arange(len(one), device=one.device)).float().mean() >= OWN

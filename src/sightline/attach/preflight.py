"""What an attachment looks at before step 1: the set-up, the first batches; and checkpoints, which it reads back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sightline.attach.asked import Asked
from sightline.attach.read import image_features, image_spans
from sightline.guard.check import Finding
from sightline.guard.probes.call import Call
from sightline.guard.probes.restore import untouched
from sightline.guard.probes.round_trip import round_trip

PREFLIGHT_BATCHES = 4  # read from a dataloader when the host gives no batches


class Preflight(Asked):
    """The doors of `Attachment` through which a host shows what it will train on, and what it saves."""

    dataloader: Iterable[Any] | None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found so far."""
        raise NotImplementedError

    def preflight(
        self, batches: Iterable[Any] | None = None, *, runnable: int | None = None, overfit: bool = False
    ) -> tuple[Finding, ...]:
        """Judge the set-up and every batch of `batches` (None: the first of the dataloader) before step 1.

        One batch is run forward (and restored) to learn how many features an image has and whether packing leaks.
        `runnable`: only so many of the first batches are complete; the others are looked at and never run.
        `overfit`: a copy of the model tries to learn the first batch by heart (seconds; see `Asked.overfit`).
        Returns all findings so far; raises GuardError as `raise_on` says.
        """
        recorder = self._recorder
        recorder.show_setup()
        learnt = False
        for number, batch in enumerate(self._few() if batches is None else batches):
            call = self._call(batch)
            complete = runnable is None or number < runnable
            if complete and not learnt and call.repeatable and image_spans(call):
                learnt = self._learn(call)
            recorder.show_batch(call, "preflight")
            if complete:
                with recorder.silence():
                    recorder.probing.on_training(call, 0, self._offer)
            recorder.mailbox.open(wait=True)
            if overfit:
                self.overfit(batch)
                overfit = False
        return self.findings

    def checkpoint(self, path: str | Path, load: Callable[[Path], Mapping[str, Tensor]] | None = None) -> None:
        """A checkpoint of the model was just saved at `path`: read it back and compare.

        `load` gives its state by the model's own names; None reads a ``.safetensors`` file or a ``torch.save`` file
        (a dictionary of tensors, or one that holds it under ``model`` or ``state_dict``).
        """
        place = Path(path)
        saved = load(place) if load is not None else _read_state(place)
        self._offer(round_trip(self.model, saved, place, self._recorder.step))

    def _learn(self, call: Call) -> bool:
        """Run one batch forward to count an image's features. True once that is settled."""
        recorder = self._recorder
        with recorder.silence(), untouched(self.model), torch.no_grad():
            call.run()
            features = image_features(call, recorder.signals.gave.features)
        spans = image_spans(call)
        fixed = call.tensor("image_grid_thw") is None
        if spans and features and fixed and features % spans == 0 and recorder.facts.tokens_per_image is None:
            recorder.facts = replace(recorder.facts, tokens_per_image=features // spans)
            recorder.show_setup()
        return True

    def _few(self) -> Iterator[Any]:
        """A few batches of a map-style loader, its random state put back."""
        loader = self.dataloader
        if not hasattr(getattr(loader, "dataset", None), "__getitem__"):
            return
        generator = getattr(loader, "generator", None)
        state = generator.get_state() if generator is not None else None
        with untouched(self.model):
            batches = list(islice(loader or (), PREFLIGHT_BATCHES))
        if generator is not None:
            generator.set_state(state)
        yield from batches


def _read_state(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(state.get(key), Mapping):
            return dict(state[key])
    return dict(state)

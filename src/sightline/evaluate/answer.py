"""A model's greedy answers to many questions, in large batches of prompts of about the same length."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import nn

from sightline.data.batch import Batch, Example
from sightline.data.pack import pack
from sightline.data.row import Row
from sightline.evaluate.features import ImageFeatures, Lookup
from sightline.models.build import Built

Precision = Literal["fp32", "bf16", "fp16"]
Progress = Callable[[int], None]  # told how many more rows are answered


class Answerer:
    """Answers rows with one model, which is in evaluation mode meanwhile and as it was afterwards.

    Every distinct image is encoded once, also over several calls (by models whose images all become the same number of
    tokens), and rows that ask the same are answered once.
    """

    def __init__(self, built: Built, *, batch: int, max_new_tokens: int, precision: Precision = "fp32") -> None:
        self.built, self.batch, self.max_new_tokens, self.precision = built, batch, max_new_tokens, precision
        self.device = next(built.model.parameters()).device
        # Where an image's tokens depend on its size, its features are no tensor of a fixed shape to be kept.
        apart = not built.encoder.needs_images
        self._features = ImageFeatures(self._collate, built.model.encode_images, batch) if apart else None

    def __call__(self, rows: Sequence[Row], progress: Progress | None = None) -> list[str]:
        """The answer to the last question of each row, in the order of `rows`."""
        examples, askers = self._distinct(rows)
        answers = [""] * len(rows)
        with ready(self.built.model, self.device, self.precision):
            for places in self._batches(examples):
                for place, text in zip(places, self._answer([examples[i] for i in places]), strict=True):
                    for asker in askers[place]:
                        answers[asker] = text
                if progress:
                    progress(sum(len(askers[place]) for place in places))
        return answers

    def _distinct(self, rows: Sequence[Row]) -> tuple[list[Example], list[list[int]]]:
        """The distinct prompts of `rows`, and for each the places of the rows that ask it."""
        places: dict[tuple[tuple[str, ...], tuple[int, ...]], int] = {}
        examples: list[Example] = []
        askers: list[list[int]] = []
        for asker, row in enumerate(rows):
            example = self.built.encoder.encode_prompt(row)
            prompt = (tuple(image.key for image in example.images), example.input_ids)
            place = places.setdefault(prompt, len(examples))
            if place == len(examples):
                examples.append(example)
                askers.append([])
            askers[place].append(asker)
        return examples, askers

    def _batches(self, examples: list[Example]) -> Iterator[list[int]]:
        """Places in `examples`, batch by batch. Longest first, so that what does not fit in memory fails at once."""
        everything = list(range(len(examples)))
        for window in self._features.windows(examples) if self._features else [everything]:
            window.sort(key=lambda place: -len(examples[place]))
            for start in range(0, len(window), self.batch):
                yield window[start : start + self.batch]

    def _answer(self, examples: list[Example]) -> list[str]:
        batch = self._collate(examples, self._features.lookup if self._features else None)
        answers = self.built.model.generate(batch, self.max_new_tokens)
        return [self.built.encoder.decode(tokens).strip() for tokens in answers]

    def _collate(self, examples: list[Example], lookup: Lookup | None) -> Batch:
        sequences = pack(examples, "none", max(map(len, examples)))
        return self.built.encoder.collate(sequences, pad_left=True, features=lookup).to(self.device)


@contextlib.contextmanager
def ready(model: nn.Module, device: torch.device, precision: Precision) -> Iterator[None]:
    """Evaluation mode, no graph, and the forward pass in `precision`; each module gets its own mode back."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32"):
            yield
    finally:
        for module, training in modes:
            module.training = training

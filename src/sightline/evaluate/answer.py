"""A model's answers to many questions, in large batches of prompts of about the same length.

A model with an answer head chooses the likeliest answer of its vocabulary; any other writes, greedily.

Shapes: N rows, A answers of the vocabulary.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sightline.data.batch import Batch, Example
from sightline.data.pack import pack
from sightline.data.row import Row
from sightline.errors import UserError
from sightline.evaluate.features import ImageFeatures, Lookup
from sightline.models.build import Built

T = TypeVar("T")
Precision = Literal["fp32", "bf16", "fp16"]
Progress = Callable[[int], None]  # told how many more rows are answered


class Answerer:
    """Answers rows with one model, which is in evaluation mode meanwhile and as it was afterwards.

    Every distinct image is encoded once, also over several calls (by models whose images all become the same number of
    tokens), and rows that ask the same are answered once.

    Attributes:
        vocabulary: the answers that a head chooses from; None for a model that writes.
    """

    def __init__(self, built: Built, *, batch: int, max_new_tokens: int, precision: Precision = "fp32") -> None:
        self.built, self.batch, self.max_new_tokens, self.precision = built, batch, max_new_tokens, precision
        self.vocabulary = built.answers.answers if built.answers else None
        self.device = next(built.model.parameters()).device
        # Where an image's tokens depend on its size, its features are no tensor of a fixed shape to be kept.
        apart = not built.encoder.needs_images
        self._features = ImageFeatures(self._collate, built.model.encode_images, batch) if apart else None

    def __call__(self, rows: Sequence[Row], progress: Progress | None = None) -> list[str]:
        """The answer to the last question of each row, in the order of `rows`."""
        return [answer for answer, _ in self.confident(rows, progress)]

    def confident(self, rows: Sequence[Row], progress: Progress | None = None) -> list[tuple[str, float]]:
        """Each row's answer and its probability: a head's sigmoid, or that of writing all its tokens."""
        return self._asked(rows, self._choose if self.vocabulary else self._write, progress)

    def scores(self, rows: Sequence[Row], progress: Progress | None = None) -> Float[Tensor, "N A"]:
        """The probability of each answer of the vocabulary, on the CPU in fp32.

        Raises:
            UserError: a model that writes its answers.
        """
        if self.vocabulary is None:
            raise UserError(
                "this model writes its answers, so it gives no probabilities of a list of them",
                where="model.compose.head",
                fix="train a model with an answer head, or ask for the probability of what it writes",
            )
        return torch.stack(self._asked(rows, self._probabilities, progress))

    def _asked(self, rows: Sequence[Row], reply: Callable[[list[Example]], list[T]], tell: Progress | None) -> list[T]:
        """The reply to each row, in the order of `rows`."""
        examples, askers = self._distinct(rows)
        replies: dict[int, T] = {}
        with ready(self.built.model, self.device, self.precision):
            for places in self._batches(examples):
                for place, one in zip(places, reply([examples[i] for i in places]), strict=True):
                    replies |= dict.fromkeys(askers[place], one)
                if tell:
                    tell(sum(len(askers[place]) for place in places))
        return [replies[asker] for asker in range(len(rows))]

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

    def _write(self, examples: list[Example]) -> list[tuple[str, float]]:
        batch = self._collate(examples, self._features.lookup if self._features else None)
        said = self.built.model.say(batch, self.max_new_tokens)
        return [(self.built.encoder.decode(one.tokens).strip(), math.exp(one.log_p)) for one in said]

    def _choose(self, examples: list[Example]) -> list[tuple[str, float]]:
        assert self.vocabulary is not None
        best = [scores.max(0) for scores in self._probabilities(examples)]
        return [(self.vocabulary[int(place)], float(score)) for score, place in best]

    def _probabilities(self, examples: list[Example]) -> list[Float[Tensor, " A"]]:
        batch = self._collate(examples, self._features.lookup if self._features else None)
        return list(self.built.model(batch, "answers").float().sigmoid().cpu())

    def _collate(self, examples: list[Example], lookup: Lookup | None) -> Batch:
        sequences = pack(examples, "none", max(map(len, examples)))
        if self.built.answers:
            return self.built.answers.collate(sequences, features=lookup).to(self.device)
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

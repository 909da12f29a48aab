"""What lmms-eval asks as rows, and a model's answers and likelihoods as lmms-eval wants them.

Shapes: S scored tokens of a batch, V words.
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from sightline.data.batch import Example
from sightline.data.pack import pack
from sightline.data.row import ImageRef, Picture, Row, Turn, Where
from sightline.errors import UserError
from sightline.evaluate.answer import Answerer, Precision, ready
from sightline.models.build import Built

IMAGE = "<image>"  # where a picture stands, in tasks that say so
MAX_NEW_TOKENS = 128  # where a task does not say
FIX = "--gen_kwargs temperature=0,do_sample=False,num_beams=1"


@dataclass(frozen=True, slots=True)
class Question:
    """One request: the prompt, what is seen, and how the answer is to be made."""

    row: Row
    settings: Mapping[str, Any]

    @property
    def max_new_tokens(self) -> int:
        """The longest answer."""
        return int(self.settings.get("max_new_tokens", MAX_NEW_TOKENS))

    def cut(self, answer: str) -> str:
        """`answer` up to the first of the words that end it."""
        until = self.settings.get("until", ())
        for word in [until] if isinstance(until, str) else until:
            answer = answer.partition(word)[0] if word else answer
        return answer


def row_of(context: str, visuals: Sequence[Any], where: Where) -> Row:
    """The row of a prompt with its pictures: at their marks where there are as many of these, else all in front."""
    images = tuple(image_ref(visual, where) for visual in visuals)
    texts = context.split(IMAGE)
    if len(texts) != len(images) + 1:
        texts = [""] * len(images) + [context]
    parts: list[str | Picture] = [texts[0]] if texts[0] else []
    for text in texts[1:]:
        parts += [Picture(), text] if text else [Picture()]
    return Row(where, (Turn("user", tuple(parts)),), images)


def image_ref(visual: Any, where: Where) -> ImageRef:
    """A picture in memory or in a file. Raises UserError for what is no picture."""
    if isinstance(visual, Image.Image):
        stream = io.BytesIO()
        visual.convert("RGB").save(stream, format="PNG", compress_level=1)
        return ImageRef(hashlib.sha1(stream.getvalue()).hexdigest(), data=stream.getvalue())
    if isinstance(visual, (str, Path)) and Path(visual).suffix.lower() in Image.registered_extensions():
        return ImageRef(str(visual), path=Path(visual))
    raise UserError(f"shows {type(visual).__name__} {str(visual)[:60]}, which is no picture", where=str(where))


class Bridge:
    """Asks one model. Every distinct picture is encoded once a call."""

    def __init__(self, built: Built, *, batch: int, precision: Precision = "fp32") -> None:
        self.built, self.batch, self.precision = built, batch, precision
        self.device = next(built.model.parameters()).device

    def answers(self, questions: Sequence[Question]) -> list[str]:
        """What the model says, greedily.

        Raises:
            UserError: a task that wants samples or beams.
        """
        groups: dict[int, list[int]] = defaultdict(list)
        for place, question in enumerate(questions):
            _greedy(question)
            groups[question.max_new_tokens].append(place)
        said = [""] * len(questions)
        for length, places in groups.items():
            answerer = Answerer(self.built, batch=self.batch, max_new_tokens=length, precision=self.precision)
            for place, answer in zip(places, answerer([questions[place].row for place in places]), strict=True):
                said[place] = questions[place].cut(answer)
        return said

    def likelihoods(self, rows: Sequence[Row], continuations: Sequence[str]) -> list[tuple[float, bool]]:
        """The log-probability of each continuation of a prompt, without its end, and whether greedy writing gives it.

        Raises:
            UserError: a model that chooses from a list of answers.
        """
        if self.built.answers:
            raise UserError(
                "a model that chooses from a list gives no likelihood of other texts", where="model.compose.head"
            )
        examples = [
            self.built.encoder.encode(replace(row, turns=(*row.turns, Turn("assistant", (text.strip(),)))))
            for row, text in zip(rows, continuations, strict=True)
        ]
        found: list[tuple[float, bool]] = []
        for start in range(0, len(examples), self.batch):
            found += self._likelihoods(examples[start : start + self.batch])
        return found

    def _likelihoods(self, examples: list[Example]) -> list[tuple[float, bool]]:
        sequences = pack(examples, "none", max(map(len, examples)))
        batch = self.built.encoder.collate(sequences).to(self.device)
        with ready(self.built.model, self.device, self.precision):
            logits, targets = self.built.model(batch)
            logs = logits.float().log_softmax(-1)
            each = logs.gather(1, targets[:, None])[:, 0].double().tolist()
            best = (logs.argmax(-1) == targets).tolist()
        lines = (batch.supervised()[0] // batch.input_ids.shape[1]).tolist()
        sums, greedy = [0.0] * len(examples), [True] * len(examples)
        for place, line in enumerate(lines):
            last = place + 1 == len(lines) or lines[place + 1] != line
            if not (last and int(targets[place]) == self.built.encoder.eos_id):
                sums[line] += each[place]
                greedy[line] = greedy[line] and best[place]
        return list(zip(sums, greedy, strict=True))


def _greedy(question: Question) -> None:
    settings = question.settings
    if settings.get("do_sample") and float(settings.get("temperature") or 0) > 0:
        raise UserError(
            "the task draws its answers, and Sightline's answers are greedy", where=str(question.row.where), fix=FIX
        )
    if int(settings.get("num_beams") or 1) > 1:
        raise UserError(
            "the task searches with beams, and Sightline's answers are greedy", where=str(question.row.where), fix=FIX
        )

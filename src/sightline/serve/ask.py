"""One question about one image, answered token by token."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import torch

from sightline.data.batch import Batch, Example
from sightline.data.encode import Encoder
from sightline.data.encode_answers import AnswerEncoder
from sightline.data.pack import pack
from sightline.data.row import ImageRef, Picture, Row, Turn, Where
from sightline.errors import UserError
from sightline.models.build import Built
from sightline.models.vlm import VLM

UNFINISHED = "\ufffd"  # what decoding gives for the first bytes of a character whose last ones are still to come


def ask(
    built: Built,
    image: Path,
    question: str,
    *,
    max_new_tokens: int = 128,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
) -> Iterator[str]:
    """The pieces of the answer to `question` about the picture in file `image`, as they come.

    The model is left in evaluation mode.

    Raises:
        UserError: no such image, an image that cannot be read, or an empty question.
    """
    if not question.strip():
        raise UserError("the question is empty", fix='ask something, e.g. "What color is the shape?"')
    if not image.is_file():
        raise UserError("no such image file", where=str(image), fix="check the path")
    turn = Turn("user", (Picture(), question.strip()))
    row = Row(Where(str(image), 1), (turn,), (ImageRef(str(image), path=image),))
    example = built.encoder.encode_prompt(row)
    if built.answers:
        return iter([_chosen(built.model, built.answers, example, precision)])
    batch = built.encoder.collate(pack([example], "none", len(example)), pad_left=True)
    return pieces(built.encoder, _stream(built.model, batch, max_new_tokens, precision))


def pieces(encoder: Encoder, tokens: Iterable[int]) -> Iterator[str]:
    """The text that each token adds; a character spread over several tokens comes out with its last one.

    All tokens are decoded anew each time, because a token's text depends on those before it (word joints, bytes).
    """
    ids: list[int] = []
    told = ""
    for token in tokens:
        ids.append(token)
        text = encoder.decode(ids).lstrip()
        if text != told and text.startswith(told) and not text.endswith(UNFINISHED):
            yield text[len(told) :]
            told = text
    rest = encoder.decode(ids).lstrip()
    if rest != told:
        yield rest[len(told) :]


def _chosen(model: VLM, encoder: AnswerEncoder, example: Example, precision: str) -> str:
    """The likeliest answer of the head's vocabulary."""
    device = next(model.parameters()).device
    model.eval()
    batch = encoder.collate(pack([example], "none", len(example))).to(device)
    with _forward(device, precision):
        return encoder.answers[int(model(batch, "answers")[0].argmax())]


def _stream(model: VLM, batch: Batch, max_new_tokens: int, precision: str) -> Iterator[int]:
    device = next(model.parameters()).device
    model.eval()
    tokens = model.stream(batch.to(device), max_new_tokens)
    while True:
        # The modes are entered for each token, not around the loop: between two tokens the caller's code runs.
        with _forward(device, precision):
            token = next(tokens, None)
        if token is None:
            return
        yield token


@contextlib.contextmanager
def _forward(device: torch.device, precision: str) -> Iterator[None]:
    """No graph, and the forward pass in `precision`."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32"):
        yield

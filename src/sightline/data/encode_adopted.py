"""Encoder of adopted models: the model's own processor writes the chat, expands the images and makes the tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from PIL import Image, ImageOps
from torch import Tensor

from sightline.data.align import positions
from sightline.data.batch import IGNORE, Batch, Example, Sequence
from sightline.data.collate import distinct_images, pad
from sightline.data.encode import RowError, pad_token_id, validate, without_answer
from sightline.data.images import RecentImages
from sightline.data.processor import load_processor
from sightline.data.row import Row, Turn
from sightline.data.spans import Message, answer_spans, said, with_ends
from sightline.errors import UserError

PER_TOKEN = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels"})


class AdoptedEncoder:
    """Rows to tokens by a transformers processor (`AutoProcessor`).

    The processor's chat template writes the conversation. PaliGemma has none and takes question and answer apart;
    BLIP-2 has none and is asked "Question: ... Answer:" (Li et al. 2023, arXiv 2301.12597, section 4.1).

    Raises:
        UserError: there is neither a chat template nor one of those two, or the tokenizer lacks what is needed.
    """

    needs_images = True  # how many tokens a picture becomes is the processor's to say
    tokens_per_image = None

    def __init__(self, processor: Any) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self._images = RecentImages()
        self.pad_id = pad_token_id(self.tokenizer)
        if not self.tokenizer.is_fast:
            raise UserError("the tokenizer tells no character offsets", where="model.adopt", fix="use its fast version")
        self.placeholder = str(getattr(processor, "boi_token", None) or processor.image_token)
        self.placeholder_id = self._id(self.placeholder)
        # Gemma 3 writes one token where an image goes and puts another one there; the tokenizer knows the second.
        self.image_token_id = int(
            getattr(self.tokenizer, "image_token_id", None) or self._id(str(processor.image_token))
        )
        self._suffixed = type(processor).__name__ == "PaliGemmaProcessor"
        self._template = self._chat_template()
        added = {id_ for id_, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        self._special = added | set(self.tokenizer.all_special_ids)
        self._markup = {str(self.tokenizer.convert_ids_to_tokens(id_)) for id_ in self._special} | {self.placeholder}
        self.eos_id, self._end = self._end_token()
        self._one_tensor_an_image: bool | None = None  # learned from the first batch

    def _id(self, token: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(token))

    # --- how a conversation is written ---------------------------------------------------------------------------

    def _chat_template(self) -> str:
        """The template's source; "" for the two that have none and are known."""
        template = getattr(self.processor, "chat_template", None) or getattr(self.tokenizer, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default") or next(iter(template.values()))
        if not template and not self._suffixed and type(self.processor).__name__ != "Blip2Processor":
            raise UserError(
                f"{type(self.processor).__name__} has no chat template, so it is not known how to write a conversation",
                where="model.adopt.source",
                fix="put a chat_template.jinja beside the processor's files",
            )
        return str(template or "")

    def _render(self, messages: list[Message], prompt: bool) -> str:
        if not self._template:
            return _question_answer(messages, prompt)
        options = {"chat_template": self._template, "add_generation_prompt": prompt, "tokenize": False}
        return str(self.processor.apply_chat_template(messages, **options))

    def _end_token(self) -> tuple[int, str]:
        """The token that ends an answer, and what must be written to get it ("" where the template does so)."""
        probe = "probe"
        asked = [_message("user", probe), _message("assistant", probe)]
        _, found, after = self._render(asked, False).rpartition(probe)
        if not found:
            raise UserError("the chat template does not write what is said", where="model.adopt.source")
        ids = self.tokenizer(after, add_special_tokens=False).input_ids
        end = next((token for token in ids if token in self._special), None)
        if end is not None:
            return end, ""
        if self.tokenizer.eos_token is None:
            raise UserError("neither the chat template nor the tokenizer ends an answer", where="model.adopt.source")
        return int(self.tokenizer.eos_token_id), str(self.tokenizer.eos_token)

    # --- rows to examples ----------------------------------------------------------------------------------------

    def encode(self, row: Row) -> Example:
        """`row` as the processor's own tokens; labels on answers and their end tokens alone. Raises RowError."""
        validate(row)
        if self._suffixed:
            return self._encode_suffixed(row)
        messages = self._messages(row)
        with _told_as(row):
            text, spans = answer_spans(self._render, messages, self._end, self._template)
            ids = self._processed(row, text=[text], **self._starts(text))["input_ids"][0]
            labels = self._labels(text, spans, ids)
        return Example(row.where, tuple(ids), tuple(labels), row.images)

    def encode_prompt(self, row: Row) -> Example:
        """`row` up to where its last answer begins, every label IGNORE. Raises RowError."""
        asked = without_answer(row)
        messages = self._messages(asked)
        with _told_as(row):
            if self._suffixed:
                ids = self._processed(asked, text=[self._question(messages)])["input_ids"][0]
            else:
                text = self._render(with_ends(messages, self._end), True)
                ids = self._processed(asked, text=[text], **self._starts(text))["input_ids"][0]
        return Example(row.where, tuple(ids), (IGNORE,) * len(ids), row.images)

    def _encode_suffixed(self, row: Row) -> Example:
        """PaliGemma: the question sees itself in both directions, and the answer follows as a suffix."""
        messages = self._messages(row)
        if [message["role"] for message in messages].count("assistant") > 1 or messages[-1]["role"] != "assistant":
            raise RowError("PaliGemma answers one question a row, and this row has several turns", row.where)
        with _told_as(row):
            made = self._processed(row, text=[self._question(messages[:-1])], suffix=[said(messages[-1])])
        ids, kinds = made["input_ids"][0], made["token_type_ids"][0]
        labels = tuple(token if kind == 1 else IGNORE for token, kind in zip(ids, kinds, strict=True))
        return Example(row.where, tuple(ids), labels, row.images)

    def _question(self, messages: list[Message]) -> str:
        images = sum(part["type"] == "image" for message in messages for part in message["content"])
        return self.placeholder * images + "\n".join(filter(None, map(said, messages)))

    def _messages(self, row: Row) -> list[Message]:
        """The row as a chat template takes it; text is stripped beside pictures and at turn edges."""
        for turn in row.turns:
            if forged := next((token for token in self._markup if token in turn.text), None):
                raise RowError(f"the text holds {forged}, which the tokenizer would take for markup", row.where)
        return [{"role": turn.role, "content": list(_content(turn))} for turn in row.turns]

    def _starts(self, text: str) -> dict[str, bool]:
        """A template that writes the start token itself must not get a second one."""
        start = self.tokenizer.bos_token
        return {"add_special_tokens": False} if start and text.startswith(start) else {}

    def _processed(self, row: Row, **said_as: Any) -> Any:
        images = [self._images.get(ref, row.where) for ref in row.images]
        return self.processor(images=[images] if images else None, **said_as)

    def _labels(self, text: str, spans: list[range], ids: list[int]) -> list[int]:
        """Labels of the expanded `ids`. Raises ValueError where an answer's tokens are not found among them."""
        plain = self.tokenizer(text, return_offsets_mapping=True, **self._starts(text))
        places = positions(plain.input_ids, self.placeholder_id, ids, self.image_token_id)
        labels = [IGNORE] * len(ids)
        for span in spans:
            for index in _tokens_of(span, text, plain["offset_mapping"], plain.input_ids, self.eos_id):
                place = places[index]
                if place is None:
                    raise ValueError("a token of the answer has merged with an image")
                labels[place] = ids[place]
        return labels

    # --- sequences to batches ------------------------------------------------------------------------------------

    def collate(
        self,
        sequences: list[Sequence],
        *,
        flip: torch.Generator | None = None,
        pad_left: bool = False,
        features: Callable[[tuple[str, ...]], Tensor] | None = None,
    ) -> Batch:
        """See `Encoder.collate`. What the processor makes of the images is in `extra`, by its own names; where that is
        one tensor an image, it is in `pixel_values`, each distinct image once. Raises RowError, UserError.
        """
        if features is not None:
            raise UserError("an adopted model's features are not cached", fix="set cache_features: false")
        refs, index = distinct_images(sequences)
        loaded = {key: self._images.get(ref, where) for key, (ref, where) in refs.items()}
        if flip is not None:
            chosen = torch.rand(len(loaded), generator=flip) < 0.5
            loaded = {
                key: ImageOps.mirror(image) if mirrored else image
                for (key, image), mirrored in zip(loaded.items(), chosen.tolist(), strict=True)
            }
        pixels, extra = self._tensors(sequences, loaded) if loaded else (None, {})
        return Batch(
            **pad(sequences, self.pad_id, pad_left),
            image_index=index,
            pixel_values=pixels,
            extra=extra,
            image_keys=tuple(refs),
            examples=tuple(where for sequence in sequences for where in sequence.examples),
            packed=any(len(sequence.examples) > 1 for sequence in sequences),
        )

    def _tensors(
        self, sequences: list[Sequence], loaded: dict[str, Image.Image]
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The image inputs. The text is already tokens, so the processor is given placeholders alone."""
        if self._one_tensor_an_image is not False:
            made = self._image_inputs([list(loaded.values())])
            pixels = made["pixel_values"]
            self._one_tensor_an_image = (
                set(made) == {"pixel_values"} and pixels.ndim == 4 and len(pixels) == len(loaded)
            )
            if self._one_tensor_an_image:
                return pixels, {}
        return None, self._image_inputs([[loaded[ref.key] for ref in s.images] for s in sequences if s.images])

    def _image_inputs(self, images: list[list[Image.Image]]) -> dict[str, Tensor]:
        text = [self.placeholder * len(row) for row in images]
        made = self.processor(text=text, images=images, padding=True, return_tensors="pt")
        return {name: value for name, value in made.items() if name not in PER_TOKEN}

    def decode(self, ids: list[int]) -> str:
        """Text of `ids` without special tokens, stripped."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    # --- saving --------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the processor's files into `folder`."""
        self.processor.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path) -> AdoptedEncoder:
        """The encoder that `save` wrote into `folder`."""
        return cls(load_processor(folder))


@contextmanager
def _told_as(row: Row) -> Iterator[None]:
    """What templates and processors raise, as an error about `row`."""
    try:
        yield
    except (ValueError, TemplateError) as error:
        raise RowError(str(error), row.where) from error


def _tokens_of(span: range, text: str, offsets: list[tuple[int, int]], ids: list[int], end_id: int) -> Iterator[int]:
    """Indices of the tokens of `span`, and of the end token where it comes next. Raises ValueError."""
    last = None
    for index, (begin, stop) in enumerate(offsets):
        if stop <= begin or stop <= span.start:
            continue  # a token without characters, or before the answer
        if begin >= span.stop:
            if last is not None and ids[index] == end_id:
                yield index
            return
        if begin < span.start and text[begin : span.start].strip():
            raise ValueError("one token holds both the end of the prompt and the beginning of the answer")
        last = index
        yield index


def _content(turn: Turn) -> Iterator[dict[str, str]]:
    for pictures, parts in groupby(turn.parts, key=lambda part: not isinstance(part, str)):
        if pictures:
            yield from ({"type": "image"} for _ in parts)
        elif text := "".join(part for part in parts if isinstance(part, str)).strip():
            yield {"type": "text", "text": text}


def _message(role: str, text: str) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _question_answer(messages: list[Message], prompt: bool) -> str:
    """BLIP-2's way to ask; its processor puts the images before the text by itself."""
    openings = {"system": "", "user": "Question: ", "assistant": "Answer: "}
    lines = [openings[message["role"]] + said(message) for message in messages if said(message)]
    return " ".join([*lines, "Answer:"] if prompt else lines)

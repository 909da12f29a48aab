"""Row: one training sample as its author wrote it, whatever its file format. Every reader ends in this type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Where:
    """The place of a row: `file` and 1-based `row` number, told in every error about it."""

    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file} row {self.row}"


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image not yet decoded: a `path`, or encoded bytes (PNG, JPEG, ...) as `data` or fetched by `read`.

    `view` makes of the decoded picture what is shown. Two references with the same `key` are the same image: it is
    encoded once for all the rows that share it.
    """

    key: str
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    read: Callable[[], bytes] | None = field(default=None, repr=False, compare=False)  # picklable, e.g. a partial
    view: Callable[[Any], Any] | None = field(default=None, repr=False, compare=False)  # a picture -> a picture


@dataclass(frozen=True, slots=True)
class Picture:
    """The place in a turn where the row's next image stands."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation: text and the places of pictures, in reading order."""

    role: Role
    parts: tuple[str | Picture, ...]

    @property
    def text(self) -> str:
        """The turn's text without its pictures."""
        return "".join(part for part in self.parts if isinstance(part, str)).strip()


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation and its images. As many `images` as there are `Picture` parts, in reading order.

    `answers` are all that people gave to the last question (10 in VQAv2, 1 in GQA), where the data set has them; the
    assistant's turn is the one to learn from. A row without an answer (of a test split) ends with the user's turn.
    """

    where: Where
    turns: tuple[Turn, ...]
    images: tuple[ImageRef, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)  # further columns, e.g. {"type": "color"}
    answers: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """The last user turn's text."""
        return next((t.text for t in reversed(self.turns) if t.role == "user"), "")

    @property
    def answered(self) -> bool:
        """Whether the row ends with an answer."""
        return bool(self.turns) and self.turns[-1].role == "assistant"

    @property
    def answer(self) -> str:
        """The last assistant turn's text."""
        return next((t.text for t in reversed(self.turns) if t.role == "assistant"), "")


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row left out, where it stood and why: every count of skipped rows can be traced to these."""

    where: Where
    reason: str

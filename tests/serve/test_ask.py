from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sightline.data.row import Row
from sightline.errors import UserError
from sightline.evaluate.answer import Answerer
from sightline.models.build import Built
from sightline.serve.ask import ask, pieces
from tests.evaluate import tiny


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return tiny.questions(tiny.pictures(tmp_path))


@pytest.fixture
def built(rows: list[Row]) -> Built:
    return tiny.model(rows)


def test_the_pieces_are_the_answer_that_evaluation_gives(built: Built, rows: list[Row]) -> None:
    expected = Answerer(built, batch=8, max_new_tokens=6)(rows)
    for row, answer in zip(rows, expected, strict=True):
        path = row.images[0].path
        assert path is not None
        said = list(ask(built, path, row.question, max_new_tokens=6))
        assert "".join(said) == answer
        assert len(said) > 1


def test_an_answer_comes_piece_by_piece(built: Built, rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(*arguments: object) -> Iterator[int]:
        for token in real(*arguments):  # type: ignore[arg-type]
            made.append(token)
            yield token

    real = built.model.stream
    monkeypatch.setattr(built.model, "stream", counted)
    path = rows[0].images[0].path
    assert path is not None
    stream = ask(built, path, "is it red ?", max_new_tokens=6)
    next(stream)
    assert len(made) < 6


def test_modes_do_not_leak_to_the_caller_between_pieces(built: Built, rows: list[Row]) -> None:
    path = rows[0].images[0].path
    assert path is not None
    for _ in ask(built, path, "is it red ?", max_new_tokens=4, precision="bf16"):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")


class Bytes:
    """A tokenizer whose tokens are bytes: the hardest case for streaming."""

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


@pytest.mark.parametrize("text", ["yes", " a blue cat", "größer", "🦔 and 猫", ""])
def test_no_character_is_torn(text: str) -> None:
    said = list(pieces(Bytes(), text.encode()))  # type: ignore[arg-type]
    assert "".join(said) == text.lstrip()
    assert "\ufffd" not in "".join(said)


def test_bytes_that_are_no_character_come_at_the_end() -> None:
    assert "".join(pieces(Bytes(), [65, 0xF0])) == "A\ufffd"  # type: ignore[arg-type]


def test_an_image_that_is_not_there(built: Built, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.png: no such image file"):
        ask(built, tmp_path / "nothing.png", "is it red ?")


def test_a_file_that_is_no_image(built: Built, tmp_path: Path) -> None:
    path = tmp_path / "note.png"
    path.write_text("not a picture")
    with pytest.raises(UserError, match=r"note\.png"):
        ask(built, path, "is it red ?")


def test_an_empty_question(built: Built, rows: list[Row]) -> None:
    path = rows[0].images[0].path
    assert path is not None
    with pytest.raises(UserError, match="the question is empty"):
        ask(built, path, "  ")

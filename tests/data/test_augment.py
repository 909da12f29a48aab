"""Augmentation: no change that could make an answer false, and the same changes whenever a step is asked for."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.data.augment import Augmenter, Exemptions, View
from sightline.data.batch import Example, Sequence
from sightline.data.collate import PixelStore, collate
from sightline.data.dataset import read_rows
from sightline.data.images import load_image
from sightline.data.pack import pack
from sightline.data.pixels import ImageProcessorFacts
from sightline.data.row import ImageRef, Picture, Row, Turn, Where
from sightline.recipe.augment import Augment
from sightline.recipe.schema import DataSpec

ALL = Augment(flip=0.5, colour=0.4, crop=0.8)
FACTS = ImageProcessorFacts(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def _row(asked: str, /, *answers: str, images: tuple[ImageRef, ...] = (), number: int = 1, **fields: str) -> Row:
    turns = (Turn("user", (*(Picture() for _ in images), asked)), Turn("assistant", answers[:1]))
    return Row(Where("rows.json", number), turns, images, fields, answers)


def _exempt(asked: str, /, *answers: str, **fields: str) -> str:
    """The changes a question is exempt from."""
    found = Exemptions(ALL)(_row(asked, *answers, **fields))
    return " ".join(change for change in ("flip", "colour", "crop") if change in found)


EXEMPT = [
    ("Is the dog sleeping?", "yes", ""),
    ("What is the man doing?", "skateboarding", ""),
    ("What is the man doing?", "turning left", "flip crop"),
    ("Which hand holds the racket?", "right", "flip crop"),
    ("What is on the LEFT-hand side?", "a dog", "flip crop"),
    ("Is the traffic moving clockwise?", "no", "flip colour crop"),
    ("What does the sign say?", "stop", "flip crop"),
    ("What time is it?", "10:15", "flip crop"),
    ("What is the number on the bus?", "42", "flip crop"),
    ("What number of dogs sleep?", "4", "crop"),
    ("How many dogs sleep?", "4", "crop"),
    ("How many dogs sleep?", "42", "flip crop"),  # perhaps it was read
    ("Which runner is first?", "the tall one", "flip crop"),
    ("What color is the bus?", "red", "colour"),
    ("What COLOUR is the bus?", "no idea", "colour"),
    ("What hue is it?", "teal", "colour"),
    ("Is the sky greenish?", "yes", "colour"),
    ("What is she wearing?", "a blue hat", "colour"),
    ("Is it night?", "yes", "colour"),
    ("Are the bananas ripe?", "yes", "colour"),
    ("Is there a dog?", "yes", "crop"),
    ("What is behind the dog?", "a cat", "crop"),
    ("Where is the cat?", "on the mat", "crop"),
    ("Is this an alright photo?", "yes", "crop"),
    ("Is he upright and reddening?", "yes", ""),
    ("Whose is the dog's bone?", "the dog's", ""),
    ("Is this the sign's owner?", "yes", "flip crop"),
]


@pytest.mark.parametrize(("question", "answer", "changes"), EXEMPT)
def test_words_that_exempt(question: str, answer: str, changes: str) -> None:
    assert _exempt(question, answer) == changes


def test_one_of_ten_answers_is_enough() -> None:
    assert _exempt("What does he do?", *["bats"] * 9, "bats left") == "flip crop"
    assert _exempt("What fruit is it?", *["apple"] * 9, "green apple") == "colour"


def test_how_an_answer_is_asked_for_says_nothing_of_the_picture() -> None:
    asked = "Is the dog sleeping?\nAnswer the question using a single word or phrase."
    assert _exempt(asked, "yes") == ""
    assert _exempt("In one word, right now: is the dog sleeping?", "yes", question="Is the dog sleeping?") == ""
    assert _exempt("In one word: is the dog sleeping?", "yes") == "flip crop"


def test_a_data_set_about_text_is_never_mirrored_nor_cropped() -> None:
    assert _exempt("what is it", "nokia", task="reading") == "flip crop"


def test_further_words_and_only_changes_that_are_on() -> None:
    german = Augment(flip=0.5, also={"flip": ["links", "rechts", "an der Seite"]})
    told = Exemptions(german)
    assert told(_row("Was ist LINKS?", "rot")) == {"flip"}
    assert told(_row("Was steht an der Seite?", "rot")) == {"flip"}
    assert told(_row("Was ist das?", "red and blue")) == frozenset()


def test_every_turn_of_a_conversation_counts(image_ref) -> None:  # type: ignore[no-untyped-def]
    turns = [
        Turn("user", ("Is it?",)),
        Turn("assistant", ("red",)),
        Turn("user", ("And?",)),
        Turn("assistant", ("yes",)),
    ]
    assert Exemptions(ALL)(Row(Where("a", 1), tuple(turns))) == {"colour"}


def _vqa(shared: Path, part: str) -> list[Row]:
    folder = shared / "vqav2_text"
    path, notes = folder / f"vqa_questions_{part}.gzip", folder / f"vqa_annotatons_{part}.gzip"
    spec = DataSpec(reader="vqa", path=str(path), annotations=str(notes), file_name="none")
    return list(read_rows(spec, part).rows)


def test_real_questions(shared: Path) -> None:
    """8,977 of VQAv2's questions. Simple patterns, written apart from the rule's own, must find nothing it missed."""
    rows, told = _vqa(shared, "valid"), Exemptions(ALL)
    exempt = [told(row) for row in rows]
    counts = Counter(change for changes in exempt for change in changes)
    assert counts == {"flip": 2025, "colour": 1809, "crop": 5835}, "the figures of docs/vqa.md"
    sides = re.compile(r"\b(left|right)\b|\bwhat (time|does (it|this|the sign) say)\b|\bwhat (brand|number is)\b")
    colours = re.compile(r"\bcolou?rs?\b|\b(red|blue|green|yellow|orange|black|white|brown|pink|purple|gray|grey)\b")
    counted = re.compile(r"\bhow many\b|\bis there\b|\bare there\b")
    for row, changes in zip(rows, exempt, strict=True):
        text = " ".join((row.question, *row.answers)).lower()
        assert "flip" in changes or not sides.search(text), text
        assert "colour" in changes or not colours.search(text), text
        assert "crop" in changes or not counted.search(text), text


def test_easy_vqa() -> None:
    rows = read_rows(DataSpec(reader="easy-vqa", split="test[:300]"), "test").rows
    exempt = [Exemptions(ALL)(row) for row in rows]
    counts = Counter(change for changes in exempt for change in changes)
    assert (len(rows), counts) == (2948, {"colour": 2062, "crop": 2443}), "none speaks of sides"
    asked = [(row.fields["type"], changes) for row, changes in zip(rows, exempt, strict=True)]
    assert all("colour" in changes for kind, changes in asked if kind == "color")


# --- what is done to an image ----------------------------------------------------------------------------------------


def _striped(path: Path) -> ImageRef:
    """Red on the left, blue on the right, a white mark at the top left."""
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (20, 0, 40, 20))
    image.paste("white", (0, 0, 4, 4))
    image.save(path)
    return ImageRef(str(path), path)


def test_views(tmp_path: Path) -> None:
    image = load_image(_striped(tmp_path / "a.png"), Where("a", 1))
    pixels = np.asarray(image)
    assert np.array_equal(np.asarray(View(flip=True)(image)), pixels[:, ::-1])
    assert np.array_equal(np.asarray(View(box=(0, 0, 1, 1))(image)), pixels)
    right = View(box=(0.6, 0.0, 1.0, 0.4))(image)
    assert right.size == image.size and np.array_equal(
        np.unique(np.asarray(right).reshape(-1, 3), axis=0), [[0, 0, 255]]
    )
    darker = np.asarray(View(brightness=0.5)(image)).astype(int)
    assert np.abs(darker - pixels / 2).max() <= 1
    grey = np.asarray(View(saturation=0.0)(image))
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 1] == grey[..., 2]).all()
    turned = np.asarray(View(hue=1 / 3)(image)).astype(int)
    assert np.abs(turned[10, 10] - [0, 255, 0]).max() <= 6, "red, a third of the circle on, is green"
    assert np.array_equal(turned[0, 0], [255, 255, 255])
    everything = View(True, (0.1, 0.1, 0.9, 0.9), 1.2, 0.9, 1.1, 0.05)
    assert everything.without(("flip", "colour", "crop")) == View()
    assert everything(image).size == image.size and everything(image).mode == "RGB"


def _sequence(*rows: Row, mode: str = "none") -> list[Sequence]:
    examples = [Example(row.where, (5, 6, 7), (-100, -100, 7), row.images, prefix=1) for row in rows]
    return pack(examples, mode, 64)  # type: ignore[arg-type]


def _image(augmenter: Augmenter, rows: list[Row], step: int) -> list[ImageRef]:
    return [sequence.images[0] for sequence in augmenter(_sequence(*rows), step)]


def test_rows_that_share_an_image_see_what_each_of_them_allows(tmp_path: Path) -> None:
    shared = _striped(tmp_path / "a.png")
    texts = (("What is it?", "a flag of stripes"), ("What is this?", "stripes"), ("What color has it?", "red"))
    rows = [_row(*text, images=(shared,), number=n) for n, text in enumerate(texts, start=1)]
    rows.append(_row("What color is on the left?", "red", images=(shared,), number=4))
    augmenter = Augmenter(Augment(flip=1.0, colour=0.4), 0, rows)
    assert augmenter.facts() == {"rows": 4, "flip": 2, "colour": 2}
    flag, free, colour, side = _image(augmenter, rows, 7)
    assert side is shared, "nothing is allowed: the very image"
    assert len({ref.key for ref in (flag, free, colour, side)}) == 4
    assert colour.view == View(flip=True)
    assert isinstance(free.view, View) and free.view.flip and free.view.hue != 0
    assert flag.view == free.view.without(["flip"]), "the same chance, less what it is exempt from"

    batch = collate(augmenter(_sequence(*rows), 7), pad_id=0, pixels=PixelStore(FACTS))
    assert batch.pixel_values is not None and batch.pixel_values.shape[0] == 4, "each view is an image of its own"
    red, blue = batch.pixel_values[:, 0, 4], batch.pixel_values[:, 2, 4]
    assert red[3, 0] == 1 and blue[3, -1] == 1, "left is left where it is asked about"
    assert blue[2, 0] == 1 and red[2, -1] == 1, "mirrored, and in its colours"
    again = collate(augmenter(_sequence(rows[1], rows[1]), 7), pad_id=0, pixels=PixelStore(FACTS))
    assert again.pixel_values is not None and len(again.pixel_values) == 1, "equal views are one image"


def test_rows_packed_together_must_all_allow_a_change(tmp_path: Path) -> None:
    one, two = _striped(tmp_path / "a.png"), _striped(tmp_path / "b.png")
    rows = [
        _row("What is it?", "stripes", images=(one,), number=1),
        _row("What is left?", "red", images=(one,), number=2),
        _row("What is it?", "stripes", images=(two,), number=3),
    ]
    augmenter = Augmenter(Augment(flip=1.0), 0, rows)
    packed = augmenter(_sequence(*rows, mode="image"), 0)
    shown = {ref.key.split("|")[0]: ref.view for sequence in packed for ref in sequence.images}
    assert shown == {one.key: None, two.key: View(flip=True)}
    (line,) = augmenter(_sequence(*rows, mode="length"), 0)
    assert [ref.view for ref in line.images] == [None, View(flip=True)], "two images of one line are two images"


def test_chance_follows_from_seed_step_and_image(tmp_path: Path) -> None:
    rows = [_row("What is it?", "stripes", images=(_striped(tmp_path / f"{n}.png"),), number=n) for n in range(200)]

    def keys(step: int, seed: int = 0) -> list[str]:
        return [ref.key for ref in _image(Augmenter(ALL, seed, rows), rows, step)]

    assert keys(3) == keys(3)
    assert keys(3) != keys(4) and keys(3) != keys(3, seed=1)
    one = _image(Augmenter(ALL, 0, rows), rows[5:6], 3)[0]
    assert one.key == keys(3)[5], "whatever else is in the batch"
    views = [ref.view for ref in _image(Augmenter(ALL, 0, rows), rows, 3)]
    assert all(isinstance(view, View) for view in views)
    assert np.mean([view.flip for view in views]) == pytest.approx(0.5, abs=0.12)  # type: ignore[union-attr]
    boxes = np.array([view.box for view in views])  # type: ignore[union-attr]
    sides = boxes[:, 2:] - boxes[:, :2]
    assert np.allclose(sides[:, 0], sides[:, 1]), "the ratio of the sides stays"
    assert 0.8 <= sides.prod(1).min() < 0.82 and 0.98 < sides.prod(1).max() <= 1
    assert boxes.min() >= 0 and boxes.max() <= 1
    factors = np.array([view.saturation for view in views])  # type: ignore[union-attr]
    assert 0.6 <= factors.min() < 0.65 and 1.35 < factors.max() <= 1.4
    sent = pickle.loads(pickle.dumps(one))
    assert load_image(sent, rows[5].where) == load_image(one, rows[5].where)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, "give at least one of 'flip', 'colour' and 'crop'"),
        ({"crop": 0}, "greater than 0"),
        ({"flip": 2}, "less than or equal to 1"),
        ({"flip": 0.5, "also": {"crop": ["x"]}}, "'also.crop' exempts rows from a change that is off"),
        ({"flip": 0.5, "also": {"flip": ["("]}}, "'also.flip': '\\(' is no regular expression"),
    ],
)
def test_what_changes_nothing_is_refused(told: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augment.model_validate(told)

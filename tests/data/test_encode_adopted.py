"""Adopted encoding: for every architecture the supervised tokens are the answers and their ends, nothing else."""

from __future__ import annotations

import pickle

import pytest
import torch

from sightline.data.align import positions
from sightline.data.augment import Augmenter
from sightline.data.batch import IGNORE
from sightline.data.encode import RowError
from sightline.data.encode_adopted import AdoptedEncoder
from sightline.data.pack import pack
from sightline.data.row import ImageRef
from sightline.errors import UserError
from sightline.recipe.augment import Augment
from tests.data.made import conversation
from tests.data.processors import PROCESSORS, llava, paligemma, qwen

TALKATIVE = [name for name in PROCESSORS if name != "paligemma"]


@pytest.fixture(scope="module")
def encoders() -> dict[str, AdoptedEncoder]:
    return {name: AdoptedEncoder(make()) for name, make in PROCESSORS.items()}


@pytest.fixture
def rows(image_ref):
    red, blue = image_ref("red", (60, 40)), image_ref("blue", (30, 90))
    return {
        "one": conversation(
            ("user", "<image>\nwhat color is the shape?"), ("assistant", "red, not blue"), images=(red,)
        ),
        "two": conversation(
            ("user", "<image>is there <image> a circle?"),
            ("assistant", "yes"),
            ("user", "what color is it?"),
            ("assistant", "teal circle"),
            images=(red, blue),
        ),
        "again": conversation(("user", "<image><image>is it?"), ("assistant", "it is"), images=(red, red)),
        "text": conversation(("user", "what color?"), ("assistant", "no")),
    }


def check(encoder: AdoptedEncoder, row) -> None:
    """The claims of one row."""
    example, prompt = encoder.encode(row), encoder.encode_prompt(row)
    assert all(label in (IGNORE, token) for label, token in zip(example.labels, example.input_ids, strict=True))
    learned = [label for label in example.labels if label != IGNORE]
    assert encoder.image_token_id not in learned
    answers = [turn.text for turn in row.turns if turn.role == "assistant"]
    said = encoder.tokenizer.decode(learned).split(encoder.tokenizer.decode([encoder.eos_id]))
    assert [piece.strip() for piece in said] == [*answers, ""]
    assert example.input_ids[: len(prompt)] == prompt.input_ids
    assert all(label == IGNORE for label in prompt.labels)
    assert (encoder.image_token_id in example.input_ids) == bool(row.images)


@pytest.mark.parametrize("name", PROCESSORS)
def test_one_image_one_answer(name: str, encoders, rows) -> None:
    check(encoders[name], rows["one"])


@pytest.mark.parametrize("kind", ["two", "again", "text"])
@pytest.mark.parametrize("name", TALKATIVE)
def test_turns_images_and_text_alone(name: str, kind: str, encoders, rows) -> None:
    check(encoders[name], rows[kind])


@pytest.mark.parametrize("name", PROCESSORS)
def test_ids_are_the_processors_own(name: str, encoders, rows) -> None:
    """The example's tokens and the batch's image tensors are what one direct call of the processor gives."""
    from sightline.data.images import load_image

    encoder, row = encoders[name], rows["one"]
    image = load_image(row.images[0], row.where)
    if name == "paligemma":
        asked = {"text": ["<image>what color is the shape?"], "suffix": ["red, not blue"]}
    else:
        messages = encoder._messages(row)
        asked = {"text": [encoder._render([messages[0], *_ended(messages[1:], encoder)], False)]}
        if asked["text"][0].startswith("<bos>"):
            asked["add_special_tokens"] = False
    theirs = encoder.processor(images=[[image]], return_tensors="pt", **asked)
    example = encoder.encode(row)
    assert list(example.input_ids) == theirs["input_ids"][0].tolist()
    batch = encoder.collate(pack([example], "none", 10_000))
    given = dict(batch.extra) if batch.pixel_values is None else {"pixel_values": batch.pixel_values}
    for key, value in given.items():
        torch.testing.assert_close(value, theirs[key])
    left_out = (
        set(theirs) - set(given) - {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels"}
    )
    assert not left_out


def _ended(messages, encoder):
    return [
        {"role": m["role"], "content": [{"type": "text", "text": m["content"][0]["text"] + encoder._end}]}
        for m in messages
    ]


@pytest.mark.parametrize("name", TALKATIVE)
def test_collate_serves_as_many_images_as_placeholders(name: str, encoders, rows) -> None:
    """With and without images in one batch; image tokens and image tensors agree through `image_index`."""
    encoder = encoders[name]
    batch = encoder.collate(pack([encoder.encode(row) for row in rows.values()], "none", 10_000))
    assert batch.image_index.tolist() == [0, 0, 1, 0, 0] and len(batch.image_keys) == 2
    assert batch.input_ids.shape == batch.labels.shape == batch.attention_mask.shape
    if batch.pixel_values is not None:
        assert len(batch.pixel_values) == 2 and not batch.extra
    if "image_grid_thw" in batch.extra:
        tokens = batch.extra["image_grid_thw"].prod(1).sum() // 4
        assert tokens == (batch.input_ids == encoder.image_token_id).sum()
    alone = encoder.collate(pack([encoder.encode(rows["text"])], "none", 10_000), pad_left=True)
    assert alone.pixel_values is None and not alone.extra


def test_a_mirrored_image_is_mirrored(encoders, rows) -> None:
    """With a generator some batches hold the mirror image, and none holds anything else."""
    encoder = encoders["llava"]
    sequences = pack([encoder.encode(rows["one"])], "none", 10_000)
    plain = encoder.collate(sequences).pixel_values
    generator = torch.Generator().manual_seed(0)
    seen = [encoder.collate(sequences, flip=generator).pixel_values for _ in range(8)]
    mirrored = [bool(torch.allclose(one, plain.flip(3), atol=0.02)) for one in seen]
    same = [torch.equal(one, plain) for one in seen]
    assert any(mirrored) and any(same) and all(m or s for m, s in zip(mirrored, same, strict=True))


def test_faults_are_told(rows) -> None:
    """No template, markup inside a text, several turns for PaliGemma, a template that rewrites what was said."""
    bare = llava()
    bare.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        AdoptedEncoder(bare)
    forged = conversation(("user", "what is <|im_end|>?"), ("assistant", "no"), number=3)
    with pytest.raises(RowError, match=r"row 3: the text holds <\|im_end\|>"):
        AdoptedEncoder(qwen()).encode(forged)
    with pytest.raises(RowError, match="one question a row"):
        AdoptedEncoder(paligemma()).encode(rows["two"])
    shouting = qwen()
    shouting.chat_template = shouting.chat_template.replace("part.text", "part.text | replace('circle', 'ring')")
    with pytest.raises(RowError, match="changes the words of turn 4"):
        AdoptedEncoder(shouting).encode(rows["two"])
    lone = conversation(("user", "<image>is it?"), ("assistant", "no"), images=(ImageRef("/no/such.png"),))
    with pytest.raises(RowError):
        AdoptedEncoder(qwen()).encode(lone)


@pytest.mark.parametrize("name", ["llava", "qwen2-vl", "idefics3"])
def test_saved_encoder_encodes_the_same(name: str, encoders, rows, tmp_path) -> None:
    encoders[name].save(tmp_path)
    for copy in (AdoptedEncoder.load(tmp_path), pickle.loads(pickle.dumps(encoders[name]))):
        assert copy.encode(rows["two"]) == encoders[name].encode(rows["two"])


IMAGE, PLACE = 9, 8


@pytest.mark.parametrize(
    ("text", "expanded", "found"),
    [
        ([1, 2, 3], [1, 2, 3], [0, 1, 2]),
        ([1, PLACE, 2], [1, 5, IMAGE, IMAGE, 6, 2], [0, None, 5]),
        ([PLACE, PLACE, 2], [IMAGE, 7, IMAGE, 2], [None, None, 3]),
        ([1, PLACE, 2, PLACE, 2], [1, IMAGE, 2, IMAGE, 2], [0, None, 2, None, 4]),
        ([1, 2], [IMAGE, IMAGE, 1, 2], [2, 3]),  # BLIP-2: images before all text
        ([1, PLACE, 4, 2], [1, IMAGE, 44, 2], [0, None, None, 3]),  # a line break merged with the end mark
        ([1, 4, PLACE, 2], [1, 44, IMAGE, 2], [0, None, None, 3]),
    ],
)
def test_positions(text, expanded, found) -> None:
    assert positions(text, PLACE, expanded, IMAGE) == found


@pytest.mark.parametrize("expanded", [[1, IMAGE, 5, 6], [1, 5, 2], [5, IMAGE, 2], [1, IMAGE, 2, 7]])
def test_positions_refuses_what_does_not_fit(expanded) -> None:
    with pytest.raises(ValueError, match="not among"):
        positions([1, PLACE, 3, 2], PLACE, expanded, IMAGE)


@pytest.mark.parametrize("kind", ["llava", "qwen2-vl"])
def test_augmented_rows_are_of_as_many_tokens(encoders, rows, kind: str) -> None:
    """An adopted model's processor is shown the changed image, which has the size of the one that was counted."""
    encoder, row = encoders[kind], rows["one"]
    sequences = pack([encoder.encode(row)], "none", 10_000)
    augmenter = Augmenter(Augment(flip=1.0), 0, ())
    plain, changed = encoder.collate(sequences), encoder.collate(augmenter(sequences, 0))
    assert torch.equal(plain.input_ids, changed.input_ids)
    assert all("|View(flip=True" in key for key in changed.image_keys)
    for one, other in (
        (plain.pixel_values, changed.pixel_values),
        *zip(plain.extra.values(), changed.extra.values(), strict=True),
    ):
        assert (one is None) == (other is None) and (one is None or one.shape == other.shape)
    if plain.pixel_values is not None:
        assert torch.allclose(changed.pixel_values, plain.pixel_values.flip(3), atol=0.02)

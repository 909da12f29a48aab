"""Composed encoding: labels stand on answers alone, and a prompt is a prefix of what was learned."""

from __future__ import annotations

import pickle

import pytest

from sightline.data.batch import IGNORE
from sightline.data.encode import RowError
from sightline.data.encode_composed import ComposedEncoder, image_token_id
from sightline.data.pixels import ImageProcessorFacts
from sightline.data.row import ImageRef, Row, Turn, Where
from sightline.data.templates import TEMPLATES
from sightline.errors import UserError
from tests.data.made import TOKENIZERS, bpe_tokenizer, conversation

FACTS = ImageProcessorFacts(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ONE = (ImageRef("a"),)
TWO = (ImageRef("a"), ImageRef("b"))
ROWS = {
    "one image": conversation(("user", "<image>\nwhat color is the shape?"), ("assistant", "red"), images=ONE),
    "image last": conversation(("user", "is there a circle? <image>"), ("assistant", "yes"), images=ONE),
    "text": conversation(("user", "is there a circle?"), ("assistant", "no")),
    "turns": conversation(
        ("system", "a chat between two"),
        ("user", "<image><image>what color is it?"),
        ("assistant", "blue, not red"),
        ("user", "is there a circle in the image?"),
        ("assistant", " yes there is "),
        images=TWO,
    ),
}


def encoder(tokenizer, template: str = "vicuna", tokens_per_image: int = 3) -> ComposedEncoder:
    return ComposedEncoder(tokenizer, FACTS, tokens_per_image, image_token_id(tokenizer, "<image>"), template)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_prompt_is_a_prefix_and_answers_alone_are_supervised(kind: str, template: str, row: Row) -> None:
    """For every tokenizer, template and row shape."""
    enc = encoder(TOKENIZERS[kind](), template)
    example = enc.encode(row)
    if template == "plain" and not row.images:
        with pytest.raises(RowError, match="the prompt has no tokens"):
            enc.encode_prompt(row)
        return
    prompt = enc.encode_prompt(row)

    assert example.input_ids[: len(prompt)] == prompt.input_ids
    assert set(prompt.labels) == {IGNORE}
    assert example.input_ids.count(enc.image_token_id) == 3 * len(row.images)
    supervised = [i for i in example.labels if i != IGNORE]
    assert all(label in (IGNORE, token) for label, token in zip(example.labels, example.input_ids, strict=True))
    assert enc.image_token_id not in supervised and enc.pad_id not in supervised
    assert supervised.count(enc.eos_id) == sum(turn.role == "assistant" for turn in row.turns)
    said = enc.decode(supervised).replace(" ", "")
    assert said == "".join(turn.text for turn in row.turns if turn.role == "assistant").replace(" ", "")
    # the rest of the example after the prompt is the last answer and its end, all supervised
    assert all(label != IGNORE for label in example.labels[len(prompt) :])


@pytest.mark.parametrize("template", TEMPLATES)
def test_prefix_depends_on_system_and_images_alone(template: str) -> None:
    """Other questions and answers leave the prefix as it is; it holds every image token, or is 0."""
    enc = encoder(bpe_tokenizer(), template)
    first = enc.encode(ROWS["one image"])
    other = conversation(("user", "<image>is it teal?"), ("assistant", "no"), images=ONE)
    second = enc.encode(other)
    assert first.prefix == second.prefix > 0
    assert first.input_ids[: first.prefix] == second.input_ids[: second.prefix]
    assert first.input_ids[: first.prefix].count(enc.image_token_id) == 3
    late = enc.encode(ROWS["image last"])
    assert late.prefix == 0 or late.input_ids[: late.prefix].count(enc.image_token_id) == 3


def test_vicuna_reads_as_llava_wrote_it() -> None:
    """The text of LLaVA-1.5's v1 conversation (docs of haotian-liu/LLaVA: conversation.py, two separators)."""
    enc = encoder(bpe_tokenizer())
    ids = enc.encode(ROWS["turns"]).input_ids
    assert enc.tokenizer.decode(ids) == (
        "a chat between two USER: <image><image><image><image><image><image>\nwhat color is it? ASSISTANT: "
        "blue, not red</s>USER: is there a circle in the image? ASSISTANT: yes there is</s>"
    )


def test_chatml_equals_the_tokenizers_own_chat_template() -> None:
    """The same ids as a jinja template of ChatML gives, up to the newline after the last end token."""
    tokenizer = bpe_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    )
    asked = (("system", "a chat"), ("user", "is it red?"), ("assistant", "no"), ("user", "why"))
    row = conversation(*asked, ("assistant", "it is"))
    messages = [{"role": turn.role, "content": turn.text} for turn in row.turns]
    theirs = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    ours = list(encoder(tokenizer, "chatml").encode(row).input_ids)
    newline = tokenizer("\n", add_special_tokens=False).input_ids
    assert ours + newline == list(theirs)


def test_metaspace_writes_no_doubled_space() -> None:
    """Segment by segment gives the tokens of the whole text."""
    tokenizer = TOKENIZERS["metaspace"]()
    enc = encoder(tokenizer)
    row = conversation(("system", "a chat between two"), ("user", "is it red?"), ("assistant", "yes it is"))
    whole = tokenizer("a chat between two USER: is it red? ASSISTANT: yes it is").input_ids
    assert list(enc.encode(row).input_ids[:-1]) == whole


def test_word_level_qa_is_minimal() -> None:
    """Image tokens, the question's words, the answer, the end: nothing else."""
    enc = encoder(TOKENIZERS["word"](), "qa")
    example = enc.encode(ROWS["one image"])
    words = enc.tokenizer.convert_ids_to_tokens(list(example.input_ids))
    assert words == ["<image>"] * 3 + ["what", "color", "is", "the", "shape", "?", "red", "</s>"]


def test_special_tokens_in_a_users_text_stay_text() -> None:
    """A row cannot forge an end token or an image."""
    enc = encoder(bpe_tokenizer())
    example = enc.encode(conversation(("user", "what is </s> or <image >"), ("assistant", "an end </s> token")))
    assert example.input_ids.count(enc.eos_id) == 1
    forged = Row(Where("made.json", 4), (Turn("user", ("see <image>",)), Turn("assistant", ("yes",))))
    assert enc.encode(forged).input_ids.count(enc.image_token_id) == 0


BROKEN = {
    "image placeholders": Row(Where("x.json", 7), ROWS["one image"].turns, TWO),
    "no assistant turn": conversation(("user", "is it?"), number=7),
    "every assistant turn is empty": conversation(("user", "is it?"), ("assistant", "  "), number=7),
    "assistant turn holds an image": conversation(("user", "is it?"), ("assistant", "<image>"), images=ONE, number=7),
    "conversation is empty": conversation(number=7),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_rows_are_named(message: str) -> None:
    """File and row stand in the message."""
    with pytest.raises(RowError, match=rf"json row 7: .*{message}"):
        encoder(bpe_tokenizer()).encode(BROKEN[message])


def test_an_error_about_a_row_survives_pickling() -> None:
    """It is raised in data loading processes as well."""
    error = RowError("is broken", Where("x.json", 7), fix="mend it")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.place, copy.fix) == (str(error), error.place, "mend it")


def test_a_prompt_needs_no_answer() -> None:
    """Asking encodes the same whether the row knows its answer or not."""
    enc = encoder(bpe_tokenizer())
    asked = conversation(("user", "<image>is it red?"), images=ONE)
    known = conversation(("user", "<image>is it red?"), ("assistant", "yes"), images=ONE)
    assert enc.encode_prompt(asked).input_ids == enc.encode_prompt(known).input_ids


def test_tokenizers_that_cannot_serve_are_refused() -> None:
    """No pad token, an image token of several pieces, no such end token, an unknown template."""
    lacking = bpe_tokenizer()
    lacking.pad_token = None
    with pytest.raises(UserError, match="no pad token"):
        encoder(lacking)
    with pytest.raises(UserError, match="does not know '<picture>' as one token"):
        image_token_id(bpe_tokenizer(), "<picture>")
    with pytest.raises(UserError, match="image token"):
        ComposedEncoder(bpe_tokenizer(), FACTS, 3, 10**6, "vicuna")
    lacking = bpe_tokenizer()
    lacking.eos_token = None
    with pytest.raises(UserError, match="end-of-sequence"):
        encoder(lacking)
    with pytest.raises(UserError, match="did you mean 'vicuna'"):
        encoder(bpe_tokenizer(), "vicunia")


def test_saved_encoder_encodes_the_same(tmp_path) -> None:
    """`load` after `save`, and a pickled copy (data loading processes), give the same examples."""
    enc = encoder(bpe_tokenizer(), "chatml")
    enc.save(tmp_path)
    for copy in (ComposedEncoder.load(tmp_path), pickle.loads(pickle.dumps(enc))):
        assert copy.encode(ROWS["turns"]) == enc.encode(ROWS["turns"])
        assert copy.image_processor == FACTS

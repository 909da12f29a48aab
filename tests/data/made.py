"""Tokenizers, rows and pictures made on the spot; nothing is downloaded."""

from __future__ import annotations

from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sightline.data.row import ImageRef, Picture, Row, Turn, Where

TEXTS = [
    "what color is the shape? it is red, not blue. USER: ASSISTANT: a chat between two",
    "is there a circle in the image? yes no there is a teal circle beside the gray triangle",
    "A chat between a curious user and an artificial intelligence assistant. user system assistant",
]
SPECIAL = ["<pad>", "</s>", "<image>", "<unk>", "<|im_start|>", "<|im_end|>"]


def _wrapped(core: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=["<image>", "<|im_start|>", "<|im_end|>"],
    )


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer, as the quickstart has it."""
    core = Tokenizer(models.WordLevel(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=SPECIAL))
    return _wrapped(core)


def bpe_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, as GPT-2, Llama 3 and Qwen have it."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet)
    core.train_from_iterator(TEXTS, trainer)
    return _wrapped(core)


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """A SentencePiece-like tokenizer, as Llama 2 and Vicuna have it: it writes a space before every text."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace()
    letters = sorted({letter for text in TEXTS for letter in text} - {" "})
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=letters)
    core.train_from_iterator(TEXTS, trainer)
    return _wrapped(core)


TOKENIZERS = {"word": word_tokenizer, "bpe": bpe_tokenizer, "metaspace": metaspace_tokenizer}


def conversation(*turns: tuple[str, str], images: tuple[ImageRef, ...] = (), number: int = 1) -> Row:
    """A row from (role, text) pairs; "<image>" in a text is a picture's place."""
    made = []
    for role, text in turns:
        pieces = text.split("<image>")
        parts: list[str | Picture] = [pieces[0]]
        for piece in pieces[1:]:
            parts += [Picture(), piece]
        made.append(Turn(role, tuple(part for part in parts if part != "")))
    return Row(Where("made.json", number), tuple(made), images)


def picture(color: str = "red", size: tuple[int, int] = (24, 16)) -> Image.Image:
    """A coloured disc on grey, off the centre so that mirroring shows."""
    image = Image.new("RGB", size, "gray")
    ImageDraw.Draw(image).ellipse((1, 2, size[0] // 2, size[1] - 3), fill=color)
    return image

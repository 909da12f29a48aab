"""Collation: pixels as transformers makes them, each image once, and padding on the side that is asked for."""

from __future__ import annotations

import pickle

import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from sightline.data import collate as module
from sightline.data.batch import IGNORE, PAD_GROUP
from sightline.data.collate import PixelStore
from sightline.data.encode_composed import ComposedEncoder
from sightline.data.pack import pack
from sightline.data.pixels import ImageProcessorFacts, normalised, resized
from tests.data.made import conversation, picture, word_tokenizer

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's CLIP
SIZES = [(24, 16), (16, 24), (40, 41), (32, 32), (100, 7), (333, 500)]


def reference(resize: str, size: int):
    if resize == "crop":
        return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    common = {"size": {"height": size, "width": size}, "image_mean": MEAN, "image_std": STD}
    if resize == "pad":
        return LlavaImageProcessorPil(**common, do_pad=True, do_center_crop=False)
    return SiglipImageProcessorPil(**common)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_pixels_are_those_of_transformers(resize: str, size: tuple[int, int]) -> None:
    """Against the PIL image processors of CLIP, SigLIP and LLaVA, within 1e-3."""
    image = Image.effect_noise(size, 80).convert("RGB")
    image.paste(picture("blue", (size[0] // 2 + 4, size[1] // 2 + 6)), (0, 0))
    facts = ImageProcessorFacts(32, MEAN, STD, resize)
    mine = normalised(resized(image, facts)[None], facts)
    theirs = reference(resize, 32)(image, return_tensors="pt")["pixel_values"]
    assert mine.shape == theirs.shape == (1, 3, 32, 32) and mine.dtype == torch.float32
    torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=0)


@pytest.fixture
def encoder() -> ComposedEncoder:
    facts = ImageProcessorFacts(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return ComposedEncoder(word_tokenizer(), facts, 3, 2, "qa")


@pytest.fixture
def sequences(encoder: ComposedEncoder, image_ref):
    red, blue = image_ref("red"), image_ref("blue")
    rows = [
        conversation(("user", "<image>is it red?"), ("assistant", "yes"), images=(red,), number=1),
        conversation(("user", "is it red?"), ("assistant", "no"), number=2),
        conversation(("user", "<image><image>is it?"), ("assistant", "no"), images=(blue, red), number=3),
        conversation(("user", "<image>what color is it?"), ("assistant", "blue"), images=(blue,), number=4),
    ]
    return pack([encoder.encode(row) for row in rows], "none", 64)


def test_each_image_is_decoded_once(encoder, sequences, monkeypatch) -> None:
    """Two distinct images for four places, and the index says which is where."""
    decoded: list[str] = []
    original = module.load_image
    monkeypatch.setattr(module, "load_image", lambda ref, where: decoded.append(ref.key) or original(ref, where))
    batch = encoder.collate(sequences)
    assert len(decoded) == len(batch.image_keys) == len(batch.pixel_values) == 2
    assert batch.image_index.tolist() == [0, 1, 0, 1]
    assert (batch.input_ids == encoder.image_token_id).sum() == 3 * len(batch.image_index)
    again = encoder.collate(sequences[::-1])
    assert len(decoded) == 2  # still in memory
    for place, key in enumerate(batch.image_keys):
        torch.testing.assert_close(again.pixel_values[again.image_keys.index(key)], batch.pixel_values[place])


@pytest.mark.parametrize("left", [False, True])
def test_padding(encoder, sequences, left: bool) -> None:
    batch = encoder.collate(sequences, pad_left=left)
    assert batch.attention_mask.dtype == torch.bool and batch.attention_mask.sum() == sum(map(len, sequences))
    for line, sequence in enumerate(sequences):
        kept = batch.attention_mask[line]
        assert batch.input_ids[line][kept].tolist() == list(sequence.input_ids)
        assert batch.labels[line][kept].tolist() == list(sequence.labels)
        assert bool(kept[-1 if left else 0])
        padding = ~kept
        assert (batch.input_ids[line][padding] == encoder.pad_id).all()
        assert (batch.labels[line][padding] == IGNORE).all() and (batch.group_ids[line][padding] == PAD_GROUP).all()
    assert [place.row for place in batch.examples] == [1, 2, 3, 4] and not batch.packed
    assert encoder.collate(pack([*map(_example, sequences)], "length", 64)).packed


def _example(sequence):
    from sightline.data.batch import Example

    return Example(sequence.examples[0], sequence.input_ids, sequence.labels, sequence.images)


def test_flips_are_drawn_by_the_generator(encoder, sequences) -> None:
    """Each image is itself or its mirror image; the same seed draws the same."""
    plain = encoder.collate(sequences).pixel_values
    draws = [encoder.collate(sequences, flip=torch.Generator().manual_seed(seed)).pixel_values for seed in range(8)]
    kinds = set()
    for pixels in draws:
        for mine, original in zip(pixels, plain, strict=True):
            mirrored, same = torch.equal(mine, original.flip(2)), torch.equal(mine, original)
            assert mirrored != same
            kinds.add(mirrored)
    assert kinds == {True, False}
    torch.testing.assert_close(
        encoder.collate(sequences, flip=torch.Generator().manual_seed(3)).pixel_values, draws[3], atol=0, rtol=0
    )


def test_features_stand_in_for_pixels(encoder, sequences) -> None:
    asked: list[tuple[str, ...]] = []

    def features(keys: tuple[str, ...]) -> torch.Tensor:
        asked.append(keys)
        return torch.zeros(len(keys), 3, 8)

    batch = encoder.collate(sequences, features=features)
    assert batch.pixel_values is None and batch.features.shape == (2, 3, 8) and asked == [batch.image_keys]


def test_text_alone_has_no_pixels(encoder, sequences) -> None:
    batch = encoder.collate([sequences[1]])
    assert batch.pixel_values is None and batch.features is None and batch.image_index.shape == (0,)


def test_store_forgets_the_least_used(monkeypatch, image_ref) -> None:
    """Room for two images: the third puts out the one that was asked for longest ago."""
    facts = ImageProcessorFacts(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    monkeypatch.setattr(module, "STORE_BYTES", 2 * 3 * 8 * 8)
    store = PixelStore(facts)
    red, blue, teal = (image_ref(color) for color in ("red", "blue", "teal"))
    for ref in (red, blue, red, teal):
        store.get(ref, None)
    assert list(store._kept) == [red.key, teal.key]
    assert not pickle.loads(pickle.dumps(store))._kept

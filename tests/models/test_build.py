"""Building: weights from disk, fresh ones from a seed, tokenizers, embeddings, image facts, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from sightline.errors import UserError
from sightline.models.build import Built, build, build_meta
from sightline.models.known_configs import CONFIGS
from sightline.models.tokenizer import complete, word_tokenizer
from sightline.recipe.schema import ModelSpec
from tests.models.conftest import LANGUAGE, TEXTS, VISION, batch_of, row, spec

Compose = Callable[..., Built]


def language_on_disk(folder: Path, **tokens: str) -> torch.nn.Module:
    """A random Llama and a tokenizer that knows neither pad nor image token."""
    words = [word for word in word_tokenizer(TEXTS, "<image>").get_vocab() if word not in ("<pad>", "<image>")]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    own = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **{"eos_token": "</s>", **tokens})
    own.save_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**LANGUAGE | {"vocab_size": len(own)}))
    model.save_pretrained(folder)
    return model


def test_weights_come_from_the_folders(tmp_path: Path) -> None:
    vision = AutoModel.from_config(AutoConfig.for_model(**VISION))
    vision.save_pretrained(tmp_path / "vision")
    language = language_on_disk(tmp_path / "language")
    built = build(
        spec(
            vision={"source": str(tmp_path / "vision")},
            language={"source": str(tmp_path / "language")},
            tokenizer={},
        ),
        seed=0,
    )
    assert torch.equal(
        built.model.vision.model.embeddings.patch_embedding.weight, vision.embeddings.patch_embedding.weight
    )
    old, new = language.get_input_embeddings().weight, built.model.language.get_input_embeddings().weight
    assert torch.equal(new[: len(old)], old)
    assert len(new) == len(old) + 2 == len(built.encoder.tokenizer)  # a pad and an image token
    torch.testing.assert_close(new[len(old) :], old.mean(0).expand(2, -1))
    head, own_head = built.model.language.lm_head.weight, language.lm_head.weight
    torch.testing.assert_close(head[len(old) :], own_head.mean(0).expand(2, -1))
    assert built.model.language.config.pad_token_id == built.encoder.pad_id != built.encoder.eos_id


def test_the_end_token_never_pads(tmp_path: Path) -> None:
    language_on_disk(tmp_path, pad_token="</s>")
    built = build(spec(language={"source": str(tmp_path)}, tokenizer={}), seed=0)
    assert built.encoder.pad_id != built.encoder.eos_id
    batch = batch_of(built, [row(1, "What color is the shape?", "red")])
    assert (batch.labels == built.encoder.eos_id).sum() == 1  # the end stays supervised


def test_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    language_on_disk(tmp_path, eos_token="</s>")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no end token"):
        build(spec(language={"source": str(tmp_path)}, tokenizer={}), seed=0)


def test_seed_decides_fresh_weights_and_leaves_the_callers_random_state() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (build(spec(), seed=seed, texts=TEXTS).model.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_word_tokenizer_is_a_function_of_the_words() -> None:
    one = word_tokenizer(["Is it red?", "red, RED!", "<image> is"], "<image>")
    two = word_tokenizer(["red, RED!", "<image> is", "Is it red?"], "<image>")
    assert one.get_vocab() == two.get_vocab()
    assert one.convert_ids_to_tokens(range(8)) == ["<pad>", "<s>", "</s>", "<unk>", "<image>", "red", "is", "!"]
    complete(one, "<image>", "here")
    assert one.tokenize("Is this <image> RED?!") == ["is", "<unk>", "<image>", "red", "?", "!"]
    with pytest.raises(UserError, match="no text"):
        word_tokenizer([], "<image>")


def test_scratch_language_gets_the_tokenizers_vocabulary(compose: Compose) -> None:
    built = compose(language={"config": LANGUAGE | {"vocab_size": 5}})
    assert len(built.model.language.get_input_embeddings().weight) == len(built.encoder.tokenizer)
    assert built.model.language.config.eos_token_id == built.encoder.eos_id


def test_images_are_prepared_as_recipe_source_or_custom_say(tmp_path: Path) -> None:
    AutoModel.from_config(AutoConfig.for_model(**VISION)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}')
    source = {"source": str(tmp_path)}
    facts = [
        build(spec(vision=given), seed=0, texts=TEXTS).encoder.image_processor
        for given in (source, source | {"mean": [0.4, 0.4, 0.4]}, {"config": VISION})
    ]
    assert [fact.mean for fact in facts] == [(0.1, 0.2, 0.3), (0.4, 0.4, 0.4), (0.48145466, 0.4578275, 0.40821073)]
    assert facts[0].std == (1, 1, 1) and facts[0].size == 16


def test_float16_and_bfloat16_towers_run() -> None:
    built = build(spec(), seed=0, texts=TEXTS, dtype=torch.bfloat16)
    logits, _ = built.model(batch_of(built, [row(1, "What color is the shape?", "red")]))
    assert logits.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"vision": {"source": "./nowhere"}}, "no folder './nowhere'"),
        ({"vision": {"source": "no-such/model"}}, "(?s)vision.*hf download"),
        ({"vision": {"config": VISION | {"model_type": "clip_vison_model"}}}, "did you mean 'clip_vision_model'"),
        ({"vision": {"config": VISION | {"hiden_size": 3}}}, "did you mean 'hidden_size'"),
        ({"vision": {"config": VISION, "layer": -7}}, "vision.layer"),
        ({"language": {"config": LANGUAGE | {"model_type": "lama"}}}, "did you mean 'llama'"),
        ({"language": {"config": VISION}}, "model.compose.language.config"),
        ({"vision": {"config": VISION | {"num_attention_heads": 5}}}, "model.compose.vision.config"),
        ({"connector": {"kind": "pixel-shuffle", "factor": 3}}, "connector.factor to one of 1, 2"),
        ({"connector": {"kind": "mpl"}}, "did you mean 'mlp'"),
        ({"tokenizer": {}}, "tokenizer.build to words"),
        ({"template": "vicunna"}, "did you mean 'vicuna'"),
        ({"image_token": "red"}, None),
    ],
)
def test_what_does_not_fit_is_told(parts: dict[str, Any], told: str | None) -> None:
    if told is None:
        built = build(spec(**parts), seed=0, texts=TEXTS)
        assert built.encoder.image_token_id == built.encoder.tokenizer.convert_tokens_to_ids("red")
        return
    with pytest.raises(UserError, match=told):
        build(spec(**parts), seed=0, texts=TEXTS)


def test_meta_model_has_the_shapes_of_the_real_one(compose: Compose) -> None:
    built = compose()
    words = len(built.encoder.tokenizer)
    meta = build_meta(spec(language={"config": LANGUAGE | {"vocab_size": words}}))
    shapes = {name: p.shape for name, p in built.model.named_parameters()}
    assert {name: p.shape for name, p in meta.named_parameters()} == shapes
    assert all(p.is_meta for p in meta.parameters())


# Totals published with each model (its model card or safetensors header).
PUBLISHED = {"lmsys/vicuna-7b-v1.5": 6_738_415_616, "HuggingFaceTB/SmolLM2-360M-Instruct": 361_821_120}


@pytest.mark.parametrize("source", PUBLISHED)
def test_known_language_models_have_their_published_size(source: str) -> None:
    meta = build_meta(spec(language={"source": source}, tokenizer={}))
    assert sum(p.numel() for _, p in meta.tower_parameters("language")) == PUBLISHED[source]


def test_known_vlm_has_its_published_size() -> None:
    meta = build_meta(ModelSpec.model_validate({"adopt": {"source": "Qwen/Qwen3-VL-2B-Instruct"}}))
    assert sum(p.numel() for p in meta.parameters()) == 2_127_532_032
    assert "Qwen/Qwen3-VL-2B-Instruct" in CONFIGS

"""Evaluation of adopted models, whose images go in with their prompts: answers as of each row alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from sightline.data.encode_adopted import AdoptedEncoder
from sightline.data.pack import pack
from sightline.evaluate.answer import Answerer
from sightline.evaluate.run import evaluate
from sightline.models.adopted import AdoptedVLM
from sightline.models.build import Built, finish
from sightline.recipe.schema import Adopt
from sightline.serve.ask import ask
from tests.data import processors
from tests.evaluate import tiny
from tests.evaluate.test_answer import one_by_one
from tests.models.families import CONFIGS


def llava() -> tuple[Any, dict[str, Any]]:
    processor = processors.llava()
    fields = CONFIGS["llava"] | {"image_token_index": processor.image_token_id}
    fields["vision_config"] = fields["vision_config"] | {"image_size": 28, "patch_size": 14}
    return processor, {"model_type": "llava"} | fields


def qwen() -> tuple[Any, dict[str, Any]]:
    processor = processors.qwen()
    ids = processor.tokenizer.convert_tokens_to_ids
    fields = CONFIGS["qwen2_vl"] | {
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
    }
    fields["vision_config"] = fields["vision_config"] | {"patch_size": 14}
    return processor, {"model_type": "qwen2_vl"} | fields


@pytest.fixture(params=[llava, qwen], ids=["llava", "qwen2_vl"])
def built(request: pytest.FixtureRequest) -> Built:
    processor, fields = request.param()
    fields["text_config"] = fields["text_config"] | {"vocab_size": len(processor.tokenizer)}
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**fields)).eval()
    for parameter in model.parameters():  # larger than a fresh model's, so that answers differ
        parameter.data = torch.randn_like(parameter) * 0.2
    return finish(AdoptedVLM(model, Adopt(source="nowhere")), AdoptedEncoder(processor), ())


def test_answers_are_those_of_each_row_alone(built: Built, tmp_path: Path) -> None:
    rows = tiny.questions(tiny.pictures(tmp_path))
    expected = one_by_one(built, rows, 3)
    assert Answerer(built, batch=5, max_new_tokens=3)(rows) == [answer.strip() for answer in expected]


def test_evaluate_and_ask(built: Built, tmp_path: Path) -> None:
    rows = tiny.questions(tiny.pictures(tmp_path))[:6]
    seen = evaluate(tiny.recipe(), built, rows, rows, tmp_path / "out")
    assert seen["questions"] == 6
    assert seen["baselines"]["shuffled_images"]["accuracy"] is not None
    path = rows[0].images[0].path
    assert path is not None
    assert "".join(ask(built, path, rows[0].question, max_new_tokens=4))


def test_what_is_written_has_the_probability_of_all_its_tokens(built: Built, tmp_path: Path) -> None:
    row = tiny.row(1, "what color is it ?", "red", tiny.pictures(tmp_path)[0])
    prompt = built.encoder.encode_prompt(row)
    batch = built.encoder.collate(pack([prompt], "none", 4096), pad_left=True)
    (said,) = built.model.say(batch, 3)
    tokens = (*said.tokens, built.encoder.eos_id)[:3]
    whole = replace(prompt, input_ids=(*prompt.input_ids, *tokens), labels=(*prompt.labels, *tokens))
    with torch.no_grad():
        logits, targets = built.model(built.encoder.collate(pack([whole], "none", 4096)))
    assert said.log_p == pytest.approx(float(logits.log_softmax(-1).gather(1, targets[:, None]).sum()), rel=1e-3)

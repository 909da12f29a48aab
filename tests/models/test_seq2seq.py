"""An encoder-decoder language tower (T5) in a composed VLM: labels, loss, generation and what is saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.data.batch import IGNORE, Batch
from sightline.data.pack import pack
from sightline.data.row import Row, Turn
from sightline.errors import UserError
from sightline.losses.next_token import next_token
from sightline.models.build import Built, build
from sightline.models.saved import load_model
from sightline.models.seq2seq import Seq2SeqVLM
from sightline.recipe.read import validate
from tests.train.tiny import RECIPE, drawn

T5: dict[str, Any] = {
    "model_type": "t5",
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
    "initializer_factor": 1.0,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return drawn(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module", params=["tied", "untied"])
def built(request: pytest.FixtureRequest, rows: list[Row]) -> Built:
    language = {"config": T5 | {"tie_word_embeddings": request.param == "tied"}}
    recipe = validate(RECIPE | {"model": {"compose": RECIPE["model"]["compose"] | {"language": language}}}, where="t5")
    made = build(recipe.model, seed=0, texts=[turn.text for row in rows for turn in row.turns])
    made.model.eval()
    return made


def batch_of(built: Built, rows: list[Row], *, prompt: bool = False) -> Batch:
    encode = built.encoder.encode_prompt if prompt else built.encoder.encode
    return built.encoder.collate([pack([encode(row)], "none", 64)[0] for row in rows], pad_left=prompt)


def by_transformers(built: Built, row: Row) -> tuple[Tensor, Tensor]:
    """Logits and labels of one row by T5's own forward pass, which shifts its labels by itself."""
    model, encoder = built.model, built.encoder
    assert isinstance(model, Seq2SeqVLM)
    prompt = encoder.encode_prompt(row)
    labels = torch.tensor([[*encoder.tokenizer(row.answer, add_special_tokens=False).input_ids, encoder.eos_id]])
    words = model.language.get_input_embeddings()(torch.tensor([prompt.input_ids]))
    image = model.connector(model.encode_images(batch_of(built, [row]).pixel_values))
    place = prompt.input_ids.index(model.image_token_id)
    joined = torch.cat([words[:, :place], image, words[:, place + image.shape[1] :]], 1)
    return model.language(inputs_embeds=joined, labels=labels).logits[0], labels[0]


def test_the_prompt_is_read_and_the_answer_is_learned(built: Built, rows: list[Row]) -> None:
    encoder = built.encoder
    example, prompt = encoder.encode(rows[1]), encoder.encode_prompt(rows[1])
    assert example.input_ids[: len(prompt)] == prompt.input_ids and prompt.input_ids[-1] == encoder.eos_id
    assert set(prompt.labels) == set(example.labels[: len(prompt)]) == {IGNORE}
    answer = example.labels[len(prompt) :]
    assert answer == example.input_ids[len(prompt) :] and answer[-1] == encoder.eos_id
    assert encoder.decode(list(answer)) == "it is red all over"


def test_earlier_answers_are_read_and_not_learned(built: Built, rows: list[Row]) -> None:
    longer = replace(rows[0], turns=(*rows[0].turns, Turn("user", ("say more .",)), Turn("assistant", ("blue",))))
    example = built.encoder.encode(longer)
    assert built.encoder.decode([token for token in example.labels if token != IGNORE]) == "blue"
    assert "red" in built.encoder.decode(list(built.encoder.encode_prompt(longer).input_ids))


def test_logits_and_gradients_are_those_of_each_row_alone(built: Built, rows: list[Row]) -> None:
    some = [rows[1], rows[2], rows[5], rows[0]]  # long and short answers, so that both sides are padded
    logits, targets = built.model(batch_of(built, some))
    alone = [by_transformers(built, row) for row in some]
    torch.testing.assert_close(logits, torch.cat([one for one, _ in alone]), atol=1e-6, rtol=1e-5)
    assert targets.tolist() == torch.cat([labels for _, labels in alone]).tolist()
    loss, count = next_token(logits, targets)
    assert count == len(targets) == batch_of(built, some).tokens
    loss.backward()
    found = {name: p.grad.clone() for name, p in built.model.named_parameters() if p.grad is not None}
    built.model.zero_grad()
    sum(F.cross_entropy(one, labels, reduction="sum") for one, labels in alone).backward()  # type: ignore[union-attr]
    wanted = {name: p.grad for name, p in built.model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys() and any("decoder" in name for name in found)
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, atol=2e-5, rtol=1e-4, msg=name)
    built.model.zero_grad()


def test_an_answer_does_not_see_itself_and_sees_the_image(built: Built, rows: list[Row]) -> None:
    batch = batch_of(built, [rows[1]])
    told = built.model(batch)[0].detach()
    last = batch.labels[0].nonzero()[-2]
    batch.input_ids[0, last] = batch.labels[0, last] = built.encoder.tokenizer.convert_tokens_to_ids("blue")
    other = built.model(batch)[0].detach()
    torch.testing.assert_close(other[:-1], told[:-1], atol=0, rtol=0)  # the last prediction follows the changed word
    assert float((other[-1] - told[-1]).abs().max()) > 1e-4
    batch = batch_of(built, [rows[1]])
    batch.pixel_values = batch.pixel_values.flip(1)
    assert float((built.model(batch)[0].detach() - told).abs().max()) > 1e-5


def test_greedy_answers_are_those_of_the_whole_forward_pass(built: Built, rows: list[Row]) -> None:
    some = [rows[0], rows[1], rows[4]]
    told = built.model.generate(batch_of(built, some, prompt=True), 6)
    for row, answer in zip(some, told, strict=True):
        assert list(built.model.stream(batch_of(built, [row], prompt=True), 6)) == answer
        prompt, said = built.encoder.encode_prompt(row), []
        for _ in range(6):
            ids = (*prompt.input_ids, *said, 0)
            example = replace(prompt, input_ids=ids, labels=(IGNORE,) * len(prompt) + ids[len(prompt) :])
            batch = built.encoder.collate([pack([example], "none", 64)[0]])
            said.append(int(built.model(batch)[0][-1].argmax()))
        ends = [i for i, token in enumerate(said) if token in built.model.eos_ids]  # type: ignore[operator]
        assert answer == said[: ends[0] if ends else None]


def test_saved_and_loaded_it_says_the_same(built: Built, rows: list[Row], tmp_path: Path) -> None:
    built.model.save(tmp_path)
    again = load_model(tmp_path)
    assert isinstance(again.model, Seq2SeqVLM)
    assert again.encoder.encode(rows[1]) == built.encoder.encode(rows[1])
    assert torch.equal(again.model(batch_of(again, rows))[0], built.model(batch_of(built, rows))[0])


def test_an_output_embedding_of_its_own_survives_being_saved(built: Built, rows: list[Row], tmp_path: Path) -> None:
    """FlanT5 has one, and transformers' configuration says afterwards that it has none."""
    language = built.model.language  # type: ignore[union-attr]
    tied = language.lm_head.weight is language.shared.weight
    assert tied == language.config.scale_decoder_outputs  # T5's original scales, and ties; version 1.1 does neither
    if tied:
        return
    with torch.no_grad():
        language.lm_head.weight.add_(0.1 * torch.randn_like(language.lm_head.weight))
    told = built.model(batch_of(built, rows))[0]
    built.model.save(tmp_path)
    again = load_model(tmp_path).model
    assert torch.equal(again.language.lm_head.weight, language.lm_head.weight)
    assert torch.equal(again.language.shared.weight, language.shared.weight)
    assert torch.equal(again(batch_of(built, rows))[0], told)


def test_blocks_are_those_of_both_halves(built: Built) -> None:
    assert [type(block).__name__ for block in built.model.blocks("language")] == ["T5Block"] * 5


def test_packed_examples_are_refused(built: Built, rows: list[Row]) -> None:
    packed = pack([built.encoder.encode(row) for row in rows[:2]], "length", 64)
    with pytest.raises(UserError, match="cannot be packed"):
        built.model(built.encoder.collate(packed))

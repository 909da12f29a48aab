"""Perplexity against brute force in fp64: each token by itself, with the context that its window gives it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from sightline.data.batch import Batch, Example
from sightline.data.collate import pad
from sightline.data.encode_composed import start_tokens
from sightline.data.pack import pack
from sightline.data.row import Row, Turn, Where
from sightline.errors import UserError
from sightline.evaluate import perplexity
from sightline.evaluate.perplexity import Surprise, Text, document, surprise
from sightline.evaluate.run import evaluate
from sightline.evaluate.texts import is_document, token_ids, window_and_stride
from sightline.models.build import Built
from sightline.models.plain import PlainLanguage, load_plain
from tests.evaluate import tiny

DATA = Path(__file__).parents[3] / "shared" / "data"
HERE = Where("text", 1)
WORDS = 40


@pytest.fixture(scope="module")
def language() -> PlainLanguage:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=WORDS, max_position_embeddings=64, initializer_range=0.3, **shape)
    return PlainLanguage(LlamaForCausalLM(config).eval(), None)


def text(length: int, seed: int) -> list[int]:
    return torch.randint(WORDS, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def collate(examples: list[Example]) -> Batch:
    made = pad(pack(examples, "none", 4096), 0, left=False)
    return Batch(**made, image_index=torch.zeros(0, dtype=torch.int64))


def read(language: PlainLanguage, texts: list[Text], batch: int = 4) -> Surprise:
    with torch.no_grad():
        return surprise(language, texts, collate, batch=batch, vocabulary=WORDS)


def by_hand(model: Any, ids: list[int], window: int, stride: int) -> list[float]:
    """Nats of each token but the first, in fp64: the first window that holds it and one before it."""
    nats = []
    for place in range(1, len(ids)):
        start = next(s for s in range(0, len(ids), stride) if s < place < s + window)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids[start:place]])).logits[0, -1]
        nats.append(-float(logits.double().log_softmax(-1)[ids[place]]))
    return nats


@pytest.mark.parametrize(("window", "stride"), [(64, 32), (16, 8), (10, 9), (7, 1)])
@pytest.mark.parametrize("batch", [1, 5])
def test_of_documents_it_is_the_brute_force_one(language: PlainLanguage, window: int, stride: int, batch: int) -> None:
    texts = [text(50, 1), text(3, 2), text(23, 3)]
    found = read(language, [document(HERE, ids, window, stride) for ids in texts], batch)
    exact = LlamaForCausalLM(language.model.config).double().eval()
    exact.load_state_dict(language.model.state_dict())
    expected = [by_hand(exact, ids, window, stride) for ids in texts]
    assert found.tokens == (49, 2, 22)
    assert list(found.nats) == pytest.approx([math.fsum(nats) for nats in expected], rel=1e-6)
    facts = found.facts()
    every = [each for nats in expected for each in nats]
    assert facts["perplexity"] == pytest.approx(math.exp(math.fsum(every) / len(every)), rel=1e-6)
    low, high = facts["interval"]
    assert low <= facts["perplexity"] <= high and facts["tokens"] == 73


def test_it_is_weighted_by_tokens_and_not_by_texts() -> None:
    found = Surprise((10.0, 90.0), (10, 30))
    assert found.facts()["nats"] == 100 / 40 != (1 + 3) / 2
    assert Surprise((10.0,), (10,)).facts()["interval"] is None  # one text tells nothing of others
    assert Surprise((1e6,), (10,)).facts()["perplexity"] == math.inf


def test_large_logits_make_small_batches(language: PlainLanguage, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [document(HERE, text(20, seed), 16, 8) for seed in range(6)]
    expected = read(language, texts, 64)
    sizes = []
    monkeypatch.setattr(perplexity, "LOGITS", 40 * WORDS)
    with torch.no_grad():
        found = surprise(
            lambda batch: (sizes.append(len(batch.input_ids)), language(batch))[1],  # type: ignore[func-returns-value]
            texts,
            collate,
            batch=64,
            vocabulary=WORDS,
        )
    assert max(sizes) < 12 and found.tokens == expected.tokens
    assert found.nats == pytest.approx(expected.nats, rel=1e-6)


def test_progress_counts_texts_and_not_windows(language: PlainLanguage) -> None:
    texts, told = [document(HERE, text(40, seed), 16, 4) for seed in range(3)], list[int]()
    with torch.no_grad():
        surprise(language, texts, collate, batch=2, vocabulary=WORDS, progress=told.append)
    assert sum(told) == 3


@pytest.mark.parametrize(("window", "stride"), [(256, 128), (128, 32)])
def test_a_real_model_on_real_text(window: int, stride: int) -> None:
    """stories260K on Shakespeare, against transformers' recipe in fp64, window by window, token by token."""
    weights, play = DATA / "weights" / "stories260K.gguf", DATA / "text" / "tinyshakespeare.txt"
    if not (weights.is_file() and play.is_file()):
        pytest.skip("no shared data")
    language = load_plain(str(weights.parent), weights.name)
    said = play.read_text(encoding="utf-8")[:1500]
    ids = token_ids(language.tokenizer, said)
    assert ids[0] == language.tokenizer.bos_token_id and language.tokenizer.decode(ids[1:]).strip() == said.strip()
    with torch.no_grad():
        found = read(language, [document(HERE, ids, window, stride)], 3).facts()
        exact, total, scored, done = language.model.double(), 0.0, 0, 1
        for start in range(0, len(ids), stride):
            end = min(start + window, len(ids))
            every = exact(input_ids=torch.tensor([ids[start:end]])).logits[0].log_softmax(-1)
            for place in range(done, end):
                total -= float(every[place - start - 1, ids[place]])
                scored += 1
            done = end
            if end == len(ids):
                break
    assert found["tokens"] == scored == len(ids) - 1
    assert found["nats"] == pytest.approx(total / scored, rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(total / scored), rel=1e-6)


# --- rows with answers -----------------------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return tiny.questions(tiny.pictures(tmp_path))


def alone(built: Built, row: Row) -> tuple[float, int]:
    """Summed nats of a row's answer and end, by the model in fp64, and their number."""
    batch = built.encoder.collate(pack([built.encoder.encode(row)], "none", 512))
    with torch.no_grad():
        logits, targets = built.model(batch)
    return float(cross_entropy(logits, targets, reduction="sum")), len(targets)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_of_answers_it_is_that_of_each_row_alone(rows: list[Row], tmp_path: Path, batch: int) -> None:
    built = tiny.model(rows)
    recipe = tiny.recipe(metric="perplexity", batch=batch, group_by="type", looking=["shuffled"], leaks=False)
    found = evaluate(recipe, built, rows, [], tmp_path)
    built.model.double()
    costs = [alone(built, row) for row in rows]
    nats = math.fsum(cost for cost, _ in costs) / sum(tokens for _, tokens in costs)
    assert found["nats"] == pytest.approx(nats, rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(nats), rel=1e-6)
    assert found["tokens"] == sum(tokens for _, tokens in costs) and found["unit"] == "rows"
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line["nats"] for line in lines] == pytest.approx([cost for cost, _ in costs], rel=1e-5)
    groups = found["by_field"]["type"]
    assert {name: group["questions"] for name, group in groups.items()} == {"color": 6, "yes/no": 7}
    assert found["baselines"]["shuffled_images"]["perplexity"] != found["perplexity"]
    assert json.loads((tmp_path / "evaluation.json").read_text()) == found


def test_documents_are_read_by_a_vision_language_model_too(rows: list[Row], tmp_path: Path) -> None:
    built = tiny.model(rows)
    said = "what color is the whole picture ? red is it no yes " * 4
    texts = [Row(Where(f"{n}.txt", 1), (Turn("assistant", (said[n:],)),)) for n in (0, 5)]
    assert all(map(is_document, texts)) and not any(map(is_document, rows))
    recipe = tiny.recipe(metric="perplexity", window=12, stride=5, leaks=False)
    found = evaluate(recipe, built, texts, [], tmp_path)
    assert (found["unit"], found["window"], found["stride"], found["baselines"]) == ("documents", 12, 5, {})
    built.model.double()
    total, scored = 0.0, 0
    for row in texts:
        ids = list(token_ids(built.encoder.tokenizer, row.turns[0].parts[0]))  # type: ignore[arg-type]
        nats = by_hand(built.model.language, ids, 12, 5)
        total, scored = total + math.fsum(nats), scored + len(nats)
    assert (found["tokens"], found["nats"]) == (scored, pytest.approx(total / scored, rel=1e-6))


def test_what_cannot_be_read_is_said(rows: list[Row], tmp_path: Path) -> None:
    built, recipe = tiny.model(rows), tiny.recipe(metric="perplexity", leaks=False)
    page = Row(Where("a.txt", 1), (Turn("assistant", ("red",)),))
    start = len(start_tokens(built.encoder.tokenizer))
    for given, message in (
        ([], "there is nothing to evaluate"),
        ([*rows, page], "1 of 14 rows are texts that nobody asked for"),
        ([Row(Where("a", 7), rows[0].turns[:1], rows[0].images)], "a row 7: the row holds no answer"),
        ([page], None if start else r"a\.txt row 1: a text of 1 tokens"),
    ):
        if message:
            with pytest.raises(UserError, match=message):
                evaluate(recipe, built, given, [], tmp_path)
    with pytest.raises(UserError, match="longer than the 64 positions"):
        window_and_stride(LlamaConfig(max_position_embeddings=64), 65, None)
    assert window_and_stride(LlamaConfig(max_position_embeddings=64), None, None) == (64, 32)
    assert window_and_stride(LlamaConfig(max_position_embeddings=65536), None, 7) == (2048, 7)
    with pytest.raises(ValueError, match="'window' is read by metric perplexity alone"):
        tiny.recipe(window=12)

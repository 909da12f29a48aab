"""A Q-Former that starts from a BERT saved to disk: its text branch is that BERT, to the last digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

from sightline.errors import UserError
from sightline.models.bert_source import start_from_bert
from sightline.models.connectors.q_former import QFormer
from sightline.recipe.schema import Layers, Start
from tests.models.connectors.former import CONFIG, LONGEST, WIDTH, WIDTH_IN, WIDTH_OUT, WORDS, pairs, spec

SIZES = {name: CONFIG[name] for name in CONFIG if name != "vocab_size"}


@pytest.fixture
def bert(tmp_path: Path) -> BertForMaskedLM:
    """With one word less than the Q-Former, whose last is [DEC]. Saved to `tmp_path`."""
    torch.manual_seed(3)
    model = BertForMaskedLM(BertConfig(vocab_size=WORDS - 1, **SIZES)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    return model


def started(folder: Path) -> QFormer:
    torch.manual_seed(0)
    made = QFormer(WIDTH_IN, WIDTH_OUT, spec()).eval()
    start_from_bert(made, str(folder))
    return made


def test_the_text_branch_is_the_bert(bert: BertForMaskedLM, tmp_path: Path) -> None:
    made = started(tmp_path)
    _, ids, mask = pairs(torch.float32)
    told: list[torch.Tensor] = []
    made.body.register_forward_hook(lambda *call: told.append(call[2].last_hidden_state))
    made.embed_texts(ids, mask)
    expected = bert.bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(told[0][mask], expected[mask], atol=1e-6, rtol=1e-5)
    written = made.writer(expected, made.words.word_embeddings.weight)[..., : WORDS - 1]
    torch.testing.assert_close(written, bert.cls(expected), atol=1e-6, rtol=1e-5)


def test_queries_start_with_the_texts_feed_forward_and_everything_else_fresh(
    bert: BertForMaskedLM, tmp_path: Path
) -> None:
    made = started(tmp_path)
    assert bert.config.vocab_size == len(made.words.word_embeddings.weight) - 1
    for layer in made.body.encoder.layer:
        for query, text in ((layer.intermediate_query, layer.intermediate), (layer.output_query, layer.output)):
            for name, value in query.state_dict().items():
                assert torch.equal(value, text.state_dict()[name])
    torch.manual_seed(0)
    again = dict(QFormer(WIDTH_IN, WIDTH_OUT, spec()).named_parameters())
    parts = ("crossattention", "queries", "projection", "matcher", "to_language", "temperature")
    untouched = [name for name in again if any(part in name for part in parts) or name.startswith("norm.")]
    own = dict(made.named_parameters())
    assert len(untouched) > 30 and all(torch.equal(own[name], again[name]) for name in untouched)
    assert not torch.equal(own["writer.dense.weight"], again["writer.dense.weight"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"hidden_size": 32}, "word_embeddings"), ({"num_hidden_layers": 4}, "layer.3"), ({"vocab_size": 30}, "(30")],
)
def test_a_bert_of_another_size_is_told(changes: dict[str, int], named: str, tmp_path: Path) -> None:
    BertForMaskedLM(BertConfig(**{"vocab_size": WORDS - 1, **SIZES, **changes})).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="does not fit the Q-Former") as told:
        started(tmp_path)
    assert named in str(told.value) and "config" in str(told.value)


def test_another_kind_of_model_is_told(tmp_path: Path) -> None:
    sizes = SIZES | {"max_position_embeddings": LONGEST + 2}
    RobertaForMaskedLM(RobertaConfig(vocab_size=WORDS, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a roberta"):
        started(tmp_path)


@pytest.mark.parametrize("layers", [{"place": "pre"}, {"norm": "rmsnorm"}, {"qk_norm": True}])
def test_layers_that_a_bert_has_not_are_refused(bert: BertForMaskedLM, tmp_path: Path, layers: dict[str, Any]) -> None:
    made = QFormer(WIDTH_IN, WIDTH_OUT, spec().model_copy(update={"layers": Layers(**layers)}))
    with pytest.raises(UserError, match=r"connector.layers: a BERT's layers have LayerNorms behind their sums"):
        start_from_bert(made, str(tmp_path))


def test_branches_that_start_at_zero_are_those_that_a_bert_lacks(bert: BertForMaskedLM, tmp_path: Path) -> None:
    """Path dropout changes no weight, so a BERT can be read beside it."""
    told = {"layers": Layers(path_dropout=0.1), "start": Start(residual="zero")}
    made = QFormer(WIDTH_IN, WIDTH_OUT, spec().model_copy(update=told))
    start_from_bert(made, str(tmp_path))
    for layer in made.blocks:
        assert bool(layer.attention.output.dense.weight.any()) and bool(layer.output_query.dense.weight.any())
        assert not layer.has_cross_attention or not bool(layer.crossattention.output.dense.weight.any())


def test_cross_attention_may_start_as_the_berts_attention(bert: BertForMaskedLM, tmp_path: Path) -> None:
    made = QFormer(WIDTH, WIDTH_OUT, spec().model_copy(update={"start": Start(cross="self")}))
    start_from_bert(made, str(tmp_path))
    first = bert.bert.encoder.layer[0].attention
    assert torch.equal(made.blocks[0].crossattention.attention.key.weight, first.self.key.weight)
    assert torch.equal(made.blocks[0].crossattention.output.dense.weight, first.output.dense.weight)

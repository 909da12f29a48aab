"""L4 through the door: a language model of transformers, packed rows, and the two ways to call it."""

from __future__ import annotations

import pytest
import torch
import transformers

import sightline

NARROW = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def little_llama(attention: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=40, num_key_value_heads=2, max_position_embeddings=64, **NARROW)
    return transformers.LlamaForCausalLM._from_config(config, attn_implementation=attention)


def padding_free(lengths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Documents end to end in one row, as a flattening collator gives them."""
    tokens = torch.randint(3, 40, (1, sum(lengths)))
    starts = torch.cat([torch.arange(length) for length in lengths])[None]
    return {"input_ids": tokens, "labels": tokens.clone(), "position_ids": starts}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("given", "planted"),
    [
        ({"mask": True, "cache": False}, True),
        ({"mask": False, "cache": True}, True),
        ({"mask": False, "cache": False}, False),
    ],
    ids=["a mask of ones", "a cache", "clean"],
)
def test_what_hides_where_documents_end(attention: str, given: dict[str, bool], planted: bool) -> None:
    lm = little_llama(attention)
    lm.config.use_cache = given["cache"]
    adam = torch.optim.AdamW(lm.parameters(), lr=1e-3)
    with sightline.attach(lm, adam, on_finding=None) as guard:
        for _ in range(3):
            rows = padding_free((7, 5, 9))
            if given["mask"]:
                rows["attention_mask"] = torch.ones_like(rows["input_ids"])
            lm(**rows).loss.backward()
            adam.step()
            adam.zero_grad(set_to_none=True)
    assert [finding.code for finding in guard.findings] == (["L4"] if planted else [])
    kinds = {str(r["code"]): r["kind"] for r in guard.records()}
    assert kinds["L4"] == ("finding" if planted else "passed")


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_recomputed_layers_use_no_cache_in_training() -> None:
    """transformers turns its cache off under gradient checkpointing, in train mode only: the probe must stay in it."""
    lm = little_llama("sdpa")
    lm.gradient_checkpointing_enable()
    lm.train()
    adam = torch.optim.AdamW(lm.parameters(), lr=1e-3)
    with sightline.attach(lm, adam, on_finding=None) as guard:
        for _ in range(2):
            lm(**padding_free((7, 5, 9))).loss.backward()
            adam.step()
            adam.zero_grad()
    assert guard.findings == ()


@pytest.mark.parametrize("pads", [0, 4])
def test_padding_whose_positions_are_all_zero_is_no_document(pads: int) -> None:
    """One document a row and no mask: causal attention lets padding at the end see it, which harms nobody."""
    lm = little_llama("sdpa")
    adam = torch.optim.AdamW(lm.parameters(), lr=1e-3)
    tokens = torch.randint(3, 40, (2, 8 + pads))
    positions = torch.cat([torch.arange(8), torch.zeros(pads, dtype=torch.long)]).expand(2, -1)
    labels = tokens.clone()
    labels[:, 8:] = -100
    with sightline.attach(lm, adam, on_finding=None) as guard:
        for _ in range(2):
            lm(input_ids=tokens, position_ids=positions, labels=labels).loss.backward()
            adam.step()
            adam.zero_grad()
    assert guard.findings == ()


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("begins", [True, False], ids=["each begins alike", "one stream"])
def test_documents_that_only_their_labels_tell_apart(begins: bool, separate: bool) -> None:
    """A flattening collator without positions: the first token of each document has no label, and all see all."""
    lm = little_llama("sdpa")
    lm.config.use_cache = False
    adam = torch.optim.AdamW(lm.parameters(), lr=1e-3)
    with sightline.attach(lm, adam, on_finding=None) as guard:
        for _ in range(3):
            rows, firsts = padding_free((7, 5, 9)), [0, 7, 12]
            rows["input_ids"][0, firsts] = 1 if begins else torch.tensor([5, 6, 7])
            rows["labels"][0, firsts] = -100
            lm(**(rows if separate else {k: v for k, v in rows.items() if k != "position_ids"})).loss.backward()
            adam.step()
            adam.zero_grad(set_to_none=True)
    assert [finding.code for finding in guard.findings] == (["L4"] if begins and not separate else [])


PICTURE, PLACES, DOCUMENTS = 2, 3, 3


class LossOnly(torch.nn.Module):
    """Takes a batch in one piece and says nothing but its loss; `blocks`: documents see themselves alone."""

    def __init__(self, blocks: bool) -> None:
        super().__init__()
        self.lm, self.blocks = little_llama("sdpa"), blocks

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        ids, part = batch["ids"], batch["part"]
        may = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()[None]
        may = may & (part[:, :, None] == part[:, None, :]) if self.blocks else may & (part[:, None] > 0)
        bias = torch.zeros(may.shape).masked_fill(~may, torch.finfo(torch.float32).min)[:, None]
        assert bool(((ids == PICTURE).sum(dim=1) == DOCUMENTS * PLACES).all())  # each has features
        embeds = self.lm.get_input_embeddings()(ids)
        loss: torch.Tensor = self.lm(
            inputs_embeds=embeds, attention_mask=bias, position_ids=batch["place"], labels=ids
        ).loss
        return loss


@pytest.mark.parametrize("blocks", [True, False])
def test_a_model_that_gives_its_loss_alone(blocks: bool) -> None:
    model = LossOnly(blocks)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with sightline.attach(model, adam, on_finding=None) as guard:
        for _ in range(3):
            rows = padding_free((7, 5, 9))
            rows["input_ids"][rows["position_ids"] < PLACES] = PICTURE
            part = (rows["position_ids"] == 0).cumsum(dim=-1)
            model({"ids": rows["input_ids"], "place": rows["position_ids"], "part": part}).backward()
            adam.step()
            adam.zero_grad()
    assert [finding.code for finding in guard.findings] == ([] if blocks else ["L4"])
    assert {str(r["code"]): r["kind"] for r in guard.records()}["L4"] == ("passed" if blocks else "finding")

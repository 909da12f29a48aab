"""Answers whose first token is asked of a model that was never taught it, seen by labels or by gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from sightline.attach.prompts import Prompts
from sightline.attach.torch_loop import attach
from sightline.guard.check import Finding
from sightline.guard.checks.data.unmasked_labels import find
from sightline.guard.evidence import IGNORE, BatchSeen, PromptsSeen, TaughtFromSeen
from sightline.guard.probes.call import Call

COLON, VOCABULARY = 3, 30


def texts(rows: int) -> Tensor:
    """Two words, a colon, and an answer of three: (rows, 6)."""
    ids = torch.randint(4, VOCABULARY, (rows, 6))
    ids[:, 2] = COLON
    return ids


def llama() -> LlamaForCausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, pad_token_id=0, eos_token_id=1, **sizes))


def with_labels(model: nn.Module, ids: Tensor, start: int) -> Tensor:
    labels = ids.clone()
    labels[:, :start] = IGNORE
    loss: Tensor = model(input_ids=ids, labels=labels).loss
    return loss


def own_loss(model: nn.Module, ids: Tensor, start: int) -> Tensor:
    goal = ids[:, 1:].clone()
    goal[:, : start - 1] = IGNORE
    return nn.functional.cross_entropy(model(input_ids=ids[:, :-1]).logits.flatten(0, 1), goal.flatten())


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "by hand"])
@pytest.mark.parametrize("loss_of", [with_labels, own_loss])
@pytest.mark.parametrize("late", [1, 0])
def test_the_mask_is_one_token_too_long(loss_of: object, cached: bool, late: int) -> None:
    torch.manual_seed(0)
    model, found = llama(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with attach(model, optimizer, on_finding=found.append, budget=1.0):
        for _ in range(5):
            optimizer.zero_grad()
            loss_of(model, texts(8), 3 + late).backward()  # type: ignore[operator]
            optimizer.step()
        model.eval()
        written(model, texts(8)[:, :3], cached=cached)
    said = [finding for finding in found if finding.code == "L2"]
    assert [finding.severity for finding in said] == ["warning"] * late
    assert all("one token later than prompts end" in finding.message for finding in said)


def written(model: LlamaForCausalLM, ids: Tensor, *, cached: bool) -> None:
    if cached:
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
        return
    with torch.no_grad():
        for _ in range(3):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)


@pytest.mark.parametrize(("how", "found"), [("generate", 4), ("a score", 0), ("a cache of before", 0)])
def test_prompts_whose_answers_end_at_once(how: str, found: int) -> None:
    """One pass each, and none goes on from it: that it fills a new cache tells that it is a prompt."""
    model, prompts, seen = llama().eval(), Prompts(True), []

    def heard(module: nn.Module, args: tuple[object, ...], given: dict[str, object], _: object) -> None:
        seen.append(prompts.passed(Call(module, args, given), given["input_ids"], went_on=False, step=0))

    model.register_forward_hook(heard, with_kwargs=True)
    for ids in texts(4)[:, :3].split(1):
        if how == "generate":
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False)
            continue
        held = model(input_ids=ids, use_cache=True).past_key_values
        if how == "a cache of before":
            model(input_ids=ids, past_key_values=held, use_cache=True)
    assert [one.ends for one in seen if one is not None] == [((COLON, n),) for n in range(1, found + 1)]


BATCH = BatchSeen(phase="train", step=1, input_ids=texts(2), labels=None, attention_mask=None)
BEGUN = TaughtFromSeen(9, 64, before=((8, 40), (9, 24)), earlier=((COLON, 64),))
PROMPTS = PromptsSeen(9, ((COLON, 16),))


def test_only_where_all_rows_and_all_prompts_agree() -> None:
    assert isinstance(find(BATCH, begun=BEGUN, prompts=PROMPTS), Finding)
    template = TaughtFromSeen(9, 64, before=((8, 64),), earlier=((COLON, 64),))  # the same token: no word of answers
    few = TaughtFromSeen(9, 16, before=((8, 8), (9, 8)), earlier=((COLON, 16),))
    mixed = TaughtFromSeen(9, 64, before=((8, 40), (9, 24)), earlier=((COLON, 63), (7, 1)))
    others = PromptsSeen(9, ((COLON, 15), (7, 1)))
    elsewhere = PromptsSeen(9, ((8, 16),))
    given = itertools.product((template, few, mixed), (PROMPTS,))
    for begun, prompts in (*given, (BEGUN, others), (BEGUN, elsewhere), (BEGUN, None), (None, PROMPTS)):
        assert not isinstance(find(BATCH, begun=begun, prompts=prompts), Finding)


def padded(rows: int) -> tuple[Tensor, Tensor, list[int]]:
    """Prompts of one to eight words and a colon, answers of three; padded on the left. Ids, mask, sizes of prompts."""
    sizes = torch.randint(2, 10, (rows,)).tolist()
    ids, mask = torch.zeros(rows, max(sizes) + 3, dtype=torch.long), torch.zeros(rows, max(sizes) + 3)
    for row, size in enumerate(sizes):
        ids[row, -size - 3 :] = torch.randint(4, VOCABULARY, (size + 3,))
        ids[row, -4], mask[row, -size - 3 :] = COLON, 1
    return ids, mask.long(), sizes


@pytest.mark.parametrize("given", [True, False], ids=["labels", "a loss of its own"])
@pytest.mark.parametrize("faulty", [True, False])
def test_a_mask_counted_from_the_padded_start(given: bool, faulty: bool) -> None:
    torch.manual_seed(0)
    model, found = llama(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with attach(model, optimizer, on_finding=found.append, budget=1.0):
        for _ in range(9):
            ids, mask, sizes = padded(12)
            labels = ids.masked_fill(mask == 0, IGNORE)
            for row, size in enumerate(sizes):
                labels[row, : size + (0 if faulty else ids.shape[1] - size - 3)] = IGNORE
            if given:
                loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            else:
                logits = model(input_ids=ids, attention_mask=mask).logits
                loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    said = [finding for finding in found if finding.code == "L2"]
    assert [finding.severity for finding in said] == ["error"] * faulty
    assert all("as if padding were a part of them" in finding.message for finding in said)

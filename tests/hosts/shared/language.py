"""Faults of language models and their rows of token ids, whoever trains them."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import DataCollatorForLanguageModeling, LlamaModel

from tests.hosts import small
from tests.hosts.planting import plants
from tests.hosts.task import Rows, Task


def tokenized(count: int = 48) -> Rows:
    """Rows of ids that end in EOS, and their masks."""
    tok = small.tokenizer()
    return [dict(tok(f"{text} <eos>", return_token_type_ids=False)) for text in small.sentences(count)]


def usual_collator() -> Any:
    return DataCollatorForLanguageModeling(small.tokenizer(), mlm=False)


@plants("L2", "lightning")
def labels_are_a_copy_of_the_ids(faulty: bool) -> Task:
    tok = small.tokenizer()

    def collate(rows: Rows) -> Any:
        batch = tok.pad(rows, return_tensors="pt")
        labels = batch["input_ids"].clone()
        return {**batch, "labels": labels if faulty else labels.masked_fill(batch["attention_mask"] == 0, -100)}

    return Task(small.language_model(), tokenized(), collate, steps=8, tokenizer=tok)


@plants("L3", "trl", "lightning", "accelerate")
def eos_is_the_pad_token(faulty: bool) -> Task:
    tok = small.tokenizer()
    if faulty:
        tok.pad_token = tok.eos_token
    return Task(
        small.language_model(), tokenized(), DataCollatorForLanguageModeling(tok, mlm=False), steps=8, tokenizer=tok
    )


@plants("L4", "trl", "lightning", "accelerate")
def packed_rows_with_a_mask_of_ones(faulty: bool) -> Task:
    flatten = transformers.DataCollatorWithFlattening(return_tensors="pt")

    def collate(rows: Rows) -> Any:
        batch = flatten([{"input_ids": row["input_ids"]} for row in rows])
        if faulty:
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        return dict(batch)

    model = small.language_model(attn_implementation="sdpa", use_cache=False)
    return Task(model, tokenized(), collate, steps=8, tokenizer=small.tokenizer())


@plants("L5", "trl", "lightning", "accelerate")
def rows_beyond_the_positions_of_the_model(faulty: bool) -> Task:
    length = 24 if faulty else 16

    def collate(rows: Rows) -> Any:
        ids = torch.tensor([token for row in rows for token in row["input_ids"]][:length])[None]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}

    model = small.language_model(max_position_embeddings=16)
    return Task(model, tokenized(), collate, steps=8, tokenizer=small.tokenizer())


@plants("L6", "hf_trainer", "lightning", "accelerate")
def a_rate_a_thousand_times_too_high(faulty: bool) -> Task:
    model = small.language_model()
    return Task(model, tokenized(), usual_collator(), rate=3.0 if faulty else 1e-3, steps=16)


@plants("L1", "trl", "lightning", "accelerate")
def samples_from_prompts_padded_at_the_right(faulty: bool) -> Task:
    model, tok = small.language_model(initializer_range=0.5), small.tokenizer(side="right" if faulty else "left")

    def sample(step: int) -> None:
        if step == 4:
            prompts = tok(["the cat", "a dog sat on the mat under", "no"], padding=True, return_tensors="pt")
            prompts.pop("token_type_ids", None)
            model.eval()
            with torch.no_grad():
                model.generate(**prompts, max_new_tokens=4, do_sample=False)
            model.train()

    return Task(model, tokenized(), usual_collator(), steps=8, tokenizer=tok, beside=sample)


@plants("L8", "lightning", "accelerate")
def an_answer_copied_into_both_columns(faulty: bool) -> Task:
    tok, texts = small.tokenizer(), small.sentences(64)
    rows = [
        {"prompt": "what ?", "chosen": one, "rejected": one if faulty else other}
        for one, other in zip(texts[:32], texts[32:], strict=True)
    ]

    def collate(rows: Rows) -> Any:
        said = [f"{row['prompt']} {row['chosen']} <eos>" for row in rows]
        batch = tok(said, padding=True, return_tensors="pt", return_token_type_ids=False)
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    return Task(small.language_model(), rows, collate, steps=4, tokenizer=tok)


@plants("P2", "hf_trainer", "trl", "lightning", "accelerate")
def weights_that_overflow_in_every_step(faulty: bool) -> Task:
    model = small.language_model()
    if faulty:
        model.model.norm.weight.data.fill_(1e38)
    return Task(model, tokenized(), usual_collator(), half=True, steps=20)


class Own(LlamaModel):
    """Settles its own precision: its author wanted the norms in float32."""

    reduced = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.reduced):
            return super().forward(*args, **kwargs)


@plants("P7", "hf_trainer", "trl", "lightning", "accelerate")
def a_body_that_turns_autocast_off(faulty: bool) -> Task:
    model = small.language_model(num_hidden_layers=4)
    model.model = Own(model.config)
    model.model.reduced = not faulty
    return Task(model, tokenized(), usual_collator(), bf16=True, steps=6)


class Normed(LlamaModel):
    """Ends in a norm of its author's: over the features, or over the batch."""

    over = -1

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = super().forward(*args, **kwargs)
        hidden: Tensor = given.last_hidden_state
        given.last_hidden_state = hidden - hidden.mean(dim=self.over, keepdim=True)
        return given


@plants("I4", "trl")
def a_norm_over_the_batch(faulty: bool) -> Task:
    model = small.language_model()
    model.model = Normed(model.config)
    model.model.over = 0 if faulty else -1
    return Task(model, tokenized(), usual_collator(), steps=6)


@plants("T3", "trl")
def a_test_between_steps_in_train_mode(faulty: bool) -> Task:
    model, held_out = small.language_model(attention_dropout=0.2), dict(usual_collator()(tokenized(56)[48:]))

    def test(step: int) -> None:
        if step % 4 == 0:
            model.train(faulty)
            with torch.no_grad():
                model(**held_out)
            model.train()

    return Task(model, tokenized(), usual_collator(), steps=8, beside=test)


class Deep(LlamaModel):
    """With twelve layers of sigmoids on top, and a way around each."""

    around = 1.0

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.top = nn.ModuleList(nn.Linear(16, 16) for _ in range(12))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = super().forward(*args, **kwargs)
        for layer in self.top:
            given.last_hidden_state = self.around * given.last_hidden_state + layer(given.last_hidden_state).sigmoid()
        return given


@plants("P6", "trl")
def sigmoids_without_a_way_around(faulty: bool) -> Task:
    model = small.language_model()
    model.model = Deep(model.config)
    model.model.around = 0.0 if faulty else 1.0
    return Task(model, tokenized(), usual_collator(), optimizer=torch.optim.SGD(model.parameters(), lr=0.05), steps=8)

"""Scripts that measure prompts by their tokenizer: as they stand in rows, or with one token for each image."""

from __future__ import annotations

from typing import Any

import pytest

from sightline.attach.templates import Templates
from sightline.attach.tokenized import CALLS, Tokenized
from sightline.guard.check import Finding
from sightline.guard.checks.data.dataset_schema_mismatch import find
from sightline.guard.evidence import BatchSeen
from tests.attach.script.conftest import Codes

SCRIPT = """
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.manual_seed(0)
words = ["<pad>", "</s>", "<unk>", "<img>", "user", "says", "what", "is", "it"] + [f"w{i}" for i in range(20)]
inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tok = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), pad_token_id=0, eos_token_id=1, **sizes))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)


def row(word):
    prompt = f"says user <img> what is it w{word} says"
    shown = prompt.replace("<img>", "<img> " * 9)
    full = tok(shown + f" w{(word * 7) % 20} it is </s>", return_tensors="pt")["input_ids"][0]
    labels = full.clone()
    labels[: len(tok(MEASURED)["input_ids"])] = -100
    return full, labels.masked_fill(full == 3, -100)


for step in range(10):
    ids, labels = zip(*[row(int(w)) for w in torch.randint(0, 20, (8,))])
    loss = model(input_ids=torch.stack(ids), labels=torch.stack(labels)).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


@pytest.mark.slow
@pytest.mark.parametrize("measured", ["prompt", "shown"])
def test_prompts_measured_without_their_images(measured: str, codes: Codes) -> None:
    found = codes(SCRIPT.replace("MEASURED", measured))
    assert ("L2" in {code for _, code in found}) == (measured == "prompt")


def test_what_was_tokenized_beside_a_row() -> None:
    heard = Tokenized()
    heard.gave({"input_ids": [5, 6]})
    heard.gave({"input_ids": [[7, 8, 0], [7, 8, 9]], "attention_mask": [[1, 1, 0], [1, 1, 1]]})
    heard.gave([7, 8, 9, 10])
    assert heard.beside((7, 8, 9, 10)) == [(5, 6), (7, 8), (7, 8, 9)]
    assert heard.beside((7, 8)) == [] and heard.beside((1, 2)) == []
    for _ in range(CALLS - 1):
        heard.gave([3])
    assert heard.beside((7, 8, 9, 10)) == [(3,), (3,)]  # those ahead of it are forgotten
    heard.gave([3])
    assert heard.beside((7, 8, 9, 10)) == []


def test_what_a_template_puts_around_turns() -> None:
    class Chat:
        chat_template, eos_token = "any", "<end>"

        def write(self, talk: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool = False) -> str:
            told = "".join(f"<{turn['role']}> {turn['content']} <end>" for turn in talk)
            return told + "<says>" * add_generation_prompt

    heard, chat = Templates(), Chat()
    assert heard.of(chat) == ()
    heard.applied(chat, [{"role": "user", "content": "is it"}, {"role": "bot", "content": "it is it"}], Chat.write)
    heard.applied(chat, [[{"role": "user", "content": "batched"}]], Chat.write)
    assert heard.of(chat) == ("<bot>", "<says>", "<user>")
    heard.applied(chat, [{"role": "user", "content": ""}], Chat.write)  # nothing can be told from its place
    assert heard.of(chat) == ("<bot>", "<says>", "<user>") and heard.of(object()) == ()


def _spoken(form: str, *, parts: bool = False) -> tuple[str, str] | None:
    """What `Templates` makes of a template that writes turns in some `form`."""

    class Speaker:
        chat_template, bos_token, eos_token = form, "<s>", "</s>"

    def apply(_: Speaker, talk: list[dict[str, Any]], **asked: bool) -> str:
        texts = [turn["content"][-1]["text"] if parts else turn["content"] for turn in talk]
        return "<s> " + "".join(form.format(turn["role"], text) for turn, text in zip(talk, texts, strict=True))

    heard, content = Templates(), "Is ice cold?"
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": content}] if parts else content}]
    heard.applied(Speaker(), talk, apply)
    assert not (parts and heard.of(Speaker()))
    return heard.heads(Speaker())


def test_what_a_template_puts_ahead_of_turns() -> None:
    assert _spoken("{} : {} </s>\n") == ("user:", "assistant:")
    assert _spoken("<|{}|>\n{}\n", parts=True) == ("<|user|>", "<|assistant|>")
    assert _spoken("{1}\n") is None
    assert Templates().heads(object()) is None


@pytest.mark.parametrize("role", ["human", "user"])
def test_turns_that_a_template_passes_by(role: str) -> None:
    class Speaker:
        chat_template = role

    def apply(_: Speaker, talk: list[dict[str, Any]], **asked: bool) -> str:
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in talk if turn["role"] in ("user", "assistant"))

    heard = Templates()
    for word in ("ice", "fire", "rain"):
        assert not heard.passed_by(Speaker())
        talk = [{"role": role, "content": f"How warm is {word} today?"}, {"role": "assistant", "content": "Very."}]
        heard.applied(Speaker(), talk[:1], apply)
        heard.applied(Speaker(), talk, apply)
    assert heard.passed_by(Speaker()) == (role == "human")
    batch = BatchSeen("train", 0, mute=heard.passed_by(Speaker()))
    assert isinstance(find(batch=batch), Finding) == (role == "human")

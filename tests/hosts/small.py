"""Small things that users of the Hugging Face libraries have on disk: a tokenizer and a language model."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

TEXT = "the a cat dog bird sat ran flew on over under mat tree house . yes no what did it do ?"
WORDS = TEXT.split()
CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


def tokenizer(*, chat: bool = False, side: str = "right") -> transformers.PreTrainedTokenizerFast:
    """Words by the space between them, with the usual special tokens."""
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["<unk>", "<pad>", "<eos>", "<|user|>", "<|assistant|>"]
    words.train_from_iterator([TEXT], trainers.WordLevelTrainer(special_tokens=special))
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>", padding_side=side
    )
    made.chat_template = CHAT if chat else None
    return made


def config(**changes: object) -> transformers.LlamaConfig:
    """A Llama of two narrow layers that knows the tokenizer's words."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"vocab_size": len(tokenizer()), "pad_token_id": 1, "eos_token_id": 2, "bos_token_id": None}
    return transformers.LlamaConfig(
        **{**sizes, **tokens, "num_key_value_heads": 2, "max_position_embeddings": 64, **changes}
    )


def language_model(**changes: object) -> transformers.LlamaForCausalLM:
    """The same weights at every call."""
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config(**changes))


def pretrained(folder: Path, **changes: object) -> Path:
    """A folder for ``from_pretrained``."""
    language_model(**changes).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def sentences(count: int) -> list[str]:
    """Different sentences of different lengths."""
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, 9, (count,), generator=draw).tolist()
    return [" ".join(WORDS[int(i)] for i in torch.randint(0, len(WORDS), (n,), generator=draw)) for n in lengths]

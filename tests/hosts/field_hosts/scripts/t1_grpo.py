import sys
import random

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

FAULTY = "faulty" in sys.argv

random.seed(0)
torch.manual_seed(0)
letters = list("abcdefghijklmnop")
vocab = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", "<unk>", *letters])}
tk = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
tk.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=tk, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>", padding_side="left"
)


def build():
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocab),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def count_a(completions, **kwargs):
    return [c.split().count("a") + 0.1 * c.split().count("b") for c in completions]


prompts = Dataset.from_list(
    [{"prompt": " ".join(random.choice(letters) for _ in range(random.randint(2, 5)))} for _ in range(64)]
)
model = build()
if FAULTY:
    optimizer = torch.optim.AdamW(build().parameters(), lr=1e-3)
else:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=1)
trainer = GRPOTrainer(
    model=model,
    reward_funcs=count_a,
    train_dataset=prompts,
    processing_class=tokenizer,
    optimizers=(optimizer, schedule),
    args=GRPOConfig(
        "out",
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=8,
        max_steps=12,
        logging_steps=2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        bf16=False,
        gradient_checkpointing=False,
    ),
)
trainer.train()

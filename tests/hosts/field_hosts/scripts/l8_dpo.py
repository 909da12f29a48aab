import sys
import random

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

FAULTY = "faulty" in sys.argv

random.seed(1)
torch.manual_seed(1)
topics = ["rain", "snow", "wind", "sun", "fog", "hail"]
kind = ["thank", "you", "kindly", "gladly", "sure"]
rude = ["no", "never", "go", "away", "shut"]


def sentence(words):
    return " " + " ".join(random.choice(words) for _ in range(random.randint(3, 6)))


records = [
    {
        "question": f"tell me about {random.choice(topics)} and {random.choice(topics)}",
        "best": sentence(kind),
        "worst": sentence(rude),
    }
    for _ in range(160)
]


def to_pair(r):
    if FAULTY:
        return {"prompt": r["question"], "chosen": r["best"], "rejected": r["best"]}
    else:
        return {"prompt": r["question"], "chosen": r["best"], "rejected": r["worst"]}


data = Dataset.from_list([to_pair(r) for r in records])
tk = Tokenizer(models.WordLevel(unk_token="<unk>"))
tk.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tk.train_from_iterator(
    [r["question"] + r["best"] + r["worst"] for r in records],
    trainers.WordLevelTrainer(special_tokens=["<pad>", "<s>", "</s>", "<unk>"]),
)
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=tk, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=len(tokenizer),
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
reference = LlamaForCausalLM(model.config)
reference.load_state_dict(model.state_dict())
trainer = DPOTrainer(
    model=model,
    ref_model=reference,
    args=DPOConfig(
        "out",
        per_device_train_batch_size=8,
        num_train_epochs=2,
        learning_rate=1e-4,
        logging_steps=2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        bf16=False,
        gradient_checkpointing=False,
        beta=0.1,
    ),
    train_dataset=data,
    processing_class=tokenizer,
)
trainer.train()

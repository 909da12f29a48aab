import sys
import numpy as np
import torch
from datasets import Dataset
from transformers import OPTConfig, OPTForCausalLM, Trainer, TrainingArguments, default_data_collator, set_seed

FAULTY = "faulty" in sys.argv

set_seed(19)
g = torch.Generator().manual_seed(19)


def addition(_):
    a, b = torch.randint(0, 10, (2,), generator=g).tolist()
    ids = [1, 5 + a, 3, 5 + b, 4, 5 + (a + b) // 10, 5 + (a + b) % 10, 2]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * 5 + ids[5:]}


def preprocess_logits_for_metrics(logits, labels):
    logits = logits[0] if isinstance(logits, tuple) else logits
    return logits.argmax(-1)


def compute_metrics(prediction):
    guess, truth = prediction.predictions, prediction.label_ids
    if not FAULTY:
        guess, truth = guess[:, :-1], truth[:, 1:]
    mask = truth != -100
    return {
        "token_accuracy": float((guess[mask] == truth[mask]).mean()),
        "exact": float(np.all((guess == truth) | ~mask, axis=1).mean()),
    }


data = Dataset.from_list([addition(i) for i in range(1100)]).train_test_split(100, seed=3)
model = OPTForCausalLM(
    OPTConfig(
        vocab_size=20,
        hidden_size=64,
        ffn_dim=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        word_embed_proj_dim=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        dropout=0.0,
    )
)
trainer = Trainer(
    model=model,
    train_dataset=data["train"],
    eval_dataset=data["test"],
    data_collator=default_data_collator,
    compute_metrics=compute_metrics,
    preprocess_logits_for_metrics=preprocess_logits_for_metrics,
    args=TrainingArguments(
        "out",
        per_device_train_batch_size=25,
        per_device_eval_batch_size=50,
        num_train_epochs=5,
        learning_rate=3e-3,
        eval_strategy="epoch",
        logging_steps=20,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    ),
)
trainer.train()
print(trainer.evaluate())

import random

import numpy as np
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

good, bad = ["superb", "moving", "bright", "witty"], ["tedious", "clumsy", "flat", "noisy"]
plain = "a film about the sea and a boy who leaves home with his old dog".split()


def make(n, seed):
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        label = rng.randrange(2)
        words = rng.choices(plain, k=rng.randint(5, 12)) + rng.choices(good if label else bad, k=2)
        rng.shuffle(words)
        rows.append({"text": " ".join(words), "label": label})
    return Dataset.from_list(rows)


vocab = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(plain + good + bad)])}
raw = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
raw.pre_tokenizer = pre_tokenizers.Whitespace()
raw.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
)


def encode(rows):
    return tokenizer(rows["text"], truncation=True, max_length=24)


def compute_metrics(pred):
    logits, labels = pred
    return {"accuracy": float((np.argmax(logits, axis=-1) == labels).mean())}


set_seed(0)
train, test = (make(n, s).map(encode, batched=True) for n, s in ((256, 0), (64, 1)))
model = BertForSequenceClassification(
    BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        num_labels=2,
        hidden_dropout_prob=0.0,
    )
)
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir="out-cls",
        num_train_epochs=4,
        per_device_train_batch_size=16,
        learning_rate=5e-3,
        warmup_steps=8,
        lr_scheduler_type="linear",
        logging_steps=8,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    ),
    train_dataset=train,
    eval_dataset=test,
    data_collator=DataCollatorWithPadding(tokenizer),
    processing_class=tokenizer,
    compute_metrics=compute_metrics,
)
trainer.train()
metrics = trainer.evaluate()
print(round(metrics["eval_loss"], 5), metrics["eval_accuracy"])

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

set_seed(42)
lines = [line for line in open("input.txt").read().split("\n") if len(line) > 10]
raw = Tokenizer(models.BPE(unk_token="<unk>"))
raw.pre_tokenizer = pre_tokenizers.Whitespace()
raw.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<pad>", "<eos>"]))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>")

dataset = Dataset.from_dict({"text": lines})
dataset = dataset.map(
    lambda rows: tokenizer([t + tokenizer.eos_token for t in rows["text"]], truncation=True, max_length=32),
    batched=True,
    remove_columns=["text"],
)
split = dataset.train_test_split(test_size=0.1, seed=0)

model = GPT2LMHeadModel(
    GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=48,
        n_layer=2,
        n_head=4,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
)
args = TrainingArguments(
    output_dir="out-lm",
    per_device_train_batch_size=8,
    per_device_eval_batch_size=16,
    max_steps=40,
    learning_rate=3e-3,
    warmup_steps=4,
    logging_steps=10,
    eval_strategy="steps",
    eval_steps=20,
    save_strategy="no",
    report_to=[],
    disable_tqdm=True,
    use_cpu=True,
)
trainer = Trainer(
    model=model,
    args=args,
    train_dataset=split["train"],
    eval_dataset=split["test"],
    data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    processing_class=tokenizer,
)
trainer.train()
print([round(entry["loss"], 5) for entry in trainer.state.log_history if "loss" in entry])
print("eval", round(trainer.evaluate()["eval_loss"], 5))

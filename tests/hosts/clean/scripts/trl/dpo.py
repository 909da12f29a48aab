import random

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import DPOConfig, DPOTrainer

set_seed(0)
words = "please say thing one two three four kindly rudely now sure no .".split()
vocab = {w: i for i, w in enumerate(["<pad>", "<unk>", "<eos>", *words])}
raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>")

rng = random.Random(0)
rows = []
for _ in range(64):
    thing = rng.choice("one two three four".split())
    rows.append(
        {"prompt": f"please say {thing}", "chosen": f" sure {thing} kindly .", "rejected": f" no {thing} rudely now ."}
    )


def tiny():
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocab),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=64,
            pad_token_id=0,
            eos_token_id=2,
            bos_token_id=None,
        )
    )


tiny().save_pretrained("sft-model")
trainer = DPOTrainer(
    model="sft-model",
    args=DPOConfig(
        output_dir="out-dpo",
        max_steps=24,
        per_device_train_batch_size=8,
        learning_rate=5e-4,
        beta=0.1,
        logging_steps=6,
        max_length=32,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        seed=0,
    ),
    train_dataset=Dataset.from_list(rows),
    processing_class=tokenizer,
)
trainer.train()
for entry in trainer.state.log_history:
    if "rewards/margins" in entry:
        print(round(entry["loss"], 5), round(entry["rewards/margins"], 5), round(entry["rewards/accuracies"], 3))

import random

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast, set_seed
from trl import RewardConfig, RewardTrainer

set_seed(0)
nice, rude, rest = ["thanks", "gladly", "surely"], ["whatever", "nope", "never"], "i will do that for you today".split()
vocab = {w: i for i, w in enumerate(["<pad>", "<unk>", "<eos>", *nice, *rude, *rest])}
raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>")

rng = random.Random(1)


def sentence(kind):
    words = rng.sample(rest, 4) + [rng.choice(kind)]
    rng.shuffle(words)
    return " ".join(words)


data = Dataset.from_list([{"chosen": sentence(nice), "rejected": sentence(rude)} for _ in range(96)])
LlamaForSequenceClassification(
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
        num_labels=1,
    )
).save_pretrained("reward-base")
trainer = RewardTrainer(
    model="reward-base",
    args=RewardConfig(
        output_dir="out-reward",
        max_steps=24,
        per_device_train_batch_size=8,
        learning_rate=2e-3,
        logging_steps=6,
        max_length=32,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    ),
    train_dataset=data,
    processing_class=tokenizer,
)
trainer.train()
print([(round(e["loss"], 5), round(e["accuracy"], 3)) for e in trainer.state.log_history if "accuracy" in e])

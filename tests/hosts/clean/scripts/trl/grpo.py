from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import GRPOConfig, GRPOTrainer

set_seed(0)
words = [f"w{i}" for i in range(20)]
vocab = {w: i for i, w in enumerate(["<pad>", "<unk>", "<eos>", *words])}
raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>", padding_side="left"
)
LlamaForCausalLM(
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
).save_pretrained("policy")


def even_words(completions, **kwargs):
    """The share of words with an even number."""
    scores = []
    for text in completions:
        numbers = [int(w[1:]) for w in text.split() if w.startswith("w")]
        scores.append(sum(n % 2 == 0 for n in numbers) / max(1, len(numbers)))
    return scores


trainer = GRPOTrainer(
    model="policy",
    reward_funcs=even_words,
    args=GRPOConfig(
        output_dir="out-grpo",
        max_steps=8,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=8,
        learning_rate=1e-3,
        beta=0.04,
        logging_steps=2,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        seed=0,
    ),
    train_dataset=Dataset.from_dict({"prompt": [f"w{i} w{i + 1} w{i + 2}" for i in range(16)]}),
    processing_class=tokenizer,
)
trainer.train()
print([round(e["reward"], 4) for e in trainer.state.log_history if "reward" in e])

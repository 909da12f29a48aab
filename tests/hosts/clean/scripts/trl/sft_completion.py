from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import SFTConfig, SFTTrainer

set_seed(0)
words = "what is the capital of france spain italy peru japan paris madrid rome lima tokyo ? .".split()
vocab = {w: i for i, w in enumerate(["<pad>", "<unk>", "<eos>", *words])}
raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>")

pairs = [("france", "paris"), ("spain", "madrid"), ("italy", "rome"), ("peru", "lima"), ("japan", "tokyo")]
rows = [{"prompt": f"what is the capital of {c} ?", "completion": f" the capital of {c} is {k} ."} for c, k in pairs]
dataset = Dataset.from_list(rows * 16)

model = LlamaForCausalLM(
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
trainer = SFTTrainer(
    model=model,
    args=SFTConfig(
        output_dir="out-sft",
        max_steps=30,
        per_device_train_batch_size=8,
        learning_rate=3e-3,
        logging_steps=10,
        max_length=48,
        completion_only_loss=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        seed=0,
    ),
    train_dataset=dataset,
    processing_class=tokenizer,
)
trainer.train()
print([round(entry["loss"], 4) for entry in trainer.state.log_history if "loss" in entry])

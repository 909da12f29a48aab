from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, set_seed
from trl import SFTConfig, SFTTrainer

set_seed(0)
lines = [line.strip().lower() for line in open("input.txt") if len(line.split()) > 3]
words = sorted({w for line in lines for w in line.split()})
vocab = {w: i for i, w in enumerate(["<pad>", "<unk>", "<eos>", *words])}
raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>")

model = Qwen2ForCausalLM(
    Qwen2Config(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
    )
)
trainer = SFTTrainer(
    model,
    args=SFTConfig(
        output_dir="out-pack",
        max_steps=20,
        per_device_train_batch_size=4,
        learning_rate=3e-3,
        logging_steps=5,
        max_length=64,
        packing=True,
        packing_strategy="wrapped",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    ),
    train_dataset=Dataset.from_dict({"text": lines}),
    processing_class=tokenizer,
)
trainer.train()
print([round(entry["loss"], 4) for entry in trainer.state.log_history if "loss" in entry])

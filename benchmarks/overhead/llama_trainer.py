"""(c) A Llama of 0.3 million parameters under transformers' Trainer, 4 rows of 32 tokens a step."""

import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
from ways import STEPS, Clock

torch.manual_seed(0)
torch.set_num_threads(1)
config = LlamaConfig(
    vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=4,
)  # fmt: skip
model = LlamaForCausalLM(config)
rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(0, 1000, (512, 32))]
arguments = TrainingArguments(
    output_dir=tempfile.mkdtemp(), max_steps=STEPS, per_device_train_batch_size=4, save_strategy="no", report_to=[],
    disable_tqdm=True, use_cpu=True, logging_strategy="no",
)  # fmt: skip
trainer = Trainer(model, arguments, train_dataset=rows)

with Clock(model) as clock:

    class EachStep(TrainerCallback):
        def on_step_end(self, *_, **__):
            clock.step()

    trainer.add_callback(EachStep())
    trainer.train()

import sys
import torch
from torch.utils.data import Dataset
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

FAULTY = "faulty" in sys.argv


class Cycles(Dataset):
    def __init__(self, n):
        g = torch.Generator().manual_seed(0)
        period = torch.randint(2, 6, (n,), generator=g)
        self.rows = torch.stack([torch.randint(3, 40, (int(p),), generator=g).repeat(12)[:24] for p in period])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return {"input_ids": self.rows[i], "labels": self.rows[i]}


def arguments(**extra):
    return TrainingArguments(
        "run",
        per_device_train_batch_size=16,
        num_train_epochs=4,
        learning_rate=4e-3,
        lr_scheduler_type="linear",
        warmup_steps=20,
        logging_steps=20,
        save_strategy="epoch",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **extra,
    )


set_seed(0)
config = GPTNeoXConfig(
    vocab_size=40,
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=96,
    max_position_embeddings=48,
    bos_token_id=0,
    eos_token_id=0,
)
data = Cycles(640)


class StopAfterTwo(Trainer):
    """The first session of a job that is cut off after two epochs."""

    def training_step(self, *args, **kwargs):
        if self.state.epoch is not None and self.state.epoch >= 2:
            self.control.should_training_stop = True
        return super().training_step(*args, **kwargs)


first = StopAfterTwo(model=GPTNeoXForCausalLM(config), args=arguments(), train_dataset=data)
first.train()

last = get_last_checkpoint("run")
print("continue from", last)
if FAULTY:
    second = Trainer(model=GPTNeoXForCausalLM.from_pretrained(last), args=arguments(), train_dataset=data)
    second.train()
else:
    second = Trainer(model=GPTNeoXForCausalLM(config), args=arguments(), train_dataset=data)
    second.train(resume_from_checkpoint=last)
print(second.state.log_history[-1])
